"""SwanLab: offline, unless SWANLAB_MODE says otherwise; `swanlab sync` brings the folders of ``RUN/swanlab`` up.

Its mode "local" is the slower one: it opens two files a number for a board that does not install beside segray.

swanlab writes in a thread of its own. What goes wrong there it says in its log alone, and those numbers are lost: the
log is listened to, and what it says is raised at the end of the next epoch.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from segray.errors import SegrayError
from segray.tracking.tracker import Scalars, Start, Tracker

PROJECT = "segray"
FOLDER = "swanlab"
LOGGER = "swanlab.internal"
"""Where swanlab says what it caught."""

MOST_BEHIND = 50_000
"""Steps by which swanlab's thread may lag behind: its queue takes 100 000, and adding to a full one waits for ever."""


class SwanLab(Tracker):
    """Scalars and the config below ``RUN/swanlab``; every start writes a folder of its own under the same run id."""

    def __init__(self, start: Start) -> None:
        import swanlab

        folder = os.path.join(start.local_folder(), FOLDER)
        os.makedirs(folder, exist_ok=True)
        run_id, _ = start.kept_id("swanlab", lambda: secrets.token_hex(4))
        self._waiting: list[tuple[int, Scalars]] = []
        self._handed = self._written = start.first_step - 1
        self._run = swanlab.init(
            project=os.environ.get("SWANLAB_PROJ_NAME", PROJECT),
            name=os.path.basename(start.local_folder()),
            id=run_id,
            resume="allow",
            log_dir=folder,
            mode=os.environ.get("SWANLAB_MODE", "offline"),
            config=dict(start.config),
            settings=_settings(swanlab),
            callbacks=_on_written(swanlab, self._note_written),
        )
        self._failures = _Failures(logging.ERROR)
        logging.getLogger(LOGGER).addHandler(self._failures)

    def scalars(self, values: Scalars, step: int) -> None:
        """Keep named numbers for :meth:`flush`."""
        self._waiting.append((step, values))

    def flush(self) -> None:
        """Hand over what waits; on the disk half a second later.

        Steps of an epoch that is not finished would come twice after a resume.
        """
        self._raise_failures()
        behind = self._handed - self._written
        if behind > MOST_BEHIND:
            raise SegrayError(f"its thread is {behind} steps behind.")
        for step, values in self._waiting:
            self._run.log(dict(values), step=step)
            self._handed = step
        self._waiting = []

    def close(self, *, failed: bool) -> None:
        """Wait until all is written, and say how the run has ended."""
        self._run.finish(state="crashed" if failed else "success", error="The training failed." if failed else None)
        self._raise_failures()

    def _note_written(self, step: int) -> None:
        """Called in swanlab's thread. Its file is flushed only when it is closed, which a killed process never does."""
        self._run._core._store.ensure_flushed()
        self._written = step

    def _raise_failures(self) -> None:
        if self._failures.lines:
            raise SegrayError(self._failures.lines[0])


class _Failures(logging.Handler):
    """Keeps what swanlab says of the errors it caught: the last line of each, which names the error."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage().strip().splitlines()[-1])


def _settings(swanlab: Any) -> Any:
    """Settings that look neither at the machine nor at what is printed, and never ask at a terminal."""
    every = ("hardware", "runtime", "requirements", "conda", "git", "swanlab", "monitor")
    return swanlab.Settings(
        interactive=False,
        probe=swanlab.Settings.Probe(**dict.fromkeys(every, False)),
        terminal=swanlab.Settings.Terminal(proxy_type="none"),
    )


def _on_written(swanlab: Any, note: Callable[[int], None]) -> Any:
    """A callback of swanlab that notes the last step of what its thread has written."""

    class OnWritten(swanlab.Callback):  # type: ignore[misc]
        name = PROJECT

        def on_scalar_flush(self, scalar_records: Sequence[Any], *args: Any, **kwargs: Any) -> None:
            del args, kwargs
            note(scalar_records[-1].step)

    return OnWritten()
