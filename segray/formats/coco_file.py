"""A COCO annotation file: its images, its categories as structures, its annotations by image, all checked.

The outlines are most of such a file. They are packed while it is parsed, or left out where only the entries count, so
that a file of a hundred thousand images takes hundreds of megabytes and not gigabytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from segray import storage
from segray.errors import CaseError, SegrayError
from segray.formats.folder import file_state
from segray.formats.label_names import is_safe

Id = int | str

MOST_ID = 100
"""Characters of an id that is a text."""

MOST_SIDE = 1 << 24
"""Pixels of a side that an entry may claim."""

_UNSAFE = re.compile(r"[^\w .+()-]")


class Annotation(NamedTuple):
    """One annotation: ``category`` is a structure, or None where the file has no such category."""

    id: Any
    category: str | None
    told: Any
    crowd: bool
    outline: Any


class CocoImage(NamedTuple):
    """One image entry; width and height are 0 where it does not say them."""

    id: Id
    file_name: str
    width: int
    height: int


@dataclass(frozen=True)
class CocoFile:
    """What one annotation file holds.

    Attributes:
        path: the file.
        images: id to entry, of those entries that can be used.
        structures: category id to structure; categories of one name are one structure.
        annotations: image id to its annotations.
        labelled: False where the file has no list of annotations at all.
        problems: (entry, reason) of what cannot be used.
        notes: what was understood of the categories.
    """

    path: str
    images: Mapping[Id, CocoImage]
    structures: Mapping[Id, str]
    annotations: Mapping[Id, list[Annotation]]
    labelled: bool
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def load_coco(path: str, *, outlines: bool = True) -> CocoFile:
    """A COCO file, parsed once a process as long as it does not change.

    Args:
        path: the file.
        outlines: False leaves the polygons and runs out.

    Raises:
        CaseError: it cannot be read, is cut or no JSON, or holds no list of images or categories.
    """
    try:
        size, changed = file_state(path)
    except SegrayError as error:
        raise CaseError(str(error)) from error
    return _load(path, size, changed, outlines)


@lru_cache(maxsize=4)
def _load(path: str, size: int, changed: int, outlines: bool) -> CocoFile:
    del size, changed
    table = _parse(path, outlines)
    if not isinstance(table, dict) or not isinstance(table.get("images"), list):
        raise CaseError(f"{path} is no COCO file: it has no list of images.")
    told = table.get("annotations")
    if told is not None and not isinstance(told, list):
        raise CaseError(f"{path} is no COCO file: its annotations are no list.")
    notes: list[str] = []
    problems: list[tuple[str, str]] = []
    structures = _structures(path, table.get("categories"), notes) if told else {}
    images = _images(table["images"], path, problems)
    grouped = _grouped(told or [], images, structures, path, problems)
    return CocoFile(path, images, structures, grouped, told is not None, problems, notes)


def _parse(path: str, outlines: bool) -> Any:
    try:
        text = storage.read_bytes(path).decode("utf-8-sig")
        return json.loads(text, object_hook=_packed if outlines else _without_outline)
    except SegrayError as error:
        raise CaseError(str(error)) from error
    except UnicodeDecodeError as error:
        raise CaseError(f"{path} is no text in UTF-8 (byte {error.start}).") from error
    except json.JSONDecodeError as error:
        raise CaseError(
            f"{path} is cut or no JSON: it breaks off in line {error.lineno}, character {error.pos:,} ({error.msg}).",
            mend="Export or download it again.",
        ) from error
    except (RecursionError, ValueError, MemoryError) as error:
        raise CaseError(f"{path} is no JSON that can be read ({type(error).__name__}).") from error


def _without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    if "segmentation" in entry:
        entry["segmentation"] = None
    return entry


def _packed(entry: dict[str, Any]) -> dict[str, Any]:
    """Lists of numbers as arrays; what is none stays, and is told when its image is read."""
    outline = entry.get("segmentation")
    if isinstance(outline, list):
        entry["segmentation"] = [_array(polygon) for polygon in outline]
    elif "counts" in entry and isinstance(entry["counts"], list):
        entry["counts"] = _array(entry["counts"])
    return entry


def _array(numbers: Any) -> Any:
    try:
        array = np.array(numbers)
    except (ValueError, OverflowError):
        return numbers
    return array.astype(np.float64) if array.ndim == 1 and array.dtype.kind in "iuf" else numbers


def _id(told: Any) -> Id | None:
    """An id as COCO has it, an integer, or a short text; None for anything else."""
    if isinstance(told, bool):
        return None
    if isinstance(told, float) and told.is_integer():
        return int(told)
    return told if isinstance(told, int) or (isinstance(told, str) and 0 < len(told) <= MOST_ID) else None


def _shown(told: Any) -> str:
    text = repr(told)
    return text if len(text) <= 40 else text[:37] + "..."


def _structures(path: str, told: Any, notes: list[str]) -> dict[Id, str]:
    """Category id to structure. Raises CaseError where no category can be used."""
    names: dict[Id, str] = {}
    for entry in told if isinstance(told, list) else []:
        number = _id(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        if number is None or not isinstance(name, str) or not name.strip() or number in names:
            raise CaseError(f"{path} has a category that is no pair of an id of its own and a name: {_shown(entry)}.")
        names[number] = name.strip()
    if not names:
        raise CaseError(f"{path} names no categories.", mend="Export it with its categories.")
    return _safe_names(names, notes)


def _safe_names(names: Mapping[Id, str], notes: list[str]) -> dict[Id, str]:
    safe: dict[str, str] = {}
    for number, name in names.items():
        wanted = name if is_safe(name) else _UNSAFE.sub("_", name)[:64].strip()
        if wanted != name and (not is_safe(wanted) or wanted in names.values() or wanted in safe.values()):
            wanted = f"category_{_UNSAFE.sub('_', str(number))}"
        safe.setdefault(name, wanted)
        if wanted != name:
            notes.append(f"The category {_shown(name)} is called {safe[name]}, since it cannot be a file name.")
    for name in dict.fromkeys(names.values()):
        same = [str(number) for number, other in names.items() if other == name]
        if len(same) > 1:
            notes.append(f"The categories {' and '.join(same)} are both named {name}; they are one structure.")
    return {number: safe[name] for number, name in names.items()}


def _images(told: list[Any], path: str, problems: list[tuple[str, str]]) -> dict[Id, CocoImage]:
    images: dict[Id, CocoImage] = {}
    for place, entry in enumerate(told):
        number = _id(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if number is None or not isinstance(name, str) or not name:
            problems.append((f"image entry {place}", f"{path} has an image without id or file name: {_shown(entry)}."))
        elif number in images:
            reason = f"{path} gives the id {number} to two images, {images[number].file_name} and {name}."
            problems.append((f"image entry {place}", reason + " The second is left out."))
        else:
            images[number] = CocoImage(number, name, _side(entry.get("width")), _side(entry.get("height")))
    return images


def _side(told: Any) -> int:
    whole = isinstance(told, int | float) and not isinstance(told, bool) and 0 < told < MOST_SIDE
    return int(told) if whole else 0


def _grouped(
    told: list[Any],
    images: Mapping[Id, CocoImage],
    structures: Mapping[Id, str],
    path: str,
    problems: list[tuple[str, str]],
) -> dict[Id, list[Annotation]]:
    grouped: dict[Id, list[Annotation]] = {}
    lost: list[str] = []
    for place, entry in enumerate(told):
        image = _id(entry.get("image_id")) if isinstance(entry, dict) else None
        if image is None or image not in images:
            named = (
                f"names the image {_shown(entry.get('image_id'))}" if isinstance(entry, dict) else "is no annotation"
            )
            lost.append(f"entry {place} {named}")
            continue
        category = _id(entry.get("category_id"))
        structure = None if category is None else structures.get(category)
        made = Annotation(
            entry.get("id", place),
            structure,
            entry.get("category_id"),
            entry.get("iscrowd") in (1, True),
            entry.get("segmentation"),
        )
        grouped.setdefault(image, []).append(made)
    if lost:
        count = f"{len(lost)} annotations belong" if len(lost) > 1 else "One annotation belongs"
        problems.append((path.rsplit("/", 1)[-1], f"{count} to no image of {path}: {lost[0]}."))
    return grouped
