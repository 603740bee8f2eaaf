"""Which structures were looked for in which case, where that differs between cases: the user's CSV of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from segray.case import LabelMap
from segray.errors import UsageError
from segray.shards.case_table import match_ids, read_case_table

BETWEEN = ";"


@dataclass(frozen=True)
class Annotated:
    """The CSV of ``ingest.annotated``.

    Attributes:
        path: of the CSV; "": there is none.
        structures: case to the structures that were looked for in it; of other cases the files decide.
    """

    path: str = ""
    structures: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def match(self, known: Iterable[str]) -> list[str]:
        """What is to be said of ids that are no case. Raises UsageError where none of them is."""
        return match_ids(self.path, tuple(self.structures), known) if self.path else []

    def check(self, label_map: LabelMap) -> None:
        """Raises UsageError, with the nearest known name, where a structure is none of the labels."""
        for name in sorted(frozenset().union(*self.structures.values())):
            label_map.number(name, self.path)

    def lacking(self, case_id: str, names: Iterable[str]) -> list[str]:
        """The structures that nobody looked for in a case; [] of a case that the CSV does not name."""
        found = self.structures.get(case_id)
        return [] if found is None else [name for name in names if name not in found]


def read_annotated(path: str | None) -> Annotated:
    """Read the CSV of ``ingest.annotated``; None: it says nothing of any case.

    Raises:
        UsageError: no CSV in UTF-8, a column is not there, a case stands there twice or without any structure.
    """
    if not path:
        return Annotated()
    found: dict[str, frozenset[str]] = {}
    for row in read_case_table(path, ("structures",)):
        names = frozenset(filter(None, (name.strip() for name in row["structures"].split(BETWEEN))))
        if not row["case_id"]:
            continue
        if not names:
            raise UsageError(
                f"{path} names no structure of the case {row['case_id']}, which would teach nothing.",
                mend=f"Write the names into its column structures, with {BETWEEN} between them, or leave the case out.",
            )
        found[row["case_id"]] = names
    return Annotated(path, found)
