"""The most memory that a process has held since a moment, for what a stage of a case costs."""

from __future__ import annotations

import resource
from contextlib import suppress

CLEAR = "/proc/self/clear_refs"
PEAK = "5"
"""Tells Linux to forget the highest resident set of a process (proc(5), clear_refs)."""


def forget_peak() -> None:
    """Begin anew; where the system cannot, :func:`peak_mib` goes on from the start of the process."""
    with suppress(OSError), open(CLEAR, "w", encoding="ascii") as file:
        file.write(PEAK)


def peak_mib() -> float:
    """The highest resident set of this process since :func:`forget_peak`, shared memory that it mapped included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
