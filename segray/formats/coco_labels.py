"""The labels of one picture from a COCO annotation file, which is parsed once a process."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segray.case import Geometry, LabelMap, Volume
from segray.errors import CaseError
from segray.formats.coco_file import Annotation, CocoFile, Id, load_coco
from segray.formats.outlines import Filled, fill, union
from segray.formats.painting import Painting
from segray.formats.source import CaseSource

IMAGE = "coco_image"
"""The key of :attr:`CaseSource.details` for the id of the image in the annotation file."""


def read_labels(
    source: CaseSource, geometry: Geometry, label_map: LabelMap | None, overlap: str
) -> tuple[Volume, list[str]]:
    """Label values (1, H, W) on the grid of the picture, or bit fields of them, and notes.

    A picture without annotations is all background. Categories that the map does not name are background.

    Raises:
        CaseError: the file is damaged; the entry has another size than the picture; an annotation is nonsense.
    """
    known = label_map or _all_structures(source)
    painting = Painting(known, geometry.size, overlap)
    file, annotations = _of_image(source, geometry)
    notes: list[str] = []
    filled: dict[str, list[Filled]] = {name: [] for name in known.names}
    for annotation in annotations:
        name = _structure(annotation, file)
        if name in filled:
            filled[name].append(_fill(annotation, file, geometry))
    for name, pieces in filled.items():
        if pieces:
            inside: NDArray[np.bool_] = union([piece.runs for piece in pieces])
            painting.add(name, inside[None])
    cut = sum(piece.cut for pieces in filled.values() for piece in pieces)
    if cut:
        notes.append(f"{cut} polygon{'s' * (cut > 1)} reached out of the picture and ended at its edge.")
    crowds = sum(annotation.crowd for annotation in annotations)
    if crowds:
        notes.append(f"{crowds} of its annotations mark a crowd; a crowd counts as its structure.")
    return painting.labels, [*notes, *painting.notes()]


def label_values(source: CaseSource) -> list[int]:
    """The values 1 to n of the structures of the file, numbered by name, that the picture has. Raises CaseError."""
    known = _all_structures(source)
    names = {annotation.category for annotation in _annotations(source)[1]}
    return [value for name, value in known.values.items() if name in names]


def _all_structures(source: CaseSource) -> LabelMap:
    file, _ = _annotations(source)
    return LabelMap.of_names(sorted(set(file.structures.values())))


def _annotations(source: CaseSource) -> tuple[CocoFile, list[Annotation]]:
    if source.labels is None:
        raise CaseError(f"The case {source.case_id} has no labels.")
    file = load_coco(source.labels)
    number: Id | None = source.details.get(IMAGE)
    if number is None:
        raise CaseError(f"The case {source.case_id} does not say which image of {source.labels} it is.")
    return file, file.annotations.get(number, [])


def _of_image(source: CaseSource, geometry: Geometry) -> tuple[CocoFile, list[Annotation]]:
    file, annotations = _annotations(source)
    number = source.details[IMAGE]
    entry = file.images.get(number)
    if entry is None:
        raise CaseError(f"{file.path} has no image {number!r} any more.", mend="Was it exported again?")
    _, height, width = geometry.size
    if entry.width and entry.height and (entry.width, entry.height) != (width, height):
        raise CaseError(
            f"{source.image} has {width} x {height} pixels, but {file.path} says {entry.width} x {entry.height}.",
            mend="Annotations must be of the picture as it is.",
        )
    return file, annotations


def _structure(annotation: Annotation, file: CocoFile) -> str:
    if annotation.category is None:
        raise CaseError(
            f"The annotation {str(annotation.id)[:40]} names the category {str(annotation.told)[:40]}, which "
            f"{file.path} does not have.",
            mend="Mend it, or remove the annotation.",
        )
    return annotation.category


def _fill(annotation: Annotation, file: CocoFile, geometry: Geometry) -> Filled:
    _, height, width = geometry.size
    try:
        return fill(annotation.outline, height, width)
    except CaseError as error:
        raise CaseError(
            f"The annotation {str(annotation.id)[:40]} in {file.path} {error}.", mend="Mend it, or remove it."
        ) from error
