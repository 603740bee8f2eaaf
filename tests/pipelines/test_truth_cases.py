"""The truth of a prediction folder: by its own numbers, on its own grid, and what is not measured is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from segray import formats, storage
from segray.case import LabelMap
from segray.config import Config, load_config
from segray.errors import CaseError, UsageError
from segray.pipelines.evaluate import measure_case
from segray.pipelines.ledger import Ledger, to_line
from segray.pipelines.truth_cases import truth_cases

MASKS = LabelMap({"liver": 1, "spleen": 2})
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
CASES = ("a", "b")


def organs() -> np.ndarray:
    """Where the liver (1) and the spleen (2) are."""
    found = np.zeros((12, 10, 8), np.uint8)
    found[1:7, 1:7, 1:5] = 1
    found[8:11, 2:5, 2:6] = 2
    return found


def save(array: np.ndarray, path: Path, affine: np.ndarray = AFFINE) -> None:
    """A NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def truth_folder(folder: Path, labels: Mapping[str, int], cases: tuple[str, ...] = CASES) -> Path:
    """Images, and labels with the numbers of ``labels``."""
    numbers = np.zeros(3, np.uint8)
    numbers[[1, 2]] = labels.get("liver", 0), labels.get("spleen", 0)
    for case_id in cases:
        save(np.zeros((12, 10, 8), np.int16), folder / "imagesTr" / f"{case_id}_0000.nii.gz")
        save(numbers[organs()], folder / "labelsTr" / f"{case_id}.nii.gz")
    table = {"channel_names": {"0": "CT"}, "labels": {"background": 0, **labels}}
    (folder / "dataset.json").write_text(json.dumps(table))
    return folder


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """Perfect masks of a, b, and c; the prediction of d failed."""
    folder = tmp_path / "predictions"
    storage.write_text(f"{folder}/label_map.json", MASKS.to_json())
    storage.write_text(f"{folder}/prediction.json", json.dumps({"split": {"train": [], "validation": ["a", "b", "c"]}}))
    with Ledger(str(folder)) as ledger:
        for case_id in ("a", "b", "c"):
            save(organs(), folder / "masks" / f"{case_id}.nii.gz")
            mask = f"masks/{case_id}.nii.gz"
            ledger.add(to_line({"case_id": case_id, "status": "ok", "reason": "", "mask": mask}))
        ledger.add(to_line({"case_id": "d", "status": "failed", "reason": "damaged"}))
    return folder


def dice(predictions: Path, truth: Path, config: Config | None = None) -> dict[str, float]:
    """Structure to the Dice of case a."""
    known = truth_cases(str(predictions), str(truth), config or Config())
    mask = str(predictions / "masks" / "a.nii.gz")
    rows = measure_case(known.cases[0], mask, known.label_map, known.truth_map)
    return {str(row["structure"]): round(float(row["dice"]), 4) for row in rows}


@pytest.mark.parametrize(
    "labels",
    [{"liver": 1, "spleen": 2}, {"spleen": 1, "liver": 2}, {"kidney": 1, "liver": 2, "aorta": 3, "spleen": 9}],
    ids=["the same", "exchanged", "among others"],
)
def test_the_truth_is_read_by_its_own_numbers(predictions: Path, tmp_path: Path, labels: dict[str, int]) -> None:
    assert dice(predictions, truth_folder(tmp_path / "truth", labels)) == {"liver": 1.0, "spleen": 1.0}


def test_a_structure_that_masks_lack_is_background(predictions: Path, tmp_path: Path) -> None:
    truth = truth_folder(tmp_path / "truth", {"kidney": 1, "liver": 2, "spleen": 3})
    labels = np.asarray(nibabel.load(truth / "labelsTr" / "a.nii.gz").dataobj).copy()
    labels[0, 0, :] = 1
    save(labels, truth / "labelsTr" / "a.nii.gz")
    assert dice(predictions, truth) == {"liver": 1.0, "spleen": 1.0}


def test_voxels_that_nobody_judged_are_those_of_the_truth(predictions: Path, tmp_path: Path) -> None:
    truth = truth_folder(tmp_path / "truth", {"spleen": 1, "liver": 2, "ignore": 3})
    labels = np.asarray(nibabel.load(truth / "labelsTr" / "a.nii.gz").dataobj).copy()
    labels[1:3, 1:7, 1:5] = 3
    save(labels, truth / "labelsTr" / "a.nii.gz")
    assert dice(predictions, truth) == {"liver": 1.0, "spleen": 1.0}


def test_a_truth_of_other_names_is_refused(predictions: Path, tmp_path: Path) -> None:
    truth = truth_folder(tmp_path / "truth", {"Leber": 1, "Milz": 2})
    with pytest.raises(
        UsageError, match=r"names none of the structures of the masks \(liver, spleen\); it names Leber"
    ):
        truth_cases(str(predictions), str(truth), Config())
    named = load_config(None, ["ingest.labels={liver: 1, spleen: 2}"])
    for case_id in CASES:
        save(organs(), truth / "labelsTr" / f"{case_id}.nii.gz")
    assert dice(predictions, truth, named) == {"liver": 1.0, "spleen": 1.0}


@pytest.mark.parametrize("moved_mm", [0.0, 500.0])
def test_a_mask_of_another_grid_is_refused(predictions: Path, tmp_path: Path, moved_mm: float) -> None:
    truth = truth_folder(tmp_path / "truth", MASKS.values)
    affine = np.diag([-0.7, -0.7, 5.0, 1.0]) if not moved_mm else AFFINE.copy()
    affine[0, 3] += moved_mm
    save(organs(), predictions / "masks" / "a.nii.gz", affine)
    with pytest.raises(CaseError, match="lies elsewhere"):
        dice(predictions, truth)


def test_what_is_not_measured_is_told(predictions: Path, tmp_path: Path) -> None:
    truth = truth_folder(tmp_path / "truth", MASKS.values, ("a", "b", "d"))
    known = truth_cases(str(predictions), str(truth), Config())
    assert [case.case_id for case in known.cases] == ["a", "b"]
    assert known.notes[1:] == [
        "Masks without a labelled case of the same name, not measured: 1 (c).",
        "Labelled cases without a mask, since their prediction failed: 1 (d).",
    ]
    assert known.failed == []


def test_a_truth_that_cannot_be_taken_is_a_failure(predictions: Path, tmp_path: Path) -> None:
    truth = truth_folder(tmp_path / "truth", MASKS.values, ("a", "b", "c"))
    (truth / "labelsTr" / "c.nii.gz").unlink()
    known = truth_cases(str(predictions), str(truth), Config())
    assert [case_id for case_id, _ in known.failed] == ["c"]
    assert not any("not measured" in note for note in known.notes)


def test_sources_keep_what_they_drop(predictions: Path, tmp_path: Path) -> None:
    known = truth_cases(str(predictions), str(truth_folder(tmp_path / "truth", {"kidney": 4, "liver": 2})), Config())
    assert known.truth_map == LabelMap({"liver": 2})
    read: Any = formats.read_truth(known.cases[0], known.truth_map)
    assert sorted(np.unique(read)) == [0, 2]
    assert "The truth names no spleen, so it counts as absent" in known.notes[-1]
