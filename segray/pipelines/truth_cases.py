"""Which masks of a prediction folder have true labels, and how the truth numbers the structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from segray import formats, storage
from segray.case import LabelMap
from segray.config import Config, IngestConfig
from segray.errors import UsageError
from segray.formats.source import CaseSource
from segray.ledger_parts import PREDICTION
from segray.pipelines.ledger import Ledger
from segray.report.folders import read_json
from segray.shards.annotated import read_annotated

NAMED = 5
"""Cases, or structures, that a sentence names."""


@dataclass(frozen=True)
class TruthCases:
    """What there is to measure.

    Attributes:
        cases: the labelled cases, in the order of their ids.
        label_map: of the masks.
        truth_map: of the truth, the structures that the masks have too; what is ignored is ignored here alone.
        notes: what was chosen and why, a sentence each.
        failed: (case id, reason) of masks whose truth cannot be read.
        unannotated: case id to the structures that nobody looked for in it.
    """

    cases: list[CaseSource]
    label_map: LabelMap
    truth_map: LabelMap
    notes: list[str]
    failed: list[tuple[str, str]]
    unannotated: dict[str, list[str]] = field(default_factory=dict)


def truth_cases(folder: str, truth: str, config: Config) -> TruthCases:
    """The labelled cases of ``truth`` whose masks lie in the prediction folder ``folder``.

    Raises:
        UsageError: no masks there, none of their cases is in ``truth``, it names none of the structures, or the CSV of
            ``ingest.annotated`` is wrong.
    """
    if not storage.exists(storage.join(folder, "label_map.json")):
        raise UsageError(f"{folder} is no prediction folder.", mend="Write one by `segray predict`.")
    label_map = LabelMap.from_json(storage.read_text(storage.join(folder, "label_map.json")))
    entries = Ledger(folder).entries
    done = {case_id for case_id, entry in entries.items() if entry.done}
    discovery = formats.discover(truth, _as_predicted(config.ingest, label_map))
    labelled = {case.case_id: case for case in discovery.cases if case.has_labels}
    found = done & labelled.keys()
    if not found:
        raise UsageError(
            f"None of the {len(done)} masks in {folder} has a labelled case of the same name in {truth}.",
            mend="Name the folder that holds the true labels.",
        )
    split = _bundle_split(folder)
    chosen, note = _of_split(found, config.evaluate.split, split)
    truth_map, dropped = _truth_map(label_map, discovery.label_map)
    cases = [labelled[case_id] for case_id in sorted(chosen)]
    annotated = read_annotated(config.ingest.annotated)
    unannotated = {case: names for case in chosen if (names := annotated.lacking(case, label_map.names))}
    failed = [(case_id, reason) for case_id, reason in discovery.problems if case_id in done - found]
    lacking = _of_split(done, "all" if config.evaluate.split == "all" else "held-out", split)[0] - found
    notes = [
        note,
        *_counted(lacking - dict(failed).keys(), "Masks without a labelled case of the same name, not measured"),
        *_counted(
            labelled.keys() & entries.keys() - done, "Labelled cases without a mask, since their prediction failed"
        ),
        *_unnamed(label_map, discovery.label_map),
        *annotated.match([*labelled, *dict(discovery.problems)]),
        *_counted(set(unannotated), "Cases of which some structures are not measured, since nobody looked for them"),
    ]
    cases = [replace(case, dropped=(*case.dropped, *dropped)) for case in cases]
    return TruthCases(cases, label_map, truth_map, notes, failed, unannotated)


def _as_predicted(ingest: IngestConfig, label_map: LabelMap) -> IngestConfig:
    """The settings of the truth: whether its masks may overlap is known from the prediction."""
    return ingest.model_copy(update={"overlap": "keep" if label_map.overlapping else "smallest"})


def _truth_map(label_map: LabelMap, told: LabelMap | None) -> tuple[LabelMap, tuple[int, ...]]:
    """The map by which the truth is read, and its values of structures that the masks do not have.

    A truth that gives its values no names has those of the masks.
    """
    if told is None:
        return label_map, ()
    shared = {name: value for name, value in told.values.items() if name in label_map.values}
    if not shared:
        raise UsageError(
            f"The truth names none of the structures of the masks ({', '.join(label_map.names[:NAMED])}); it names "
            f"{', '.join(told.names[:NAMED])}.",
            mend="Give the config of the ingest by --config, or ingest.labels with the names of the masks.",
        )
    ignored = told.ignored or (label_map.ignored if label_map.ignored not in told.values.values() else 0)
    truth_map = LabelMap(shared, label_map.overlapping, 0 if label_map.overlapping else ignored)
    return truth_map, tuple(value for name, value in told.values.items() if name not in shared)


def _unnamed(label_map: LabelMap, told: LabelMap | None) -> list[str]:
    """What to say of predicted structures that no true label is called."""
    absent = [name for name in label_map.names if told is not None and name not in told.names]
    if not absent or told is None:
        return []
    return [
        f"The truth names no {', '.join(absent[:NAMED])}, so it counts as absent; where it has another name there "
        f"({', '.join(told.names[:NAMED])}), give the config of the ingest by --config."
    ]


def _counted(case_ids: set[str], what: str) -> list[str]:
    if not case_ids:
        return []
    return [f"{what}: {len(case_ids)} ({_few(sorted(case_ids))})."]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _bundle_split(folder: str) -> dict[str, set[str]]:
    facts = read_json(storage.join(folder, PREDICTION))
    return {name: set(cases) for name, cases in facts.get("split", {}).items()}


def _of_split(found: set[str], wanted: str, split: dict[str, set[str]]) -> tuple[set[str], str]:
    """The cases to measure, and a sentence that says which they are."""
    trained = split.get("train", set())
    if wanted == "all":
        return found, f"All {len(found)} cases are measured; training has seen {len(found & trained)} of them."
    if wanted == "held-out":
        if found - trained:
            return found - trained, f"The {len(found - trained)} cases that training has not seen are measured."
        return found, f"All {len(found)} cases were seen in training: this is no measure of quality on new cases."
    chosen = found & split.get(wanted, set())
    if not chosen:
        raise UsageError(f"None of the masks belongs to a case of the {wanted} split.", mend="Use evaluate.split=all.")
    return chosen, f"The {len(chosen)} cases of the {wanted} split are measured."
