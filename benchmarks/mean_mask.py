"""The Dice of the mean training mask on the held-out cases of a shard folder: what a net must beat.

    python benchmarks/mean_mask.py SHARDS [--small]

Where scans are cropped around what is to be found, a mask that ignores the image scores well. Each training mask is
brought to the number of slices of the target (nearest), their mean is cut at the threshold that is best on the
training cases themselves, and its Dice on every held-out case is printed, structure by structure.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shard_folder import write_shards
from shard_reading import phantom

from segray.evaluation.counting import count_pair
from segray.evaluation.metrics import dice
from segray.shards.index import load_index
from segray.shards.manifest import load_manifest
from segray.shards.reader import read_case_volume

Mask = NDArray[np.bool_]


def stretched(mask: Mask, slices: int) -> Mask:
    """(z, H, W) with ``slices`` slices, nearest."""
    places = (np.arange(slices) + 0.5) * len(mask) / slices
    chosen: Mask = mask[places.astype(int)]
    return chosen


def mean_of(masks: list[Mask], slices: int) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = np.mean([stretched(mask, slices) for mask in masks], axis=0, dtype=np.float32)
    return mean


def dice_of(truth: Mask, predicted: Mask) -> float:
    return float(dice(count_pair(truth.astype(np.uint8), predicted.astype(np.uint8), 2).structures())[0])


def best_threshold(masks: list[Mask]) -> float:
    """The threshold of the mean that is best on the training cases."""
    shares = np.arange(0.1, 0.95, 0.05)
    scores = [np.nanmean([dice_of(mask, mean_of(masks, len(mask)) > share) for mask in masks]) for share in shares]
    return float(shares[int(np.argmax(scores))])


def measure(folder: str) -> dict[str, Any]:
    manifest = load_manifest(folder)
    index = load_index(folder, manifest)
    labels = {
        case: read_case_volume(folder, index, case)[1]
        for split in ("train", "validation")
        for case in index.cases(split)
    }
    result: dict[str, Any] = {}
    for number, name in enumerate(manifest.label_map.names, start=1):
        masks = [labels[case] == number for case in index.cases("train")]
        share = best_threshold(masks)
        targets = {case: labels[case] == number for case in index.cases("validation")}
        scores = {case: dice_of(mask, mean_of(masks, len(mask)) > share) for case, mask in targets.items()}
        result[name] = {"threshold": round(share, 2), "mean": float(np.nanmean(list(scores.values()))), "cases": scores}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", nargs="?")
    parser.add_argument("--small", action="store_true", help="two phantoms: for CI")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.small:
            write_shards(Path(name), [phantom(8, 0)], 31)
            print("no held-out case:", len(load_manifest(name).cases("validation")) == 0)
            return
        for structure, row in measure(arguments.shards).items():
            print(f"{structure}: mean Dice {row['mean']:.4f} at threshold {row['threshold']}")
            for case, score in row["cases"].items():
                print(f"  {case}: {score:.4f}")


if __name__ == "__main__":
    main()
