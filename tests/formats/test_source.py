"""A case's source travels as text, and knows when its files change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from segray.formats.folder import file_state, listing, stem
from segray.formats.source import CaseSource


def test_source_survives_json() -> None:
    source = CaseSource("a", "/x/a.nii.gz", masks={"liver": "/x/liver.nii.gz"}, patient="p1", dropped=(3, 4))
    assert CaseSource.from_json(source.to_json()) == source
    assert "\n" not in source.to_json()


def test_patient_is_the_case_unless_known() -> None:
    assert CaseSource("a", "x").patient == "a"
    assert not CaseSource("a", "x").has_labels
    assert CaseSource("a", "x", labels="y").has_labels


def test_missing_is_what_has_no_mask_file() -> None:
    source = CaseSource("a", "x", masks={"liver": "l", "spleen": "s"})
    assert source.missing(["heart", "liver", "vein"]) == ["heart", "vein"]
    assert source.missing(["liver"]) == []
    assert CaseSource("a", "x", labels="y").missing(["liver"]) == []


def test_fingerprint_changes_with_any_file(tmp_path: Path) -> None:
    image, mask = tmp_path / "i.nii", tmp_path / "m.nii"
    image.write_bytes(b"1")
    mask.write_bytes(b"2")
    source = CaseSource("a", str(image), masks={"m": str(mask)})
    seen = {source.fingerprint(), CaseSource("a", str(image)).fingerprint()}
    assert source.fingerprint() in seen
    mask.write_bytes(b"22")
    seen.add(source.fingerprint())
    os.utime(image, ns=(1, 1))
    seen.add(source.fingerprint())
    mask.unlink()
    seen.add(source.fingerprint())
    seen.add(CaseSource("a", str(image), masks={"n": str(mask)}).fingerprint())
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("name", "base"),
    [("a.nii.gz", "a"), ("a.b.NII", "a.b"), (".nii.gz", None), (".a.nii", None), ("a.txt", None), ("a.gz", None)],
)
def test_stem(name: str, base: str | None) -> None:
    assert stem(name) == base


def test_listing_of_nothing_is_empty_and_state_of_nothing_is_an_error(tmp_path: Path) -> None:
    from segray.errors import SegrayError

    assert listing(str(tmp_path / "none")) == ([], [])
    with pytest.raises(SegrayError, match="cannot be read"):
        file_state(str(tmp_path / "none"))
