"""Files and folders on a local disk, NFS or an object store, by path or URI, with whole-or-nothing writes."""

from __future__ import annotations

import os
import posixpath
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from segray.errors import SegrayError, StoreError, without_secrets

if TYPE_CHECKING:
    import pyarrow.fs as pafs

MEND = "Check the address, the credentials and the network."
"""What mends most of what a store refuses."""

LONGEST = 200
"""Letters that a library's words may take in a sentence."""


def is_remote(uri: str) -> bool:
    """True for ``s3://bucket/key`` and the like, False for a path or ``file://``."""
    return "://" in uri and not uri.startswith("file://")


def join(base: str, *parts: str) -> str:
    """``base`` with ``parts`` appended; works for paths and URIs."""
    return posixpath.join(base, *parts)


def absolute(uri: str) -> str:
    """A path made absolute, so that every node means the same place; a URI unchanged."""
    if is_remote(uri):
        return uri.rstrip("/")
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The pyarrow file system that holds ``uri``, and the path of ``uri`` in it.

    A key means its own letters, as listings give them: a space is a space, and %20 is no space.

    Raises:
        SegrayError: no file system that pyarrow knows, or one that cannot be opened.
    """
    import pyarrow.fs as pafs

    if not is_remote(uri):
        return pafs.LocalFileSystem(), absolute(uri)
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
    """True if a file or folder lies at ``uri``. Raises SegrayError where a store does not answer."""
    import pyarrow.fs as pafs

    if not is_remote(uri):
        return os.path.exists(absolute(uri))
    fs, path = filesystem(uri)
    with asking(uri):
        return bool(fs.get_file_info(path).type != pafs.FileType.NotFound)


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
    """The file at ``uri`` as UTF-8 text."""
    return read_bytes(uri).decode("utf-8")


def write_bytes(uri: str, data: bytes | memoryview, *, durable: bool = True) -> None:
    """Write ``data`` to ``uri`` so that a reader sees the old file or the whole new one, never a part.

    ``durable=False`` does not wait for the disk: for what is written again a second later.
    """
    if is_remote(uri):
        fs, path = filesystem(uri)
        with asking(uri, "written"), fs.open_output_stream(path, compression=None) as stream:
            stream.write(data)
        return
    target = absolute(uri)
    temporary = f"{os.path.dirname(target)}/.tmp-{uuid.uuid4().hex}"
    try:
        with asking(uri, "written"):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(temporary, "wb") as stream:
                stream.write(data)
                stream.flush()
                if durable:
                    os.fsync(stream.fileno())
            os.replace(temporary, target)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def write_text(uri: str, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    write_bytes(uri, text.encode("utf-8"))


def append_line(uri: str, line: str) -> None:
    """Append one line and flush it to the disk. Object stores cannot append: there the file is rewritten."""
    if is_remote(uri):
        before = read_bytes(uri) if exists(uri) else b""
        write_bytes(uri, before + line.encode("utf-8") + b"\n")
        return
    with asking(uri, "written"):
        os.makedirs(os.path.dirname(absolute(uri)), exist_ok=True)
        with open(absolute(uri), "a", encoding="utf-8") as stream:
            stream.write(line + "\n")


def names(uri: str, suffix: str = "") -> list[str]:
    """Sorted names of the files and folders directly below ``uri`` that end in ``suffix``; [] if it is not there."""
    import pyarrow.fs as pafs

    with asking(uri):
        if not is_remote(uri):
            root = absolute(uri)
            found = os.listdir(root) if os.path.isdir(root) else []
        else:
            fs, path = filesystem(uri)
            infos = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
            found = [info.base_name for info in infos]
    return sorted(name for name in found if name.endswith(suffix))


def delete(uri: str) -> None:
    """Remove the file at ``uri`` if it is there."""
    with asking(uri, "deleted"):
        if not is_remote(uri):
            Path(absolute(uri)).unlink(missing_ok=True)
        elif exists(uri):
            fs, path = filesystem(uri)
            fs.delete_file(path)
