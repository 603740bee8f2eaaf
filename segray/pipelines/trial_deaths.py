"""Trials that Ray ends for lack of memory, told to Ray Tune as what it can bear.

Ray tells of such an end by an OutOfMemoryError, which is a RayError and no RayActorError. The actor manager of Ray Tune
2.60 knows only the latter (``ray.air.execution._internal.actor_manager``), and ends the whole sweep at the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError


@contextmanager
def bearing_low_memory() -> Iterator[None]:
    """Within the block a trial whose memory ran out is one that has died, in the same words."""
    theirs = RayActorManager._actor_task_failed

    def failed(manager: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=str(exception))
        theirs(manager, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = theirs
