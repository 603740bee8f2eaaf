"""COCO outlines to pixels: polygons, cut at the edge of the picture, and runs, checked before pycocotools sees them.

pycocotools trusts its input: it takes four numbers for a box, allocates what far-off corners ask for, and writes where
runs lead. So nothing goes there that was not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.errors import CaseError

MOST_STEPS = 1 << 25
"""Fifths of a pixel along all sides of a polygon: pycocotools keeps 16 bytes for each."""

MOST_CHUNKS = 6
"""Characters of a number in compressed runs; six hold 30 bits."""


@dataclass
class Filled:
    """What the outlines of one annotation fill.

    Attributes:
        runs: pycocotools' runs of the union.
        cut: polygons that reached out of the picture.
    """

    runs: Any
    cut: int = 0


def fill(outline: Any, height: int, width: int) -> Filled:
    """The runs of an annotation's ``segmentation``: a list of polygons, or compressed or plain runs.

    Raises:
        CaseError: a sentence without subject, to follow the name of the annotation.
    """
    from pycocotools import mask as coco

    if isinstance(outline, dict):
        return Filled(coco.frPyObjects(_plain_runs(outline, height, width), height, width))
    if not isinstance(outline, list) or not outline:
        raise CaseError("has no outline (a box alone is no mask)")
    cut = 0
    polygons: list[list[float]] = []
    for told in outline:
        corners = _corners(told)
        inside = clip(corners, width, height)
        cut += inside is not corners
        if len(inside) >= 3:
            _check_length(inside)
            polygons.append(inside.reshape(-1).tolist())
    runs = coco.frPyObjects(polygons, height, width) if polygons else []
    return Filled(coco.merge(runs) if runs else empty(height, width), cut)


def empty(height: int, width: int) -> Any:
    """The runs of nothing."""
    from pycocotools import mask as coco

    return coco.frPyObjects({"counts": [height * width], "size": [height, width]}, height, width)


def union(runs: Sequence[Any]) -> NDArray[np.bool_]:
    """(H, W) of what any of the runs fills."""
    from pycocotools import mask as coco

    whole: NDArray[np.bool_] = np.ascontiguousarray(coco.decode(coco.merge(list(runs)))).astype(np.bool_)
    return whole


def clip(corners: NDArray[np.float64], width: float, height: float) -> NDArray[np.float64]:
    """A polygon (n, 2) of x, y cut at the edges of a picture; the same array where it lies inside."""
    far = np.array([width, height], np.float64)
    if (corners >= 0).all() and (corners <= far).all():
        return corners
    for axis, sign, limit in ((0, 1.0, 0.0), (0, -1.0, -float(width)), (1, 1.0, 0.0), (1, -1.0, -float(height))):
        corners = _cut(corners, sign * corners[:, axis] - limit)
        if len(corners) == 0:
            break
    cut: NDArray[np.float64] = np.clip(corners, 0, far)
    return cut


def _cut(corners: NDArray[np.float64], depth: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of a polygon where ``depth``, linear along its sides, is not negative (Sutherland and Hodgman)."""
    after, deeper = np.roll(corners, -1, axis=0), np.roll(depth, -1)
    crosses = (depth >= 0) != (deeper >= 0)
    share = np.divide(depth, depth - deeper, out=np.zeros_like(depth), where=crosses)
    # Each corner that lies inside, and behind it the point where its side crosses the edge, if it does.
    points = np.stack([corners, corners + share[:, None] * (after - corners)], axis=1).reshape(-1, 2)
    kept: NDArray[np.float64] = points[np.stack([depth >= 0, crosses], axis=1).reshape(-1)]
    return kept


def _corners(told: Any) -> NDArray[np.float64]:
    if not isinstance(told, np.ndarray):
        raise CaseError("has a polygon that is no list of numbers")
    if len(told) % 2 or len(told) < 6:
        count = f"{len(told) // 2} points" if len(told) % 2 == 0 else f"{len(told)} numbers"
        raise CaseError(f"has a polygon of {count}, which encloses nothing")
    if not np.isfinite(told).all() or np.abs(told).max() > 1e9:
        raise CaseError("has a polygon with corners that are no places")
    return told.reshape(-1, 2)


def _check_length(corners: NDArray[np.float64]) -> None:
    steps = np.abs(np.roll(corners, -1, axis=0) - corners).max(axis=1).sum() * 5 + len(corners)
    if steps > MOST_STEPS:
        raise CaseError(f"has a polygon of {len(corners):,} points that runs to and fro over the picture")


def _plain_runs(outline: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """Runs as a list of counts that fill the picture exactly. Raises CaseError."""
    size = outline.get("size")
    if not isinstance(size, list) or size != [height, width]:
        raise CaseError(f"has runs of the size {str(size)[:40]}, and the picture is [{height}, {width}]")
    told = outline.get("counts")
    counts = _decompressed(told) if isinstance(told, str) else told
    if not isinstance(counts, np.ndarray) or not _are_counts(counts) or float(counts.sum()) != height * width:
        raise CaseError("has runs that do not fill the picture")
    return {"counts": [int(count) for count in counts], "size": [height, width]}


def _are_counts(counts: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(counts).all() and (counts >= 0).all() and (counts == np.floor(counts)).all())


def _decompressed(text: str) -> NDArray[np.float64]:
    """The counts of COCO's compressed runs: five bits a character, from the third on as differences."""
    counts: list[int] = []
    value = shift = 0
    for sign in text:
        bits = ord(sign) - 48
        if not 0 <= bits < 64 or shift > MOST_CHUNKS * 5:
            raise CaseError("has runs that are no compressed counts")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise CaseError("has runs that are cut")
    return np.array(counts, dtype=np.float64)
