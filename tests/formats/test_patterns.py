"""Cases named by a pattern."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from segray.config import IngestConfig
from segray.errors import UsageError
from segray.formats import discover
from segray.formats.patterns import matches


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for name in ("a/ct.nii.gz", "a/notes.txt", "b/ct.nii.gz", "b/mri.nii.gz", "b/deep/er/x.nrrd", "c[1].nii.gz"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "ids"),
    [
        ("*/ct.nii.gz", ["a", "b"]),
        ("?/*.nii.gz", ["a", "b_ct", "b_mri"]),
        ("b/m*.nii.gz", ["mri"]),
        ("**/*.nrrd", ["b_deep_er_x"]),
        ("**/ct.nii.gz", ["a", "b"]),
        ("[bc]/ct.nii.gz", ["b"]),
        ("*/*/*/x.nrrd", ["b_deep_er_x"]),
    ],
)
def test_files_that_match_are_cases(archive: Path, pattern: str, ids: list[str]) -> None:
    discovery = discover(f"{archive}/{pattern}", IngestConfig(), labelled=False)
    assert [case.case_id for case in discovery.cases] == ids
    assert all(Path(case.image).is_file() for case in discovery.cases)


def test_a_file_with_such_a_name_is_itself(archive: Path) -> None:
    with pytest.raises(UsageError, match=re.escape("c[1]")):  # which is no case id
        discover(f"{archive}/c[1].nii.gz", IngestConfig(), labelled=False)


def test_what_matches_nothing_is_said(archive: Path) -> None:
    with pytest.raises(UsageError, match=r"No file matches .*/\*/pet\.nii\.gz"):
        discover(f"{archive}/*/pet.nii.gz", IngestConfig(), labelled=False)
    with pytest.raises(UsageError, match=r"1 files match .* none is a volume"):
        discover(f"{archive}/*/*.txt", IngestConfig(), labelled=False)


def test_patterns_work_below_the_folder_where_one_is(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(archive)
    discovery = discover("*/ct.nii.gz", IngestConfig(), labelled=False)
    assert [case.image for case in discovery.cases] == [f"{archive}/a/ct.nii.gz", f"{archive}/b/ct.nii.gz"]


def test_two_stars_are_any_number_of_folders() -> None:
    for parts in (("x",), ("a", "x"), ("a", "b", "x")):
        assert matches(parts, ("**", "x"))
    assert not matches(("a", "y"), ("**", "x"))
    assert not matches((), ("*",))
