"""The elements of a DICOM file, without traceback or warning, and without pixels that nobody asked for."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import pydicom
from pydicom import config as pydicom_config
from pydicom.uid import DeflatedExplicitVRLittleEndian

from segray import storage
from segray.errors import CaseError, SegrayError
from segray.formats.dicom_deflated import Inflated, is_deflated

# Archives are full of values that break a rule of the standard; segray checks those that it uses itself.
pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\.")

MEND = "Copy it again from its source."

_INFLATING = threading.Lock()

Dataset = Any
"""A pydicom Dataset; pydicom's types are not followed."""


def read_dataset(path: str, *, tags: Sequence[str] | None = None, pixels: bool = False) -> Dataset:
    """The elements of a file, or the named ones only, without pixels unless asked for.

    Raises:
        CaseError: no DICOM file, damaged, or deflated and expanding as no file does.
    """
    wanted: dict[str, Any] = {"stop_before_pixels": not pixels, "specific_tags": None if tags is None else list(tags)}
    try:
        with _opened(path) as file:
            if is_deflated(file):
                return _read_deflated(file, path, wanted)
            return pydicom.dcmread(file, force=True, **wanted)
    except OSError as error:
        raise CaseError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (MemoryError, SegrayError):
        raise
    except Exception as error:
        raise CaseError(f"{path} is no whole DICOM file ({_told(error)}).", mend=MEND) from error


def _read_deflated(file: Any, path: str, wanted: dict[str, Any]) -> Dataset:
    # Headers are read by several threads, each of which would hold the bytes of a file.
    with _INFLATING:
        inflated = Inflated(file, path, pixels=not wanted["stop_before_pixels"])
        dataset = pydicom.dcmread(inflated.file, force=True, **wanted)
        inflated.check()
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        return dataset


def _opened(path: str) -> AbstractContextManager[Any]:
    if not storage.is_remote(path):
        return open(storage.absolute(path), "rb")
    fs, inner = storage.filesystem(path)
    opened: AbstractContextManager[Any] = fs.open_input_file(inner)
    return opened


def _told(error: Exception) -> str:
    words = " ".join(str(error).split())
    return words[:120] or type(error).__name__


def text(dataset: Dataset, name: str) -> str:
    """An element as text; empty where it is absent."""
    value = element(dataset, name)
    return "" if value is None else str(value).strip()


def integer(dataset: Dataset, name: str, default: int = 0) -> int:
    """An element as an integer. Raises CaseError where it is none."""
    value = element(dataset, name)
    if value is None or value == "":
        return default
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise CaseError(f"The DICOM element {name} is no integer ({str(value)[:40]!r}).") from error


def numbers(dataset: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """``count`` finite numbers; None where the element is absent or empty. Raises CaseError on anything else."""
    value = element(dataset, name)
    if value is None or value == "" or (isinstance(value, Sequence) and len(value) == 0):
        return None
    try:
        found = tuple(float(item) for item in ([value] if count == 1 else value))
    except (TypeError, ValueError) as error:
        raise CaseError(f"The DICOM element {name} holds no numbers ({str(value)[:40]!r}).") from error
    if len(found) != count or not all(math.isfinite(item) for item in found):
        raise CaseError(f"The DICOM element {name} must hold {count} finite numbers, not {str(value)[:40]!r}.")
    return found


def element(dataset: Dataset, name: str) -> Any:
    """The value of an element, None where it is absent. Raises CaseError where its bytes make no sense."""
    try:
        return dataset.get(name)
    except Exception as error:
        raise CaseError(f"The DICOM element {name} cannot be read ({_told(error)}).") from error


def items(dataset: Dataset, name: str) -> list[Dataset]:
    """The items of a sequence; [] where it is absent."""
    value = element(dataset, name)
    return [] if value is None or isinstance(value, str | bytes) else list(value)
