"""The list of the cases that a person should look at first, with a preview of those at its top."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from segray import formats, ledger_parts, storage
from segray.case import LabelMap, channel_volumes, check_case_id
from segray.config import Config
from segray.errors import CaseError, SegrayError
from segray.evaluation.statistics import structure_statistics
from segray.formats.source import CaseSource
from segray.pipelines.admission import memory_at_most
from segray.pipelines.case_outputs import PREVIEWS, PredictedCase, draw_preview, preview_path
from segray.pipelines.case_tasks import run_tasks
from segray.pipelines.headers import read_headers
from segray.pipelines.predict_memory import bytes_needed
from segray.pipelines.runtime import MIB, ray_session
from segray.pipelines.structure_table import STRUCTURE_FILES, write_review, write_structure_table
from segray.report.folders import read_json
from segray.report.review_page import REVIEW_PAGE, write_review_page

PREVIEW_BYTES = 1024 * MIB
"""Memory that the task of a preview declares where the size of its case is not known."""


MADE = f"{ledger_parts.LEDGER}/review.json"
"""Says last of all of which rows, and for how many cases, the tables and the page were made."""

REVIEW_FILES = ("review.csv", "review.parquet", REVIEW_PAGE)


def write_review_list(folder: str, config: Config) -> list[str]:
    """Write the structure table, ``review.csv`` with all cases, and ``review.html`` with the first of them.

    Nothing is written where all of it is there and of the present rows. Where no list is wanted, an older one goes.

    Returns:
        A sentence for each case that is listed without a preview, and why.

    Raises:
        SegrayError: the folder cannot be written.
    """
    most = config.predict.review
    made = {"ledger": ledger_parts.state(ledger_parts.ledger_files(folder)), "cases": most}
    if _is_made(folder, made):
        return []
    structures: pa.Table = write_structure_table(folder)
    notes = _write_review(folder, config, structures) if most else _remove_review(folder)
    files = [*(STRUCTURE_FILES if structures.num_rows else ()), *(REVIEW_FILES if most else ())]
    storage.write_text(storage.join(folder, MADE), json.dumps(made | {"files": files}))
    return notes


def _is_made(folder: str, wanted: dict[str, Any]) -> bool:
    """Whether all files are there and of the rows that are wanted; a list that nobody asks for does no harm."""
    try:
        found = read_json(storage.join(folder, MADE))
    except SegrayError:
        return False  # what a crash left of the file says nothing
    if found.get("ledger") != wanted["ledger"] or wanted["cases"] not in (0, found["cases"]):
        return False
    return set(found["files"]) <= set(storage.names(folder))


def _remove_review(folder: str) -> list[str]:
    for name in REVIEW_FILES:
        storage.delete(storage.join(folder, name))
    return []


def _write_review(folder: str, config: Config, structures: pa.Table) -> list[str]:
    """The list, its page and the previews on it; a sentence for each preview that cannot be drawn."""
    ranked = write_review(folder, structures)
    # Failed cases come last, and are no case to look at.
    top = [str(row["case_id"]) for row in ranked[: config.predict.review] if row["status"] == "ok"]
    there = set(storage.names(storage.join(folder, PREVIEWS), ".png"))
    wanted = {case_id for case_id in top if f"{case_id}.png" not in there}
    notes: list[str] = []
    if wanted:
        shared = (folder, storage.read_text(storage.join(folder, "label_map.json")))
        items = _items(folder, wanted)
        with ray_session(config.ray):
            bytes_of = preview_bytes(items)
            tasks = run_tasks(
                preview_case, items, shared, argument=dict, memory=lambda item: bytes_of[str(item["case_id"])]
            )
            for done in tasks:
                if done.reason:
                    notes.append(f"No preview of {done.item['case_id']}: {done.reason}")
    write_review_page(folder, ranked, most=config.predict.review)
    return notes


def _items(folder: str, wanted: set[str]) -> list[dict[str, Any]]:
    names = ("case_id", "mask", "source")
    found = ledger_parts.last_rows(folder, ledger_parts.ledger_files(folder), names)
    return [{name: row[name] for name in names} for rows in found for row in rows if row["case_id"] in wanted]


def preview_bytes(items: list[dict[str, Any]]) -> dict[str, int]:
    """What the preview of each case takes: as much as reading it. An image that is gone tells so itself."""
    planned, _ = read_headers([CaseSource.from_json(item["source"]) for item in items])
    known = {case.source.case_id: bytes_needed(case) for case in planned}
    return {(name := str(item["case_id"])): memory_at_most(known.get(name, PREVIEW_BYTES)) for item in items}


def preview_case(item: dict[str, Any], folder: str, label_map_json: str) -> None:
    """Draw the preview of a case from its image and its mask. Raises CaseError where one cannot be read."""
    source, label_map = CaseSource.from_json(item["source"]), LabelMap.from_json(label_map_json)
    case = formats.read_image(source)
    labels, _ = formats.read_mask(storage.join(folder, item["mask"]), case.geometry, label_map)
    voxels, indices = channel_volumes(case.voxels)[0], label_map.to_index(labels)
    if voxels.shape != indices.shape:
        raise CaseError(f"The mask has {indices.shape} voxels and the image {voxels.shape}.")
    statistics = structure_statistics(
        voxels, indices, label_map.channels, case.geometry, overlapping=label_map.overlapping
    )
    drawn = draw_preview(PredictedCase(source, case.geometry, label_map, voxels, indices, statistics))
    storage.write_bytes(preview_path(folder, check_case_id(source.case_id)), drawn, durable=False)
