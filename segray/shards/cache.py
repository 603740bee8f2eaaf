"""Row groups of shards kept on a node's own disk, up to a limit, for all processes of a user on the node.

Kept are row groups, not whole parts: an epoch visits row groups in a new order, so that every node would fetch all
parts whole for some row groups of each, and again and again where the limit is smaller than the shards.

A file is one row group as an Arrow table, which is mapped when it is read, and an end with its length and checksum. It
is written under another name and renamed: whole, or not there. What a crash left damaged fails its checksum and is
fetched again. A disk that takes nothing is no error but a sentence in the :mod:`segray.shards.tally`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import struct
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa

from segray.config import TrainConfig
from segray.shards.codec import checksum
from segray.shards.tally import note

MAGIC = b"segray-1"
END = struct.Struct("<QI8s")
"""Bytes of the table before it, their CRC-32, :data:`MAGIC`."""

BEGAN = time.time()
"""When this process began to use the cache, in seconds since 1970."""

TURNS = 256
"""Lock files: two row groups that fall on one wait for each other."""

WAIT_S = 30.0
"""How long another process may take to fetch a row group before this one fetches it too."""

LEFT_FREE = 0.08
"""Share of the disk that the cache leaves free: from 95 % on Ray calls a disk full and stops."""

TRIMMED = 0.05
"""Share of the limit that is made free at once: to find the oldest files takes a look at all of them."""

PAUSE_S = 60.0
"""How long a cache is taken for full before it is looked at again."""

ABANDONED_S = 3600.0
"""Age of a file under its temporary name whose writer is gone."""

_TEMPORARY = ".tmp-"
_USED = "used"


@dataclass
class _Known:
    """What this process has learnt of a cache folder."""

    usable: bool | None = None
    takes_more: bool = True
    full_until: float = 0.0


_KNOWN: dict[str, _Known] = {}


@dataclass(frozen=True)
class ShardCache:
    """A cache of row groups; plain data that travels to the processes that read.

    Where it is full, what was used longest ago is removed, but nothing that was used since ``since``: of shards that
    are larger than the limit, what came first stays, and each epoch finds it. Without that an epoch would throw out
    most of what it will want again before it comes to it.

    Attributes:
        folder: where its folder lies; "": the node's folder for temporary files.
        limit: bytes.
        since: seconds since 1970.
    """

    folder: str
    limit: int
    since: float = field(default_factory=lambda: BEGAN)

    @property
    def root(self) -> str:
        """The folder of this user's row groups on this node."""
        return os.path.join(os.path.expanduser(self.folder) or tempfile.gettempdir(), f"segray-shards-{os.getuid()}")

    def table(
        self,
        identity: Sequence[str | int],
        make: Callable[[], pa.Table],
        is_whole: Callable[[pa.Table], bool] = lambda _: True,
    ) -> pa.Table:
        """The table of that identity, mapped from the cache; made, and kept as far as there is room, where it lacks.

        Args:
            identity: what tells the table from every other one, and from what was in its place before.
            make: fetches it; what it raises is raised.
            is_whole: whether what was fetched may be kept.
        """
        if not self._usable():
            return make()
        path = self._path(identity)
        found = _load(path)
        if found is not None or not self._takes_more():
            return make() if found is None else found
        with self._turn(path):
            # Another process may have fetched it meanwhile.
            found = _load(path)
            if found is None:
                found = make()
                if is_whole(found):
                    self._keep(path, found)
        return found

    def _path(self, identity: Sequence[str | int]) -> str:
        name = hashlib.sha256(json.dumps(list(identity)).encode("utf-8")).hexdigest()[:40]
        return os.path.join(self.root, name[:2], name)

    @property
    def _known(self) -> _Known:
        return _KNOWN.setdefault(self.root, _Known())

    def _usable(self) -> bool:
        """Whether the folder is there and this user's own: in a folder that all may write it could be a stranger's."""
        known = self._known
        if known.usable is None:
            try:
                os.makedirs(self.root, mode=0o700, exist_ok=True)
                found = os.lstat(self.root)
                known.usable = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
                why = "it is not this user's own"
            except OSError as error:
                known.usable, why = False, error.strerror or "it cannot be made"
            if not known.usable:
                note(f"The shard cache {self.root} is off ({why}); the shards are read from their storage.")
        return bool(known.usable)

    def _takes_more(self) -> bool:
        known = self._known
        return known.takes_more and time.monotonic() >= known.full_until

    def _close(self, why: str) -> None:
        """Keep nothing more in this process; what is there is still read."""
        if self._known.takes_more:
            note(f"The shard cache {self.root} takes nothing more ({why}); the rest is read from the storage.")
        self._known.takes_more = False

    @contextmanager
    def _turn(self, path: str) -> Iterator[None]:
        """One process at a time fetches a row group; the kernel ends the turn of one that dies."""
        held = self._wait_for(os.path.join(self.root, "turns", str(int(os.path.basename(path), 16) % TURNS)))
        try:
            yield
        finally:
            if held is not None:
                os.close(held)

    def _wait_for(self, path: str) -> int | None:
        """A file, open and locked; None where it cannot be had, or not soon enough."""
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._close(error.strerror or str(error))
            return None
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            except BlockingIOError:
                time.sleep(0.01)
            except OSError as error:
                self._close(error.strerror or str(error))
                break
        os.close(file)
        return None

    def _keep(self, path: str, table: pa.Table) -> None:
        data = _packed(table)
        temporary = f"{os.path.dirname(path)}/{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            # Room is taken before the bytes are written: what others find there counts this file as well.
            if not self._take_room(temporary, sum(len(piece) for piece in data)):
                return
            with open(temporary, "r+b") as stream:
                for piece in data:
                    stream.write(piece)
            os.replace(temporary, path)
        except OSError as error:
            self._close(error.strerror or str(error))
            with contextlib.suppress(OSError):  # it may not be there, and there is nothing more to say
                os.unlink(temporary)

    def _take_room(self, temporary: str, size: int) -> bool:
        """Make a file of that size, so far empty, if there is room, or what may be removed leaves some."""
        if size > self.limit:
            return False
        used = self._wait_for(os.path.join(self.root, _USED))
        if used is None:
            return False
        try:
            told = os.pread(used, 32, 0)
            total = int(told) if told.isdigit() else self._trim(size)
            if total + size > self.limit or self._over_disk(size):
                total = self._trim(size)
            fits = total + size <= self.limit
            if fits and self._over_disk(size):
                self._close("its disk is nearly full")
            elif fits:
                with open(temporary, "xb") as stream:
                    stream.truncate(size)
                total += size
            else:
                self._known.full_until = time.monotonic() + PAUSE_S
            os.ftruncate(used, 0)
            os.pwrite(used, b"%d" % total, 0)
        finally:
            os.close(used)
        return fits and self._known.takes_more

    def _over_disk(self, size: int) -> bool:
        disk = shutil.disk_usage(self.root)
        return disk.free - size < LEFT_FREE * disk.total

    def _trim(self, size: int) -> int:
        """Remove the oldest files until ``size`` bytes, and some more, find room; bytes of those that are left."""
        kept = sorted(_files(self.root))
        total = sum(held for _, held, _ in kept)
        goal = self.limit * (1 - TRIMMED) - size
        for used, held, path in kept:
            if used >= self.since or (total <= goal and not self._over_disk(size)):
                break
            with contextlib.suppress(FileNotFoundError):  # a fetch may have put another one in its place
                os.unlink(path)
            total -= held
        return total


def shard_cache(train: TrainConfig) -> ShardCache | None:
    """The cache that the settings ask for; None: no cache."""
    return ShardCache(train.cache_folder or "", int(train.cache_gib * 2**30)) if train.cache_gib else None


def _files(root: str) -> Iterator[tuple[float, int, str]]:
    """When each file was used last (s since 1970), its bytes, its path; abandoned ones are removed."""
    for folder in os.scandir(root):
        if not folder.is_dir(follow_symlinks=False) or len(folder.name) != 2:
            continue
        for entry in os.scandir(folder.path):
            try:
                found = entry.stat(follow_symlinks=False)
                if entry.name.startswith(_TEMPORARY) and time.time() - found.st_mtime > ABANDONED_S:
                    os.unlink(entry.path)
                    continue
            except FileNotFoundError:
                continue
            # A file that is being written is nobody's to remove.
            used = time.time() if entry.name.startswith(_TEMPORARY) else found.st_mtime
            yield used, found.st_size, entry.path


def _packed(table: pa.Table) -> list[memoryview | bytes]:
    sink = pa.BufferOutputStream()
    whole = table.combine_chunks()
    with pa.ipc.new_file(sink, whole.schema) as writer:
        writer.write_table(whole)
    body = memoryview(sink.getvalue())
    return [body, END.pack(len(body), checksum(body), MAGIC)]


def _load(path: str) -> pa.Table | None:
    """The table in a file, mapped; None where there is none that is whole."""
    try:
        size = os.stat(path).st_size - END.size
        if size <= 0:
            return None
        with pa.memory_map(path) as stream:
            data = stream.read_buffer()
        length, crc, magic = END.unpack(memoryview(data)[-END.size :])
        body = data.slice(0, size)
        if magic != MAGIC or length != size or checksum(memoryview(body)) != crc:
            return None
        table = pa.ipc.open_file(body).read_all()
        os.utime(path)
    except (OSError, pa.ArrowException, struct.error):
        # Whatever is wrong with it, the answer is the same: it is fetched again.
        return None
    return table
