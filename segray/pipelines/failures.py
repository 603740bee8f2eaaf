"""Why a case failed, in words for its row."""

from __future__ import annotations

import re

from segray.errors import SegrayError

LOW_MEMORY = re.compile(
    r"(\d+) worker\(s\) were killed due to the node running low on memory.*?IP: ([^,)]+)", re.DOTALL
)
"""What Ray says where its memory monitor has ended workers, before pages of advice."""

RAISED = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)(?::|$)")
"""How the line of a traceback begins that names the error."""

OURS = re.compile(r"^segray\.(?:\w+\.)+\w+: ")


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
    named = [line for line in lines if RAISED.match(line)]
    # The words of an error may go on for lines, and the last of them say the least.
    return OURS.sub("", (named or lines)[-1].strip()) if lines else type(error).__name__


def stopped(error: BaseException, what: str, *, mend: str) -> SegrayError:
    """What ended a stream of Ray Data, as one sentence: an error of ours as it is, any other by Ray's words for it.

    Ray passes an error of ours on as one that is of our kind and of its own, whose text is the traceback of a worker.
    """
    cause = getattr(error, "cause", error)
    if isinstance(cause, SegrayError):
        return cause
    return SegrayError(f"{what} stopped: {words_of_ray(error).rstrip('. ')}.", mend=mend)
