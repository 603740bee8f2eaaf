"""Small cases on a disk, right and wrong ones."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
SHAPE = (40, 36, 12)
"""(x, y, z), as NIfTI has it."""


def ct(seed: int) -> np.ndarray:
    """(x, y, z) HU of a body with an organ at a place of its own."""
    return _drawn(seed)[0]


def organ(seed: int) -> np.ndarray:
    """(x, y, z) 1 where :func:`ct` has its organ, 2 in a vessel."""
    return _drawn(seed)[1]


def _drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE), indexing="ij")
    rough = np.kron(rng.normal(30, 60, (5, 4, 3)), np.ones((8, 9, 4)))
    hu = np.where((x / 0.9) ** 2 + (y / 0.9) ** 2 < 1, rough, -1000.0)
    cx, cy = rng.uniform(-0.4, -0.2), rng.uniform(-0.3, 0.3)
    labels = np.zeros(SHAPE, np.uint8)
    for value, at, radius, density in ((1, cx, 0.3, 300), (2, cx + 0.6, 0.15, 600)):
        inside = (x - at) ** 2 + (y - cy) ** 2 + (0.5 * z) ** 2 < radius**2
        hu[inside], labels[inside] = density, value
    return np.rint(hu + rng.normal(0, 8, SHAPE)).astype(np.int16), labels


def save(path: Path, volume: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    """A NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(volume, affine).to_filename(path)


def write_pair(folder: Path, name: str, seed: int) -> None:
    """A right case in images/ and labels/."""
    save(folder / "images" / f"{name}.nii.gz", ct(seed))
    save(folder / "labels" / f"{name}.nii.gz", organ(seed))
