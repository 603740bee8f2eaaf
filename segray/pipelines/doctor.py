"""The doctor: every case of a folder examined in parallel on Ray, before any training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from segray import formats, privacy, storage
from segray.case import LabelMap
from segray.config import Config, IngestConfig
from segray.doctor.cost import Machine, estimate
from segray.doctor.diagnosis import Diagnosis
from segray.doctor.examine import CaseReport, broken, examine
from segray.doctor.findings import Finding, ordered
from segray.doctor.noted import finding_of
from segray.doctor.tile import Tile, make_tile
from segray.doctor.whole import conclude, usable
from segray.errors import UsageError
from segray.formats.note import kind_of
from segray.formats.source import CaseSource, Discovery
from segray.grid import Grid, resolve_grid
from segray.pipelines.case_tasks import run_on_cases
from segray.pipelines.failures import reason_for
from segray.pipelines.headers import Planned, read_headers
from segray.pipelines.ingest import INGEST_TASK_CPUS, bytes_needed
from segray.pipelines.runtime import nodes, ray_session
from segray.shards.annotated import Annotated, read_annotated
from segray.shards.manifest import SPLITS

Watcher = Callable[[dict[str, Any], int, int], None]

NO_IMAGE, NO_LABELS = "The labels have no image.", "The image has no labels."
"""Reasons of :mod:`segray.formats` that get a name of their own."""

SHEET_CASES = 12


def doctor(
    source: str,
    config: Config | None = None,
    *,
    out: str | None = None,
    sheet: int = SHEET_CASES,
    watcher: Watcher | None = None,
) -> Diagnosis:
    """Examine every case of ``source``: what is there, what is wrong with it, what ingest would do and cost.

    A broken case is a finding. Nothing of ``source`` is changed.

    Args:
        source: the folder of cases.
        config: the settings with which it would be ingested; None: the defaults.
        out: where ``doctor.json``, ``index.html`` and ``sheet.png`` go; None: nothing is written.
        sheet: cases on the contact sheet, those with findings first; 0: no sheet.
        watcher: told of every case.

    Raises:
        UsageError: nothing is there that could be a case, or settings that do not fit the folder.
    """
    begin = time.monotonic()
    config = privacy.with_privacy(config or Config(), out)
    found = formats.discover(source, config.ingest)
    labelled = any(case.has_labels for case in found.cases)
    findings = _of_discovery(found, labelled=labelled)
    with ray_session(config.ray):
        planned, unread = read_headers(found.cases)
        grid, wrong = _grid(config, planned, labelled=labelled)
        findings += wrong
        settings = _settings(config.ingest, found.label_map)
        reports = [broken(case, reason) for case, reason in unread]
        for done, report in enumerate(_examined(planned, found.label_map, grid, settings), start=1):
            reports.append(report)
            if watcher is not None:
                watcher({"case_id": report.case_id, "reason": report.problem}, done, len(planned))
        reports.sort(key=lambda one: one.case_id)
        diagnosis = _diagnosis(found, reports, findings, grid, _machine(planned), config)
        chosen = _for_sheet(diagnosis, planned, sheet if out else 0)
        tiles = list(_tiles(chosen, found.label_map, settings))
    diagnosis = replace(diagnosis, source=storage.absolute(source), seconds=time.monotonic() - begin)
    return _written(diagnosis, tiles, out) if out else diagnosis


def _diagnosis(
    found: Discovery,
    reports: Sequence[CaseReport],
    findings: Sequence[Finding],
    grid: Grid | None,
    machine: Machine,
    config: Config,
) -> Diagnosis:
    """All facts together; ``findings`` are those that the files did not have to be read for."""
    left_out = [name for name, _ in found.problems]
    reports, told, wrong = _with_annotated(reports, config.ingest, found.label_map, left_out)
    whole = conclude(reports, config.ingest.split, left_out, told)
    sides = list(whole.split.values())
    plan = estimate(
        [report for report in reports if usable(report)],
        grid.to_dict() if grid else {},
        {name: sides.count(name) for name in SPLITS},
        machine,
    )
    every = ordered([*findings, *wrong, *whole.findings])
    notes = [note for note in found.notes if kind_of(note) == "odd"]
    return Diagnosis("", found.format, notes, every, reports, whole.structures, whole.split, plan, 0.0)


def _with_annotated(
    reports: Sequence[CaseReport], config: IngestConfig, label_map: LabelMap | None, left_out: Sequence[str]
) -> tuple[Sequence[CaseReport], Collection[str], list[Finding]]:
    """The reports with what ``ingest.annotated`` says, the cases that it names, and what is wrong with it."""
    try:
        table = read_annotated(config.annotated)
        notes = table.match([*(report.case_id for report in reports), *left_out])
        if label_map is not None and config.structures is None:
            table.check(label_map)
    except UsageError as error:
        return reports, (), [Finding("annotated", "error", "", error.message, error.mend)]
    mend = "Mend these ids; cases that you have taken away may stay in the CSV."
    findings = [Finding("annotated-ids", "warning", "", note, mend) for note in notes]
    return [_as_told(report, table) for report in reports], table.structures.keys(), findings


def _as_told(report: CaseReport, table: Annotated) -> CaseReport:
    found = table.structures.get(report.case_id)
    if report.labels is None or found is None:
        return report
    return replace(report, labels=replace(report.labels, annotated=tuple(sorted(found))))


def _written(diagnosis: Diagnosis, tiles: Sequence[Tile], out: str) -> Diagnosis:
    from segray.report.doctor_page import write_doctor

    return replace(diagnosis, files=write_doctor(storage.absolute(out), diagnosis, tiles))


def _of_discovery(found: Discovery, *, labelled: bool) -> list[Finding]:
    """What is left out before any file is opened."""
    findings = [_left_out(case, reason) for case, reason in found.problems]
    findings += [finding_of(note) for note in found.notes if kind_of(note) != "odd"]
    if not labelled:
        findings.append(
            Finding("no-labels", "note", "", "No case has labels: there is nothing to train on, only to predict.")
        )
    return findings


def _left_out(case: str, reason: str) -> Finding:
    """The finding for a problem of the folder; an image or labels alone are by far the most frequent."""
    if reason == NO_IMAGE:
        return Finding("labels-without-image", "error", case, reason, "Add the image, or take the labels away.")
    if reason == NO_LABELS:
        return Finding("image-without-labels", "error", case, reason, "Add the labels, or take the image away.")
    return Finding("left-out", "error", case, reason, "Ingest leaves it out: mend it, or take it away.")


def _settings(config: IngestConfig, label_map: LabelMap | None) -> IngestConfig:
    """Label volumes without names keep their values, so that all of them are told."""
    if label_map is None and config.overlap == "keep":
        return config.model_copy(update={"overlap": "smallest"})
    return config


def _grid(config: Config, planned: Sequence[Planned], *, labelled: bool) -> tuple[Grid | None, list[Finding]]:
    chosen = [case for case in planned if case.source.has_labels or not labelled]
    names = [case.source.case_id for case in chosen]
    try:
        return resolve_grid(config.ingest.grid, [(case.size, case.spacing) for case in chosen], names=names), []
    except UsageError as error:
        return None, [Finding("grid", "error", "", error.message, error.mend)] if chosen else []


def _machine(planned: Sequence[Planned]) -> Machine:
    """What the cluster admits at once of the largest cases."""
    living = nodes()
    needed = max((bytes_needed(case) for case in planned), default=1)
    tasks = sum(min(node.cpus / INGEST_TASK_CPUS, max(node.memory / needed, 1)) for node in living)
    return Machine(sum(node.cpus for node in living), max(1, int(tasks)), needed)


def _examined(
    planned: Sequence[Planned], label_map: LabelMap | None, grid: Grid | None, config: IngestConfig
) -> Iterator[CaseReport]:
    """The report of every case as it is finished."""
    text = None if label_map is None else label_map.to_json()
    shared = (text, None if grid is None else grid.to_dict(), config.model_dump_json())
    for done in run_on_cases(examine_row, planned, shared, bytes_of=bytes_needed, cpus=INGEST_TASK_CPUS):
        if done.result is None:
            yield broken(done.item.source, done.reason)
        else:
            yield CaseReport.from_dict(json.loads(done.result["report"]))


def examine_row(row: dict[str, Any], label_map: str | None, grid: dict[str, Any] | None, config: str) -> dict[str, Any]:
    """The report of one case as JSON; a case that cannot be read is one with a reason, never an error."""
    source = CaseSource.from_json(row["source"])
    try:
        report = examine(
            source,
            None if label_map is None else LabelMap.from_json(label_map),
            None if grid is None else Grid.from_dict(grid),
            IngestConfig.model_validate_json(config),
        )
    except Exception as error:
        report = broken(source, reason_for(error))
    return {"report": json.dumps(report.to_dict())}


def _for_sheet(diagnosis: Diagnosis, planned: Sequence[Planned], count: int) -> list[Planned]:
    """Cases to draw: those with errors and warnings first, then some spread over all."""
    readable = {report.case_id for report in diagnosis.readable}
    by_id = {case.source.case_id: case for case in planned if case.source.case_id in readable}
    ill = [one.case for one in diagnosis.findings if one.grade != "note" and one.case in by_id]
    step = max(1, len(by_id) // max(count, 1))
    order = dict.fromkeys([*dict.fromkeys(ill[: count // 2]), *list(by_id)[::step], *by_id])
    return [by_id[case_id] for case_id in list(order)[:count]]


def _tiles(chosen: Sequence[Planned], label_map: LabelMap | None, config: IngestConfig) -> Iterator[Tile]:
    text = None if label_map is None else label_map.to_json()
    shared = (text, config.overlap)
    for done in run_on_cases(tile_row, chosen, shared, bytes_of=bytes_needed, cpus=INGEST_TASK_CPUS):
        if done.result is not None and done.result["tile"]:
            yield Tile.from_dict(json.loads(done.result["tile"]))


def tile_row(row: dict[str, Any], label_map: str | None, overlap: str) -> dict[str, Any]:
    """The tile of one case as JSON; empty where there is none."""
    source = CaseSource.from_json(row["source"])
    try:
        tile = make_tile(source, None if label_map is None else LabelMap.from_json(label_map), overlap=overlap)
    except Exception:
        # The report of the case says already why it cannot be read.
        return {"tile": ""}
    return {"tile": json.dumps(tile.to_dict())}
