"""Cross-validation: the cases of training and validation dealt into folds, each held out once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from segray.errors import UsageError
from segray.shards.manifest import Manifest, PartEntry


def folded(manifest: Manifest, folds: int, fold: int, seed: int) -> Manifest:
    """The manifest with the split of one fold: its patients are validation, all others train; test stays test.

    A patient is never cut. Folds differ by at most one patient, and the same numbers give the same folds.

    Args:
        manifest: of the shards, whose own validation cases take part like those of training.
        folds: number of folds.
        fold: which, from 0.
        seed: of the dealing.

    Raises:
        UsageError: there are fewer patients than folds.
    """
    dealt = fold_of_patients([part for part in manifest.parts if part.split != "test"], folds, seed)
    parts = [
        part if part.split == "test" else replace(part, split="validation" if dealt[part.patient] == fold else "train")
        for part in manifest.parts
    ]
    return replace(manifest, parts=parts)


def fold_of_patients(parts: Sequence[PartEntry], folds: int, seed: int) -> dict[str, int]:
    """Patient to fold. Raises UsageError as :func:`folded`."""
    patients = sorted({part.patient for part in parts})
    if len(patients) < folds:
        raise UsageError(
            f"{len(patients)} patients cannot be dealt into {folds} folds.", mend=f"Set train.folds to {len(patients)}."
        )
    order = np.random.default_rng(seed).permutation(len(patients))
    return {patients[number]: place % folds for place, number in enumerate(order)}
