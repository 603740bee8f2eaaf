"""The outputs of a case: where each lies, that it is read back, and what a case cannot have."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_dicoms import ramp, save_series
from made_niftis import Save, affine_of

from segray import formats
from segray.case import LabelMap
from segray.config import IngestConfig
from segray.errors import CaseError, SegrayError, UsageError
from segray.formats.mask_files import OUTPUTS

MAP = LabelMap({"liver": 3, "left lung": 8})
BITS = LabelMap({"liver": 1, "left lung": 2}, overlapping=True)
PLACES = {
    "nifti": "masks/{}.nii.gz",
    "structures": "structures/{}",
    "rtstruct": "rtstruct/{}.dcm",
    "dicom-seg": "masks/{}.dcm",
    "png": "masks/{}.png",
}


def series(folder: Path) -> Any:
    save_series(folder, ramp(6, 10, 8))
    return formats.discover(str(folder), IngestConfig()).cases[0]


@pytest.mark.parametrize("label_map", [MAP, BITS])
@pytest.mark.parametrize("kind", ["nifti", "structures", "rtstruct", "dicom-seg"])
def test_every_output_of_a_series_is_read_back(tmp_path: Path, kind: str, label_map: LabelMap) -> None:
    source = series(tmp_path / "s")
    geometry = formats.read_header(source).geometry
    labels = np.random.default_rng(0).choice([0, 3, 8] if label_map is MAP else [0, 1, 2, 3], geometry.size)
    labels = labels.astype(label_map.dtype)
    place = formats.write_output(kind, str(tmp_path / "out"), labels, geometry, label_map, source)
    assert place == PLACES[kind].format(source.case_id)
    for grid in (None, geometry):
        back, own = formats.read_mask(str(tmp_path / "out" / place), grid, label_map)
        assert np.array_equal(back, labels)
        assert np.allclose(own.affine, geometry.affine)


def test_all_outputs_of_a_case_lie_side_by_side(tmp_path: Path) -> None:
    source = series(tmp_path / "s")
    geometry = formats.read_header(source).geometry
    labels = np.full(geometry.size, 3, np.uint8)
    kinds = [kind for kind in OUTPUTS if kind != "png"]
    places = [formats.write_output(kind, str(tmp_path / "out"), labels, geometry, MAP, source) for kind in kinds]
    assert len(set(places)) == len(kinds)
    for place in places:
        assert np.array_equal(formats.read_mask(str(tmp_path / "out" / place), label_map=MAP)[0], labels)


def test_every_output_is_explained_and_placed() -> None:
    assert {kind: f"{output.folder}/{{}}{output.ending}" for kind, output in OUTPUTS.items()} == PLACES
    assert all(output.meaning for output in OUTPUTS.values())


def test_places_are_told_before_anything_is_written() -> None:
    source = formats.CaseSource("a", "a.nii.gz")
    assert {kind: formats.mask_place(kind, source) for kind in OUTPUTS} == {
        kind: place.format("a") for kind, place in PLACES.items()
    }
    assert set(formats.mask_places("a")) == {place.format("a") for place in PLACES.values()}
    folders = {kind: formats.mask_folder(kind) for kind in ("auto", *OUTPUTS)}
    assert folders == {"auto": "masks"} | {kind: place.partition("/")[0] for kind, place in PLACES.items()}
    with pytest.raises(UsageError, match="no output 'tiff'"):
        formats.mask_place("tiff", source)


@pytest.mark.parametrize("case_id", ["a", "a.png", "1.2.dcm", "x.nii"])
def test_a_folder_of_structures_is_known_whatever_the_case_is_called(tmp_path: Path, save: Save, case_id: str) -> None:
    scan = save(tmp_path / "ct.nii.gz", np.zeros((4, 5, 6), np.int16), affine_of("LPS"))
    source = replace(formats.lone_image(scan), case_id=case_id)
    geometry = formats.read_header(source).geometry
    labels = np.random.default_rng(0).choice([0, 3, 8], geometry.size).astype(MAP.dtype)
    place = formats.write_output("structures", str(tmp_path / "out"), labels, geometry, MAP, source)
    assert formats.is_folder(place)
    assert formats.is_folder(str(tmp_path / "out" / place))
    assert not any(formats.is_folder(other) for other in formats.mask_places(case_id) if other != place)
    assert np.array_equal(formats.read_mask(str(tmp_path / "out" / place), geometry, MAP)[0], labels)


def test_auto_is_what_people_can_open(tmp_path: Path, save: Save) -> None:
    scan = save(tmp_path / "ct.nii.gz", np.zeros((4, 5, 1), np.int16), affine_of("LPS"))
    source = formats.lone_image(scan)
    geometry = formats.read_header(source).geometry
    labels = np.full(geometry.size, 8, np.uint8)
    assert formats.write_output("auto", str(tmp_path), labels, geometry, MAP, source) == "masks/ct.nii.gz"
    picture = formats.CaseSource("p", str(tmp_path / "p.png"), kind="picture")
    assert formats.write_output("auto", str(tmp_path), labels, geometry, MAP, picture) == "masks/p.png"
    for place in ("masks/ct.nii.gz", "masks/p.png"):
        assert np.array_equal(formats.read_mask(str(tmp_path / place))[0], labels)


def test_what_a_case_cannot_have(tmp_path: Path, save: Save) -> None:
    scan = save(tmp_path / "ct.nii.gz", np.zeros((4, 5, 6), np.int16), affine_of("LPS"))
    source = formats.lone_image(scan)
    geometry = formats.read_header(source).geometry
    labels = np.zeros(geometry.size, np.uint8)
    for kind, words in {"rtstruct": "no DICOM series", "dicom-seg": "no DICOM series", "png": "are no picture"}.items():
        with pytest.raises(CaseError, match=words) as caught:
            formats.write_output(kind, str(tmp_path / "out"), labels, geometry, MAP, source)
        assert caught.value.mend
    with pytest.raises(UsageError, match=r"no output 'tiff'\. There are: auto, nifti, structures"):
        formats.write_output("tiff", str(tmp_path / "out"), labels, geometry, MAP, source)
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    for kind in ("nifti", "structures"):
        with pytest.raises(SegrayError, match="cannot be written"):
            formats.write_output(kind, str(tmp_path / "file"), labels, geometry, MAP, source)
    assert os.path.getsize(tmp_path / "file") == 0
