"""TensorBoard event files in the run folder.

They are written in the caller's thread. The SummaryWriter of tensorboardX has a thread of its own: where that one dies
of a full disk, adding to its short queue waits for ever, and its flush() leaves what is still in the queue.
"""

from __future__ import annotations

import os
import time
from typing import Any, ClassVar

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from segray.tracking.tracker import Histograms, Pictures, Scalars, Start, Tracker

FOLDER = "tensorboard"
FLUSH_EVERY_S = 5.0
BINS = 64


class TensorBoard(Tracker):
    """An event file in ``RUN/tensorboard``.

    A resumed run writes one more file, which begins with the mark by which TensorBoard drops what earlier files hold of
    the steps that are made again.
    """

    draws: ClassVar[bool] = True

    def __init__(self, start: Start) -> None:
        folder = os.path.join(start.local_folder(), FOLDER)
        os.makedirs(folder, exist_ok=True)
        earlier = len(os.listdir(folder))
        # Two starts within a second would share a name without the number, and the second would truncate the first.
        self._writer = EventsWriter(os.path.join(folder, "events"), f".{earlier}")
        self._flushed = time.monotonic()
        if earlier:
            mark = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=start.first_step, session_log=mark))

    def scalars(self, values: Scalars, step: int) -> None:
        """Take named numbers; on the disk seconds later."""
        for name, value in values.items():
            self._add(summary.scalar(name, value), step)
        if time.monotonic() - self._flushed > FLUSH_EVERY_S:
            self.flush()

    def pictures(self, pictures: Pictures, step: int) -> None:
        """Take (H, W, 3) pictures."""
        for name, picture in pictures.items():
            self._add(summary.image(name, picture, dataformats="HWC"), step)

    def histograms(self, values: Histograms, step: int) -> None:
        """Take distributions, their finite values alone."""
        for name, array in values.items():
            # In float32, weights that hardly differ have no room for so many edges between them.
            finite = array[np.isfinite(array)].astype(np.float64)
            if finite.size:
                edges = np.histogram_bin_edges(finite, BINS)
                self._add(summary.histogram(name, finite, edges), step)

    def flush(self) -> None:
        """Write through to the disk."""
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self, *, failed: bool) -> None:
        """Flush and close the file."""
        del failed
        self._writer.close()

    def _add(self, content: Any, step: int) -> None:
        self._write(Event(wall_time=time.time(), step=step, summary=content))

    def _write(self, event: Any) -> None:
        self._writer.write_event(event)
