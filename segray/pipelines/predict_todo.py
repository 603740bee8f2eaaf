"""Which cases a prediction has to make masks for, and what is to be said of those that were done before."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from segray.case import LabelMap
from segray.config import PredictConfig
from segray.formats.file_states import unchanged_images
from segray.formats.source import CaseSource
from segray.pipelines.lacking import without_confidence, without_files, without_masks
from segray.pipelines.ledger import Entry, Ledger
from segray.pipelines.listed import Listed

NAMED = 3
"""Cases that a sentence names."""


@dataclass(frozen=True)
class Todo:
    """What is to be done.

    Attributes:
        cases: in the order given.
        notes: why some that were done are done again, and what is left out, a sentence each.
    """

    cases: list[CaseSource]
    notes: list[str]


def find_todo(
    cases: Sequence[CaseSource], ledger: Ledger, folder: str, settings: PredictConfig, label_map: LabelMap
) -> Todo:
    """The cases without a mask that still holds: not done yet, mask gone, input changed since, more asked for.

    Masks and further files are listed once, and the files of cases that were done are asked for their sizes and times.
    """
    if settings.overwrite:
        return Todo(list(cases), [])
    known = [(case, entry) for case in cases if (entry := ledger.entry(case.case_id)) is not None]
    changed = set(_changed(known))
    there = Listed(folder)
    lost = without_masks(known, there, label_map) - changed
    lacking = without_files(known, settings, folder, there, label_map) - changed - lost
    unsure = without_confidence(known, settings, folder) - changed - lost - lacking
    failed = {case.case_id for case, entry in known if not entry.done} - changed
    left = set() if settings.retry_failed else failed
    kept = {case.case_id for case, _ in known} - changed - lost - lacking - unsure - (failed - left)
    notes = [
        *counted(
            ledger.damaged, "part of the ledger is", "parts of the ledger are", "damaged: its cases are done again."
        ),
        *counted(changed, "case has", "cases have", "changed since: done again."),
        *counted(lost, "case has", "cases have", "lost the mask: done again."),
        *counted(lacking, "case lacks", "cases lack", "files that predict.further asks for: done again."),
        *counted(unsure, "case lacks", "cases lack", "what predict.confidence measures: done again."),
        *counted(left, "case has", "cases have", "failed before: --retry-failed tries again."),
    ]
    return Todo([case for case in cases if case.case_id not in kept], notes)


def _changed(known: Sequence[tuple[CaseSource, Entry]]) -> list[str]:
    """The ids of cases whose files are others than those that were read; a failed one may not tell which it read."""
    told = [(case, entry) for case, entry in known if entry.fingerprint or entry.done]
    same = unchanged_images([case for case, _ in told], [entry.fingerprint for _, entry in told])
    return [case.case_id for (case, _), is_same in zip(told, same, strict=True) if not is_same]


def counted(names: Collection[str], one: str, several: str, then: str) -> list[str]:
    """``3 cases (a, b, c) have lost the mask.``: a sentence with the first names; none where there are no names.

    ``one`` and ``several`` are what is counted and its verb, such as ``case has``.
    """
    if not names:
        return []
    thing, _, verb = (one if len(names) == 1 else several).rpartition(" ")
    first = ", ".join(sorted(names)[:NAMED]) + (", ..." if len(names) > NAMED else "")
    return [f"{len(names)} {thing} ({first}) {verb} {then}"]
