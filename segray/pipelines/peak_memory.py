"""The most memory that a process has held since a moment, for what a stage of a case costs."""

from __future__ import annotations

import resource
from contextlib import suppress

CLEAR = "/proc/self/clear_refs"
STATUS = "/proc/self/status"
PEAK = "5"
"""Tells Linux to forget the highest resident set of a process (proc(5), clear_refs)."""


def forget_peak() -> None:
    """Begin anew; where the system cannot, :func:`peak_mib` goes on from the start of the process."""
    with suppress(OSError), open(CLEAR, "w", encoding="ascii") as file:
        file.write(PEAK)


def peak_mib() -> float:
    """The highest resident set of this process since :func:`forget_peak`, shared memory that it mapped included."""
    # Not ru_maxrss where it can be helped: that begins with what the process held that started this one.
    with suppress(OSError), open(STATUS, encoding="ascii") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
