"""The file beside an .mhd that holds its voxels: a case whose header stays is another case once that file changes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from segray import storage
from segray.errors import SegrayError
from segray.formats.volume_header import MOST_HEADER, data_file_of

ENDINGS = (".raw", ".zraw")
"""Endings of the file that most programs write beside an .mhd; fingerprints have both, whatever the header names."""


def beside(path: str, name: str) -> str:
    """The path of the file ``name`` in the folder of ``path``."""
    return storage.join(path.rsplit("/", 1)[0] if "/" in path else ".", name)


def detached(path: str, state: tuple[int, int]) -> Iterator[str]:
    """The files in which the voxels of an .mhd may lie; none of other files.

    Args:
        path: any file of a case.
        state: its size in bytes and the time of its last change in ns: a header is read again once that differs.
    """
    if not path.lower().endswith(".mhd"):
        return
    usual = [path[:-4] + end for end in ENDINGS]
    yield from usual
    named = _named(path, state)
    if named and named not in usual:
        yield named


def _named(path: str, state: tuple[int, int]) -> str:
    """The file that a header names; empty where it names none that is read, which it says when its turn comes."""
    try:
        return _read(path, state)
    except SegrayError:
        return ""


@lru_cache(maxsize=1 << 14)
def _read(path: str, state: tuple[int, int]) -> str:
    name = data_file_of(storage.read_head(path, MOST_HEADER), path) if state[0] > 0 else ""
    return beside(path, name) if name else ""
