"""Listings of folders on a disk or an object store, without hidden files and endless links; files by their ending."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from segray import storage
from segray.errors import SegrayError

KINDS = {".nii.gz": "nifti", ".nii": "nifti", ".nrrd": "volume", ".mha": "volume", ".mhd": "volume"}
"""Ending of a volume file to the reader that takes it; of two files of one case the earlier ending is used."""

_ENDINGS = tuple(KINDS)

Left = list[tuple[str, str]]
"""(path below the folder that was searched, reason) of what a search left out."""

_Listings = dict[tuple[str, str | None], tuple[list[str], list[str], Left]]

_KEPT: ContextVar[_Listings | None] = ContextVar("kept listings", default=None)

MANY = 256
"""Names from which a listing is long; short ones cost less than what it takes to keep them all."""

LEADS_OUT = "The link leads to a folder outside of the one that is searched; it is left out. Link its files instead."


def stem(name: str) -> str | None:
    """A file name without the ending of a volume file; None for other and hidden files."""
    end = ending(name)
    return None if end is None else name[: -len(end)]


def ending(name: str) -> str | None:
    """The ending of a volume file as it is written in ``name``; None for other and hidden files."""
    low = name.lower()
    # Asked several times of every name of an archive: most of what it costs is saved by one call for all endings.
    if not low.endswith(_ENDINGS) or low.startswith("."):
        return None
    for end in _ENDINGS:
        if low.endswith(end):
            return name[-len(end) :]
    return None


def kind_of(path: str) -> str:
    """The reader of a volume file by its ending; that of NIfTI where the ending is unknown."""
    end = ending(path.rsplit("/", 1)[-1])
    return "nifti" if end is None else KINDS[end.lower()]


def listing(uri: str, top: str | None = None, left: Left | None = None) -> tuple[list[str], list[str]]:
    """Sorted names of the folders and of the files in ``uri``, hidden ones left out; empty if it is no folder.

    Args:
        uri: the folder.
        top: the folder that is searched, ``uri`` or one above it. A link to a folder outside of it is not followed,
            since it could lead to all of the disk: it is no name of the result, and is added to ``left``. Links to
            files are files. None: ``uri`` was named by the user, and all links are followed.
        left: where to note what is left out.

    Raises SegrayError where it cannot be read.
    """
    kept = _KEPT.get()
    found = None if kept is None else kept.get((uri, top))
    if found is None:
        found = _listed(uri, top)
        if kept is not None and len(found[0]) + len(found[1]) > MANY:
            kept[uri, top] = found
    folders, files, out = found
    if left is not None:
        left.extend(out)
    return list(folders), list(files)


@contextmanager
def kept_listings() -> Iterator[None]:
    """Within the block a long listing is asked for once: a layout after the other looks at the folder of an archive.

    On an object store each listing of 200,000 names is 200 requests.
    """
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def _listed(uri: str, top: str | None) -> tuple[list[str], list[str], Left]:
    """The folders and files that :func:`listing` returns, and what it leaves out."""
    import pyarrow.fs as pafs

    if not storage.is_remote(uri):
        return _local_listing(storage.absolute(uri), None if top is None else storage.absolute(top))
    fs, path = storage.filesystem(uri)
    with storage.asking(uri):
        infos = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    folders = [info.base_name for info in infos if info.type == pafs.FileType.Directory]
    files = [info.base_name for info in infos if info.type == pafs.FileType.File]
    return sorted(filter(_visible, folders)), sorted(filter(_visible, files)), []


def leads_out(top: str, uri: str) -> bool:
    """Whether links on the way from ``top`` to ``uri`` below it lead outside of ``top``; ``top`` may be a link."""
    return not storage.is_remote(top) and _leads_out(storage.absolute(top), storage.absolute(uri))


def _leads_out(top: str, path: str) -> bool:
    """As :func:`leads_out`, of absolute paths. Where no folder on the way is a link, only those are looked at."""
    way = path
    while len(way) > len(top) and not os.path.islink(way):
        way = os.path.dirname(way)
    if way == top:
        return False
    real = os.path.realpath(top)
    return os.path.commonpath([real, os.path.realpath(path)]) != real


def is_file(uri: str) -> bool:
    """True if ``uri`` is a file. Raises SegrayError where a store does not answer."""
    import pyarrow.fs as pafs

    if not storage.is_remote(uri):
        return os.path.isfile(storage.absolute(uri))
    fs, path = storage.filesystem(uri)
    with storage.asking(uri):
        return bool(fs.get_file_info(path).type == pafs.FileType.File)


def walk(
    uri: str, left: Left | None = None, below: str = "", seen: set[str] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Every folder below ``uri`` as (path relative to it, file names), sorted, each real folder once.

    Args:
        uri: the folder that is searched.
        left: what :func:`listing` leaves out is added to it, as is a folder that cannot be read.
        below: a path below ``uri``; only this folder and those below it are looked at.
        seen: real folders (:func:`real_folder`) that have been looked at; more are added.
    """
    yield from _walk(uri, below, set() if seen is None else seen, [] if left is None else left)


def real_folder(uri: str) -> str:
    """A folder by the path that no link leads over."""
    return uri if storage.is_remote(uri) else os.path.realpath(storage.absolute(uri))


def file_state(uri: str) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns. Raises SegrayError where there is no such file."""
    import pyarrow.fs as pafs

    if not storage.is_remote(uri):
        with storage.asking(uri):
            state = os.stat(storage.absolute(uri))
        return state.st_size, state.st_mtime_ns
    fs, path = storage.filesystem(uri)
    with storage.asking(uri):
        info = fs.get_file_info(path)
    if info.type != pafs.FileType.File:
        raise SegrayError(f"{uri} is not there.")
    return int(info.size), int(info.mtime_ns or 0)


def _visible(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))


def _local_listing(root: str, top: str | None) -> tuple[list[str], list[str], Left]:
    folders: list[str] = []
    files: list[str] = []
    left: Left = []
    if top is not None and _leads_out(top, root):
        return folders, files, left
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if not _visible(entry.name):
                    continue
                if not _is_folder(entry):
                    files.append(entry.name)
                elif top is None or not entry.is_symlink() or not _leads_out(top, entry.path):
                    folders.append(entry.name)
                else:
                    left.append((os.path.relpath(entry.path, top), LEADS_OUT))
    except (FileNotFoundError, NotADirectoryError):
        return [], [], []
    except OSError as error:
        raise SegrayError(f"The folder {root} cannot be read ({error.strerror}).") from error
    return sorted(folders), sorted(files), left


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """False also for a link that leads back to itself: such a file says so when it is read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _walk(root: str, below: str, seen: set[str], left: Left) -> Iterator[tuple[str, list[str]]]:
    here = storage.join(root, below) if below else root
    real = real_folder(here)
    if real in seen:
        return
    seen.add(real)
    try:
        folders, files = listing(here, root, left)
    except SegrayError as error:
        if not below:
            raise
        left.append((below, str(error)))
        return
    yield below, files
    for folder in folders:
        yield from _walk(root, storage.join(below, folder) if below else folder, seen, left)
