from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from segray.pipelines.feed import ahead, take
from segray.pipelines.stream import spans_of
from segray.shards.index import Visit


def test_take_leaves_the_rest_untouched() -> None:
    numbers = iter(range(5))
    assert list(take(numbers, 2)) == [0, 1]
    assert list(numbers) == [2, 3, 4]


def test_ahead_keeps_order() -> None:
    assert list(ahead(iter(range(50)), 3)) == list(range(50))


def test_ahead_raises_what_the_maker_raised() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    items = ahead(broken(), 2)
    assert next(items) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)


def test_ahead_stops_its_thread_when_the_consumer_leaves() -> None:
    items = ahead(itertools.count(), 2)
    assert next(items) == 0
    items.close()
    time.sleep(0.3)
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_spans_keep_every_visit_in_order_and_their_size() -> None:
    visits = [Visit("part-a.parquet", group, tuple(range(32))) for group in range(10)]
    spans = spans_of(visits, bytes_a_row=1000.0, task_bytes=64_000)
    assert [visit for span in spans for visit in span.visits] == visits
    assert [span.rows for span in spans] == [64] * 5
