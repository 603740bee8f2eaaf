"""Who works on a prediction folder: a claim of each run, kept alive by a sign of life every few seconds.

A claim is a file of its run's own, ``ledger/claim-<run>.json``. A run writes its claim and only then looks for those of
others, so of two that begin together at least one sees the other and steps back; this needs no lock, and no write that
fails where a file is there, which neither all network disks nor pyarrow's object stores have.

A claim only saves double work: runs never write the same ledger file, and masks are whole or not there. So it may be
wrong for once, as when a machine sleeps for minutes, another run takes over, and the machine wakes: the run that
finds its claim gone then ends.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType

from segray import storage
from segray.errors import SegrayError
from segray.formats.folder import file_state
from segray.ledger_parts import LEDGER, new_run

BEAT_S = 10.0
"""Seconds between two signs of life."""

STALE_S = 60.0
"""Seconds without a sign of life after which a run on another host counts as dead."""

TRIES = 5
"""Times that a run asks again where another one asks in the same second."""


@dataclass(frozen=True)
class Holder:
    """A run that works on a folder, or asks to.

    Attributes:
        run: its id.
        command: what it does, such as predict.
        host: where its driver runs.
        pid: the driver's process id there.
        place: what tells hosts and containers apart whose names are equal; empty where the system does not say.
        begun: when the process started, in ticks since the host did, so that a reused pid is not taken for it.
        since: when the claim was made, Unix time.
        holds: False while it still looks whether another run is there.
    """

    run: str
    command: str
    host: str
    pid: int
    place: str
    begun: int
    since: float
    holds: bool = False


class FolderTakenError(SegrayError):
    """Another run works on the folder."""


class Claim:
    """The right to work on a folder, as a context manager.

    Args:
        folder: a path or URI.
        command: what the run does, for the sentence that another run is told.
        beat: called with every sign of life, in a thread of its own; it may raise SegrayError, which is left to the
            next time.

    Attributes:
        run: the id of the run, new with each claim.

    Raises:
        FolderTakenError: another run is at work there.
        SegrayError: the folder cannot be written.
    """

    def __init__(self, folder: str, command: str, *, beat: Callable[[], None] | None = None) -> None:
        self._folder = folder
        self.run = new_run(folder)
        self._own = this_process(self.run, command)
        self._uri = _claim_uri(folder, self.run)
        self.beat = beat
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, name="sign of life", daemon=True)

    def __enter__(self) -> Claim:
        for attempt in range(TRIES):
            others = self._ask()
            if not others:
                self._thread.start()
                return self
            if attempt == TRIES - 1 or any(other.holds for other, _ in others):
                raise _taken(self._folder, *max(others, key=lambda found: found[0].holds))
            # Both have seen each other: who waits less is first.
            time.sleep(random.uniform(0.05, 0.5) * (attempt + 1))  # noqa: S311
        raise AssertionError("the last attempt raises")

    def _ask(self) -> list[tuple[Holder, float]]:
        """Claim the folder; where others have, step back and return them."""
        try:
            self._write()
            others = self._others()
            if not others:
                self._own = replace(self._own, holds=True)
                self._write()
            return others
        finally:
            if not self._own.holds:
                with suppress(SegrayError):
                    storage.delete(self._uri)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(STALE_S)
        try:
            storage.delete(self._uri)
        except SegrayError:
            if error is None:
                raise

    def check(self) -> None:
        """Raises FolderTakenError where another run has taken this one for dead."""
        if self._lost:
            others = self._others()
            if others:
                raise _taken(self._folder, *others[0])
            raise FolderTakenError(
                f"This run gave no sign of life for {STALE_S:.0f} s, and another one took over {self._folder}.",
                mend="Give the command again: it does what is missing.",
            )

    def _live(self) -> None:
        while not self._stop.wait(BEAT_S) and not self._lost:
            try:
                if storage.exists(self._uri):
                    self._write()
                else:
                    self._lost = True
                if self.beat is not None:
                    self.beat()
            except SegrayError:
                # A store or a disk that does not answer now may do so before others lose their patience.
                continue

    def _write(self) -> None:
        storage.write_bytes(self._uri, json.dumps(asdict(self._own)).encode(), durable=False)

    def _others(self) -> list[tuple[Holder, float]]:
        """The other runs that live, each with the seconds since its sign of life; claims of dead ones are removed."""
        now = _changed(self._uri) or time.time()
        found = []
        for name in storage.names(storage.join(self._folder, LEDGER), ".json"):
            uri = storage.join(self._folder, LEDGER, name)
            changed = _changed(uri) if name.startswith("claim-") and uri != self._uri else None
            if changed is None:
                continue
            holder, quiet = _read(uri), max(now - changed, 0.0)
            if holder is None:
                continue
            if is_alive(holder, quiet):
                found.append((holder, quiet))
            else:
                storage.delete(uri)
        return found


def this_process(run: str, command: str) -> Holder:
    """A claim of this process that does not hold yet."""
    _, begun = _process(os.getpid()) or ("", 0)
    return Holder(run, command, socket.gethostname(), os.getpid(), _place(), begun, time.time())


def is_alive(holder: Holder, quiet: float) -> bool:
    """Whether a run is at work, ``quiet`` seconds after its last sign of life.

    Of a process beside this one the system knows; of others only their silence tells.
    """
    if holder.place and holder.place == _place():
        found = _process(holder.pid)
        return found is not None and found[0] not in "ZX" and found[1] == holder.begun
    return quiet <= STALE_S


def _claim_uri(folder: str, run: str) -> str:
    return storage.join(folder, LEDGER, f"claim-{run}.json")


def _changed(uri: str) -> float | None:
    """When a file was written, by the clock of the disk or store, which is one for all hosts; None: it is gone."""
    try:
        return file_state(uri)[1] / 1e9
    except SegrayError:
        if storage.exists(uri):
            raise
        return None


def _read(uri: str) -> Holder | None:
    """A claim; None where it is gone by now. One of another version of segray is known by its signs of life alone."""
    try:
        data = storage.read_bytes(uri)
    except SegrayError:
        if storage.exists(uri):
            raise
        return None
    try:
        table = json.loads(data)
        return Holder(**{field.name: table[field.name] for field in fields(Holder)})
    except (ValueError, KeyError, TypeError):
        return Holder("", "command of another version", "an unknown host", 0, "", 0, 0.0, holds=True)


def _place() -> str:
    """What hosts and containers differ in where processes are numbered: the boot and the space of process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process(pid: int) -> tuple[str, int] | None:
    """State and start, in ticks since the boot, of a process of this system (proc(5)); None where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name stands in brackets and may itself hold some.
    rest = stat.rpartition(")")[2].split()
    return rest[0], int(rest[19])


def _taken(folder: str, holder: Holder, quiet: float) -> FolderTakenError:
    since = datetime.fromtimestamp(holder.since).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return FolderTakenError(
        f"Another segray {holder.command} works on {folder}: on {holder.host}, process {holder.pid}, since {since}, "
        f"last sign of life {quiet:.0f} s ago.",
        mend=f"Wait for it, or stop it (what it has finished stays) and give this command again; a run that was killed "
        f"on another host counts as dead after {STALE_S:.0f} s.",
    )
