"""Which files lie below a folder, of a few listings."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor

from segray import formats, outage, storage
from segray.case import LabelMap
from segray.formats.structure_files import structure_files

LISTINGS, AHEAD = 16, 1024
"""Folders that are listed at a time, since each answer may come over a network, and those that may wait for a look."""


class Listed:
    """The files below a folder; each folder on the way is listed once, those of masks at every call, and not kept."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._names: dict[str, frozenset[str]] = {}

    def __contains__(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        return name in self.names(folder)

    def names(self, folder: str) -> frozenset[str]:
        """The names of files and folders in a folder below the root."""
        if folder not in self._names:
            self._names[folder] = frozenset(outage.waiting(lambda: storage.names(storage.join(self._root, folder))))
        return self._names[folder]

    def lacking(self, places: Collection[str], label_map: LabelMap) -> set[str]:
        """Those places of masks, or of further files, where nothing is, or a folder that lacks a structure's file.

        Raises:
            UsageError: structures that would share a file.
        """
        lost = {place for place in places if place not in self}
        folders = [place for place in places if place not in lost and formats.is_folder(place)]
        wanted = frozenset(structure_files(label_map).values()) if folders else frozenset()
        return lost | {place for place, names in self._contents(folders) if not wanted <= names}

    def foreign(self, places: Collection[str], label_map: LabelMap) -> set[str]:
        """What lies in the folders among the places of masks, or of further files, and is of no structure."""
        folders = [place for place in places if formats.is_folder(place)]
        wanted = frozenset(structure_files(label_map).values()) if folders else frozenset()
        return {f"{place}/{name}" for place, names in self._contents(folders) for name in names - wanted}

    def _contents(self, folders: list[str]) -> Iterator[tuple[str, frozenset[str]]]:
        """Each folder, and the names in it."""

        def names(folder: str) -> frozenset[str]:
            return frozenset(outage.waiting(lambda: storage.names(storage.join(self._root, folder))))

        with ThreadPoolExecutor(LISTINGS) as pool:
            for start in range(0, len(folders), AHEAD):
                part = folders[start : start + AHEAD]
                yield from zip(part, pool.map(names, part), strict=True)
