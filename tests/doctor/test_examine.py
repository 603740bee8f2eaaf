"""The facts of one case, and what they mean."""

import json
from pathlib import Path

import numpy as np
import pytest

from segray.case import LabelMap
from segray.config import IngestConfig
from segray.doctor.case_findings import findings_of
from segray.doctor.examine import CaseReport, examine
from segray.errors import CaseError
from segray.formats import CaseSource
from segray.grid import Grid
from tests.doctor.made_up import AFFINE, SHAPE, ct, organ, save, write_pair

MAP = LabelMap({"organ": 1, "vessel": 2})
GRID = Grid("spacing", (48, 48), (1.0, 1.0), -1024.0)


def source(folder: Path, name: str = "a") -> CaseSource:
    return CaseSource(name, str(folder / "images" / f"{name}.nii.gz"), labels=str(folder / "labels" / f"{name}.nii.gz"))


def examined(folder: Path, label_map: LabelMap | None = MAP, grid: Grid | None = GRID) -> CaseReport:
    return examine(source(folder), label_map, grid, IngestConfig())


def codes(report: CaseReport) -> set[tuple[str, str]]:
    return {(one.code, one.grade) for one in findings_of(report)}


def test_a_right_case_has_facts_and_no_findings(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", 0)
    report = examined(tmp_path)
    assert codes(report) == set()
    assert (report.shape, report.spacing, report.orientation) == ((12, 36, 40), (2.0, 1.0, 1.0), "LPS")
    assert report.labels is not None
    assert report.labels.voxels == {"organ": int((organ(0) == 1).sum()), "vessel": int((organ(0) == 2).sum())}
    assert report.voxel_ml == pytest.approx(0.002)
    assert report.meaning == "HU"
    assert CaseReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_the_cost_is_that_of_the_part(tmp_path: Path) -> None:
    """Against the slices that ingest writes, compressed."""
    from segray.resample import image_to_grid, labels_to_grid
    from segray.shards.codec import encode_slices

    write_pair(tmp_path, "a", 0)
    report = examined(tmp_path)
    voxels, labels = (np.ascontiguousarray(one(0).T) for one in (ct, organ))
    images, placement = image_to_grid(voxels, (2.0, 1.0, 1.0), GRID)
    indices = labels_to_grid(labels, placement, GRID)
    true = sum(len(one) for one in (*encode_slices(images), *encode_slices(indices)))
    assert report.cost.shard_bytes == pytest.approx(true, rel=0.1)
    assert report.cost.read_seconds > 0
    assert report.cost.write_seconds > 0


def test_without_a_grid_there_are_facts_but_no_cost(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", 0)
    assert examined(tmp_path, grid=None).cost.shard_bytes == 0


def test_values_outside_the_map_are_an_error(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", 0)
    report = examined(tmp_path, LabelMap({"organ": 1}))
    assert report.labels is not None
    assert report.labels.outside == {2: int((organ(0) == 2).sum())}
    assert codes(report) == {("values-outside", "error")}
    assert codes(examined(tmp_path, None)) == set()


def test_masks_of_255_get_their_own_mend(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", 0)
    save(tmp_path / "labels" / "a.nii.gz", (organ(0) > 0).astype(np.uint8) * 255)
    (finding,) = findings_of(examined(tmp_path, LabelMap({"organ": 1})))
    assert "255" in finding.mend


def test_empty_labels_are_a_warning(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", 0)
    save(tmp_path / "labels" / "a.nii.gz", organ(0) * 0)
    assert codes(examined(tmp_path)) == {("empty-labels", "warning")}


def test_labels_half_a_voxel_beside_their_image_are_told_as_such(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", 0)
    affine = AFFINE.copy()
    affine[:2, 3] += 0.5
    save(tmp_path / "labels" / "a.nii.gz", organ(0), affine)
    (finding,) = findings_of(examined(tmp_path))
    assert (finding.code, finding.grade) == ("label-grid", "error")
    assert "half a voxel" in finding.sentence


def test_labels_of_another_shape_are_an_error(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", 0)
    save(tmp_path / "labels" / "a.nii.gz", organ(0)[:-1])
    assert codes(examined(tmp_path)) == {("label-grid", "error")}


def test_flipped_labels_are_a_warning(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", 0)
    save(tmp_path / "labels" / "a.nii.gz", organ(0)[::-1])
    (finding,) = [one for one in findings_of(examined(tmp_path)) if one.code == "flipped"]
    assert "mirrored along x" in finding.sentence


def test_an_image_of_0_to_255_is_a_warning(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", 0)
    save(tmp_path / "images" / "a.nii.gz", np.clip((ct(0) + 1000) / 6, 0, 255).astype(np.uint8))
    assert codes(examined(tmp_path)) == {("values-0-255", "warning")}


def test_labels_outside_of_the_canvas_are_an_error(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", 0)
    small = Grid("spacing", (16, 16), (1.0, 1.0), -1024.0)
    assert ("cropped-labels", "error") in codes(examined(tmp_path, grid=small))


def test_an_image_that_cannot_be_read_raises(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", 0)
    path = tmp_path / "images" / "a.nii.gz"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CaseError):
        examined(tmp_path)


def test_blank_slices_are_counted(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", 0)
    image = ct(0)
    image[..., 3:5] = -1000
    save(tmp_path / "images" / "a.nii.gz", image)
    assert examined(tmp_path).blank_slices == 2
    assert image.shape == SHAPE
