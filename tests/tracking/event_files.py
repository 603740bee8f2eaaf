"""Reading TensorBoard event files as TensorBoard does: records with their checksums, and the mark of a resumed run."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c


def records(path: Path) -> Iterator[Any]:
    """The events of a file: length, its CRC, bytes, their CRC (TFRecord)."""
    data = path.read_bytes()
    at = 0
    while at < len(data):
        header = data[at : at + 8]
        (length,) = struct.unpack("<Q", header)
        body = data[at + 12 : at + 12 + length]
        assert struct.unpack("<I", data[at + 8 : at + 12])[0] == masked_crc32c(header)
        assert struct.unpack("<I", data[at + 12 + length : at + 16 + length])[0] == masked_crc32c(body)
        yield Event.FromString(body)
        at += 16 + length


def shown_events(folder: Path) -> list[Any]:
    """The events of all files in their order; what a START mark of a step makes void is dropped.

    As TensorBoard's event_accumulator does it (_CheckForRestartAndMaybePurge).
    """
    kept: list[Any] = []
    for path in sorted(folder.iterdir()):
        for event in records(path):
            if event.session_log.status == SessionLog.START:
                kept = [one for one in kept if one.step < event.step]
            elif event.HasField("summary"):
                kept.append(event)
    return kept


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    """(step, value) of a scalar."""
    return [
        (event.step, value.simple_value)
        for event in shown_events(folder)
        for value in event.summary.value
        if value.tag == tag
    ]
