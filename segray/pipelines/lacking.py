"""Which cases of a prediction folder lack what a run asks for beside the mask: files, or how sure the net was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from segray import ledger_parts
from segray.case import LabelMap
from segray.config import PredictConfig
from segray.formats.source import CaseSource
from segray.ledger_parts import ABSENT
from segray.pipelines.case_outputs import CONFIDENCE, can_have, further_place, has_confidence
from segray.pipelines.ledger import Entry
from segray.pipelines.listed import Listed
from segray.pipelines.structure_table import STRUCTURES

Known = Sequence[tuple[CaseSource, Entry]]


def without_masks(known: Known, there: Listed, label_map: LabelMap) -> set[str]:
    """Cases whose mask, or a structure's file of it, is gone."""
    lost = there.lacking({entry.mask for _, entry in known if entry.done}, label_map)
    return {case.case_id for case, entry in known if entry.done and entry.mask in lost}


def without_files(known: Known, settings: PredictConfig, folder: str, there: Listed, label_map: LabelMap) -> set[str]:
    """Cases with a mask that lack files of ``predict.further``: never written, or gone since.

    Files are looked for by their names, in listings; whether they are whole is for ``--verify``.
    """
    wanted: set[str] = set(settings.further)
    done = [(case, entry) for case, entry in known if entry.done]
    never = {case.case_id for case, entry in done if wanted - set(entry.further.split(","))}
    gone: dict[str, set[str]] = {}
    for kind in wanted:
        asked = (case for case, _ in done if case.case_id not in never and can_have(kind, case))
        places = {further_place(kind, case.case_id): case.case_id for case in asked}
        for place in there.lacking(places, label_map):
            gone.setdefault(places[place], set()).add(kind)
    return never | _lost(gone, folder)


def without_confidence(known: Known, settings: PredictConfig, folder: str) -> set[str]:
    """Cases with a mask of which nobody measured how sure the net was, where ``predict.confidence`` asks for it."""
    if not settings.confidence:
        return set()
    left = {case.case_id for case, entry in known if entry.done and CONFIDENCE not in entry.further.split(",")}
    if left:
        # Rows from before they said so have the numbers all the same.
        for rows in ledger_parts.last_rows(folder, ledger_parts.ledger_files(folder), ("case_id", STRUCTURES)):
            left -= {row["case_id"] for row in rows if has_confidence(row.get(STRUCTURES) or {})}
    return left


def _lost(gone: Mapping[str, set[str]], folder: str) -> set[str]:
    """The cases of ``gone``, by the kinds that are not there, whose rows do not say that they cannot have them."""
    lost = set(gone)
    if lost:
        for rows in ledger_parts.last_rows(folder, ledger_parts.ledger_files(folder), nested=False):
            for row in rows:
                if row["case_id"] in lost and gone[row["case_id"]] <= set(str(row.get(ABSENT) or "").split(",")):
                    lost.remove(row["case_id"])
    return lost
