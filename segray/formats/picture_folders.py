"""Folders of pictures: which files are pictures, which folders are a split, and whether the pictures have colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segray import storage
from segray.config import IngestConfig
from segray.errors import CaseError
from segray.formats.folder import listing
from segray.formats.source import SPLITS

ENDINGS = (".png", ".tif", ".tiff", ".bmp", ".gif", ".jpg", ".jpeg")
"""Of two pictures of one name the earlier ending is used: it loses less."""

LOOKED_AT = 32
"""Pictures of a folder that are read to see whether they have colours."""


def picture_stem(name: str) -> str | None:
    """A file name without the ending of a picture; None for other and hidden files."""
    low = name.lower()
    end = next((end for end in ENDINGS if low.endswith(end) and len(name) > len(end)), None)
    return None if end is None or name.startswith(".") else name[: -len(end)]


def pictures_of(folder: str, files: Sequence[str]) -> tuple[dict[str, str], list[tuple[str, str]], int]:
    """Stem to path; (stem, reason) of second files of one stem; how many files are no pictures."""
    chosen: dict[str, str] = {}
    problems: list[tuple[str, str]] = []
    others = 0
    for name in files:
        base = picture_stem(name)
        if base is None:
            others += 1
        elif base in chosen:
            first, second = sorted((chosen[base], name), key=_rank)
            chosen[base] = first
            problems.append((base, f"{second} lies beside {first}; it is left out."))
        else:
            chosen[base] = name
    return {base: storage.join(folder, name) for base, name in chosen.items()}, problems, others


def split_folders(root: str) -> dict[str, str]:
    """The folders of ``root`` whose name says a split (train, valid, val, validation, test), each with its split."""
    return {name: SPLITS[name.lower()] for name in listing(root, root)[0] if name.lower() in SPLITS}


def unique_ids(places: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], str]:
    """(folder, stem) to case id: the stem, with the folder's name before it where several folders have that stem."""
    seen: dict[str, int] = {}
    for stems in places.values():
        for stem in stems:
            seen[stem] = seen.get(stem, 0) + 1
    return {
        (place, stem): f"{place}_{stem}" if seen[stem] > 1 and place else stem
        for place, stems in places.items()
        for stem in stems
    }


def channel_details(paths: Sequence[str], config: IngestConfig, notes: list[str]) -> dict[str, Any]:
    """What all pictures of a folder are read as, grey or red, green and blue, for :attr:`CaseSource.details`.

    With ``ingest.picture_channels=auto`` a sample of the pictures is read: colours are kept where most have them.
    """
    from segray.formats.pictures import CHANNELS

    told: str = config.picture_channels
    if told == "auto":
        sample = paths[:: max(1, len(paths) // LOOKED_AT)][:LOOKED_AT]
        coloured = [colour for colour in map(_coloured, sample) if colour is not None]
        told = "rgb" if sum(coloured) * 2 > len(coloured) else "grey"
        if any(coloured):
            words = "three channels, red, green and blue" if told == "rgb" else "grey"
            notes.append(
                f"{sum(coloured)} of {len(coloured)} pictures that were looked at have colours; all are read as {words}"
                " (ingest.picture_channels)."
            )
    return {CHANNELS: told}


def _coloured(path: str) -> bool | None:
    """Whether a picture has colours; None where it cannot be read, which it will say when its turn comes."""
    from segray.formats.picture_pixels import read_picture_header, read_pixels
    from segray.formats.pictures import has_colour

    try:
        return read_picture_header(path).colours and has_colour(read_pixels(path))
    except CaseError:
        return None


def _rank(name: str) -> tuple[int, str]:
    low = name.lower()
    return next(number for number, end in enumerate(ENDINGS) if low.endswith(end)), name
