"""Files in folders that a layout does not look into: cases that would be left out without a word."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator

from segray import storage
from segray.formats.findings import Findings, shown
from segray.formats.folder import Left, real_folder, stem, walk
from segray.formats.picture_folders import picture_stem

OWN = "prediction.json"
"""The file by which a folder is known that `segray predict` wrote: its masks and previews are no cases."""

PASSED_OVER = "Passed over"
"""How the note on folders begins that are not looked into although images lie there."""

FEW = 3
"""Folders that are named where several are passed over."""

WRITTEN = ("masks", "structures", "nifti", "rtstruct", "dicom-seg", "png", "probabilities", "overlays", "previews")
"""The folders in it, which lie among the scans where both are one folder."""

IS_FOLDER = "This is a folder; what lies in it is left out. Move its files to {}/."

_LABELS = re.compile(r"(?:.+_)?(?:masks?|segs?|segmentations?|labels?(?:Tr|Ts|Val)?)", re.IGNORECASE)


def is_image(name: str) -> bool:
    """True for the name of a volume file or of a picture."""
    return stem(name) is not None or picture_stem(name) is not None


def holds_labels(folder: str) -> bool:
    """Whether the name of a folder says that it holds labels."""
    return _LABELS.fullmatch(folder) is not None


def files_below(root: str, below: str, left: Left, seen: set[str]) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it as (path relative to ``root``, file names), as :func:`walk` has them.

    Folders of labels, and what segray predicted, are passed over.

    Args:
        root: the folder of the user, which no link leads out of.
        below: the folder, by its path below ``root``.
        left: takes what a search leaves out.
        seen: real folders that are looked at anyway; a link to one of them leads to nothing new.
    """
    own: list[str] = []
    above = below.rpartition("/")[0]
    for place, files in walk(root, left, below, seen):
        if any(map(holds_labels, place.removeprefix(above).split("/"))) or place.startswith(tuple(own)):
            continue
        if OWN in files:
            own.append(place + "/")
        else:
            yield place, files


def folders_of_images(
    root: str, left: Left, notes: list[str], named: Container[str] = ()
) -> Iterator[tuple[str, list[str]]]:
    """All folders as :func:`walk` has them, but those of labels and what segray predicted, also into ``root`` itself.

    Args:
        root: the folder of the user.
        left: takes what a search leaves out.
        notes: takes a sentence on the folders that are passed over, at the end.
        named: names that are looked into although they say that labels lie there, since the user wrote them.
    """
    own: list[str] = []
    over: list[str] = []
    for place, files in walk(root, left):
        told = (one for one in place.split("/") if one not in named)
        if f"{place}/".startswith(tuple(own)):
            continue
        if any(map(holds_labels, told)):
            over += [place] if any(map(is_image, files)) else []
            continue
        if OWN in files:
            own += [f"{place}/"] if place else [f"{name}/" for name in WRITTEN]
            over += [place] if place else []
        if OWN not in files or not place:
            yield place, files
    if over:
        more = ", ..." if len(over) > FEW else ""
        folders = f"{len(over)} folder{'s' * (len(over) > 1)} ({', '.join(over[:FEW])}{more})"
        notes.append(f"{PASSED_OVER}, since labels or predictions of segray lie there: {folders}.")


def first_below(root: str, below: str, wanted: Callable[[str], bool], left: Left, seen: set[str]) -> str | None:
    """The first file of :func:`files_below` whose name is ``wanted``, as a path; None without one."""
    for place, files in files_below(root, below, left, seen):
        name = next(filter(wanted, files), None)
        if name is not None:
            return storage.join(root, place, name)
    return None


def tell_folders(root: str, folder: str, names: Iterable[str], found: Findings) -> None:
    """Make problems of the folders ``names`` in ``folder`` that hold images, where only files are looked for."""
    below = below_root(root, folder)
    seen = {real_folder(root), real_folder(folder)}
    for name in names:
        if first_below(root, storage.join(below, name), is_image, found.problems, seen) is not None:
            reason = IS_FOLDER.format(below.rpartition("/")[2])
            found.problems.append((shown(storage.join(below, name)), reason))


def below_root(root: str, folder: str) -> str:
    """The path of a folder relative to ``root``, which it lies in or is."""
    return folder[len(root) :].strip("/")
