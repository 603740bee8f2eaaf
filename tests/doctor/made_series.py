"""A body with an organ as DICOM makes it: stored values, voxels of the organ, and its contours."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.formats.made_dicoms import SPACING, START

SHAPE = (6, 20, 30)
"""(slice, row, column) of the series."""


def body() -> Any:
    """Stored values of a body in air: 1000 above HU."""
    stored = np.zeros(SHAPE, np.int16)
    stored[:, 3:17, 4:26] = 1040
    stored[:, 6:12, 8:16] = 1200
    return stored


def organ() -> Any:
    """(slice, row, column) where :func:`body` has its organ, in four slices."""
    inside = np.zeros(SHAPE, bool)
    inside[1:5, 6:12, 8:16] = True
    return inside


def outline(place: float) -> tuple[str, Any]:
    """The organ's contour at the height of a slice, LPS mm."""
    columns, rows = np.array([(7.5, 5.5), (15.5, 5.5), (15.5, 11.5), (7.5, 11.5)]).T
    height = np.full(4, START[2] + 2.5 * place)
    return "CLOSED_PLANAR", np.stack([START[0] + columns * SPACING[1], START[1] + rows * SPACING[0], height], axis=1)
