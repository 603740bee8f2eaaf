"""Which cases are held out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segray.config import SplitConfig
from segray.errors import UsageError
from segray.shards.split import match_table, split_cases


@given(
    st.lists(st.integers(0, 12), max_size=40),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 5),
)
def test_no_patient_is_cut_and_shares_are_met(owners: list[int], validation: float, test: float, seed: int) -> None:
    patients = {f"case{n}": f"patient{owner}" for n, owner in enumerate(owners)}
    split = split_cases(patients, SplitConfig(validation=validation, test=test, seed=seed))
    assert split.keys() == patients.keys()
    kinds: dict[str, set[str]] = {}
    for case, kind in split.items():
        kinds.setdefault(patients[case], set()).add(kind)
    assert all(len(kind) == 1 for kind in kinds.values())
    count = list(kinds.values()).count({"validation"})
    if len(kinds) >= 2 and validation > 0:
        assert 1 <= count < len(kinds)
    if kinds:
        assert {"train"} in kinds.values()


def test_the_seed_draws_and_fixes() -> None:
    patients = {f"c{n}": f"c{n}" for n in range(30)}
    one, same, other = (split_cases(patients, SplitConfig(seed=seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert list(one.values()).count("validation") == 6


def table(tmp_path: Path, text: str, **settings: float) -> SplitConfig:
    path = tmp_path / "patients.csv"
    path.write_text(text, encoding="utf-8")
    return SplitConfig(patients=str(path), **settings)  # type: ignore[arg-type]


CASES = {name: name for name in "abcdef"}


def test_the_table_decides_and_fills_no_split_further(tmp_path: Path) -> None:
    config = table(tmp_path, "\ufeffcase_id,split\na,validation\nb,test\nnot-there,test\n", validation=0.5, test=0.5)
    assert split_cases(CASES, config) == {"a": "validation", "b": "test", **dict.fromkeys("cdef", "train")}


def test_a_table_of_patients_keeps_them_together(tmp_path: Path) -> None:
    split = split_cases(CASES, table(tmp_path, "case_id,patient\na,p\nb,p\nc,p\nd,q\ne,q\nf,q\n", validation=0.5))
    assert split["a"] == split["b"] == split["c"] != split["d"] == split["e"] == split["f"]


def test_a_split_of_one_case_holds_for_its_patient(tmp_path: Path) -> None:
    split = split_cases(CASES, table(tmp_path, "case_id,patient,split\na,p,test\nb,p,\n", validation=0.5))
    assert split["b"] == "test"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs the column case_id"),
        ("case,split\na,train\n", "needs the column case_id"),
        ("case_id,age\na,7\n", "one of patient, split"),
        ("case_id,split\na,trian\n", "'trian'.*train, validation, test"),
        ("case_id,split\na,train\na,test\n", "names the case a twice"),
        ("case_id,patient,split\na,p,train\nb,p,test\n", "patient p into two splits"),
    ],
)
def test_a_bad_table_is_told_in_words(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        split_cases(CASES, table(tmp_path, text))


def test_a_table_of_other_ids_is_refused_instead_of_ignored(tmp_path: Path) -> None:
    cases = [f"case_{n:02d}" for n in range(10)]
    lines = [f"{case}.nii.gz,{'test' if at < 5 else 'train'}\n" for at, case in enumerate(cases)]
    config = table(tmp_path, "case_id,split\n" + "".join(lines))
    words = "names none of the cases, such as case_00; its ids are such as case_00.nii.gz"
    with pytest.raises(UsageError, match=words) as told:
        match_table(cases, config)
    assert told.value.mend


def test_ids_of_a_table_that_are_no_case_are_counted_and_named(tmp_path: Path) -> None:
    strays = [f"gone{n}" for n in range(8)]
    config = table(tmp_path, "case_id,split\na,test\n" + "".join(f"{name},test\n" for name in strays))
    (note,) = match_table(CASES, config)
    assert "names 8 cases (gone0, gone1, gone2, gone3, gone4, ...) that are not here" in note
    (note,) = match_table(CASES, table(tmp_path, "case_id,patient\na,p\n,q\ngone,p\n"))
    assert "names 1 case (gone) that is not here" in note


def test_a_table_whose_ids_are_all_there_has_no_notes(tmp_path: Path) -> None:
    assert match_table(CASES, table(tmp_path, "case_id,split\na,test\nb,\n")) == []
    assert match_table(CASES, SplitConfig()) == []


def test_a_table_without_any_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names no case"):
        match_table(CASES, table(tmp_path, "case_id,split\n,test\n"))


def test_a_table_that_is_no_text_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"case_id\xff\xfe,split\n")
    with pytest.raises(UsageError, match="UTF-8"):
        split_cases(CASES, SplitConfig(patients=str(tmp_path / "x.csv")))


def test_the_split_of_the_folder_is_kept_and_the_rest_is_drawn() -> None:
    patients = {f"c{n}": f"c{n}" for n in range(20)}
    given_splits = {f"c{n}": ("train" if n < 8 else "validation" if n < 10 else "") for n in range(20)}
    split = split_cases(patients, SplitConfig(test=0.5), given_splits)
    assert {case: split[case] for case, told in given_splits.items() if told} == {
        case: told for case, told in given_splits.items() if told
    }
    rest = [split[f"c{n}"] for n in range(10, 20)]
    assert rest.count("test") == 5
    assert rest.count("validation") == 0


def test_the_table_overrules_the_folder(tmp_path: Path) -> None:
    table = tmp_path / "split.csv"
    table.write_text("case_id,split\na,test\n", encoding="utf-8")
    config = SplitConfig(patients=str(table))
    split = split_cases({"a": "a", "b": "b"}, config, {"a": "train", "b": "validation"})
    assert split == {"a": "test", "b": "validation"}


def test_a_patient_whom_the_folder_cuts_is_an_error() -> None:
    with pytest.raises(UsageError, match="The folder puts patient p into two splits"):
        split_cases({"a": "p", "b": "p"}, SplitConfig(), {"a": "train", "b": "test"})
    one_way = split_cases({"a": "p", "b": "p"}, SplitConfig(), {"a": "test", "b": ""})
    assert one_way == {"a": "test", "b": "test"}
