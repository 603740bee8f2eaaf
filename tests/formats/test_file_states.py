"""Which of many cases are still what they were, on a disk, a slow disk and an object store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from segray import storage
from segray.errors import SegrayError
from segray.formats import coco_labels, file_states, picture_labels
from segray.formats.file_states import FileStates, unchanged, unchanged_images
from segray.formats.folder import kept_listings, listing
from segray.formats.source import DETAILS_OF_LABELS, CaseSource


def cases(folder: str) -> list[CaseSource]:
    """Three cases of two files."""
    for name in "abc":
        storage.write_text(f"{folder}/{name}.nii.gz", name)
        storage.write_text(f"{folder}/labels/{name}.nii.gz", name)
    return [CaseSource(name, f"{folder}/{name}.nii.gz", labels=f"{folder}/labels/{name}.nii.gz") for name in "abc"]


@pytest.mark.parametrize("slow_s", [1e9, 0.0])
def test_a_file_that_is_another_or_gone_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_s: float) -> None:
    monkeypatch.setattr(file_states, "SLOW_S", slow_s)
    made = cases(str(tmp_path))
    noted = [case.fingerprint() for case in made]
    assert unchanged(made, noted) == [True, True, True]
    (tmp_path / "labels" / "a.nii.gz").write_text("other")
    (tmp_path / "c.nii.gz").unlink()
    assert unchanged(made, noted) == [False, True, False]
    assert unchanged([], []) == []


def test_labels_that_change_are_no_other_image(tmp_path: Path) -> None:
    made = cases(str(tmp_path))
    made[2] = CaseSource("c", made[2].image, labels=made[2].labels, details={"coco_image": 3, "channels": ["ct"]})
    noted = [case.image_only.fingerprint() for case in made]
    older = [case.fingerprint() for case in made]
    assert unchanged_images(made, older) == [True, True, True], "of ledgers from before"
    (tmp_path / "labels" / "a.nii.gz").write_text("corrected")
    made[2] = CaseSource("c", made[2].image, details={"channels": ["ct"]})
    assert unchanged_images(made, noted) == [True, True, True]
    (tmp_path / "b.nii.gz").write_text("another scan")
    assert unchanged_images(made, noted) == [True, False, True]


def test_the_details_of_labels_are_those_of_their_readers() -> None:
    assert set(DETAILS_OF_LABELS) == {"structures", coco_labels.IMAGE, picture_labels.COLOURS}


def test_on_an_object_store_a_folder_is_listed_once(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cases(f"{s3}/scans")
    noted = [case.fingerprint() for case in made]
    asked: list[str] = []
    monkeypatch.setattr(
        CaseSource, "fingerprint", lambda case, state_of=None, real=CaseSource.fingerprint: (
            asked.append(case.case_id) if state_of is None else None, real(case, *filter(None, [state_of])),
        )[1],
    )  # fmt: skip
    states = FileStates()
    assert unchanged(made, noted, states) == [True, True, True]
    assert asked == [], "no file was asked for by itself"
    storage.delete(f"{s3}/scans/b.nii.gz")
    assert unchanged(made, noted, states) == [True, True, True], "what is known is not asked for again"
    assert unchanged(made, noted) == [True, False, True]
    with pytest.raises(SegrayError, match="is not there"):
        FileStates()(f"{s3}/scans/b.nii.gz")


def test_a_long_listing_is_asked_for_once_within_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(300):
        (tmp_path / f"{number}.nii.gz").touch()
    (tmp_path / "out").symlink_to("/")
    asked: list[str] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (asked.append(str(path)), real(path))[1])
    left: list[tuple[str, str]] = []
    with kept_listings():
        folders, files = listing(str(tmp_path), str(tmp_path), left)
        assert (len(folders), len(files), len(left)) == (0, 300, 1)
        files.clear()
        assert len(listing(str(tmp_path), str(tmp_path), left)[1]) == 300
        assert len(left) == 2, "told to each who asks"
        assert len(asked) == 1
        assert listing(str(tmp_path))[0] == ["out"], "another question"
    listing(str(tmp_path), str(tmp_path))
    assert len(asked) == 3
