"""A small made-up run and prediction folder, as the commands leave them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from segray import formats
from segray.case import Geometry, LabelMap
from segray.config import Config, dump_config
from segray.evaluation.counting import count_pair
from segray.evaluation.metrics import case_rows
from segray.evaluation.statistics import structure_statistics
from segray.evaluation.tables import write_table
from segray.formats.source import CaseSource

SHAPE = (14, 40, 48)
SPACING = (4.0, 2.0, 1.5)


def geometry() -> Geometry:
    """An RAS grid of ``SHAPE`` (z, y, x) and ``SPACING`` mm."""
    z, y, x = SHAPE
    dz, dy, dx = SPACING
    return Geometry(affine=np.diag([dx, dy, dz, 1.0]), shape=(x, y, z), stored_shape=(x, y, z))


def labels(structures: int, seed: int) -> np.ndarray:
    """(z, y, x) uint8 with boxes on a raster, moved a little by the seed."""
    volume = np.zeros(SHAPE, np.uint8)
    columns = math.ceil(math.sqrt(structures))
    height, width = max(2, 34 // columns), max(2, 42 // columns)
    rng = np.random.default_rng(seed)
    for index in range(structures):
        y, x = 2 + (index // columns) * height, 2 + (index % columns) * width
        dy, dx = rng.integers(0, 2, 2)
        volume[2:12, y + dy : y + height - 1 + dy, x + dx : x + width - 1 + dx] = index + 1
    return volume


def write_run(folder: Path, names: Sequence[str], epochs: int = 5) -> None:
    """A run folder with tables, config, history and bundle.json."""
    (folder / "bundle").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(Config()))
    head = ["epoch", "step", "seconds", "lr", "train_loss", "train_dice_loss", "train_cross_entropy", "val_dice"]
    head += [*(f"val_dice_{name}" for name in names), "data_wait_s", "step_s", "slices_per_s"]
    lines = [",".join(head)]
    steps = ["epoch,step,loss,dice_loss,cross_entropy,grad_norm,lr,slices,step_s,data_wait_s"]
    for epoch in range(1, epochs + 1):
        share = epoch / epochs
        dice = [f"{0.9 * share - 0.004 * (at % 50):.4f}" for at in range(len(names))]
        row = [
            epoch,
            epoch * 4,
            3.5,
            0.01 * (1 - share),
            1.6 - share,
            0.9 - 0.5 * share,
            0.7 - 0.5 * share,
            0.88 * share,
        ]
        lines.append(",".join(map(str, [*row, *dice, 0.2, 3.1, 40.0])))
        steps += [f"{epoch},{epoch * 4 + at},{1.7 - share + 0.1 * (at % 2)},,,,,8,0.1,0.0" for at in range(4)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    (folder / "steps.csv").write_text("\n".join(steps) + "\n")
    (folder / "history.json").write_text(json.dumps({"best": {"epoch": epochs, "dice": 0.88}}))
    (folder / "bundle" / "bundle.json").write_text(json.dumps({"version": 1, "note": "<b>&"}))


def write_predictions(folder: Path, names: Sequence[str], cases: Sequence[str], *, evaluated: bool = True) -> None:
    """A prediction folder with masks of ``cases``, one failed case, and its metrics where ``evaluated``."""
    label_map = LabelMap.of_names(names)
    grid = geometry()
    rows: list[dict[str, Any]] = []
    ledger: list[str] = []
    metrics: list[dict[str, Any]] = []
    truth: dict[str, str] = {}
    for seed, case_id in enumerate(cases):
        true, predicted = labels(len(names), 0), labels(len(names), seed)
        predicted[:, : 2 * seed] = 0
        voxels = (40 * np.sin(true) + np.where(true > 0, 60, -900)).astype(np.int16)
        image, of_truth = folder / "in" / f"{case_id}.nii.gz", folder / "in" / f"{case_id}_labels.nii.gz"
        image.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(grid.from_lps(voxels), grid.affine), image)
        for path, volume in ((of_truth, true), (folder / "masks" / f"{case_id}.nii.gz", predicted)):
            path.parent.mkdir(parents=True, exist_ok=True)
            formats.write_mask(str(path), volume, grid)
        row = {"case_id": case_id, "status": "ok", "reason": "", "image": str(image), "mask": f"masks/{case_id}.nii.gz"}
        ledger.append(json.dumps({**row, "source": CaseSource(case_id, str(image)).to_json()}))
        times = {"seconds_read": 0.1, "seconds_predict": 1.0 + seed, "seconds_write": 0.1}
        found = structure_statistics(voxels, predicted, label_map.channels, grid)
        rows.append({**row, **times, **found.as_row(label_map)})
        counts = count_pair(true, predicted, label_map.channels)
        metrics += case_rows(case_id, counts, label_map, grid.voxel_ml, true.size)
        truth[case_id] = CaseSource(case_id=case_id, image=str(image), labels=str(of_truth)).to_json()
    rows.append({"case_id": "<script>alert(1)</script>", "status": "failed", "reason": "<script>x</script> & no NIfTI"})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "label_map.json").write_text(label_map.to_json())
    (folder / "ledger.jsonl").write_text("\n".join(ledger) + "\n")
    write_table(str(folder), "cases", rows)
    if evaluated:
        write_table(str(folder), "metrics", metrics)
        (folder / "evaluation.json").write_text(json.dumps({"truth": truth, "failed": {"x<y": "no labels"}}))
