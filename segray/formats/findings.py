"""What the reading of one folder gathers, whatever its layout."""

from __future__ import annotations

from dataclasses import dataclass, field

from segray.case import LabelMap, check_case_id
from segray.config import IngestConfig
from segray.errors import CaseError, without_secrets
from segray.formats.source import CaseSource, Discovery

NOT_KEPT = "The case has no mask of the structures that are kept."


SHOWN = 60
"""Characters of a name that a row of problems shows."""


def shown(name: str) -> str:
    """A name from a disk or a table as one short line."""
    line = name if name.isprintable() else repr(name)[1:-1]
    return line if len(line) <= SHOWN else line[: SHOWN - 3] + "..."


@dataclass
class Findings:
    """What the reading of one folder gathers."""

    config: IngestConfig
    labelled: bool
    cases: dict[str, CaseSource] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, source: CaseSource) -> None:
        """Keep a case with a usable id of its own; else note the problem."""
        try:
            check_case_id(source.case_id)
        except CaseError as error:
            self.problems.append((shown(source.case_id), str(error)))
            return
        if source.case_id in self.cases:
            other = self.cases[source.case_id].image
            self.problems.append((source.case_id, f"{source.image} has the same case id as {other}; it is left out."))
            return
        self.cases[source.case_id] = source

    def finish(self, kind: str, label_map: LabelMap | None) -> Discovery:
        """The findings in order, with what lacks labels among the problems, if labels are wanted."""
        cases = [self.cases[case_id] for case_id in sorted(self.cases)]
        bare = [case.case_id for case in cases if not case.has_labels]
        if self.labelled and bare:
            if len(bare) < len(cases):
                told = {case_id for case_id, reason in self.problems if reason == NOT_KEPT}
                self.problems += [(case_id, "The image has no labels.") for case_id in bare if case_id not in told]
            else:
                self.notes.append("No case has labels.")
        problems = sorted((without_secrets(name), without_secrets(reason)) for name, reason in self.problems)
        return Discovery(kind, cases, label_map, problems, self.notes)
