"""The state that a run goes on from: that of its newest checkpoint that is whole."""

from __future__ import annotations

import posixpath
from typing import Any

import ray.train

from segray import storage
from segray.engine.trainer import load_state
from segray.errors import SegrayError
from segray.pipelines.run_folder import CHECKPOINTS, RunFolder

STATE = "state.pt"
PREFIX = "checkpoint_2"
"""Of the names that Ray gives, which go on with the date."""

KEPT = 2
"""Checkpoints kept: where the newest is damaged, the one before costs one more epoch and not the run."""


def restore_state(run: RunFolder) -> tuple[dict[str, Any] | None, list[str]]:
    """What :func:`segray.engine.trainer.save_state` wrote last, and a sentence for each one passed over.

    Returns:
        (None, []) where the run has no checkpoint yet.

    Raises:
        SegrayError: none of the checkpoints is whole.
    """
    latest = ray.train.get_checkpoint()
    if latest is None:
        return None, []
    passed: list[str] = []
    for name in _newest_first(run, posixpath.basename(latest.path.rstrip("/"))):
        try:
            return load_state(storage.join(run.file(CHECKPOINTS), name, STATE)), passed
        except SegrayError as error:
            passed.append(f"{error.message} The one before is used.")
    raise SegrayError(
        f"No checkpoint in {run.file(CHECKPOINTS)} is whole.",
        mend="Begin a new run; the bundle still holds the best weights.",
    )


def _newest_first(run: RunFolder, latest: str) -> list[str]:
    """The latest that Ray knows of, then those before it; their names hold the time."""
    names = [name for name in storage.names(run.file(CHECKPOINTS)) if name.startswith(PREFIX)]
    return [latest, *sorted((name for name in names if name < latest), reverse=True)]
