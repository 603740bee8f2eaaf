"""Slices straight from the files of a case: what a part would give, made each time that it is asked for."""

from __future__ import annotations

import posixpath
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from segray import formats, privacy, storage
from segray.config import Config
from segray.errors import CaseError, UsageError
from segray.formats.folder import file_state
from segray.formats.source import CaseSource, Discovery
from segray.pipelines.case_watch import Watcher
from segray.pipelines.failures import reason_for
from segray.pipelines.ingest import IngestSummary, Recipe, ingest_cases, read_slices, write_failures
from segray.pipelines.run_folder import FAILURES, LIVE, RunFolder
from segray.pipelines.runtime import MIB
from segray.shards.beside import neighbours_of, with_neighbours
from segray.shards.cache import ShardCache
from segray.shards.index import SliceIndex, Visit
from segray.shards.manifest import INDEX, MANIFEST
from segray.shards.reader import ReadVisit, read_visit
from segray.shards.writer import case_of_part, read_part_facts, rows_of_case

CACHE_BYTES = 128 * MIB
"""Compressed rows that a process keeps of the cases it read last."""

MEND = "Put its files back as they were and go on with --resume, or start a new run."

SIGNS = ["image_crc", "labels_crc", "case_mean", "case_sd"]
"""Columns of a hollow part by which rows made anew are known."""


@dataclass(frozen=True)
class Planner:
    """Who is told of the planning of a training on cases: of every case, and of the whole."""

    case: Watcher | None = None
    planned: Callable[[IngestSummary], None] | None = None


def holds_shards(folder: str) -> bool:
    """True where an ingest has ended; the name manifest.json alone proves nothing in a folder of cases."""
    return all(storage.exists(storage.join(folder, name)) for name in (MANIFEST, INDEX))


def data_folder(config: Config) -> str:
    """Where the manifest of a training lies: its shards, or the plan in its run folder, or in that of all folds."""
    shards = str(config.train.shards)
    if holds_shards(shards):
        return shards
    plan = RunFolder(str(config.train.run)).file(LIVE)
    return plan if holds_shards(plan) else plan_of_all_folds(config) or shards


def plan_of_all_folds(config: Config) -> str | None:
    """The plan that a cross-validation on files has made for its folds, of which this is one; None where none has."""
    if config.train.fold is None:
        return None
    plan = RunFolder(posixpath.dirname(str(config.train.run))).file(LIVE)
    return plan if holds_shards(plan) else None


def hide_names(config: Config) -> None:
    """In a process that trains: hide what the run hides, also below the folder of cases that it reads."""
    shards = str(config.train.shards)
    privacy.join(config.privacy, [] if not config.privacy.hash_ids or holds_shards(shards) else [shards])


def find_cases(config: Config) -> Discovery | None:
    """The labelled cases that ``train.shards`` holds; None where it holds shards. Raises UsageError for neither."""
    folder = str(config.train.shards)
    if holds_shards(folder):
        return None
    if storage.names(folder, ".parquet") and any(name.startswith("part-") for name in storage.names(folder)):
        raise UsageError(f"The ingest into {folder} has not ended.", mend="Run the same `segray ingest` again.")
    try:
        found = formats.discover(folder, config.ingest)
        if not any(case.has_labels for case in found.cases):
            raise UsageError("no case in it has labels.")
    except UsageError as error:
        raise UsageError(
            f"{folder} is neither a folder of shards nor of labelled cases: {error.message}",
            mend="Write shards by `segray ingest SRC DST`, or name a folder of labelled cases.",
        ) from error
    return found


def plan_cases(found: Discovery, config: Config, run: RunFolder, planner: Planner) -> None:
    """Make all of an ingest but the pixels, into the run's ``live/``; cases that fail stand in its ``failures.csv``.

    Raises UsageError where no case can be read.
    """
    plan = run.file(LIVE)
    summary = ingest_cases(
        str(config.train.shards), found, plan, config, pixels=False, watcher=planner.case, log=(run.path, run.run_id)
    )
    storage.delete(storage.join(plan, FAILURES))
    write_failures(run.path, summary.failed)
    run.log(f"planned {summary.cases} cases with {summary.slices} slices; {len(summary.failed)} failed")
    if planner.planned is not None:
        planner.planned(summary)


def visit_reader(index: SliceIndex, cache: ShardCache | None = None) -> ReadVisit:
    """What reads the visits of an index: from the parts, or where these are hollow from the cases' files.

    ``cache`` keeps what is read of parts on the node.
    """
    return read_live_visit if index.hollow else partial(read_visit, cache=cache)


def read_live_visit(folder: str, visit: Visit) -> pa.Table:
    """The compressed rows of a visit, the very ones that a part would hold, from the files of the case.

    Raises:
        CaseError: the case cannot be read any more, or its files have changed since they were planned.
    """
    path = storage.join(storage.absolute(folder), visit.part)
    if not storage.exists(path):
        raise UsageError(f"{path} is not there: the plan of the training is damaged.", mend="Start a new run.")
    rows, rows_per_group = CASES.get(f"{path}:{file_state(path)}", lambda: _make(folder, visit))
    chosen = np.asarray(visit.rows, dtype=np.int64) + visit.group * rows_per_group
    table = rows.take(pa.array(chosen))
    if visit.beside:
        table = with_neighbours(table, rows, neighbours_of(chosen, rows.num_rows, visit.beside))
    return table


Made = tuple[pa.Table, int]
"""All rows of a case, and how many of them are a row group."""


def _make(folder: str, visit: Visit) -> Made:
    case_id = case_of_part(visit.part)
    facts = read_part_facts(folder, case_id)
    if facts is None or facts.hollow is None:
        raise UsageError(f"{folder}/{visit.part} is no plan of a case that segray wrote.", mend="Start a new run.")
    source = CaseSource.from_json(facts.hollow.origin["source"])
    recipe = Recipe(**facts.hollow.origin["recipe"])
    try:
        fingerprint = source.fingerprint()
        rows = rows_of_case(read_slices(source, recipe, fingerprint), codec=recipe.codec, level=recipe.level)  # type: ignore[arg-type]
    except Exception as error:
        raise CaseError(f"The case {case_id} cannot be read any more: {reason_for(error)}", mend=MEND) from error
    if fingerprint != facts.fingerprint and not _same_pixels(rows, folder, visit.part):
        raise CaseError(f"The case {case_id} has changed since the training was planned.", mend=MEND)
    return rows, recipe.rows_per_group


def _same_pixels(rows: pa.Table, folder: str, part: str) -> bool:
    """Whether rows are those that were planned: files that were touched or copied may hold what they held."""
    fs, path = storage.filesystem(storage.join(folder, part))
    with fs.open_input_file(path) as stream:
        planned = pq.ParquetFile(stream).read(columns=SIGNS)
    return bool(rows.select(SIGNS).equals(planned.select(SIGNS)))


class CaseCache:
    """The rows of the cases that were read last, up to ``limit`` compressed bytes, at least one case."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._made: OrderedDict[str, Made] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, make: Callable[[], Made]) -> Made:
        """The rows under ``key``, made where they are not there."""
        with self._lock:
            made = self._made.pop(key, None)
            if made is None:
                made = make()
            self._made[key] = made
            while len(self._made) > 1 and sum(rows.nbytes for rows, _ in self._made.values()) > self.limit:
                self._made.popitem(last=False)
        return made


CASES = CaseCache(CACHE_BYTES)
