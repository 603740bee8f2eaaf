"""The counting pass for Dice against MONAI's DiceMetric on one-hot volumes, one thread.

Both get the same pair of label volumes and must return equal Dice. Prints the ratio, with and without MONAI's
one-hot conversion, and writes ``results/dice_counting.json``.

    python benchmarks/dice_counting.py            # 60 structures on 122x101x112, 7 rounds
    python benchmarks/dice_counting.py --small    # for CI: 20 structures on 40x50x60, 5 rounds
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from machine import write_result
from monai.metrics import DiceMetric
from monai.networks.utils import one_hot
from numpy.typing import NDArray

from segray.evaluation.counting import count_pair
from segray.evaluation.metrics import dice

Labels = NDArray[np.uint8]
TARGET = 100.0


def label_phantom(shape: tuple[int, int, int], structures: int, seed: int) -> Labels:
    """A (z, y, x) label volume with ``structures`` ellipsoids, all present; later ones cover earlier ones."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, dtype=np.uint8)
    for index in range(1, structures + 1):
        centre = rng.uniform(0.1, 0.9, 3) * shape
        radius = rng.uniform(0.04, 0.14, 3) * shape
        axes = [((np.arange(size) - c) / r) ** 2 for size, c, r in zip(shape, centre, radius, strict=True)]
        labels[axes[0][:, None, None] + axes[1][None, :, None] + axes[2] < 1] = index
    for index in range(1, structures + 1):
        labels[0, 0, index] = index
    return labels


def prediction_of(truth: Labels, seed: int) -> Labels:
    """``truth`` moved by a voxel along two axes, with 1 % of the voxels lost to background."""
    moved = np.roll(truth, (1, 1), axis=(0, 1))
    moved[np.random.default_rng(seed).random(truth.shape) < 0.01] = 0
    moved[0, 0] = truth[0, 0]
    return moved


def monai_dice(truth: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Dice a structure of two (1, channels, z, y, x) one-hot volumes."""
    found: torch.Tensor = DiceMetric(include_background=False)(y_pred=predicted, y=truth)
    return found


def to_one_hot(labels: Labels, channels: int) -> torch.Tensor:
    """(1, channels, z, y, x) float32, as MONAI's users make it."""
    found: torch.Tensor = one_hot(torch.from_numpy(labels)[None, None], num_classes=channels)
    return found


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(truth: Labels, predicted: Labels, channels: int, rounds: int) -> dict[str, Any]:
    """Medians in ms of all three ways and the ratios paired within a round; raises AssertionError if values differ."""
    hot = to_one_hot(truth, channels), to_one_hot(predicted, channels)
    ours = dice(count_pair(truth, predicted, channels).structures())
    np.testing.assert_allclose(ours, monai_dice(*hot)[0].numpy(), rtol=1e-6)
    ways: dict[str, Callable[[], Any]] = {
        "monai": lambda: monai_dice(to_one_hot(truth, channels), to_one_hot(predicted, channels)),
        "monai_without_one_hot": lambda: monai_dice(*hot),
        "segray": lambda: dice(count_pair(truth, predicted, channels).structures()),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            times[name].append(seconds(work))
    result: dict[str, Any] = {f"{name}_ms": round(1e3 * statistics.median(found), 3) for name, found in times.items()}
    for peer in ("monai", "monai_without_one_hot"):
        paired = [theirs / mine for theirs, mine in zip(times[peer], times["segray"], strict=True)]
        result[f"times_{peer}"] = round(statistics.median(paired), 1)
    return result


def main() -> None:
    """Run the comparison; exit 1 where the full size misses the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small volume, for CI; no target, no result file")
    small = parser.parse_args().small
    torch.set_num_threads(1)
    shape, structures, rounds = ((40, 50, 60), 20, 5) if small else ((122, 101, 112), 60, 7)
    truth = label_phantom(shape, structures, seed=0)
    found = measure(truth, prediction_of(truth, seed=1), structures + 1, rounds)
    print(f"{structures} structures on {shape}, one thread, medians of {rounds} rounds, equal Dice")
    print(f"MONAI DiceMetric with one-hot     {found['monai_ms']:9.2f} ms  {found['times_monai']:7.1f} x")
    without = f"{found['monai_without_one_hot_ms']:9.2f} ms  {found['times_monai_without_one_hot']:7.1f} x"
    print(f"MONAI DiceMetric, one-hot given   {without}")
    print(f"segray count_pair + dice          {found['segray_ms']:9.2f} ms")
    if small:
        return
    facts = {"shape": shape, "structures": structures, "rounds": rounds, "threads": 1, "target_times_monai": TARGET}
    write_result("dice_counting", {**facts, **found})
    if found["times_monai"] < TARGET:
        sys.exit(f"{found['times_monai']} times MONAI, below the target of {TARGET}")


if __name__ == "__main__":
    main()
