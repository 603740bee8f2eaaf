"""A mask as one binary file a structure, as TotalSegmentator writes them: a folder a case, ``<structure>.nii.gz``.

Structures that are nowhere in a case have a file too, without a voxel: it says that they were looked for.
"""

from __future__ import annotations

import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import numpy as np

from segray import storage
from segray.case import Geometry, LabelMap, Volume
from segray.errors import CaseError, SegrayError, UsageError
from segray.formats import gzip_bytes
from segray.formats.label_names import is_safe
from segray.formats.masks import stack_masks
from segray.formats.nifti import as_labels, header_of
from segray.formats.nifti_header import read_header
from segray.formats.nifti_voxels import file_view
from segray.formats.structure_boxes import Box, inside, structure_boxes

ENDING = ".nii.gz"

WRITERS = 16
"""Files written at a time: they wait for the disk or the network, not for each other."""

LETTERS, BYTES = 64, 200
"""The most of a file name without its ending; most disks take 255 bytes."""


def structure_files(label_map: LabelMap) -> dict[str, str]:
    """Structure to the name of its file; where a name is none for a file, letters become ``_``.

    Raises:
        UsageError: two structures would have one file, also where small and capital letters are the same.
    """
    files: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name, value in label_map.values.items():
        file = _stem(name, value) + ENDING
        other = taken.setdefault(file.casefold(), name)
        if other != name:
            raise UsageError(
                f"The structures {other!r} and {name!r} would both be written to {file}.", mend="Rename one of them."
            )
        files[name] = file
    return files


def write_structures(folder: str, labels: Volume, geometry: Geometry, label_map: LabelMap) -> None:
    """Write label values, or the bit fields of an overlapping map, (z, y, x), as a file of 0 and 1 a structure.

    Every file lies on the case's own grid, bit for bit as :func:`segray.formats.nifti.write_nifti_mask` has it. On a
    disk the folder is there whole or not at all, and takes the place of an older one. On an object store files appear
    one after the other; there only what is written afterwards (predict: the ledger's line) says that all are there, and
    files of an older label map are removed.

    Raises:
        SegrayError: the labels have another shape than the grid, hold no label values, or cannot be written.
        UsageError: as :func:`structure_files`.
    """
    if labels.shape != geometry.size:
        raise SegrayError(f"{folder}: labels of shape {labels.shape} do not lie on the grid {geometry.size}.")
    files = structure_files(label_map)
    stored = file_view(labels if label_map.overlapping else as_labels(folder, labels), geometry).T
    boxes = structure_boxes(stored, label_map)
    header = header_of(geometry, np.dtype(np.uint8))
    with storage.whole_folder(folder) as place, ThreadPoolExecutor(WRITERS) as pool:
        waiting = []
        for name, file in files.items():
            data = _packed(header, stored, label_map, name, boxes.get(name))
            waiting.append(pool.submit(copy_context().run, storage.write_bytes, storage.join(place, file), data))
        for one in waiting:
            one.result()
        for file in set(storage.names(place, ENDING)) - set(files.values()):
            storage.delete(storage.join(place, file))


def read_structures(folder: str, label_map: LabelMap, geometry: Geometry | None = None) -> tuple[Volume, Geometry]:
    """The label values, or bit fields, (z, y, x), LPS, of a folder of :func:`write_structures`, and their grid.

    Args:
        folder: of one case.
        label_map: the one that it was written with.
        geometry: the grid of its image, on which the masks must lie; None: that of the first one.

    Raises:
        CaseError: a structure has no file, a file is damaged, or lies on another grid.
    """
    files = structure_files(label_map)
    absent = sorted(set(files.values()) - set(storage.names(folder, ENDING)))
    if absent:
        raise CaseError(
            f"{folder} lacks {len(absent)} of {len(files)} structures, such as {absent[0]}.",
            mend="Predict the case again.",
        )
    paths = {name: storage.join(folder, file) for name, file in files.items()}
    grid = geometry or read_header(gzip_bytes.open_head(next(iter(paths.values())))).geometry
    labels, _ = stack_masks(paths, label_map, grid, overlap="keep" if label_map.overlapping else "smallest")
    return labels, grid


def _stem(name: str, value: int) -> str:
    safe = re.sub(r"[^\w .+()-]", "_", unicodedata.normalize("NFC", name)).replace("..", "__")
    safe = safe[:LETTERS].encode()[:BYTES].decode(errors="ignore").lstrip(" .+()-").rstrip(" .")
    return safe if is_safe(safe) else f"structure_{value}"


def _packed(header: bytes, stored: Volume, label_map: LabelMap, name: str, box: Box | None) -> bytes:
    """The file of a structure: the rows of its box are packed, and what lies around them is known to be empty.

    Args:
        header: of the file.
        stored: label values or bit fields as the (k, j, i) view of the file.
        label_map: what the values mean.
        name: the structure.
        box: where it is; None: nowhere.
    """
    packer = gzip_bytes.Packer()
    packer.add(header)
    count, rows, columns = stored.shape
    if box is None:
        packer.zeros(count * rows * columns)
        return packer.finish()
    planes, lines, places = box
    slab = np.zeros((lines.stop - lines.start, columns), np.uint8)
    gap = planes.start * rows + lines.start
    for plane in range(planes.start, planes.stop):
        packer.zeros(gap * columns)
        slab[:, places] = inside(stored[plane, lines, places], label_map, name)
        packer.add(slab)
        gap = rows - len(slab)
    packer.zeros(((count - planes.stop) * rows + rows - lines.stop) * columns)
    return packer.finish()
