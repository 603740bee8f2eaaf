"""Is a further file of a case whole, and does it say what the mask says? Read in tasks of ``predict --verify``."""

from __future__ import annotations

from typing import Any

import numpy as np

from segray import formats, storage
from segray.case import LabelMap, Volume
from segray.errors import SegrayError
from segray.formats.picture_pixels import read_pixels
from segray.formats.probability_files import read_probabilities
from segray.pipelines.earlier_files import ask
from segray.pipelines.failures import reason_for
from segray.report.slice_overlays import NAMES

Item = dict[str, Any]


def check_further_file(item: Item, label_map: str) -> tuple[str, str]:
    """What is wrong with a further file of a case, and why that could not be seen; both empty for one that is whole.

    It is read to its end. A folder must hold the files that it should by their names, and label values must be those of
    the mask, where that can be read.

    Args:
        item: ``further``, the kind; ``path`` of the file or folder; ``mask``, the path of the case's mask.
        label_map: as JSON.
    """
    kind, path, known = item["further"], item["path"], LabelMap.from_json(label_map)
    try:
        # What cannot be reached now is not damaged: readers tell both alike.
        ask(path)
    except SegrayError as error:
        return "", str(error)
    try:
        labels = _mask(item["mask"], known)
        return _overlays(path, known, labels) if kind == "overlays" else _file(kind, path, known, labels), ""
    except MemoryError as error:
        return "", reason_for(error)
    except Exception as error:
        return reason_for(error), ""


def _mask(path: str, label_map: LabelMap) -> Volume | None:
    """Label values of the mask; None where it is not whole, which is told of the mask itself."""
    try:
        return formats.read_mask(path, label_map=label_map)[0]
    except SegrayError:
        return None


def _file(kind: str, path: str, label_map: LabelMap, mask: Volume | None) -> str:
    """What is wrong with a file, or with the folder of a file a structure. Raises CaseError: damaged."""
    if kind == "preview":
        read_pixels(path)
    elif kind == "probabilities":
        read_probabilities(path)
    else:
        labels, _ = formats.read_mask(path, label_map=label_map)
        if mask is not None and not np.array_equal(labels, mask):
            return f"{path} has other labels than the mask."
    return ""


def _overlays(path: str, label_map: LabelMap, mask: Volume | None) -> str:
    there = storage.names(path, ".png")
    if mask is not None:
        filled = np.flatnonzero(label_map.to_index(mask).any(axis=(1, 2)))
        absent = {NAMES, *(f"{z + 1:04d}.png" for z in filled)} - set(there)
        if absent:
            return f"{path} lacks {len(absent)} of its pictures, such as {min(absent)}."
    for name in there:
        read_pixels(storage.join(path, name))
    return ""
