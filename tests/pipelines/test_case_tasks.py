"""Tasks that fail, raise or die beside others, on the shared embedded Ray."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from segray.errors import CaseError
from segray.formats.source import CaseSource
from segray.pipelines.case_tasks import run_on_cases, run_tasks
from segray.pipelines.headers import read_headers
from segray.pipelines.runtime import BRIEF_SPIN

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]


def work(number: int, factor: int) -> int:
    """What the tests' tasks do: some of them do not come back."""
    if number == 3:
        raise CaseError("Three is no number.", mend="Take four.")
    if number == 5:
        os._exit(1)
    return number * factor


def test_a_task_that_raises_or_dies_is_a_reason_and_the_others_go_on() -> None:
    done = {one.item: one for one in run_tasks(work, range(12), (10,), argument=int)}
    assert sorted(done) == list(range(12))
    assert done[3].reason == "Three is no number. Take four."
    assert done[5].result is None
    assert done[5].reason.startswith("The process that worked on it died (")
    good = [number for number in done if number not in (3, 5)]
    assert [done[number].result for number in good] == [10 * number for number in good]
    assert not any(done[number].reason for number in good)


def test_nothing_is_nothing() -> None:
    assert list(run_tasks(work, [], (1,), argument=int)) == []


def variable_of(name: str) -> str:
    """What a variable says in the process of a task."""
    return os.environ.get(name, "")


def test_tasks_with_an_environment_run_in_processes_that_have_it() -> None:
    told = run_tasks(variable_of, list(BRIEF_SPIN), argument=str, environment=BRIEF_SPIN)
    assert [(one.item, one.result) for one in told] == list(BRIEF_SPIN.items())
    usual = [os.environ.get(name, "") for name in BRIEF_SPIN]
    assert [one.result for one in run_tasks(variable_of, list(BRIEF_SPIN), argument=str)] == usual


def note_and_wait(number: int, folder: str) -> None:
    """Leave a trace, then take a while."""
    Path(folder, str(number)).touch()
    time.sleep(0.2)


def test_an_abandoned_run_begins_no_more_tasks(tmp_path: Path) -> None:
    run = run_tasks(note_and_wait, range(200), (str(tmp_path),), argument=int)
    next(run)
    run.close()
    time.sleep(1)
    assert len(list(tmp_path.iterdir())) < 40


@dataclass(frozen=True)
class Sized:
    """A case of a size."""

    source: CaseSource
    bytes: int


def first_of(row: dict[str, str]) -> str:
    """The id of the case that a task was given."""
    return CaseSource.from_json(row["source"]).case_id


def test_cases_larger_than_any_node_are_tried_all_the_same() -> None:
    cases = [Sized(CaseSource(f"c{size}", "nowhere"), size) for size in (1, 1 << 60, 1 << 30)]
    done = list(run_on_cases(first_of, cases, bytes_of=lambda case: case.bytes, cpus=0.5))
    assert sorted(str(one.result) for one in done) == sorted(case.source.case_id for case in cases)


def test_one_bad_header_harms_none_of_its_block(tmp_path: Path) -> None:
    cases = [CaseSource(f"c{number}", str(tmp_path / f"{number}.nii.gz")) for number in range(3)]
    planned, broken = read_headers(cases)
    assert planned == []
    assert [case.case_id for case, _ in broken] == ["c0", "c1", "c2"]
    assert all(reason and "died" not in reason for _, reason in broken)
    assert read_headers([]) == ([], [])
