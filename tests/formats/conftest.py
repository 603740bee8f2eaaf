"""NIfTI files of the tests' own making, and nibabel's answer to what they hold."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from made_niftis import Array, Save, Turn


@pytest.fixture
def save() -> Save:
    """Write an array as NIfTI, with header fields set afterwards; returns the path."""

    def _save(
        path: Path,
        array: Array,
        affine: Array | None = None,
        *,
        kind: Any = nib.Nifti1Image,
        endian: str = "<",
        **fields: Any,
    ) -> str:
        header = kind.header_class(endianness=endian)
        header.set_data_dtype(array.dtype)
        image = kind(array, np.eye(4) if affine is None else affine, header)
        for name, value in fields.items():
            image.header[name] = value
        path.parent.mkdir(parents=True, exist_ok=True)
        image.to_filename(path)
        return str(path)

    return _save


@pytest.fixture
def in_lps() -> Turn:
    """A nibabel image as a (z, y, x) float array in LPS, by nibabel's own reorientation."""

    def _in_lps(image: Any) -> Array:
        now = nib.orientations.io_orientation(image.affine)
        lps = nib.orientations.axcodes2ornt("LPS")
        turned = nib.orientations.apply_orientation(image.get_fdata(), nib.orientations.ornt_transform(now, lps))
        return np.asarray(turned).transpose(2, 1, 0)

    return _in_lps
