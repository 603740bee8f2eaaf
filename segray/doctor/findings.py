"""Findings: what is wrong or worth knowing, how bad it is, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Grade = Literal["error", "warning", "note"]

GRADES: tuple[Grade, ...] = ("error", "warning", "note")
"""From the worst to the mildest. An error means that ingest would lose data; a warning that something without labels
is left out, or that the result would likely be wrong or worse; a note is good to know."""

CASES_NAMED = 5


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor found.

    Attributes:
        code: a short name that stays the same between versions, such as ``unreadable``.
        grade: see :data:`GRADES`.
        case: the case id (or file), empty where the finding concerns the whole set.
        sentence: what was found.
        mend: what helps, empty where nothing has to be done.
    """

    code: str
    grade: Grade
    case: str
    sentence: str
    mend: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain types for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Finding:
        """The inverse of :meth:`to_dict`."""
        return cls(**table)


@dataclass(frozen=True)
class FindingGroup:
    """Findings of one code and grade, to be shown as one row.

    Attributes:
        code, grade: of all of them.
        cases: their cases, in order; empty strings left out.
        sentences: the distinct sentences, in order.
        mend: of the first.
    """

    code: str
    grade: Grade
    cases: tuple[str, ...]
    sentences: tuple[str, ...]
    mend: str

    @property
    def named(self) -> str:
        """The first cases, and how many more there are."""
        more = len(self.cases) - CASES_NAMED
        return ", ".join(self.cases[:CASES_NAMED]) + (f" and {more} more" if more > 0 else "")


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, then by code and case; a finding that comes twice stands once."""
    return sorted(dict.fromkeys(findings), key=lambda one: (GRADES.index(one.grade), one.code, one.case, one.sentence))


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """How many findings there are of each grade."""
    found = [one.grade for one in findings]
    return {grade: found.count(grade) for grade in GRADES}


def grouped(findings: Iterable[Finding]) -> list[FindingGroup]:
    """Findings of one code and grade together, the worst first."""
    groups: dict[tuple[str, Grade], list[Finding]] = {}
    for one in ordered(findings):
        groups.setdefault((one.code, one.grade), []).append(one)
    return [
        FindingGroup(
            code,
            grade,
            tuple(dict.fromkeys(one.case for one in group if one.case)),
            tuple(dict.fromkeys(one.sentence for one in group)),
            group[0].mend,
        )
        for (code, grade), group in groups.items()
    ]


def exit_code(findings: Iterable[Finding]) -> int:
    """1 where ingest would lose data, which is what an error means, else 0."""
    return int(any(one.grade == "error" for one in findings))
