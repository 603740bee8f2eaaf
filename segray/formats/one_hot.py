"""Label files of NIfTI with one volume of 0 and 1 a structure, with or without a first volume for the background."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from segray.case import Geometry, LabelMap, Volume
from segray.errors import CaseError
from segray.formats import gzip_bytes
from segray.formats.gzip_bytes import ByteReader
from segray.formats.label_grid import match_grids
from segray.formats.limits import check_label_size
from segray.formats.nifti_header import NiftiHeader, read_header
from segray.formats.nifti_voxels import file_view, label_integers, slabs
from segray.formats.painting import Painting
from segray.formats.turning import copy_turned

MOST_VOLUMES = 256
"""Volumes of one label file: a background and 255 structures."""

Mask = NDArray[np.bool_]


def label_volumes(path: str) -> int:
    """The volumes of a label file; only its head is read. Raises CaseError."""
    return read_header(gzip_bytes.open_head(path), most_volumes=MOST_VOLUMES).volumes


def one_hot_values(path: str) -> list[int]:
    """The label values 1 to n of n structures; a first volume that is the background of all others is none of them.

    Raises:
        CaseError: damaged, values other than 0 and 1, or volumes that expand beyond all that labels do.
    """
    reader, header = _open(path)
    check_label_size(reader, header.count, header.dtype.itemsize * header.volumes)
    structures = header.volumes - _starts_with_background(reader, header)
    return list(range(1, structures + 1))


def read_one_hot(
    path: str, geometry: Geometry, label_map: LabelMap | None, dropped: tuple[int, ...], overlap: str
) -> tuple[Volume, list[str]]:
    """Label values (z, y, x), LPS, or a bit field where ``overlap`` is ``keep``; and notes.

    The volumes are the structures in the order of their label values: those of ``label_map`` and those ``dropped``.

    Raises:
        CaseError: damaged, another grid, values other than 0 and 1, or volumes that are not as many as structures.
    """
    known = label_map or LabelMap.of_names(f"label_{value}" for value in one_hot_values(path))
    names = {value: name for name, value in known.values.items()}
    order = sorted({*names, *dropped})
    reader, header = _open(path)
    notes = [*header.notes, *match_grids(geometry, header.geometry, path).notes]
    first = header.volumes - len(order)
    if first not in (0, 1):
        raise CaseError(
            f"{path} holds {header.volumes} volumes, but {len(order)} structures are named.",
            mend="A one-hot label file has a volume a structure, and at most one more, the first, for the background.",
        )
    painting = Painting(known, geometry.size, overlap)
    background, covered = np.zeros(geometry.size, np.bool_), np.zeros(geometry.size, np.bool_)
    for number, inside in enumerate(_masks(reader, header)):
        if number < first:
            background = inside
            continue
        covered |= inside
        value = order[number - first]
        if value in names:
            painting.add(names[value], inside)
    if first and not np.array_equal(background, ~covered):
        raise CaseError(
            f"The first volume of {path} is not the background of the others.",
            mend=f"Name all {header.volumes} structures, or leave the background out.",
        )
    return painting.labels, [*notes, *painting.notes()]


def _open(path: str) -> tuple[ByteReader, NiftiHeader]:
    reader = gzip_bytes.open_bytes(path)
    return reader, read_header(reader, most_volumes=MOST_VOLUMES)


def _starts_with_background(reader: ByteReader, header: NiftiHeader) -> bool:
    masks = _masks(reader, header)
    first = next(masks)
    covered = np.zeros_like(first)
    for inside in masks:
        covered |= inside
    return bool(np.array_equal(first, ~covered))


def _masks(reader: ByteReader, header: NiftiHeader) -> Iterator[Mask]:
    """The volumes in turn, each (z, y, x), LPS. Raises CaseError on a value other than 0 and 1."""
    for number in range(header.volumes):
        inside = np.zeros(header.geometry.size, np.bool_)
        target = file_view(inside, header.geometry)
        for where, stored in slabs(reader, header, last=number == header.volumes - 1):
            values, highest = label_integers(stored, header, reader.name)
            if highest > 1:
                raise CaseError(
                    f"{reader.name} holds several volumes and the value {highest}; one-hot labels are 0 and 1.",
                    mend="Give one label volume a case, or one volume of 0 and 1 a structure.",
                )
            copy_turned(target[:, :, where], values.astype(np.bool_))
        yield inside
        header = replace(header, offset=len(header.raw))
