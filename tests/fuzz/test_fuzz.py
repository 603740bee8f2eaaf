"""Any bytes, and whole files with some bytes changed, are read or refused in one sentence; the corpus is replayed."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from targets import TARGETS, seeds

CORPUS = Path(__file__).parent / "corpus"
SEEDS = seeds()
MOST_MEMORY = 64_000_000
"""Bytes of Python and numpy memory that a file of some kB may cost."""

quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def run(target: str, data: bytes) -> None:
    tracemalloc.start()
    try:
        TARGETS[target](data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST_MEMORY


@pytest.mark.parametrize("target", TARGETS)
def test_whole_files_are_read(target: str) -> None:
    for data in SEEDS[target]:
        run(target, data)


@pytest.mark.parametrize("target", TARGETS)
@quick
@given(data=st.binary(max_size=2000))
def test_any_bytes(target: str, data: bytes) -> None:
    run(target, data)


@pytest.mark.parametrize("target", TARGETS)
@quick
@given(choices=st.data())
def test_changed_bytes(target: str, choices: st.DataObject) -> None:
    data = bytearray(choices.draw(st.sampled_from(SEEDS[target])))
    reach = len(data) - 1
    for place, value in choices.draw(st.lists(st.tuples(st.integers(0, reach), st.integers(0, 255)), max_size=8)):
        data[place] = value
    cut = choices.draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))
    run(target, bytes(data[:cut]))


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name[:8]}")
def test_the_corpus_is_read_or_refused(path: Path) -> None:
    run(path.parent.name, path.read_bytes())
