"""Which cases are of one patient, by a pattern of their ids."""

from __future__ import annotations

import re
from dataclasses import replace

from segray import privacy
from segray.errors import UsageError
from segray.formats.source import CaseSource, Discovery


def group_patients(found: Discovery, pattern: str | None) -> Discovery:
    """The cases with the patient that ``pattern`` finds in their ids, and a note.

    The patient is the first group of the first match, or all of it where there is no group. A case that does not match
    keeps the patient that it has.

    Raises:
        UsageError: no case matches.
    """
    if not pattern or not found.cases:
        return found
    known = [_patient(case, re.compile(pattern)) for case in found.cases]
    matched = [patient for patient in known if patient]
    if not matched:
        first = privacy.hide_case(found.cases[0].case_id)
        raise UsageError(
            f"ingest.split.pattern {pattern!r} matches no case id, such as {first}.",
            mend="A pattern for g01_0007 is '^(g[0-9]+)_'.",
        )
    cases = [
        replace(case, patient=patient) if patient else case for case, patient in zip(found.cases, known, strict=True)
    ]
    note = f"ingest.split.pattern finds {len(set(matched))} patients in {len(matched)} cases."
    others = len(known) - len(matched)
    if others:
        note = f"{note[:-1]}; {others} cases do not match, and each is a patient of its own unless the files say more."
    return replace(found, cases=cases, notes=[*found.notes, note])


def _patient(case: CaseSource, pattern: re.Pattern[str]) -> str:
    match = pattern.search(case.case_id)
    if match is None:
        return ""
    return (match[1] if pattern.groups else match[0]) or ""
