"""What a tracker is, and what it is told at its start."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segray import storage
from segray.errors import SegrayError

Scalars = Mapping[str, float]
Pictures = Mapping[str, NDArray[np.uint8]]
"""Names to (H, W, 3) pictures."""

Histograms = Mapping[str, NDArray[np.float32]]
"""Names to the values, of any shape."""


@dataclass(frozen=True)
class Start:
    """A training that begins or goes on.

    Attributes:
        folder: the run folder, a path or a URI.
        config: the resolved config, as nested dictionaries of plain types.
        first_step: steps that are finished; what a tracker holds of later ones is made again.
    """

    folder: str
    config: Mapping[str, Any]
    first_step: int = 0

    def local_folder(self) -> str:
        """The run folder as a path. Raises SegrayError where it is a URI, since trackers append to local files."""
        if storage.is_remote(self.folder):
            raise SegrayError(f"it writes to a local disk, and the run folder is {self.folder}.")
        return storage.absolute(self.folder)

    def kept_id(self, tracker: str, make: Callable[[], str]) -> tuple[str, bool]:
        """The id under which a tracker knows this run, made at its first start; and whether it was there already."""
        path = storage.join(self.folder, f"{tracker}.id")
        if storage.exists(path):
            return storage.read_text(path).strip(), True
        made = make()
        storage.write_text(path, made + "\n")
        return made, False


class Tracker(ABC):
    """One place that numbers go to. Steps count over the whole run and never go back; any method may raise."""

    draws: ClassVar[bool] = False
    """It takes pictures and histograms."""

    @abstractmethod
    def scalars(self, values: Scalars, step: int) -> None:
        """Take named numbers of a step."""

    def pictures(self, pictures: Pictures, step: int) -> None:
        """Take pictures of a step; without :attr:`draws` they are dropped."""
        del pictures, step

    def histograms(self, values: Histograms, step: int) -> None:
        """Take distributions of a step; without :attr:`draws` they are dropped."""
        del values, step

    @abstractmethod
    def flush(self) -> None:
        """Bring everything to where it outlives this process."""

    @abstractmethod
    def close(self, *, failed: bool) -> None:
        """Let go; what was not flushed since the last epoch may be dropped, since a resume makes it again."""
