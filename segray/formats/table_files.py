"""What the paths of a table name: volumes, pictures, DICOM series and files of labels, each by ending or signature."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from segray import storage
from segray.errors import CaseError, SegrayError, StoreError, without_secrets
from segray.formats.dicom_signature import ENDINGS as DICOM_ENDINGS
from segray.formats.dicom_signature import is_dicom_file
from segray.formats.folder import KINDS, ending, is_file, kind_of, listing, walk
from segray.formats.picture_folders import picture_stem

FILE, FOLDER, NOTHING = "file", "folder", ""

VOLUMES = ("nifti", "volume")
"""Kinds whose readers take several files as channels."""

TRIES = 3
"""Folders of one store that may fail before the others are not asked for: each waits for seconds."""

MOST_FILES = 20_000
"""Files in the folder of one series; a row that names the root of a disk has more."""

SHOWN = 200
"""Characters of a path that a row shows."""


@dataclass(frozen=True)
class NamedImage:
    """The image of a case, as :class:`segray.formats.source.CaseSource` has it."""

    image: str
    kind: str
    parts: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Places:
    """What lies at a path; of a remote folder the listing is asked for once."""

    _listed: dict[str, tuple[set[str], set[str]]] = field(default_factory=dict)
    _failed: dict[str, list[str]] = field(default_factory=dict)

    def __call__(self, path: str) -> str:
        """A file, a folder or nothing. Raises SegrayError where a store does not say."""
        if "\0" in path:
            return NOTHING
        if not storage.is_remote(path):
            local = storage.absolute(path)
            # A pipe or a device is no file: reading it could wait for ever.
            return FOLDER if os.path.isdir(local) else FILE if os.path.isfile(local) else NOTHING
        folder, _, name = path.rpartition("/")
        folders, files = self._listing(folder)
        return FILE if name in files else FOLDER if name in folders else NOTHING

    def _listing(self, folder: str) -> tuple[set[str], set[str]]:
        store = "/".join(folder.split("/", 3)[:3])
        failures = self._failed.setdefault(store, [])
        if len(failures) >= TRIES:
            raise StoreError(failures[-1])
        if folder not in self._listed:
            try:
                folders, files = listing(folder)
            except SegrayError as error:
                failures.append(str(error))
                raise
            failures.clear()
            self._listed[folder] = set(folders), set(files)
        return self._listed[folder]


def name_image(paths: Sequence[str], places: Places) -> NamedImage:
    """The image that a row names by one path, or by one for each channel.

    Raises:
        SegrayError: nothing is there, no image, a folder without exactly one DICOM series, or channels that are no
            volumes.
    """
    kinds = [_kind_at(path, places, "image") for path in paths]
    if len(paths) > 1 and not set(kinds) <= set(VOLUMES):
        raise CaseError("Only volumes may have a file a channel.", mend=f"These end in {', '.join(KINDS)}.")
    return _series(paths[0]) if kinds[0] == "dicom" else NamedImage(paths[0], kinds[0], tuple(paths[1:]))


def name_labels(paths: Sequence[str], places: Places) -> str:
    """The reader that takes the labels of a row, or all of its masks; empty without any.

    Raises:
        SegrayError: nothing is there, no labels, or files that no reader takes together.
    """
    kinds = {_kind_at(path, places, "label file") for path in paths}
    if kinds <= set(VOLUMES):
        return "" if not kinds else "volume" if "volume" in kinds else "nifti"
    if len(kinds) > 1:
        raise CaseError(
            f"The masks are of several kinds ({', '.join(sorted(kinds))}).", mend="Give all of them one kind."
        )
    return kinds.pop()


def _kind_at(path: str, places: Places, what: str) -> str:
    """The reader of a path. Raises SegrayError where nothing is there that one of them takes."""
    there = places(path)
    name = path.rpartition("/")[2]
    told = "nifti" if ending(name) else "picture" if picture_stem(name) else ""
    if there == NOTHING:
        raise CaseError(f"{_shown(path)} is not there.")
    if there == FOLDER and (told or what != "image"):
        raise CaseError(f"{_shown(path)} is a folder, not a file.")
    if told:
        return told if told == "picture" else kind_of(path)
    if there == FOLDER or is_dicom_file(path) or name.lower().endswith(DICOM_ENDINGS):
        return "dicom"
    others = "a DICOM series" if what == "image" else "a DICOM SEG or RTSTRUCT"
    raise CaseError(f"{_shown(path)} is no {what} that segray reads ({', '.join(KINDS)}, a picture or {others}).")


def _series(path: str) -> NamedImage:
    """The one series in a folder or a multi-frame file. Raises CaseError where there is none, or several."""
    # pydicom is imported only where a table names DICOM.
    from segray.formats.dicom_scan import group_slices, scan_files

    paths = [path] if is_file(path) else list(islice(_files_below(path), MOST_FILES + 1))
    if len(paths) > MOST_FILES:
        raise CaseError(
            f"{_shown(path)} holds more than {MOST_FILES:,} files.", mend="Name the folder of one DICOM series."
        )
    scan = scan_files(paths)
    series = group_slices(scan.files)
    if scan.broken:
        raise CaseError(f"{len(scan.broken)} files of {_shown(path)} cannot be read; the first: {scan.broken[0][1]}")
    if len(series) != 1:
        raise CaseError(
            f"{_shown(path)} holds {len(series)} DICOM series with pixels, not one.",
            mend="Name the folder of one series, or let segray find them with ingest.format=dicom.",
        )
    (files,) = series.values()
    details = {"series": files[0].series, "frame_of_reference": files[0].frame_of_reference}
    return NamedImage(path, "dicom", tuple(one.path for one in files), details)


def _files_below(folder: str) -> Iterator[str]:
    for below, names in walk(folder):
        yield from (storage.join(folder, below, name) for name in names)


def _shown(path: str) -> str:
    return repr(without_secrets(path)[:SHOWN])
