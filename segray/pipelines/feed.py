"""The batches of a worker's epochs: streamed by Ray Data, mixed, decoded ahead of the step."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from segray.config import Config
from segray.pipelines.admission import memory_at_most
from segray.pipelines.live import visit_reader
from segray.pipelines.pace import SlowBreath
from segray.pipelines.runtime import MIB
from segray.pipelines.stream import LIVE_TASK_BYTES, TASK_BYTES, VISITS_A_PASS, Span, read_span, spans_of, stream_tables
from segray.shards import ShardError
from segray.shards.cache import shard_cache
from segray.shards.index import SliceIndex, Visit
from segray.shards.order import batch_sizes, epoch_slices, plan_epoch, split_visits, steps_of_epoch
from segray.shards.reader import CompressedSlice, Mixer, SliceBatch, decode_batch, slices_of
from segray.shards.stacks import (
    CompressedStack,
    PatchCutter,
    decode_stacks,
    plan_stacks,
    split_stacks,
    stacks_of,
    stacks_of_epoch,
)
from segray.shards.tally import READ_BYTES, READ_NOTES, Tally

BATCHES_AHEAD = 3

DIRECT_BYTES = 4 * MIB
"""Compressed bytes read at once where no task of Ray Data reads: a step waits for no more than that."""

Item = TypeVar("Item")


def steps_a_worker(index: SliceIndex, config: Config, world: int) -> int:
    """Steps of an epoch, the same for every worker."""
    return steps_of_epoch(items_of_epoch(index, config), config.train.slices_a_step, world)


def items_of_epoch(index: SliceIndex, config: Config) -> int:
    """Slices, in 3D patches, of an epoch, over all workers."""
    if config.net.patch:
        return stacks_of_epoch(index, config.sampling, config.net.patch[0])
    return epoch_slices(index, config.sampling)


class EpochFeed:
    """One worker's part of the epochs after ``done``.

    Epochs are strung together into one Ray Data execution as far as they fit, since each start costs a second.
    The order depends on the seed and the epoch alone, so a resumed run sees what the undisturbed one would have.

    Args:
        folder: the shard folder, or the plan of a training on files.
        index: its slices.
        config: seed, sampling, batch size, mixing buffer, threads.
        rank: of this worker.
        world: number of workers.
        done: epochs that are finished.
        say: told of slices that are left out (``train.damaged=skip``), once each.
        direct: read in this process, instead of by tasks of Ray Data.
        ready: told, before each batch, how many more are decoded already.
        ignored: the label of voxels that nobody judged; 0: there are none.
    """

    def __init__(
        self,
        folder: str,
        index: SliceIndex,
        config: Config,
        rank: int,
        world: int,
        done: int,
        say: Callable[[str], None] | None = None,
        *,
        direct: bool = False,
        ready: Callable[[int], None] | None = None,
        ignored: int = 0,
    ) -> None:
        self._direct, self._ready, self._ignored = direct, ready, ignored
        self._sound: list[Any] = []
        self._say, self._told = say, set[str]()
        self._folder, self._index, self._config = folder, index, config
        self._rank, self._world = rank, world
        self._steps = steps_a_worker(index, config, world)
        self._bytes_a_row = (2 * index.beside + 1) * index.pixel_bytes / max(index.part.size, 1)
        self._next = done + 1
        self._counts: list[int] = []
        self._depth = config.net.patch[0] if config.net.patch else 0
        self._rows: Iterator[CompressedSlice] = iter(())
        self._stacks: Iterator[CompressedStack] = iter(())
        self._tables: Generator[pa.Table, None, None] | None = None
        self._read_of = visit_reader(index, shard_cache(config.train))
        self._tally = Tally()

    def epoch(self, epoch: int) -> Iterator[SliceBatch]:
        """The batches of the next epoch; epochs come in their order."""
        if not self._counts:
            self._begin_pass()
        if epoch != self._next:
            raise ValueError(f"epoch {epoch} was asked for, {self._next} is next")
        self._next += 1
        count = self._counts.pop(0)
        sizes = batch_sizes(count, self._steps)
        batches = self._patches(epoch, sizes) if self._depth else self._slices(epoch, sizes)
        yield from ahead(batches, BATCHES_AHEAD, self._ready)

    def _slices(self, epoch: int, sizes: Sequence[int]) -> Iterator[SliceBatch]:
        mixer = Mixer[CompressedSlice](self._config.train.mix_mib * MIB, (self._config.seed, epoch, self._rank))
        mixed = mixer.mix(take(self._rows, sum(sizes)))
        for size in sizes:
            yield self._decoded(list(take(mixed, size)), decode_batch)

    def _patches(self, epoch: int, sizes: Sequence[int]) -> Iterator[SliceBatch]:
        config, seed = self._config, (self._config.seed, epoch, self._rank)
        if config.net.patch is None:
            raise ValueError("a net without a patch takes slices")
        mixer = Mixer[CompressedStack](config.train.mix_mib * MIB, seed)
        mixed = mixer.mix(take(self._stacks, sum(sizes)))
        rng = np.random.default_rng([*seed, 1])
        cutter = PatchCutter(config.net.patch[1:], config.sampling.foreground_share, rng, self._ignored)

        def decode(stacks: Sequence[CompressedStack], threads: int) -> SliceBatch:
            return decode_stacks(stacks, threads, cutter)

        for size in sizes:
            yield self._decoded(list(take(mixed, size)), decode)

    def _decoded(self, group: list[Item], decode: Callable[[Sequence[Item], int], SliceBatch]) -> SliceBatch:
        """A batch; where ``train.damaged`` is skip, sound members of it come again in the place of damaged ones.

        Where none of it is sound, those of the batch before come again.
        """
        threads = self._config.train.decode_threads
        try:
            batch = decode(group, threads)
        except ShardError:
            if self._config.train.damaged == "stop":
                raise
        else:
            self._sound = group
            return batch
        self._sound = [one for one in group if self._is_sound(one, decode)] or self._sound
        if not self._sound:
            raise ShardError("All slices of the first batch are damaged.", mend="Run segray ingest again.")
        return decode([self._sound[number % len(self._sound)] for number in range(len(group))], threads)

    def _is_sound(self, one: Item, decode: Callable[[Sequence[Item], int], SliceBatch]) -> bool:
        try:
            decode([one], 1)
        except ShardError as error:
            if error.message not in self._told and self._say is not None:
                self._say(f"left out: {error.message}")
            self._told.add(error.message)
            return False
        return True

    def _begin_pass(self) -> None:
        visits: list[Visit] = []
        epoch = self._next
        while epoch <= self._config.train.epochs and (not visits or len(visits) < VISITS_A_PASS):
            mine, count = self._mine(epoch)
            visits += mine
            self._counts.append(count)
            epoch += 1
        self.close()
        self._tables = self._read(visits) if self._direct else self._stream(visits)
        self._rows = self._rows_of(self._tables)
        self._stacks = stacks_of(self._rows, self._depth)

    def _read(self, visits: list[Visit]) -> Generator[pa.Table, None, None]:
        spare = self._config.train.damaged == "skip"
        for span in self._spans(visits, DIRECT_BYTES):
            yield read_span(self._folder, span, self._read_of, spare=spare)

    def _stream(self, visits: list[Visit]) -> Generator[pa.Table, None, None]:
        return stream_tables(
            self._folder,
            self._spans(visits),
            breath=SlowBreath,
            read=self._read_of,
            memory=memory_at_most(max(part.memory for part in self._index.parts)),
            spare=self._config.train.damaged == "skip",
        )

    def _mine(self, epoch: int) -> tuple[Sequence[Visit], int]:
        """This worker's visits of an epoch, and the slices, or stacks, that they bring."""
        config = self._config
        if not self._depth:
            mine = split_visits(self._plan(epoch), self._rank, self._world)
            return mine, sum(len(visit.rows) for visit in mine)
        whole = plan_stacks(self._index, config.sampling, self._depth, config.seed, epoch, together=self._index.hollow)
        stacks = split_stacks(whole, self._rank, self._world)
        return [visit for stack in stacks for visit in stack], len(stacks)

    def _plan(self, epoch: int) -> list[Visit]:
        config = self._config
        return plan_epoch(self._index, config.sampling, config.seed, epoch, together=self._index.hollow)

    def _spans(self, visits: list[Visit], task_bytes: int = TASK_BYTES) -> list[Span]:
        if self._index.hollow:
            return spans_of(visits, self._bytes_a_row, LIVE_TASK_BYTES, whole=True)
        return spans_of(visits, self._bytes_a_row, task_bytes)

    def _rows_of(self, tables: Iterable[pa.Table]) -> Iterator[CompressedSlice]:
        for table in tables:
            told = zip(table[READ_BYTES].to_pylist(), table[READ_NOTES].to_pylist(), strict=True)
            for one, (size, words) in zip(slices_of(table), told, strict=True):
                if size or words:
                    self._tally.add(Tally(size, words.splitlines() if words else []))
                yield one

    def taken(self) -> Tally:
        """What reading the slices since the last call took from the shards' storage, wherever they were read."""
        found, self._tally = self._tally, Tally()
        return found

    def close(self) -> None:
        """End the execution that is under way, if there is one."""
        if self._tables is not None:
            self._tables.close()
            self._tables = None


def take(items: Iterator[Item], count: int) -> Iterator[Item]:
    """The next ``count`` items; unlike islice it leaves the rest untouched when it ends."""
    for _ in range(count):
        yield next(items)


def ahead(items: Iterator[Item], count: int, told: Callable[[int], None] | None = None) -> Iterator[Item]:
    """The same items, made by a thread up to ``count`` before they are asked for; its errors are raised here.

    ``told`` hears how many are ready whenever one is asked for.
    """
    ready: queue.Queue[tuple[bool, Item | BaseException | None]] = queue.Queue(count)
    stop = threading.Event()

    def put(entry: tuple[bool, Item | BaseException | None]) -> None:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.2)
            except queue.Full:
                continue
            return

    def make() -> None:
        try:
            for item in items:
                put((True, item))
                if stop.is_set():
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    thread = threading.Thread(target=make, daemon=True, name="ahead")
    thread.start()
    try:
        while True:
            if told is not None:
                told(ready.qsize())
            more, item = ready.get()
            if more:
                yield item  # type: ignore[misc]
            elif isinstance(item, BaseException):
                raise item
            else:
                return
    finally:
        stop.set()
        thread.join()
