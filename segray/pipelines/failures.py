"""Why a case failed, in words for its row."""

from __future__ import annotations

from segray.errors import SegrayError


def reason_for(error: BaseException) -> str:
    """The sentence of a known error; the kind and text of an unexpected one."""
    if isinstance(error, SegrayError):
        return str(error)
    if isinstance(error, MemoryError):
        return "The memory of the node did not suffice for this case."
    return f"Unexpected {type(error).__name__}: {error}"
