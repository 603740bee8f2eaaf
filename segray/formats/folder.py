"""Listings of folders on a disk or an object store, without hidden files and endless links."""

from __future__ import annotations

import os
from collections.abc import Iterator

from segray import storage
from segray.errors import SegrayError

SUFFIXES = (".nii.gz", ".nii")


def stem(name: str) -> str | None:
    """A file name without .nii or .nii.gz; None for other and hidden files."""
    if name.startswith("."):
        return None
    return next((name[: -len(end)] for end in SUFFIXES if name.lower().endswith(end) and len(name) > len(end)), None)


def listing(uri: str) -> tuple[list[str], list[str]]:
    """Sorted names of the folders and of the files in ``uri``, hidden ones left out; empty if it is no folder."""
    import pyarrow.fs as pafs

    if not storage.is_remote(uri):
        return _local_listing(storage.absolute(uri))
    fs, path = storage.filesystem(uri)
    infos = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    folders = [info.base_name for info in infos if info.type == pafs.FileType.Directory]
    files = [info.base_name for info in infos if info.type == pafs.FileType.File]
    return sorted(filter(_visible, folders)), sorted(filter(_visible, files))


def is_file(uri: str) -> bool:
    """True if ``uri`` is a file."""
    import pyarrow.fs as pafs

    if not storage.is_remote(uri):
        return os.path.isfile(storage.absolute(uri))
    fs, path = storage.filesystem(uri)
    return bool(fs.get_file_info(path).type == pafs.FileType.File)


def walk(uri: str) -> Iterator[tuple[str, list[str]]]:
    """Every folder below ``uri`` as (path relative to it, file names), sorted, each real folder once."""
    yield from _walk(uri, "", set())


def file_state(uri: str) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns. Raises SegrayError where there is no such file."""
    import pyarrow.fs as pafs

    if not storage.is_remote(uri):
        try:
            state = os.stat(storage.absolute(uri))
        except OSError as error:
            raise SegrayError(f"{uri} cannot be read ({error.strerror}).") from error
        return state.st_size, state.st_mtime_ns
    fs, path = storage.filesystem(uri)
    info = fs.get_file_info(path)
    if info.type != pafs.FileType.File:
        raise SegrayError(f"{uri} is not there.")
    return int(info.size), int(info.mtime_ns or 0)


def _visible(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))


def _local_listing(root: str) -> tuple[list[str], list[str]]:
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if _visible(entry.name):
                    (folders if entry.is_dir() else files).append(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except OSError as error:
        raise SegrayError(f"The folder {root} cannot be read ({error.strerror}).") from error
    return sorted(folders), sorted(files)


def _walk(root: str, below: str, seen: set[str]) -> Iterator[tuple[str, list[str]]]:
    here = storage.join(root, below) if below else root
    real = here if storage.is_remote(here) else os.path.realpath(storage.absolute(here))
    if real in seen:
        return
    seen.add(real)
    folders, files = listing(here)
    yield below, files
    for folder in folders:
        yield from _walk(root, storage.join(below, folder) if below else folder, seen)
