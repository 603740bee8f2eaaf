"""Which files lie below a folder, of a few listings."""

from __future__ import annotations

from segray import outage, storage


class Listed:
    """The files below a folder; each folder on the way is listed once."""

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
