"""Pictures with COCO annotations: ``_annotations.coco.json`` beside them, or ``annotations/instances_*.json``."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segray import storage
from segray.errors import CaseError
from segray.formats.coco_file import CocoFile, CocoImage, load_coco
from segray.formats.coco_labels import IMAGE
from segray.formats.findings import Findings, shown
from segray.formats.folder import Left, is_file, leads_out, listing
from segray.formats.label_names import mask_labels
from segray.formats.note import Note
from segray.formats.overlooked import below_root, files_below
from segray.formats.picture_folders import channel_details, picture_stem, split_folders, unique_ids
from segray.formats.source import SPLITS, CaseSource, Discovery

BESIDE = "_annotations.coco.json"
ANNOTATIONS = "annotations"
_INSTANCES = re.compile(r"instances_(.+)\.json")
_SPLIT = re.compile(r"[a-z]+")

FEW = 5
"""Names that a sentence lists."""


@dataclass
class _Set:
    """One annotation file and the folder of its images.

    Attributes:
        path: the annotation file.
        folder: where its file names begin.
        name: what tells it from other sets: train, valid, val2017.
        split: train, validation, test or empty.
    """

    path: str
    folder: str
    name: str
    split: str

    @property
    def is_beside(self) -> bool:
        """Whether the annotations lie beside the images, as Roboflow has them."""
        return self.path.rsplit("/", 1)[-1] == BESIDE


@dataclass
class _Found:
    """The images of one set that are there: entry and path by stem, a name for people in front of an id."""

    told: _Set
    file: CocoFile
    images: dict[str, tuple[CocoImage, str]] = field(default_factory=dict)


def is_coco(root: str) -> bool:
    """True for a folder with COCO annotation files where Roboflow or COCO put them."""
    return not is_file(root) and bool(_sets(root))


def read_coco(root: str, found: Findings) -> Discovery:
    """The images that the annotation files name; the folders train, valid and test are kept as the split.

    A file that is damaged, an entry without file and annotations of no image are problems.

    Raises:
        UsageError: settings name a structure that no annotation has.
    """
    folders, _ = listing(root, root, found.problems)
    if "images" in folders:
        listing(storage.join(root, "images"), root, found.problems)
    sets = [_images(one, file, root, found) for one in _sets(root) if (file := _loaded(one, found)) is not None]
    ids = unique_ids({one.told.name: list(one.images) for one in sets})
    used = _used(sets, found)
    label_map = mask_labels(used, found.config, found.notes) if found.labelled else None
    paths = [path for one in sets for _, path in one.images.values()]
    look = channel_details(paths, found.config, found.notes)
    for one in sets:
        for stem, (entry, path) in one.images.items():
            if _is_left_out(entry, one, found):
                continue
            found.add(_source(ids[one.told.name, stem], entry, path, one, look))
    _add_unnamed(root, sets, look, found)
    _tell(sets, found)
    return found.finish("coco", label_map)


def _sets(root: str) -> list[_Set]:
    folders, files = listing(root, root)
    sets = [_Set(storage.join(root, BESIDE), root, "", "")] if BESIDE in files else []
    for name, split in split_folders(root).items():
        place = storage.join(root, name)
        if BESIDE in listing(place)[1]:
            sets.append(_Set(storage.join(place, BESIDE), place, name, split))
    if ANNOTATIONS in folders:
        place = storage.join(root, ANNOTATIONS)
        for name in listing(place)[1]:
            match = _INSTANCES.fullmatch(name)
            if match:
                sets.append(_Set(storage.join(place, name), _image_folder(root, match[1]), match[1], _split(match[1])))
    return sets


def _split(name: str) -> str:
    """train of ``train2017``; empty where the name says no split."""
    match = _SPLIT.match(name.lower())
    return SPLITS.get(match[0], "") if match else ""


def _image_folder(root: str, name: str) -> str:
    """The folder of the images of ``instances_<name>.json``."""
    folders = listing(root, root)[0]
    deeper = listing(storage.join(root, "images"), root)[0] if "images" in folders else []
    if name in folders:
        return storage.join(root, name)
    if name in deeper:
        return storage.join(root, "images", name)
    return storage.join(root, "images") if "images" in folders else root


def _loaded(one: _Set, found: Findings) -> CocoFile | None:
    try:
        return load_coco(one.path, outlines=False)
    except CaseError as error:
        found.problems.append((posixpath.join(one.name, one.path.rsplit("/", 1)[-1]), str(error)))
        return None


def _images(one: _Set, file: CocoFile, root: str, found: Findings) -> _Found:
    """The images of a file that lie in its folder; others are problems."""
    result = _Found(one, file)
    there: dict[str, set[str] | None] = {}
    for entry in file.images.values():
        reason = _unusable(entry, one.folder, root, there)
        stem = picture_stem(entry.file_name.replace("/", "_"))
        if reason is None and stem is not None and stem in result.images:
            reason = f"{one.path} names {entry.file_name} beside {result.images[stem][0].file_name}; it is left out."
        if reason is not None or stem is None:
            found.problems.append((shown(entry.file_name), reason or f"{entry.file_name} is no picture."))
        else:
            result.images[stem] = (entry, storage.join(one.folder, entry.file_name))
    found.problems += [(posixpath.join(one.name, entry), reason) for entry, reason in file.problems]
    found.notes += [note for note in file.notes if note not in found.notes]
    return result


def _unusable(entry: CocoImage, folder: str, root: str, there: dict[str, set[str] | None]) -> str | None:
    """Why the picture of an entry cannot be used; ``there`` keeps the listings, None of what lies outside."""
    name = entry.file_name
    below, _, base = name.rpartition("/")
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        return f"The file name {shown(name)} leads out of the folder of the images."
    if picture_stem(base) is None:
        return f"{shown(name)} is no picture that segray reads."
    if below not in there:
        place = storage.join(folder, below) if below else folder
        there[below] = None if leads_out(root, place) else set(listing(place, root)[1])
    names = there[below]
    if names is None:
        return f"{shown(name)} lies behind a link that leads out of {root}; it is left out."
    return None if base in names else f"{shown(name)} is named by the annotations, but is not in {folder}."


def _source(case_id: str, entry: CocoImage, path: str, one: _Found, look: Mapping[str, Any]) -> CaseSource:
    return CaseSource(
        case_id,
        path,
        labels=one.told.path if one.file.labelled else None,
        kind="picture",
        label_kind="coco",
        split=one.told.split,
        details={**look, IMAGE: entry.id},
    )


def _is_left_out(entry: CocoImage, one: _Found, found: Findings) -> bool:
    """True for a picture without annotation that is not to teach or to measure; it can still be predicted."""
    return (
        found.labelled
        and found.config.unannotated == "leave_out"
        and one.file.labelled
        and not one.file.annotations.get(entry.id)
    )


def _add_unnamed(root: str, sets: Sequence[_Found], look: Mapping[str, Any], found: Findings) -> None:
    """Pictures that no annotation file names: cases without labels, so that they can be predicted.

    An archive that keeps annotations apart has whole folders of them: for a training they are only counted.
    """
    named = {
        f"{one.told.folder}/{posixpath.normpath(entry.file_name)}" for one in sets for entry in one.file.images.values()
    }
    counted = 0
    seen: set[str] = set()
    for place in _places(root, sets):
        for stem, path in _pictures(place, root, named, seen, found):
            if place.is_beside or not found.labelled:
                found.add(CaseSource(stem, path, kind="picture", split=place.split, details=dict(look)))
            else:
                counted += 1
    if counted:
        found.notes.append(Note(f"{counted} pictures are named by no annotation file, and are left out.", "unnamed"))


def _places(root: str, sets: Sequence[_Found]) -> list[_Set]:
    """Where pictures may lie: the folders of the sets, and all of ``images/`` where annotations are kept apart."""
    places = [one.told for one in sets]
    images = storage.join(root, "images")
    if any(not one.is_beside for one in places) and all(one.folder != images for one in places):
        places.append(_Set("", images, "images", ""))
    return places


def _pictures(place: _Set, root: str, named: set[str], seen: set[str], found: Findings) -> Iterator[tuple[str, str]]:
    """(stem, path) of the pictures of a place that are not ``named``; below the root itself nothing is looked at."""
    below = below_root(root, place.folder)
    told: Left = []
    flat = place.is_beside or not below
    folders = [(below, listing(place.folder, root)[1])] if flat else files_below(root, below, told, seen)
    for folder, files in folders:
        here = storage.join(root, folder).rstrip("/")
        inside = here[len(place.folder) + 1 :].replace("/", "_")
        for path, name in ((f"{here}/{name}", name) for name in files):
            stem = None if path in named else picture_stem(name)
            if stem is not None:
                yield f"{inside}_{stem}" if inside else stem, path
    found.problems += [one for one in told if one not in found.problems]


def _used(sets: Sequence[_Found], found: Findings) -> list[str]:
    """The structures that have annotations; the others are told."""
    names = {name for one in sets for name in one.file.structures.values()}
    used = {annotation.category for one in sets for told in one.file.annotations.values() for annotation in told}
    idle = sorted(names - used)
    if idle and names & used:
        more = ", ..." if len(idle) > FEW else ""
        found.notes.append(f"No annotation is of the category {', '.join(idle[:FEW])}{more}; it is left out.")
    return sorted(names & used) or sorted(names)


def _tell(sets: Sequence[_Found], found: Findings) -> None:
    images = sum(len(one.images) for one in sets)
    bare = sum(not one.file.annotations.get(entry.id) for one in sets for entry, _ in one.images.values())
    found.notes.insert(0, f"COCO annotations of {images} pictures{_splits(one.told for one in sets)}.")
    if bare and found.labelled:
        said = "they are left out." if found.config.unannotated == "leave_out" else "all of them is background."
        found.notes.append(f"{bare} pictures have no annotation: {said}")


def _splits(sets: Iterable[_Set]) -> str:
    said = [one.name for one in sets if one.split]
    return f"; {', '.join(said)} {'are' if len(said) > 1 else 'is'} kept as the split" if said else ""
