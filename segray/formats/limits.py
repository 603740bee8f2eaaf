"""Sizes that no scan has, refused before memory is touched."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from segray.errors import CaseError
from segray.formats.gzip_bytes import ByteReader

BOMB_BYTES = 1 << 30
"""Bytes up to which a file may expand as it likes: a volume of air packs as well as a bomb."""

BOMB_RATIO = 400
"""How often a larger scan may expand; real ones expand 1.3 to 20 times."""

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_size(name: str, needed: int, *, stored: int, packed: bool) -> None:
    """Refuse what cannot be a scan or cannot be held, by the header's own arithmetic.

    Args:
        name: the file, for messages.
        needed: bytes that its header claims for the voxels.
        stored: bytes that the file has for them.
        packed: whether these are compressed.

    Raises:
        CaseError: more than the machine's memory, or a small file that expands beyond all that scans do.
    """
    _check_memory(name, needed)
    if packed and needed > BOMB_BYTES:
        _check_ratio(name, needed, stored, "scan")


def check_label_size(reader: ByteReader, voxels: int, voxel_bytes: int) -> None:
    """Refuse labels as :func:`check_size` refuses scans, where no image says how large they may be.

    Real labels expand as a bomb does, so their voxels count against the limit, not the bytes of their type.

    Args:
        reader: the file.
        voxels: that its header claims.
        voxel_bytes: bytes of one in the file.

    Raises:
        CaseError: more than the machine's memory at a byte a voxel, or beyond all that labels do.
    """
    _check_memory(reader.name, voxels)
    if reader.packed and voxels > BOMB_BYTES:
        _check_ratio(reader.name, voxels * voxel_bytes, reader.stored, "label volume")


def _check_memory(name: str, needed: int) -> None:
    memory = machine_memory()
    if needed > memory:
        claim = f"{name} claims {shown_bytes(needed)} of voxels"
        raise CaseError(f"{claim}; this machine has {shown_bytes(memory)} memory.")


def _check_ratio(name: str, needed: int, stored: int, kind: str) -> None:
    if needed > stored * BOMB_RATIO:
        ratio = needed // max(stored, 1)
        raise CaseError(
            f"{name} would expand {ratio} times, to {shown_bytes(needed)}: no {kind} does, so it is left alone.",
            mend="If it is one, save it without compression.",
        )


@lru_cache(maxsize=1)
def machine_memory() -> int:
    """Bytes of memory that this machine, or the container in which segray runs, has."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _LIMITS:
        try:
            told = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if told.isdigit():
            found.append(int(told))
    return min(found)


def shown_bytes(count: int) -> str:
    """A number of bytes for people, in MB or GB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 0.1):,.1f} MB"
