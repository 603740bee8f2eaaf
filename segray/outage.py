"""Waiting for a shared disk that is away for a while: remounted read-only, stale, its server out of reach.

What has worked for hours should not end because a server is restarted. So a process that has begun to write to a run
says that it is patient; any other is told at once, since a disk that never let it write will not do so in a minute.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")

PATIENCE_S = 300.0
"""For so long a write is tried again."""

LOOK_S = 1.0
"""Between two tries."""

AWAY = frozenset((errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT))
"""What the system says of a disk that may come back. A full one is not among them: nobody empties it in a minute."""

_patience = 0.0


def be_patient(seconds: float = PATIENCE_S) -> None:
    """Let all writes of this process, in any thread, wait so long for a disk that is away; 0: no more."""
    global _patience
    _patience = seconds


@contextmanager
def patient(seconds: float = PATIENCE_S) -> Iterator[None]:
    """As :func:`be_patient`, for the time of the block."""
    before = _patience
    be_patient(seconds)
    try:
        yield
    finally:
        be_patient(before)


def waiting(write: Callable[[], Result]) -> Result:
    """What ``write`` returns, called again while it raises that a disk is away, within the patience of the process.

    Raises:
        Exception: what the last call raised.
    """
    began = time.monotonic()
    while True:
        try:
            return write()
        except Exception as error:
            if not is_away(error) or time.monotonic() - began >= _patience:
                raise
        time.sleep(LOOK_S)


def is_away(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that of a disk that may come back."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in AWAY:
            return True
        error = error.__cause__
    return False


@contextmanager
def missed() -> Iterator[None]:
    """Let what the block writes be missed where the disk is away: it is written again in a moment."""
    try:
        yield
    except Exception as error:
        if not is_away(error):
            raise


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that of a disk without room."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False
