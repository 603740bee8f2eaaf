"""One bundle or several whose probabilities are averaged, and which of them predict a case."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from segray.engine.predictor import check_alike
from segray.nets.bundle import Bundle, find_bundles, load_bundle

HELD_OUT = ("validation", "test")


@dataclass(frozen=True)
class Ensemble:
    """Bundles of the same structures on the same grid.

    Where the cases that a training held out are asked for, each is predicted by those bundles alone that held it out:
    of a cross-validation by the one fold that has not seen it.

    Attributes:
        folders: the bundle folders.
        bundles: what they hold.
        wanted: ``predict.split``.
    """

    folders: tuple[str, ...]
    bundles: tuple[Bundle, ...]
    wanted: str

    @property
    def first(self) -> Bundle:
        """The first bundle, for what all have alike."""
        return self.bundles[0]

    @property
    def identity(self) -> str:
        """Whose masks these are: the id of the bundle, or one of all bundles and the way they share the cases."""
        if len(self.bundles) == 1:
            return self.first.bundle_id
        way = self.wanted if self.wanted in HELD_OUT else ""
        text = ",".join([*sorted(bundle.bundle_id for bundle in self.bundles), way])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def cases(self, split: str) -> set[str]:
        """Case ids that any of the bundles has in a split."""
        return {case for bundle in self.bundles for case in bundle.split.get(split, ())}

    def members(self, case_id: str) -> tuple[str, ...]:
        """The folders of the bundles that predict a case."""
        if len(self.bundles) == 1 or self.wanted not in HELD_OUT:
            return self.folders
        return tuple(folder for folder, held in zip(self.folders, self._held_out, strict=True) if case_id in held)

    @cached_property
    def _held_out(self) -> list[frozenset[str]]:
        return [frozenset(bundle.split.get(self.wanted, ())) for bundle in self.bundles]

    def at(self, folders: Sequence[str]) -> list[Bundle]:
        """The bundles in some of the folders."""
        return [bundle for folder, bundle in zip(self.folders, self.bundles, strict=True) if folder in folders]

    @property
    def split(self) -> dict[str, list[str]]:
        """What the masks' makers have seen: a case that any of them was trained on counts as training."""
        if len(self.bundles) == 1:
            return self.first.split
        if self.wanted in HELD_OUT:
            return {self.wanted: sorted(self.cases(self.wanted))}
        seen: set[str] = set()
        found = {}
        for name in ("train", *HELD_OUT):
            found[name] = sorted(self.cases(name) - seen)
            seen |= set(found[name])
        return found


def load_ensemble(paths: Sequence[str], wanted: str) -> Ensemble:
    """The bundles at ``paths``: bundles, runs, or cross-validations with a bundle a fold.

    Raises:
        UsageError: there is no bundle, or they do not go together.
    """
    folders = tuple(dict.fromkeys(folder for path in paths for folder in find_bundles(path)))
    bundles = tuple(load_bundle(folder) for folder in folders)
    check_alike(bundles)
    return Ensemble(folders, bundles, wanted)
