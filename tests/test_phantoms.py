"""Phantoms: the layout, the grids, left and right in the patient, HU, and what is odd on purpose."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from segray.case import Case
from segray.config import IngestConfig
from segray.errors import CaseError, UsageError
from segray.formats import discover, read_case
from segray.phantoms import STRUCTURES, make_phantoms

CASES = 5
SOUND = CASES - 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five cases: one with a lesion, one of the chest, one oblique, one broken."""
    made = tmp_path_factory.mktemp("phantoms")
    assert make_phantoms(str(made), cases=CASES) == [f"s{number:04d}" for number in range(1, CASES + 1)]
    return made


def _masks(case: Path) -> dict[str, np.ndarray]:
    paths = sorted((case / "segmentations").glob("*.nii.gz"))
    return {path.name.removesuffix(".nii.gz"): np.asarray(nib.load(path).dataobj) for path in paths}


def _hu(case: Path) -> np.ndarray:
    return np.asarray(nib.load(case / "ct.nii.gz").dataobj)


def _middle(case: Path, name: str) -> np.ndarray:
    """The middle of a structure in RAS mm."""
    image = nib.load(case / "segmentations" / f"{name}.nii.gz")
    return nib.affines.apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj))).mean(axis=0)


def test_the_layout_is_totalsegmentators_and_structures_differ(folder: Path) -> None:
    assert set(_masks(folder / "s0001")) == set(STRUCTURES)
    assert set(_masks(folder / "s0002")) == {*STRUCTURES, "lesion"}
    assert set(STRUCTURES) - set(_masks(folder / "s0003")) >= {"kidney_left", "kidney_right"}
    found = discover(str(folder), IngestConfig())
    assert (found.format, len(found.cases), found.problems) == ("totalseg", CASES, [])


def test_masks_lie_on_the_grid_of_their_scan(folder: Path) -> None:
    for number in range(1, SOUND + 1):
        case = folder / f"s{number:04d}"
        scan = nib.load(case / "ct.nii.gz")
        assert scan.get_data_dtype() == np.int16
        for path in (case / "segmentations").iterdir():
            mask = nib.load(path)
            assert mask.shape == scan.shape
            assert np.array_equal(mask.affine, scan.affine)
            assert mask.get_data_dtype() == np.uint8
            assert set(np.unique(np.asarray(mask.dataobj))) == {0, 1}


def test_grids_differ_as_scans_do(folder: Path) -> None:
    scans = [nib.load(folder / f"s{number:04d}" / "ct.nii.gz") for number in range(1, SOUND + 1)]
    for scan in scans:
        x, y, z = scan.header.get_zooms()
        assert x == pytest.approx(y)
        assert 2.59 < x < 3.41
        assert 3.99 < z < 6.01
        assert all(96 <= side <= 128 for side in scan.shape[:2])
        assert 36 <= scan.shape[2] <= 52
    assert {"".join(nib.aff2axcodes(scan.affine)) for scan in scans} == {"RAS", "LPS", "LAS"}
    assert len({scan.header.get_zooms() for scan in scans}) == SOUND
    oblique = np.degrees(nib.affines.obliquity(scans[3].affine)).max()
    assert 1 < oblique < 12
    assert all(np.allclose(nib.affines.obliquity(scan.affine), 0, atol=1e-3) for scan in scans[:3])


def test_left_is_left_and_up_is_up_in_the_patient(folder: Path) -> None:
    for number in (1, 2, 4):
        case = folder / f"s{number:04d}"
        for name in ("kidney", "lung"):
            assert _middle(case, f"{name}_left")[0] < -30
            assert _middle(case, f"{name}_right")[0] > 30
        assert _middle(case, "liver")[0] > 20
        assert _middle(case, "spleen")[0] < -50
        assert _middle(case, "lung_right")[2] > _middle(case, "liver")[2] + 40
        assert _middle(case, "kidney_left")[1] < _middle(case, "lung_left")[1] < _middle(case, "body")[1] + 20


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("liver", 45, 70),
        ("spleen", 35, 60),
        ("kidney_left", 22, 50),
        ("kidney_right", 22, 50),
        ("lung_left", -860, -700),
        ("lung_right", -860, -700),
        ("bones", 300, 900),
    ],
)
def test_hu_are_as_in_life(folder: Path, name: str, low: float, high: float) -> None:
    for number in (1, 2, 4):
        case = folder / f"s{number:04d}"
        assert low < np.median(_hu(case)[_masks(case)[name] > 0]) < high


def test_air_lies_around_the_body_and_the_noise_is_a_scanners(folder: Path) -> None:
    for number in range(1, SOUND + 1):
        case = folder / f"s{number:04d}"
        hu, masks = _hu(case), _masks(case)
        assert np.median(hu[masks["body"] == 0]) == pytest.approx(-1000, abs=5)
        assert -1024 <= hu.min() < -1000
        corner = hu[:6, :6]
        spread = np.percentile(corner, 84) - np.median(corner)
        assert 11 < spread < 21


def test_masks_overlap_as_in_life(folder: Path) -> None:
    masks = _masks(folder / "s0002")
    for name, mask in masks.items():
        assert mask.any()
        assert not (mask & ~masks["body"]).any(), name
    assert masks["lesion"].sum() > 100
    assert not (masks["lesion"] & ~masks["liver"]).any()
    organs = [mask for name, mask in masks.items() if name not in ("body", "lesion")]
    assert np.sum(organs, axis=0).max() == 1


def test_the_lesion_is_darker_than_its_liver(folder: Path) -> None:
    hu, masks = _hu(folder / "s0002"), _masks(folder / "s0002")
    assert np.median(hu[masks["lesion"] > 0]) < np.median(hu[masks["liver"] > masks["lesion"]]) - 30


def test_the_broken_case_is_refused_in_words(folder: Path) -> None:
    found = discover(str(folder), IngestConfig())
    cases = []
    for source in found.cases[:-1]:
        cases.append(read_case(source, found.label_map))
    assert all(isinstance(case, Case) and case.labels is not None and case.labels.any() for case in cases)
    with pytest.raises(CaseError, match=r"s0005/ct\.nii\.gz is cut off"):
        read_case(found.cases[-1], found.label_map)


def test_a_seed_fixes_every_byte_and_another_changes_the_body(folder: Path, tmp_path: Path) -> None:
    make_phantoms(str(tmp_path / "again"), cases=2, broken=False)
    for number in (1, 2):
        for path in (folder / f"s{number:04d}").rglob("*.nii.gz"):
            assert (tmp_path / "again" / path.relative_to(folder)).read_bytes() == path.read_bytes()
    make_phantoms(str(tmp_path / "other"), cases=1, seed=1, broken=False)
    assert _hu(tmp_path / "other" / "s0001").shape != _hu(folder / "s0001").shape


def test_one_case_is_whole_where_nothing_odd_is_asked_for(tmp_path: Path) -> None:
    assert make_phantoms(str(tmp_path), cases=1, broken=False, lesion=False) == ["s0001"]
    assert set(_masks(tmp_path / "s0001")) == set(STRUCTURES)
    assert _hu(tmp_path / "s0001").size


def test_no_cases_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 phantoms"):
        make_phantoms(str(tmp_path), cases=0)
