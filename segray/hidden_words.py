"""What Python itself and libraries say of files, with the words taken away or changed before anybody reads them."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from types import TracebackType

Hide = Callable[[str], str]

READERS = ("pydicom", "nibabel", "PIL", "highdicom", "SimpleITK", "tifffile", "pycocotools")
"""Libraries that tell of what they read, in words that may hold anything of a file."""

LEFT_OUT = "its words are left out, since they may hold what stands in a file"

_covered = False


def cover_python(hide: Hide, hiding: Callable[[], bool]) -> None:
    """Let warnings, records of all loggers, and the traceback of an uncaught error pass ``hide`` while ``hiding``."""
    global _covered
    if _covered:
        return
    _covered = True
    _cover_warnings(hide, hiding)
    _cover_records(hide, hiding)
    _cover_tracebacks(hide)


def _cover_warnings(hide: Hide, hiding: Callable[[], bool]) -> None:
    shown = warnings.formatwarning

    def formatwarning(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if hiding() and any(f"/{name}/" in filename for name in READERS):
            message, line = f"{LEFT_OUT}.", ""
        return hide(shown(message, category, filename, lineno, line))

    warnings.formatwarning = formatwarning


def _cover_records(hide: Hide, hiding: Callable[[], bool]) -> None:
    make = logging.getLogRecordFactory()

    def record(*args: object, **kwargs: object) -> logging.LogRecord:
        made = make(*args, **kwargs)
        if not hiding():
            return made
        if made.name.partition(".")[0] in READERS:
            made.msg, made.args, made.exc_info = f"{LEFT_OUT}.", (), None
            return made
        try:
            made.msg, made.args = hide(made.getMessage()), ()
        except (TypeError, ValueError):  # logging tells of a format that does not fit when it writes the record
            made.msg, made.args = "a record whose format does not fit", ()
        if made.exc_info and made.exc_info[0] is not None:
            made.exc_text = hide("".join(traceback.format_exception(*made.exc_info)).rstrip())
        return made

    logging.setLogRecordFactory(record)


def _cover_tracebacks(hide: Hide) -> None:
    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.stderr.write(hide("".join(traceback.format_exception(kind, error, trace))))

    def show_of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            show(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook = show
    threading.excepthook = show_of_thread
