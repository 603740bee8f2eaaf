"""Images of several channels (modalities): files that lie on one grid, or the volumes of one 4D NIfTI file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from segray.case import Case, Geometry, Volume
from segray.errors import CaseError
from segray.formats import gzip_bytes
from segray.formats.channel_files import NAMES
from segray.formats.folder import kind_of
from segray.formats.label_grid import match_grids
from segray.formats.limits import check_size
from segray.formats.nifti_header import read_header
from segray.formats.nifti_voxels import read_voxels
from segray.formats.source import CaseHeader, CaseSource

MOST_CHANNELS = 16
"""Volumes of one 4D file that are taken for channels; more of them are a time series."""


def channels_header(source: CaseSource) -> CaseHeader:
    """The header of a case's image, all its channels told. Raises CaseError: they do not lie on one grid."""
    headers = [_file_header(path) for path in _files(source)]
    first = headers[0][0]
    for other, _ in headers[1:]:
        _check_grid(first.geometry, other.geometry, other.path, first.path)
    names, notes = _names(source, sum(count for _, count in headers))
    total = sum(header.voxel_bytes for header, _ in headers)
    return replace(first, voxel_bytes=total, notes=(*first.notes, *notes), channels=names)


def read_channels(source: CaseSource) -> Case:
    """The image of a case: voxels (z, y, x), or (z, c, y, x) with several channels. Raises CaseError."""
    volumes: list[Volume] = []
    geometry: Geometry | None = None
    notes: list[str] = []
    for path in _files(source):
        for one in _volumes(path, source.case_id):
            if geometry is None:
                geometry = one.geometry
            elif one.geometry is not geometry:
                _check_grid(geometry, one.geometry, path, source.image)
            volumes.append(one.voxels)
            notes += [note for note in one.notes if note not in notes]
    if geometry is None:
        raise CaseError(f"The case {source.case_id} has no image.")
    names, told = _names(source, len(volumes))
    voxels = volumes[0] if len(volumes) == 1 else _stacked(volumes)
    return Case(source.case_id, voxels, geometry, notes=[*notes, *told], channels=names)


def _files(source: CaseSource) -> tuple[str, ...]:
    return (source.image, *source.parts)


def _file_header(path: str) -> tuple[CaseHeader, int]:
    """The header of one file, its bytes those of all its volumes, and their number."""
    if kind_of(path) != "nifti":
        from segray.formats.volumes import read_volume_header

        return read_volume_header(path), 1
    reader = gzip_bytes.open_head(path)
    header = read_header(reader, most_volumes=MOST_CHANNELS)
    size = header.volumes * header.voxel_bytes
    check_size(path, size, stored=reader.stored, packed=reader.packed)
    grid = header.geometry
    return CaseHeader(grid.size, grid.spacing, size, grid, path, header.notes), header.volumes


def _volumes(path: str, case_id: str) -> Iterator[Case]:
    """The volumes of one file, all with the same Geometry object."""
    if kind_of(path) != "nifti":
        from segray.formats.volumes import read_volume

        yield read_volume(path, case_id)
        return
    reader = gzip_bytes.open_bytes(path)
    header = read_header(reader, most_volumes=MOST_CHANNELS)
    check_size(path, header.volumes * header.voxel_bytes, stored=reader.stored, packed=reader.packed)
    for number in range(header.volumes):
        voxels, notes = read_voxels(reader, header, last=number == header.volumes - 1)
        yield Case(case_id, voxels, header.geometry, notes=[*header.notes, *notes])
        # The next volume follows at once.
        header = replace(header, offset=len(header.raw))


def _stacked(volumes: Sequence[Volume]) -> Volume:
    """(z, c, y, x) of the type that holds all channels."""
    narrow = all(volume.dtype == np.int16 for volume in volumes)
    z, y, x = volumes[0].shape
    stacked: Volume = np.empty((z, len(volumes), y, x), np.int16 if narrow else np.float32)
    for number, volume in enumerate(volumes):
        stacked[:, number] = volume
    return stacked


def _check_grid(first: Geometry, other: Geometry, path: str, image: str) -> None:
    try:
        match_grids(first, other, path)
    except CaseError as error:
        raise CaseError(
            f"{path} does not lie on the grid of {image}, and all channels of a case must lie on one grid.",
            mend="Resample the channels to one of them.",
        ) from error


def _names(source: CaseSource, count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the channels, () for one; and a note where nothing names them."""
    given = tuple(str(name) for name in source.details.get(NAMES, ()))
    if given and len(given) != count:
        raise CaseError(
            f"{source.image} has {count} channels, but {len(given)} are named: {', '.join(given[:8])}.",
            mend="Mend channel_names (or modality) in dataset.json, or the files.",
        )
    if count == 1:
        return (), ()
    if given:
        return given, ()
    return tuple(f"channel_{n}" for n in range(count)), (f"Its {count} volumes are taken for channels without names.",)
