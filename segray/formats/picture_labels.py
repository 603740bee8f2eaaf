"""Masks that are pictures: which pixels belong to a structure, and which label value each pixel has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.case import LabelMap
from segray.config import MOST_LEVEL
from segray.errors import CaseError
from segray.formats.picture_pixels import Pixels, read_pixels

COLOURS = "mask_colours"
"""The key of :attr:`CaseSource.details` with the table structure -> ``"#rrggbb"``, or a grey level or palette index."""

BACKGROUND = "background"

SHOWN = 8
"""Values that a message lists."""

EDGE = 64
"""How far JPEG may move a pixel from black or white; further ones are edges."""

MOST_EDGE = 0.02
"""Share of such edge pixels in a mask that JPEG blurred; a picture that is no mask has far more."""

NAME_THEM = (
    "Name what they mean by ingest.mask_colours, such as {lung: 128, tumour: 255} or {lung: '#ff0000'}; or, where they "
    "are label values, by ingest.labels={name: value, ...}."
)

Table = Mapping[str, int | str]


def read_binary(path: str) -> tuple[NDArray[np.bool_], list[str]]:
    """Where a mask is (H, W), and notes: {0, 1}, {0, 255} or {0, the highest value of its type}.

    JPEG blurs a mask: where nearly all pixels are near black or white, it is cut at the middle, and a note says so.

    Raises:
        CaseError: damaged, or other values: they could be several structures.
    """
    pixels = read_pixels(path)
    values = _levels(path, pixels)
    if pixels.header.format == "JPEG":
        return _unblurred(path, values)
    return _inside(path, values, pixels), list(pixels.notes)


def read_levels(path: str) -> NDArray[Any]:
    """A mask whose grey levels or palette indices are label values, (H, W) uint8 or uint16. Raises CaseError."""
    pixels = read_pixels(path)
    _refuse_jpeg(path, pixels)
    values = pixels.values if pixels.palette is not None else _levels(path, pixels)
    lowest, highest = values.min(initial=0), values.max(initial=0)
    if not np.isfinite(values).all() or lowest < 0 or highest > MOST_LEVEL or (values != np.floor(values)).any():
        raise CaseError(f"{path} holds values that are no labels (from {lowest} to {highest}).")
    # A copy: Pillow's own pixels cannot be written to.
    return values.astype(np.uint8 if highest <= 255 else np.uint16)


def read_coloured(path: str, table: Table, label_map: LabelMap) -> NDArray[Any]:
    """Label values (H, W) of a mask by a table of colours; structures that the map does not name are background.

    Args:
        path: the mask.
        table: structure (or ``background``) to ``"#rrggbb"``, or to a grey level or palette index.
        label_map: structure to label value.

    Raises:
        CaseError: damaged, or a colour that is not in the table; black is background unless the table names it.
    """
    pixels = read_pixels(path)
    _refuse_jpeg(path, pixels)
    keys = {colour: label_map.values.get(name, 0) for name, colour in table.items()}
    hexes = any(isinstance(colour, str) for colour in keys)
    levels = any(isinstance(colour, int) for colour in keys)
    labels = np.zeros(pixels.values.shape[:2], label_map.dtype if not label_map.overlapping else _dtype(label_map))
    known = np.zeros(labels.shape, np.bool_)
    codes = _codes(path, pixels) if hexes else None
    plain = _plain(path, pixels) if levels else None
    for colour, value in keys.items():
        where = codes == int(colour[1:], 16) if isinstance(colour, str) else plain == colour
        labels[where] = value
        known |= where
    _check_known(path, pixels, known, codes, plain)
    return labels


def _dtype(label_map: LabelMap) -> np.dtype[Any]:
    return np.dtype(np.min_scalar_type(max(label_map.values.values())))


def _check_known(
    path: str,
    pixels: Pixels,
    known: NDArray[np.bool_],
    codes: NDArray[np.uint32] | None,
    plain: NDArray[Any] | None,
) -> None:
    found = codes if codes is not None else plain
    if found is None or known.all():
        return
    others = np.unique(found[~known & (found != 0)])
    if len(others):
        shown = [f"#{int(one):06x}" if codes is not None else f"{one:g}" for one in others[:SHOWN]]
        more = ", ..." if len(others) > SHOWN else ""
        kind = "colours" if codes is not None else "palette indices" if pixels.palette is not None else "grey levels"
        raise CaseError(
            f"{path} holds {kind} that ingest.mask_colours does not name: {', '.join(shown)}{more}.",
            mend="Name them, or give the one that is background the name background.",
        )


def _codes(path: str, pixels: Pixels) -> NDArray[np.uint32]:
    """The colour of each pixel as one number 0xrrggbb."""
    seen = pixels.colours()
    if seen.dtype != np.uint8:
        seen = _as_bytes(path, pixels, seen)
    if seen.ndim == 2:
        seen = np.repeat(seen[..., None], 3, axis=2)
    wide = seen.astype(np.uint32)
    codes: NDArray[np.uint32] = (wide @ np.array([1 << 16, 1 << 8, 1], np.uint32)).astype(np.uint32)
    return codes


def _as_bytes(path: str, pixels: Pixels, seen: NDArray[Any]) -> NDArray[np.uint8]:
    """16-bit colours that are 8-bit ones written twice (0xabab)."""
    if seen.dtype != np.uint16 or pixels.header.depth != 16 or (seen % 257).any():
        raise CaseError(
            f"{path} has colours of {pixels.header.depth} bits.", mend="Save the mask with 8 bits a colour."
        )
    return (seen // 257).astype(np.uint8)


def _plain(path: str, pixels: Pixels) -> NDArray[Any]:
    return pixels.values if pixels.palette is not None else _levels(path, pixels)


def _levels(path: str, pixels: Pixels) -> NDArray[Any]:
    """Grey levels, or palette indices; of three equal channels one. Raises CaseError where there are colours."""
    values = pixels.values
    if values.ndim == 2:
        return values
    if (values[..., :1] == values).all():
        return values[..., 0]
    found = np.unique(_codes(path, pixels))
    shown = ", ".join(f"#{int(one):06x}" for one in found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
    raise CaseError(f"{path} holds {len(found)} colours: {shown}.", mend=NAME_THEM)


def _inside(path: str, values: NDArray[Any], pixels: Pixels) -> NDArray[np.bool_]:
    found = np.unique(values)
    if pixels.palette is not None:
        inside = _black_and_white(found, values, pixels.palette)
        if inside is not None:
            return inside
    highest = (1 << pixels.header.depth) - 1 if values.dtype.kind in "ui" else 1
    if len(found) <= 2 and all(one in (0, 1, 255, highest) for one in found) and (len(found) == 1 or found[0] == 0):
        nonzero: NDArray[np.bool_] = np.not_equal(values, 0)
        return nonzero
    shown = ", ".join(f"{one:g}" for one in found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
    kind = "palette indices" if pixels.palette is not None else "grey levels"
    raise CaseError(f"{path} is no mask of one structure: it holds {len(found)} {kind}, {shown}.", mend=NAME_THEM)


def _black_and_white(found: NDArray[Any], values: NDArray[Any], palette: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """A palette of black and white says more than the order of its colours; None for other palettes."""
    if found.max(initial=0) >= len(palette):
        return None
    used = palette[found]
    white, black = (used == 255).all(axis=1), (used == 0).all(axis=1)
    if not (white | black).all() or (len(found) > 1 and len(found) != len(np.unique(used, axis=0))):
        return None
    if len(found) == 1 and not white[0] and found[0] != 0:
        return None
    result: NDArray[np.bool_] = np.isin(values, found[white])
    return result


def _unblurred(path: str, values: NDArray[Any]) -> tuple[NDArray[np.bool_], list[str]]:
    lowest, highest = int(values.min()), int(values.max())
    edges = float(np.mean((values >= EDGE) & (values <= 255 - EDGE)))
    two_sided = lowest < EDGE and (highest == 0 or highest > 255 - EDGE)
    if edges > MOST_EDGE or not (two_sided or lowest > 255 - EDGE):
        raise CaseError(
            f"{path} is a JPEG whose pixels are not black or white (from {lowest} to {highest}, {edges:.0%} between).",
            mend="Save masks as PNG: JPEG changes their values.",
        )
    return values > 127, ["JPEG has blurred the mask; it was cut at grey level 127."] if highest else []


def _refuse_jpeg(path: str, pixels: Pixels) -> None:
    if pixels.header.format == "JPEG":
        raise CaseError(f"{path} is a JPEG, which changes the values of labels.", mend="Save masks as PNG.")
