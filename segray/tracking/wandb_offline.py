"""Weights & Biases: offline, unless WANDB_MODE says otherwise; `wandb sync RUN/wandb/offline-run-*` brings it up."""

from __future__ import annotations

import os
import secrets

from segray.tracking.tracker import Scalars, Start, Tracker

PROJECT = "segray"


class WandB(Tracker):
    """Scalars and the config below ``RUN/wandb``; every start writes a folder of its own under the same run id."""

    def __init__(self, start: Start) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        folder = start.local_folder()
        run_id, _ = start.kept_id("wandb", lambda: secrets.token_hex(4))
        # What looks at the machine is off: it would take time from the training.
        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True, init_timeout=30)
        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.path.basename(folder),
            id=run_id,
            # A server would begin the run of this id anew. Offline there is nothing to ask, and wandb says so.
            resume=None if mode == "offline" else "allow",
            dir=folder,
            mode=mode,  # type: ignore[arg-type]
            config=dict(start.config),
            settings=settings,
        )
        self._waiting: list[tuple[int, Scalars]] = []

    def scalars(self, values: Scalars, step: int) -> None:
        """Keep named numbers for :meth:`flush`."""
        self._waiting.append((step, values))

    def flush(self) -> None:
        """Hand over what waits: steps of an epoch that is not finished would come twice after a resume."""
        for step, values in self._waiting:
            self._run.log(dict(values), step=step)
        self._waiting = []

    def close(self, *, failed: bool) -> None:
        """End the process of wandb that belongs to the run."""
        self._run.finish(exit_code=int(failed))
