"""The errors that segray raises for its users: one sentence that says what is wrong, one that mends it."""

from __future__ import annotations

import re

_SECRETS = re.compile(r"(?<=://)[^/\s:@]*:(?!\d+(?:[/\s]|$))[^@\n]*@(?:[^/\s@]*@)*")
"""Name and password in a URI, also where they hold a slash; a port is none."""


def without_secrets(text: str) -> str:
    """``text`` without the credentials of the URIs in it: what a table shows, others may read."""
    return _SECRETS.sub("***@", text)


class SegrayError(Exception):
    """A wrong input or setting, told to the user in one line; the command ends with ``exit_code``."""

    exit_code = 1

    def __init__(self, message: str, *, mend: str = "") -> None:
        # Names of files and the words of libraries may hold line breaks.
        message, mend = (" ".join(without_secrets(text).splitlines()) for text in (message, mend))
        super().__init__(f"{message} {mend}".strip())
        self.message = message
        self.mend = mend

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.mend)


class UsageError(SegrayError):
    """The command line or the configuration is wrong (exit code 2)."""

    exit_code = 2


class CaseError(SegrayError):
    """One case cannot be used; it becomes a row with this reason and the run goes on."""


class StoreError(SegrayError):
    """An object store does not answer or refuses: the same call may succeed later."""


class NotTextError(SegrayError, ValueError):
    """A file that should hold text is damaged, or of another kind: a ValueError as that of JSON that is none."""


def _rebuild(kind: type[SegrayError], message: str, mend: str) -> SegrayError:
    return kind(message, mend=mend)
