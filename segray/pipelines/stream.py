"""Slices through Ray Data: tasks read row groups still compressed, the consumer mixes and decodes them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.exceptions import RayTaskError

from segray import privacy
from segray.errors import SegrayError
from segray.pipelines.pace import Breath, paced_context
from segray.pipelines.runtime import MIB, READ_TASK_CPUS
from segray.shards import ShardError
from segray.shards.index import Visit
from segray.shards.reader import ReadVisit, lost_rows, read_visit
from segray.shards.tally import counting, with_tally
from segray.shards.writer import case_of_part

TASK_BYTES = 64 * MIB
"""Compressed bytes that one read task brings, as one block: large enough that Ray's cost a task vanishes.

One block a task, so that no running task holds finished blocks that back-pressure does not let out.
"""

LIVE_TASK_BYTES = 8 * MIB
"""The same where cases are read from their files, at least one case: making the rows is the slow part there."""

NODE_LABEL = "ray.io/node-id"

VISITS_A_PASS = 20_000
"""Visits of one Ray Data execution: epochs are strung together up to this, since every start costs a second."""


@dataclass(frozen=True)
class Span:
    """The visits of one read task and their compressed size."""

    visits: tuple[Visit, ...]
    bytes: int

    @property
    def rows(self) -> int:
        """Slices that the task brings."""
        return sum(len(visit.rows) for visit in self.visits)


class ShardDatasource(Datasource):  # type: ignore[misc]
    """Row groups of a shard folder in the order of ``spans``, as Arrow tables of compressed rows."""

    def __init__(
        self, folder: str, spans: Sequence[Span], read: ReadVisit = read_visit, *, spare: bool = False
    ) -> None:
        super().__init__()
        self._folder, self._read, self._spare = folder, read, spare
        self._read_here = privacy.discreet(read_discreetly)
        self._spans = list(spans)

    def estimate_inmemory_data_size(self) -> int:
        """Compressed bytes of all spans."""
        return sum(span.bytes for span in self._spans)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """One task a span, whatever ``parallelism`` asks: the order of the spans is the order of the slices."""
        del parallelism, per_task_row_limit, data_context
        return [self._task(span) for span in self._spans]

    def _task(self, span: Span) -> ReadTask:
        read_here, folder, read, spare = self._read_here, self._folder, self._read, self._spare
        metadata = BlockMetadata(num_rows=span.rows, size_bytes=span.bytes, exec_stats=None)
        return ReadTask(lambda: [read_here(folder, span, read, spare)], metadata)


def read_span(folder: str, span: Span, read: ReadVisit = read_visit, *, spare: bool = False) -> pa.Table:
    """The rows of a span in one table; with ``spare`` rows that cannot be read are :func:`lost_rows`.

    What reading took from the storage stands beside them (:func:`segray.shards.tally.with_tally`).
    """
    tables = []
    for visit in span.visits:
        with counting() as tally:
            try:
                table = read(folder, visit)
            except ShardError:
                if not spare:
                    raise
                table = lost_rows(visit)
        tables.append(with_tally(table, tally))
    return pa.concat_tables(tables)


def read_discreetly(folder: str, span: Span, read: ReadVisit, spare: bool) -> pa.Table:
    """:func:`read_span` in a task, whose errors may name the cases of the span."""
    privacy.know((case_of_part(visit.part) for visit in span.visits), "case")
    return read_span(folder, span, read, spare=spare)


def spans_of(
    visits: Sequence[Visit], bytes_a_row: float, task_bytes: int = TASK_BYTES, *, whole: bool = False
) -> list[Span]:
    """Cut visits, in order, into spans of about ``task_bytes``; ``whole``: never between two visits of one part."""
    spans: list[Span] = []
    waiting: list[Visit] = []
    rows = 0
    for visit, after in zip_longest(visits, visits[1:]):
        waiting.append(visit)
        rows += len(visit.rows)
        if whole and after is not None and after.part == visit.part:
            continue
        if rows * bytes_a_row >= task_bytes:
            spans.append(Span(tuple(waiting), int(rows * bytes_a_row)))
            waiting, rows = [], 0
    if waiting:
        spans.append(Span(tuple(waiting), int(rows * bytes_a_row)))
    return spans


def stream_tables(
    folder: str,
    spans: Sequence[Span],
    *,
    here: bool = True,
    cpus: float = READ_TASK_CPUS,
    breath: type[Breath] = Breath,
    read: ReadVisit = read_visit,
    memory: int = 0,
    spare: bool = False,
) -> Generator[pa.Table, None, None]:
    """Read ``spans`` through Ray Data, in their order; memory is bounded by Ray's back-pressure.

    The execution runs in an actor of its own (Ray Data's split coordinator): its scheduling loop would otherwise take
    the interpreter lock from the training step again and again.

    Args:
        folder: the shard folder (path or URI).
        spans: what to read.
        here: read on the node of the caller where it has CPUs free, else anywhere.
        cpus: CPUs that a read task declares.
        breath: the pause of the scheduling loop.
        read: what gives the rows of a visit.
        memory: bytes that a read task declares.
        spare: rows that cannot be read come as :func:`segray.shards.reader.lost_rows`; else they are an error.

    Yields:
        Arrow tables of compressed rows; the buffers lie in the object store and are not copied.

    Raises:
        SegrayError: what a read task raised.
    """
    context = paced_context(breath)
    context.execution_options.preserve_order = True
    context.target_max_block_size = 2 * TASK_BYTES
    near: dict[str, Any] = {"memory": memory} if memory else {}
    if here:
        node = ray.get_runtime_context().get_node_id()
        near |= {"label_selector": {NODE_LABEL: node}, "fallback_strategy": [{"label_selector": {}}]}
    with DataContext.current(context):
        dataset = ray.data.read_datasource(
            ShardDatasource(folder, spans, read, spare=spare), override_num_blocks=len(spans), num_cpus=cpus, **near
        )
        (iterator,) = dataset.streaming_split(1, equal=False)
    try:
        yield from iterator.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)
    except RayTaskError as error:
        known = cause_of(error)
        if known is None:
            raise
        raise known from error


def cause_of(error: BaseException | None) -> SegrayError | None:
    """The error that a task raised in words for the user, out of what Ray wrapped around it."""
    while error is not None:
        if isinstance(error, SegrayError) and not isinstance(error, RayTaskError):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None
