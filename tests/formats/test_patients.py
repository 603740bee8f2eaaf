"""Patients by a pattern of the case ids."""

from __future__ import annotations

import pytest

from segray.config import parse_config
from segray.errors import UsageError
from segray.formats.patients import group_patients
from segray.formats.source import CaseSource, Discovery


def found(*case_ids: str) -> Discovery:
    return Discovery("images", [CaseSource(case_id, f"{case_id}.png") for case_id in case_ids], None)


@pytest.mark.parametrize("pattern", ["^(g[0-9]+)_", "g[0-9]+"])
def test_the_first_group_or_the_whole_match_is_the_patient(pattern: str) -> None:
    grouped = group_patients(found("g01_1", "g01_2", "g02_1"), pattern)
    assert [case.patient for case in grouped.cases] == ["g01", "g01", "g02"]
    assert grouped.notes == ["ingest.split.pattern finds 2 patients in 3 cases."]


def test_cases_that_do_not_match_are_their_own_patients_and_counted() -> None:
    grouped = group_patients(found("g01_1", "other", "_x"), "^(g[0-9]+)?_")
    assert [case.patient for case in grouped.cases] == ["g01", "other", "_x"]
    assert "2 cases do not match" in grouped.notes[0]


def test_a_pattern_that_matches_nothing() -> None:
    with pytest.raises(UsageError, match="matches no case id, such as a1"):
        group_patients(found("a1"), "^g")


def test_a_pattern_that_does_not_compile() -> None:
    with pytest.raises(UsageError, match=r"ingest\.split\.pattern: '\(' is no regular expression"):
        parse_config({"ingest": {"split": {"pattern": "("}}})
