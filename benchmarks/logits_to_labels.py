"""From logits at half the in-plane resolution to labels at full resolution: segray against nnU-Net's export.

    python benchmarks/logits_to_labels.py --nnunet FOLDER  # 32 labels, 64x128x128 to 64x256x256, 5 rounds
    python benchmarks/logits_to_labels.py --small          # for CI: 8 labels, 8x48x48 to 8x96x96, no nnU-Net

FOLDER holds the packages of nnU-Net 2.8.1, or they are fetched into it (as for quality/against_peers.py). Its
``convert_predicted_logits_to_segmentation_with_correct_shape`` runs as in its own inference, by what its default
planner writes into a plan: ``resample_data_or_seg_to_shape`` of order 1 (linear; order 3 is for images), each label by
scikit-image in float64, then the argmax. Its logits lie as (L, z, y, x). Both get the same float32 logits. nnU-Net's
own nets leave 16 bits, which it computes in float64 too but rounds to 16 bits again, and so the labels would differ.

The logits are those of 31 ellipsoids and a background, with noise; as in a body, a slice has some of them. segray does
not interpolate labels that can be the largest nowhere in a slice, so its time depends on that, nnU-Net's does not.

segray resamples in-plane only, since its nets leave z as it is: there are as many slices before as after, for both.
Its logits lie as (z, L, y, x) in channels_last, as its nets leave them; a slice at a time, as the Predictor on a CPU.

Without nnU-Net ``scipy.ndimage.zoom`` of order 1, which is what scikit-image calls, takes its place, and no target
holds. "torch at once" interpolates all logits with torch, then takes the argmax, as nnU-Net's torch resampling does,
which is not its default. One thread each, in turn in each round; medians, ratios paired within a round. Labels must be
equal in 0.9999 of the voxels.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import write_result
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from segray.engine.scores import labels_of_scores
from segray.grid import Placement

Logits = NDArray[np.float32]
Labels = NDArray[Any]
Export = Callable[[], Labels]

TARGET = 12.0
EQUAL = 0.9999
SPACING = (2.0, 0.8, 0.8)
"""mm (z, y, x) of the labels; nnU-Net resamples such a case as a volume, not slice by slice."""


def made_logits(labels: int, shape: tuple[int, int, int], seed: int) -> Logits:
    """(L, z, y, x) logits of a background and ellipsoids, each rising towards its middle and negative far from it."""
    rng = np.random.default_rng(seed)
    logits = np.zeros((labels, *shape), np.float32)
    for plane in logits[1:]:
        centre, radius = rng.uniform(0.1, 0.9, 3) * shape, rng.uniform(0.08, 0.25, 3) * shape
        axes = [((np.arange(size) - c) / r) ** 2 for size, c, r in zip(shape, centre, radius, strict=True)]
        plane[:] = np.maximum(8.0 * (1.0 - np.sqrt(axes[0][:, None, None] + axes[1][None, :, None] + axes[2])), -12.0)
    return logits + rng.normal(0.0, 0.3, logits.shape).astype(np.float32)


def by_segray(logits: Logits, size: tuple[int, int]) -> Export:
    """The Predictor's way: slice by slice, a running maximum over interpolated planes."""
    canvas = (logits.shape[2], logits.shape[3])
    placement = Placement(original=size, resampled=canvas, canvas=canvas, offset=(0, 0))
    scores = torch.from_numpy(logits).transpose(0, 1).contiguous(memory_format=torch.channels_last)

    def export() -> Labels:
        out = np.empty((len(scores), *size), np.uint8)
        for number, one in enumerate(torch.split(scores, 1)):
            out[number] = labels_of_scores(one, placement)[0].numpy()
        return out

    return export


def by_torch_at_once(logits: Logits, size: tuple[int, int]) -> Export:
    """All logits at full resolution in memory, then the argmax."""
    shape = (logits.shape[1], *size)

    def export() -> Labels:
        data = torch.from_numpy(logits)[None]
        full = functional.interpolate(data, size=shape, mode="trilinear", align_corners=False)[0]
        found: Labels = full.numpy().argmax(0)
        return found

    return export


def by_scipy(logits: Logits, size: tuple[int, int]) -> Export:
    """In nnU-Net's place: each label in float64 by what scikit-image calls, then the argmax."""
    factors = (1.0, *(new / old for new, old in zip(size, logits.shape[2:], strict=True)))

    def export() -> Labels:
        full = np.empty((len(logits), logits.shape[1], *size), np.float32)
        for plane, volume in zip(full, logits, strict=True):
            plane[:] = ndimage.zoom(volume.astype(float), factors, order=1, mode="nearest", grid_mode=True)
        found: Labels = full.argmax(0)
        return found

    return export


def by_nnunet(logits: Logits, size: tuple[int, int], folder: Path) -> Export:
    """nnU-Net's own export of a case, by a plan that holds what its default planner writes for it."""
    sys.path.insert(0, str(Path(__file__).resolve().parent / "quality"))
    from nnunet_trainer import install

    install(folder)
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    function, keywords = ExperimentPlanner.determine_segmentation_softmax_export_fn(None)
    spacing = [SPACING[0], *(mm * new / old for mm, new, old in zip(SPACING[1:], size, logits.shape[2:], strict=True))]
    configuration = {
        "architecture": {}, "spacing": spacing, "resampling_fn_probabilities": function.__name__,
        "resampling_fn_probabilities_kwargs": keywords,
    }  # fmt: skip
    plans = PlansManager(
        {"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "configurations": {"one": configuration}}
    )
    names = {"background": 0} | {f"structure_{n}": n for n in range(1, len(logits))}
    shape = (logits.shape[1], *size)
    properties = {
        "spacing": list(SPACING), "shape_before_cropping": shape, "shape_after_cropping_and_before_resampling": shape,
        "bbox_used_for_cropping": [[0, side] for side in shape],
    }  # fmt: skip
    manager, given = plans.get_label_manager({"labels": names}), plans.get_configuration("one")

    def export() -> Labels:
        found: Labels = convert_predicted_logits_to_segmentation_with_correct_shape(
            torch.from_numpy(logits), plans, given, manager, properties, num_threads_torch=1
        )
        return found

    return export


def seconds(work: Export) -> float:
    """Wall-clock seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(ways: dict[str, Export], peer: str, rounds: int) -> dict[str, Any]:
    """Medians in ms, ratios to segray paired within a round, and the share of voxels with equal labels."""
    labels = {name: export() for name, export in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        # The order turns, so that no one always follows the same neighbour.
        for name in [*list(ways)[number % 3 :], *list(ways)[: number % 3]]:
            times[name].append(seconds(ways[name]))
    result: dict[str, Any] = {f"{name} ms": round(1e3 * statistics.median(found), 1) for name, found in times.items()}
    for name in ways:
        if name == "segray":
            continue
        paired = [theirs / mine for theirs, mine in zip(times[name], times["segray"], strict=True)]
        result[f"times {name}"] = round(statistics.median(paired), 1)
        result[f"times {name}, rounds"] = [round(ratio, 1) for ratio in paired]
        result[f"labels equal to {name}"] = round(float((labels[name] == labels["segray"]).mean()), 6)
    if result[f"labels equal to {peer}"] < EQUAL:
        sys.exit(f"labels are equal to those of {peer} in {result[f'labels equal to {peer}']}, below {EQUAL}")
    return result


def main() -> None:
    """Run the comparison; exit 1 where labels differ, or where nnU-Net is there and the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet", type=Path, help="folder of nnU-Net's packages, fetched where it is not there")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="small, scipy in nnU-Net's place; no target, no result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    labels, shape = (8, (8, 48, 48)) if options.small else (32, (64, 128, 128))
    size = (2 * shape[1], 2 * shape[2])
    logits = made_logits(labels, shape, seed=0)
    peer = "nnunet" if options.nnunet and not options.small else "scipy"
    theirs = by_nnunet(logits, size, options.nnunet.resolve()) if peer == "nnunet" else by_scipy(logits, size)
    ways = {"segray": by_segray(logits, size), peer: theirs, "torch at once": by_torch_at_once(logits, size)}
    found = measure(ways, peer, options.rounds)
    present = statistics.mean(len(np.unique(one)) for one in ways["segray"]())
    print(f"{labels} labels, {shape} to {(shape[0], *size)}, one thread, medians of {options.rounds} rounds")
    print(f"labels in a slice, mean      {present:.1f}")
    for name, value in found.items():
        print(f"{name:28} {value}")
    if peer != "nnunet":
        return
    facts = {
        "labels": labels,
        "labels in a slice, mean": round(present, 1),
        "logits": shape,
        "masks": (shape[0], *size),
        "rounds": options.rounds,
        "threads": 1,
    }
    facts |= {"target times nnunet": TARGET, "nnunetv2": version("nnunetv2"), "scikit-image": version("scikit-image")}
    write_result("logits_to_labels", {**facts, **found})
    if found["times nnunet"] < TARGET:
        sys.exit(f"{found['times nnunet']} times nnU-Net, below the target of {TARGET}")


if __name__ == "__main__":
    main()
