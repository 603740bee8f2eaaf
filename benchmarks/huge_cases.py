"""Cases of 512x512x1200 and 2048x2048x64 through `segray predict`: right, and within the memory that is declared.

    python benchmarks/huge_cases.py [--small]

One Ray of this machine, as on a laptop. What a stage declares is what Ray sets aside for it, so that as many cases at
once as fit are begun, and no more; what it takes is the highest resident set of its process while it has the case, Ray,
torch and the voxels in shared memory included. Both are printed in MiB, for reading, predicting and writing, with the
Dice of the masks against the phantom. ``within`` says whether all stages kept to what they had declared.

Predicted: reading takes the file, its voxels and the copy in the object store, 2 GiB for 600 MiB of voxels, under the
4 GiB of its class; the Predictor its labels, a slab and the voxels it maps.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import nibabel
import numpy as np
from machine import write_result
from predict_end_to_end import STRUCTURES, WINDOW, phantom, train_briefly

from segray import formats
from segray.config import load_config
from segray.formats.source import CaseSource
from segray.grid import Grid
from segray.nets.bundle import save_bundle
from segray.pipelines.admission import class_of, memory_ceiling
from segray.pipelines.headers import read_headers
from segray.pipelines.ledger import Ledger
from segray.pipelines.predict import predict
from segray.pipelines.predict_memory import PredictorMemory, bytes_needed
from segray.pipelines.runtime import ray_session

MIB = 2**20
WIDTH_MM = 410.0
"""Of every case, so that one net fits all."""

LEARNT_SIDE = 128
SETTINGS = ("predict.precision=float32", "predict.backend=torch", "predict.review=0")


def write_case(folder: Path, name: str, side: int, slices: int) -> None:
    """``images/NAME.nii.gz`` and ``labels/NAME.nii.gz``."""
    for kind, voxels in zip(("images", "labels"), phantom(side, slices), strict=True):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        spacing = WIDTH_MM / side
        image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), np.diag([-spacing, -spacing, 1.0, 1.0]))
        image.to_filename(folder / kind / f"{name}.nii.gz")


def write_bundle(folder: Path, steps: int) -> str:
    """A net that knows the phantom at 128 pixels, on a grid of that pixel size."""
    bundle = train_briefly(str(folder / "learnt"), [8, 16, 32], LEARNT_SIDE, steps)
    pixel = WIDTH_MM / LEARNT_SIDE
    save_bundle(
        str(folder / "bundle"), bundle.network(), net=bundle.net, label_map=bundle.label_map,
        grid=Grid("spacing", (16, 16), (pixel, pixel), -1024.0), normalisation=WINDOW,
    )  # fmt: skip
    return str(folder / "bundle")


def declared(folder: Path, name: str) -> dict[str, int]:
    """MiB that each stage sets aside for a case; for the Predictor its voxels too, which it only maps."""
    config = load_config(None, SETTINGS)
    ((case,), _) = read_headers([CaseSource(name, str(folder / "images" / f"{name}.nii.gz"))])
    memory = PredictorMemory(config.predict, len(STRUCTURES), memory_ceiling())
    stage = class_of(bytes_needed(case)) // MIB
    return {"read": stage, "predict": (memory.declared([case]) + case.voxel_bytes) // MIB, "write": stage}


def dice_of(folder: Path, name: str) -> dict[str, float]:
    """Of the mask against the phantom."""
    found = formats.read_mask(str(folder / "predicted" / "masks" / f"{name}.nii.gz"))[0]
    truth = formats.read_mask(str(folder / "cases" / "labels" / f"{name}.nii.gz"))[0]
    scores = {}
    for value, structure in enumerate(STRUCTURES, start=1):
        one, two = found == value, truth == value
        scores[structure] = round(2.0 * float((one & two).sum()) / float(one.sum() + two.sum()), 4)
    return scores


def measure(folder: Path, shapes: list[tuple[int, int]], steps: int) -> list[dict[str, Any]]:
    """Predict all cases in one run."""
    bundle = write_bundle(folder, steps)
    names = {f"c{side}x{side}x{slices}": (side, slices) for side, slices in shapes}
    for name, (side, slices) in names.items():
        write_case(folder / "cases", name, side, slices)
    config = load_config(None, SETTINGS)
    with ray_session(config.ray):
        predict(bundle, str(folder / "cases" / "images"), str(folder / "predicted"), config)
        allowed = {name: declared(folder / "cases", name) for name in names}
    told = {row["case_id"]: row for row in Ledger(str(folder / "predicted")).rows}
    rows = []
    for name in names:
        taken = {stage: int(told[name][f"peak_mib_{stage}"]) for stage in allowed[name]}
        rows.append({
            "case": name, "declared MiB": allowed[name], "taken MiB": taken,
            "within": all(taken[stage] <= allowed[name][stage] for stage in taken),
            "seconds": {stage: round(told[name][f"seconds_{stage}"], 1) for stage in taken},
            "dice": dice_of(folder, name),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="two small cases, for CI; nothing is written")
    told = parser.parse_args()
    shapes = [(64, 40), (128, 8)] if told.small else [(512, 1200), (2048, 64)]
    with tempfile.TemporaryDirectory(prefix="huge_cases_") as folder:
        rows = measure(Path(folder), shapes, 40 if told.small else 150)
    print(json.dumps(rows, indent=1))
    if not told.small:
        write_result("huge_cases", {"cases": rows})
    if not all(row["within"] for row in rows):
        raise SystemExit("A stage took more than it had declared.")


if __name__ == "__main__":
    main()
