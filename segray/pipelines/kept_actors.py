"""The processes of ended trials, kept for the next ones.

Ray Tune 2.60 keeps the process of an ended trial only where another trial waits already. Where it also gives that
trial's own process up, which may be about to start (see ``choose_trial_to_run`` of
:class:`segray.pipelines.sweep_search.DeskScheduler`), short trials end with a single process: of 20 places one was in
use after a minute, with trials of a second and processes that start in eight.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune.execution import tune_controller
from ray.tune.utils.object_cache import _ObjectCache


class KeptActors(_ObjectCache):  # type: ignore[misc]
    """A cache that takes every process and gives none away until the sweep is over; all trials need the same."""

    def cache_object(self, key: Any, obj: Any) -> bool:
        """Keep the process."""
        self._cached_objects[key].append(obj)
        self._num_cached_objects += 1
        return True

    def flush_cached_objects(self, force_all: bool = False) -> Iterator[Any]:
        """Those to stop: all at the end, none before."""
        if force_all:
            yield from super().flush_cached_objects(force_all=True)


@contextmanager
def keeping_actors() -> Iterator[None]:
    """Let a sweep that begins meanwhile keep its processes."""
    theirs = tune_controller._ObjectCache
    tune_controller._ObjectCache = KeptActors
    try:
        yield
    finally:
        tune_controller._ObjectCache = theirs
