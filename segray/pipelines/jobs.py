"""Commands of segray as jobs of a cluster: submitted, followed to their end, stopped."""

from __future__ import annotations

import asyncio
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import segray
from segray.errors import SegrayError
from segray.pipelines.head import Head, HeadLostError, Job
from segray.pipelines.job_package import Package

LOOK_EVERY_S = 3.0
"""Between looks at a job whose log is followed: a connection that died without a word is noticed by them."""

PATIENCE_S = 600.0
"""For so long a head that does not answer is asked again."""

LONGEST_PAUSE_S = 15.0
LAST_LINES_S = 5.0
"""How long the last lines of a job that is over may take."""

STOPPING_S = 10
"""How long a copy of the log may catch its cancellation."""

STOP_S = 30.0
"""Ray ends a job by SIGTERM, and after 3 s (RAY_JOB_STOP_WAIT_TIME_S on the head) by SIGKILL."""

STOPPED_CODE = 128 + 15
"""Exit code of what was stopped, as a shell has it for SIGTERM."""

Say = Callable[[str], None]


def submit(head: Head, package: Package) -> str:
    """Start a packed command as a job; returns its name.

    The job belongs to the cluster: it goes on whatever becomes of this process. What others can read of it (command,
    metadata) holds no password, for which :func:`segray.pipelines.job_package.pack` looks.

    Raises:
        SegrayError: the head refuses it or is lost.
    """
    command = package.words[0]
    name = f"segray-{command}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    metadata = {"segray": segray.__version__, "command": command, "folder": package.outcome.rstrip("/")}
    with tempfile.TemporaryDirectory(prefix="segray-job-") as folder:
        package.write(Path(folder))
        working_dir = folder if package.files else None
        head.submit(name, shlex.join(["segray", *package.words]), working_dir, metadata)
    return name


def follow(head: Head, name: str, write: Say, say: Say) -> Job:
    """Hand the log of a job to ``write`` as it grows, until the job is over; returns how it ended.

    A connection that is lost is made again, and the log goes on where it was. KeyboardInterrupt leaves the job alone.

    Args:
        head: of the cluster.
        name: of the job.
        write: gets the text of the log, which may end within a line.
        say: gets sentences of segray's own.

    Raises:
        UsageError: the head does not know the job, or not any more.
        HeadLostError: the head did not answer for :data:`PATIENCE_S`.
    """
    return asyncio.run(_Follower(head, name, write, say).to_the_end())


async def stop_task(task: asyncio.Task[None]) -> None:
    """Cancel a task until it has ended, but for :data:`STOPPING_S`: what it waits for may catch a cancellation."""
    for _ in range(STOPPING_S):
        task.cancel()
        if (await asyncio.wait({task}, timeout=1.0))[0]:
            return


class _Follower:
    """Follows the log of one job."""

    def __init__(self, head: Head, name: str, write: Say, say: Say) -> None:
        self._head, self._name, self._write, self._say = head, name, write, say
        self._written = 0

    async def to_the_end(self) -> Job:
        lost_at: float | None = None
        pause = 1.0
        while True:
            before = self._written
            try:
                job = await self._look()
                if lost_at is not None:
                    self._say("The head answers again.")
                lost_at = None
                job = await self._copy(job)
                if job.is_over:
                    return job
            except HeadLostError as error:
                if lost_at is None:
                    self._say(f"{error.message} The job does not need it; asking again.")
                    lost_at = time.monotonic()
                if time.monotonic() - lost_at > PATIENCE_S:
                    raise
            # A log that cannot be followed comes from its beginning each time: not every second.
            pause = 1.0 if self._written > before else min(2 * pause, LONGEST_PAUSE_S)
            await asyncio.sleep(pause)

    async def _look(self) -> Job:
        return await asyncio.to_thread(self._head.job, self._name)

    async def _copy(self, job: Job) -> Job:
        """Copy the log until it ends or the connection does; returns the job as it is then."""
        copying = asyncio.create_task(self._tail())
        try:
            while not copying.done() and not job.is_over:
                await asyncio.wait({copying}, timeout=LOOK_EVERY_S)
                job = await self._look()
            if job.is_over:
                await asyncio.wait({copying}, timeout=LAST_LINES_S)
        finally:
            await stop_task(copying)
        broken = not copying.done() or copying.cancelled() or copying.exception() is not None
        if job.is_over and broken:
            await asyncio.to_thread(self._write_rest, job)
        return job

    async def _tail(self) -> None:
        """Copy the log from where it was, since the head tells it from its beginning."""
        seen = 0
        async for text in self._head.tail(self._name):
            new = text[max(0, self._written - seen) :]
            seen += len(text)
            if new:
                self._write(new)
                self._written += len(new)

    def _write_rest(self, job: Job) -> None:
        """What the tail of a job that is over did not bring, as where its node was lost meanwhile."""
        if not job.node_id:
            return
        try:
            text = self._head.read_log(job.node_id, driver_log(job.name))
        except SegrayError as error:
            self._say(f"The last lines of the log are not to be had: {error.message}")
            return
        self._write(text[self._written :])


def driver_log(name: str) -> str:
    """The file of a job's output, in the log folder of the node where its command runs."""
    return f"job-driver-{name}.log"


def exit_code(job: Job) -> int:
    """What a job that is over counts as: the code of its command; as a shell has it, where a signal ended it."""
    if job.status == "SUCCEEDED":
        return 0
    if job.exit_code is not None:
        return job.exit_code if job.exit_code >= 0 else 128 - job.exit_code
    return STOPPED_CODE if job.status == "STOPPED" else 1


def stop(head: Head, name: str) -> Job:
    """Stop a job and wait until it has ended; one that is over stays as it is.

    Raises:
        UsageError: the head does not know the job.
        SegrayError: it has not ended after :data:`STOP_S`.
    """
    head.stop(name)
    deadline = time.monotonic() + STOP_S
    while not (job := head.job(name)).is_over:
        if time.monotonic() > deadline:
            raise SegrayError(f"{name} has not ended after {STOP_S:.0f} s.", mend="Look at it again in a minute.")
        time.sleep(0.5)
    return job


def how_to_follow(head: Head, name: str) -> str:
    """The command that follows a job."""
    return f"segray status {name} --address {head.address} --follow"
