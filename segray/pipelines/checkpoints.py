"""The state that a run goes on from: that of its newest checkpoint that is whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from segray import storage
from segray.engine.trainer import load_state, save_state
from segray.errors import SegrayError, StoreError
from segray.outage import is_full
from segray.pipelines.run_folder import CHECKPOINTS, RunFolder

STATE = "state.pt"
PREFIX = "checkpoint_2"
"""Of the names that Ray gives, which go on with the date."""

MEMORY = "/dev/shm"  # noqa: S108
"""A file system in memory."""

KEPT = 2
"""Checkpoints kept: where the newest is damaged, the one before costs one more epoch and not the run."""


@contextmanager
def state_folder(state: dict[str, Any]) -> Iterator[str]:
    """A folder of this host that holds the state, for the time of the block.

    It lies in memory where the disk for temporary files is full: a training needs no other room there.

    Raises:
        SegrayError: there is no room for it anywhere.
    """
    try:
        folder = _with_state(state, None)
    except (OSError, SegrayError) as error:
        if not is_full(error) or not os.path.isdir(MEMORY):
            raise
        folder = _with_state(state, MEMORY)
    with folder as name:
        yield name


def _with_state(state: dict[str, Any], place: str | None) -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(dir=place)
    try:
        save_state(storage.join(folder.name, STATE), state)
    except BaseException:
        folder.cleanup()
        raise
    return folder


def restore_state(run: RunFolder, latest: str | None) -> tuple[dict[str, Any] | None, list[str]]:
    """What :func:`segray.engine.trainer.save_state` wrote last, and a sentence for each one passed over.

    Args:
        run: the run.
        latest: the name of its newest checkpoint, None where it has none yet.

    Returns:
        (None, []) where the run has no checkpoint yet.

    Raises:
        SegrayError: none of the checkpoints is whole.
    """
    if latest is None:
        return None, []
    passed: list[str] = []
    for name in _newest_first(run, latest):
        try:
            return load_state(storage.join(run.file(CHECKPOINTS), name, STATE)), passed
        except StoreError:
            # Out of reach is not damaged: the next try may read it.
            raise
        except SegrayError as error:
            passed.append(f"{error.message} The one before is used.")
    raise SegrayError(
        f"No checkpoint in {run.file(CHECKPOINTS)} is whole.",
        mend="Begin a new run; the bundle still holds the best weights.",
    )


def checkpoint_names(run: RunFolder) -> list[str]:
    """The checkpoints of a run, the oldest first; their names hold the time."""
    return sorted(name for name in storage.names(run.file(CHECKPOINTS)) if name.startswith(PREFIX))


def _newest_first(run: RunFolder, latest: str) -> list[str]:
    """The latest that is known to be committed, then those before it."""
    return [latest, *sorted((name for name in checkpoint_names(run) if name < latest), reverse=True)]
