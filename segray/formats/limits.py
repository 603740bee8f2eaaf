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


def check_size(reader: ByteReader, needed: int) -> None:
    """Refuse what cannot be a scan or cannot be held, by the header's own arithmetic.

    Args:
        reader: the file.
        needed: bytes that its header claims for the voxels.

    Raises:
        CaseError: more than the machine's memory, or a small file that expands beyond all that scans do.
    """
    memory = machine_memory()
    if needed > memory:
        claim = f"{reader.name} claims {shown_bytes(needed)} of voxels"
        raise CaseError(f"{claim}; this machine has {shown_bytes(memory)} memory.")
    if reader.packed and needed > max(BOMB_BYTES, reader.stored * BOMB_RATIO):
        ratio = needed // max(reader.stored, 1)
        raise CaseError(
            f"{reader.name} would expand {ratio} times, to {shown_bytes(needed)}: no scan does, so it is left alone.",
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
