"""Why a case failed, in words for its row."""

from __future__ import annotations

import re

from segray.errors import SegrayError

LOW_MEMORY = re.compile(
    r"(\d+) worker\(s\) were killed due to the node running low on memory.*?IP: ([^,)]+)", re.DOTALL
)
"""What Ray says where its memory monitor has ended workers, before pages of advice."""


def reason_for(error: BaseException) -> str:
    """The sentence of a known error; the kind and text of an unexpected one."""
    if isinstance(error, SegrayError):
        return str(error)
    if isinstance(error, MemoryError):
        return "The memory of the node did not suffice for this case."
    return f"Unexpected {type(error).__name__}: {error}"


def words_of_ray(error: BaseException) -> str:
    """What ended a run, out of Ray's wrapping: the last line of what a worker raised, or that memory ran out."""
    text = str(error).strip()
    if found := LOW_MEMORY.search(text):
        return (
            f"the memory of the node {found[2]} ran out, and Ray ended {found[1]} of its processes. "
            "Take a smaller train.batch_size, or stop what else runs there."
        )
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
