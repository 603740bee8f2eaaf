"""What a library's exception says, in so few words that they fit into a sentence."""

from __future__ import annotations

LONGEST = 160
"""Letters."""


def first_words(error: BaseException) -> str:
    """The kind of an exception and the first line of what it says, without the full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = f": {lines[0][:LONGEST].rstrip('. ')}" if lines else ""
    return f"{type(error).__name__}{said}"
