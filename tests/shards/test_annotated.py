"""The table of what was looked for in which case."""

from __future__ import annotations

from pathlib import Path

import pytest

from segray.case import LabelMap
from segray.errors import UsageError
from segray.shards.annotated import Annotated, read_annotated

LABELS = LabelMap({"liver": 1, "spleen": 2, "kidney_left": 3})


def table(tmp_path: Path, text: str) -> Annotated:
    path = tmp_path / "annotated.csv"
    path.write_text(text, encoding="utf-8")
    return read_annotated(str(path))


def test_what_a_case_lacks_is_in_the_order_of_the_labels(tmp_path: Path) -> None:
    told = table(tmp_path, "\ufeffcase_id,structures\na,spleen\nb, spleen ; liver;\nc,liver;spleen;kidney_left\n")
    told.check(LABELS)
    assert told.lacking("a", LABELS.names) == ["liver", "kidney_left"]
    assert told.lacking("b", LABELS.names) == ["kidney_left"]
    assert told.lacking("c", LABELS.names) == told.lacking("not named", LABELS.names) == []


def test_no_table_says_nothing() -> None:
    told = read_annotated(None)
    told.check(LABELS)
    assert told.match(["a"]) == told.lacking("a", LABELS.names) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs the column case_id and structures"),
        ("case_id,structure\na,liver\n", "needs the column case_id and structures"),
        ("case_id,structures\na,liver\na,spleen\n", "names the case a twice"),
        ("case_id,structures\na,;\n", "names no structure of the case a"),
        ("case_id,structures\na,liver,spleen\n", "more values than columns at the case a"),
    ],
)
def test_a_bad_table_is_told_in_words(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as told:
        table(tmp_path, text)
    assert "\n" not in told.value.message


def test_a_structure_that_is_none_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"annotated.csv names livr") as told:
        table(tmp_path, "case_id,structures\na,livr\n").check(LABELS)
    assert told.value.mend == "Did you mean liver?"


def test_ids_that_are_no_case_are_named_and_a_table_of_none_is_refused(tmp_path: Path) -> None:
    told = table(tmp_path, "case_id,structures\na,liver\ngone,spleen\n")
    (note,) = told.match(["a", "b"])
    assert "names 1 case (gone) that is not here" in note
    with pytest.raises(UsageError, match="names none of the cases, such as x"):
        told.match(["x"])
