"""Files and folders on a local disk, NFS or an object store, by path or URI, with whole-or-nothing writes."""

from __future__ import annotations

import os
import posixpath
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from segray import outage
from segray.errors import NotTextError, SegrayError, StoreError, UsageError, without_secrets

if TYPE_CHECKING:
    import pyarrow.fs as pafs

MEND = "Check the address, the credentials and the network."
"""What mends most of what a store refuses."""

LONGEST = 200
"""Letters that a library's words may take in a sentence."""

FLUSHES = 16
"""Files flushed at a time: a disk writes its journal once for all that wait for it together."""

_flushing: ContextVar[_Flushes | None] = ContextVar("flushing", default=None)


def is_remote(uri: str) -> bool:
    """True for ``s3://bucket/key`` and the like, False for a path or ``file://``."""
    return "://" in uri and not uri.startswith("file://")


def join(base: str, *parts: str) -> str:
    """``base`` with ``parts`` appended; works for paths and URIs."""
    return posixpath.join(base, *parts)


def absolute(uri: str) -> str:
    """A path made absolute, so that every node means the same place; a URI unchanged.

    Raises:
        UsageError: there is a password in the URI.
    """
    if is_remote(uri):
        _refuse_password(uri)
        return uri.rstrip("/")
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The pyarrow file system that holds ``uri``, and the path of ``uri`` in it.

    A key means its own letters, as listings give them: a space is a space, and %20 is no space.

    Raises:
        SegrayError: no file system that pyarrow knows, or one that cannot be opened.
        UsageError: there is a password in ``uri``.
    """
    import pyarrow.fs as pafs

    if not is_remote(uri):
        return pafs.LocalFileSystem(), absolute(uri)
    _refuse_password(uri)
    scheme, _, rest = uri.partition("://")
    place, slash, key = rest.partition("/")
    try:
        fs, path = pafs.FileSystem.from_uri(f"{scheme}://{place}{slash}{quote(key)}")
    except OSError as error:
        raise StoreError(f"{uri} cannot be opened ({_reason(error)}).", mend=MEND) from error
    except (ValueError, NotImplementedError) as error:
        # pyarrow ends its words with the URI, in which there may be a password.
        raise SegrayError(
            f"{uri} cannot be opened ({_reason(error).partition(':')[0]}).",
            mend="An address looks like s3://bucket/key.",
        ) from error
    return fs, path


def _refuse_password(uri: str) -> None:
    """Addresses stand in run folders, tables, ledgers and logs, and who may read those need not know the password."""
    if (shown := without_secrets(uri)) != uri:
        raise UsageError(
            f"{shown} holds a password, which would end up in logs and tables.",
            mend="Give it by the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), a profile, or a role.",
        )


@contextmanager
def asking(uri: str, what: str = "read") -> Iterator[None]:
    """Raises SegrayError (StoreError of a store) where the block is refused: ``uri`` cannot be ``what``."""
    try:
        yield
    except (OSError, ValueError, NotImplementedError) as error:
        message = f"{uri} cannot be {what} ({_reason(error)})."
        if isinstance(error, FileNotFoundError) or not is_remote(uri):
            raise SegrayError(message) from error
        raise StoreError(message, mend=MEND) from error


def _reason(error: Exception) -> str:
    """The first line of what a library says, or its kind; without passwords before it is cut."""
    told = str(getattr(error, "strerror", None) or error)
    return without_secrets(told.splitlines()[0])[:LONGEST].rstrip(". ") if told else type(error).__name__


def exists(uri: str) -> bool:
    """True if a file or folder lies at ``uri``. Raises SegrayError where a store or a disk does not answer.

    What is out of reach is not gone: who takes a stale disk for an empty one gives up a run, or writes it anew.
    """
    import pyarrow.fs as pafs

    if not is_remote(uri):
        with asking(uri):
            return _is_there(absolute(uri))
    fs, path = filesystem(uri)
    with asking(uri):
        return bool(fs.get_file_info(path).type != pafs.FileType.NotFound)


def _is_there(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def read_bytes(uri: str) -> bytes:
    """The whole file at ``uri`` as it is stored. Raises SegrayError where it cannot be read.

    pyarrow would inflate what ends in .gz, and deflate it once more when it is written, if it were not told otherwise.
    """
    with asking(uri):
        if not is_remote(uri):
            with open(absolute(uri), "rb", buffering=0) as local:
                return local.read()
        fs, path = filesystem(uri)
        with fs.open_input_stream(path, compression=None) as stream:
            return bytes(stream.read())


def read_head(uri: str, count: int) -> bytes:
    """At most the first ``count`` bytes of the file at ``uri``. Raises SegrayError where it cannot be read."""
    with asking(uri):
        if not is_remote(uri):
            with open(absolute(uri), "rb") as local:
                return local.read(count)
        fs, path = filesystem(uri)
        with fs.open_input_stream(path, compression=None) as stream:
            return bytes(stream.read(count))


def read_text(uri: str) -> str:
    """The file at ``uri`` as UTF-8 text. Raises NotTextError where it is none, else as :func:`read_bytes`."""
    data = read_bytes(uri)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotTextError(
            f"{uri} is no UTF-8 text (byte {error.start}).", mend="It is damaged, or of another kind: copy it again."
        ) from error


class _Flushes:
    """Files that are on their way to the disk."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(FLUSHES)
        self._waiting: list[tuple[str, Future[None]]] = []

    def add(self, uri: str, file: int) -> None:
        """Flush what was written to the open ``file``; it is flushed by another number, so that it may be closed."""
        self._waiting.append((uri, self._pool.submit(_flush_and_close, os.dup(file))))

    def finish(self) -> None:
        """Wait for all of them. Raises SegrayError where a disk could not take one."""
        self._pool.shutdown()
        for uri, waiting in self._waiting:
            with asking(uri, "written"):
                waiting.result()


def _flush_and_close(file: int) -> None:
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def one_flush() -> Iterator[None]:
    """What the block writes is on the disk when the block ends, not at every write: other work goes on meanwhile.

    Files stand under their names at once, whole for every reader; only a machine that loses its power before the block
    ends may leave them empty. So what says that they are done is to be written behind the block. Blocks may be nested.

    Raises:
        SegrayError: at the end, where the disk could not take a file.
    """
    if _flushing.get() is not None:
        yield
        return
    flushes = _Flushes()
    token = _flushing.set(flushes)
    try:
        yield
    finally:
        _flushing.reset(token)
        flushes.finish()


def write_bytes(uri: str, data: bytes | memoryview, *, durable: bool = True) -> None:
    """Write ``data`` to ``uri`` so that a reader sees the old file or the whole new one, never a part.

    It waits for the disk, within :func:`one_flush` at the end of the block; with ``durable=False``, for what is written
    again a second later, never. In a patient process (:mod:`segray.outage`) a durable write waits for a disk that
    is away.
    """
    if is_remote(uri):
        fs, path = filesystem(uri)
        with asking(uri, "written"), fs.open_output_stream(path, compression=None) as stream:
            stream.write(data)
        return
    if durable:
        outage.waiting(lambda: _replace(uri, data, durable=True))
    else:
        _replace(uri, data, durable=False)


def _replace(uri: str, data: bytes | memoryview, *, durable: bool) -> None:
    target = absolute(uri)
    temporary = f"{os.path.dirname(target)}/.tmp-{uuid.uuid4().hex}"
    try:
        with asking(uri, "written"):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(temporary, "wb") as stream:
                stream.write(data)
                stream.flush()
                flushes = _flushing.get()
                if durable and flushes is not None:
                    flushes.add(uri, stream.fileno())
                elif durable:
                    os.fsync(stream.fileno())
            os.replace(temporary, target)
    finally:
        with suppress(OSError):  # the error of the write counts, not that nothing can be removed either
            os.unlink(temporary)


@contextmanager
def whole_folder(uri: str) -> Iterator[str]:
    """A folder to write files into, which takes the place of ``uri`` when the block ends without an error.

    On a disk it is a hidden folder beside ``uri`` until then, so that readers see the old folder or the whole new one,
    and for an instant between two renames none. Object stores rename nothing: there it is ``uri`` itself, and whoever
    must not take a part for the whole waits for what is written behind the block.

    Raises:
        SegrayError: the folder cannot be made, or not put in its place.
    """
    if is_remote(uri):
        yield uri
        return
    target = absolute(uri)
    temporary = f"{os.path.dirname(target)}/.tmp-{uuid.uuid4().hex}"
    before = f"{temporary}-before"
    try:
        with asking(uri, "written"):
            os.makedirs(temporary)
        yield temporary
        with asking(uri, "written"):
            _take_place(temporary, target, before)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


def _take_place(temporary: str, target: str, before: str) -> None:
    if os.path.isdir(target):
        os.rename(target, before)
    try:
        os.rename(temporary, target)
    except OSError:
        if os.path.isdir(before):
            os.rename(before, target)
        raise


def write_text(uri: str, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    write_bytes(uri, text.encode("utf-8"))


def append_line(uri: str, line: str) -> None:
    """Append one line and flush it to the disk. Object stores cannot append: there the file is rewritten."""
    if is_remote(uri):
        before = read_bytes(uri) if exists(uri) else b""
        write_bytes(uri, before + line.encode("utf-8") + b"\n")
        return
    outage.waiting(lambda: _append(uri, line))


def _append(uri: str, line: str) -> None:
    with asking(uri, "written"):
        os.makedirs(os.path.dirname(absolute(uri)), exist_ok=True)
        with open(absolute(uri), "a", encoding="utf-8") as stream:
            stream.write(line + "\n")


def names(uri: str, suffix: str = "") -> list[str]:
    """Sorted names of the files and folders directly below ``uri`` that end in ``suffix``; [] if it is not there."""
    import pyarrow.fs as pafs

    with asking(uri):
        if not is_remote(uri):
            found = _listed(absolute(uri))
        else:
            fs, path = filesystem(uri)
            infos = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
            found = [info.base_name for info in infos]
    return sorted(name for name in found if name.endswith(suffix))


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def delete(uri: str) -> None:
    """Remove the file at ``uri`` if it is there."""
    outage.waiting(lambda: _delete(uri))


def _delete(uri: str) -> None:
    with asking(uri, "deleted"):
        if not is_remote(uri):
            Path(absolute(uri)).unlink(missing_ok=True)
        elif exists(uri):
            fs, path = filesystem(uri)
            fs.delete_file(path)


def delete_folder(uri: str) -> None:
    """Remove the folder at ``uri`` with all that is in it, if it is there."""
    with asking(uri, "deleted"):
        if not is_remote(uri):
            if os.path.isdir(absolute(uri)):
                shutil.rmtree(absolute(uri))
        elif names(uri):
            fs, path = filesystem(uri)
            fs.delete_dir(path)
