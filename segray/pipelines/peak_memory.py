"""The most memory that a process has held since a moment, for what a stage of a case costs."""

from __future__ import annotations

import resource
from contextlib import suppress

CLEAR = "/proc/self/clear_refs"
STATUS = "/proc/self/status"
PEAK = "5"
"""Tells Linux to forget the highest resident set of a process (proc(5), clear_refs)."""

_mapped = {"before": 0.0}


def forget_peak() -> None:
    """Begin anew; where the system cannot, :func:`peak_mib` goes on from the start of the process."""
    with suppress(OSError), open(CLEAR, "w", encoding="ascii") as file:
        file.write(PEAK)
        # What lay in the object store for earlier cases stays mapped, and counts as resident, whoever has it now.
        _mapped["before"] = _status_mib("RssShmem") or 0.0


def peak_mib() -> float:
    """The highest resident set of this process since :func:`forget_peak`, with shared memory that it mapped since."""
    # Not ru_maxrss where it can be helped: that begins with what the process held that started this one.
    peak = _status_mib("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0 if peak is None else peak - _mapped["before"]


def _status_mib(name: str) -> float | None:
    """A line of the process's status; None where the system has none."""
    with suppress(OSError), open(STATUS, encoding="ascii") as file:
        for line in file:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024.0
    return None
