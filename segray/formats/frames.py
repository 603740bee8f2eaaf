"""Pictures in one folder and their masks in others: ``frames/`` with ``masks/``, ``lung_masks/`` and the like."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segray import storage
from segray.case import LabelMap
from segray.config import IngestConfig
from segray.errors import SegrayError, UsageError
from segray.formats.findings import NOT_KEPT, Findings
from segray.formats.folder import Left, is_file, listing, stem
from segray.formats.label_names import dataset_labels, is_safe, mask_labels, volume_labels
from segray.formats.note import Note
from segray.formats.overlooked import OWN, tell_folders
from segray.formats.picture_folders import channel_details, picture_stem, pictures_of, split_folders, unique_ids
from segray.formats.source import CaseSource, Discovery

IMAGE_FOLDERS = ("frames", "imgs", "images", "image", "img")
LABEL_FOLDER = "labels"
PLAIN = "mask"
"""The structure of ``masks/``, until ingest.labels names it."""

MASK_ENDINGS = ("", "_mask", "_seg", "_label", "_labels", "_segmentation")
"""What a mask's name has more than that of its picture."""

_MASKS = re.compile(r"(?:(.+)_)?masks?", re.IGNORECASE)


@dataclass
class _Place:
    """One folder of pictures.

    Attributes:
        name: of the folder that says the split; empty without one.
        split: train, validation, test or empty.
        folder: of the pictures.
        images: stem to picture.
        masks: structure to (stem to mask).
        others: files that are no pictures.
    """

    name: str
    split: str
    folder: str
    images: dict[str, str]
    masks: dict[str, dict[str, str]] = field(default_factory=dict)
    others: int = 0


@dataclass(frozen=True)
class Meaning:
    """What the masks of a folder mean.

    Attributes:
        label_map: None where labels are not asked for, or there are none.
        renamed: structure by its folder to the user's name.
        single: the masks of the one folder are label pictures, not binary.
        dropped: values of label pictures that count as background.
        details: for the reader.
    """

    label_map: LabelMap | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    single: bool = False
    dropped: tuple[int, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


def is_frames(root: str) -> bool:
    """True for a folder of pictures, with or without masks, or for one picture."""
    if is_file(root):
        return picture_stem(root.rsplit("/", 1)[-1]) is not None
    return any(_image_folder(place, root) is not None for place in [root, *_splits(root)])


def read_frames(root: str, found: Findings) -> Discovery:
    """The pictures of ``frames/``, ``imgs/`` or ``images/`` (or of the folder itself), and the masks beside them.

    Raises:
        UsageError: settings that do not fit the mask folders; several of them, and nobody said whether they overlap.
    """
    if is_file(root):
        return _one_picture(root, found)
    places = _places(root, found)
    names = sorted({name for place in places for name in place.masks})
    meaning = meaning_of_masks(root, names, found) if found.labelled and names else Meaning()
    paths = [place.images[base] for place in places for base in sorted(place.images)]
    look = channel_details(paths, found.config, found.notes)
    ids = unique_ids({place.name: list(place.images) for place in places})
    for place in places:
        for base in place.images:
            source = _source(ids[place.name, base], base, place, meaning, look)
            if found.labelled and not source.has_labels and any(_mask_of(base, had) for had in place.masks.values()):
                found.problems.append((source.case_id, NOT_KEPT))
            found.add(source)
        if found.labelled:
            found.problems += [(name, "The mask has no image.") for name in _lone_masks(place)]
    _tell(names, sum(place.others for place in places), meaning, found)
    return found.finish("frames", meaning.label_map)


def _one_picture(path: str, found: Findings) -> Discovery:
    base = picture_stem(path.rsplit("/", 1)[-1])
    if base is None:
        raise UsageError(f"{path} is no picture that segray reads.", mend="It reads PNG, JPEG, TIFF, BMP and GIF.")
    found.add(CaseSource(base, path, kind="picture", details=channel_details([path], found.config, found.notes)))
    return found.finish("frames", None)


def _splits(root: str) -> dict[str, tuple[str, str]]:
    """Path of each split folder to its name and split."""
    return {storage.join(root, name): (name, split) for name, split in split_folders(root).items()}


def _image_folder(place: str, root: str) -> str | None:
    """The folder that holds the pictures of ``place``; None where none does."""
    folders, files = listing(place, root)
    for name in IMAGE_FOLDERS:
        if name in folders:
            inside = _readable(storage.join(place, name), root)[1]
            if any(picture_stem(file) for file in inside) and not any(stem(file) for file in inside):
                return storage.join(place, name)
    alone = all(_structure(name) is not None or _is_own(storage.join(place, name), root) for name in folders)
    pictures = sum(picture_stem(file) is not None for file in files)
    most = pictures * 2 > len(files) and not any(stem(file) for file in files)
    return place if alone and most else None


def _readable(folder: str, root: str, left: Left | None = None) -> tuple[list[str], list[str]]:
    """The listing of a folder; empty where it cannot be read."""
    try:
        return listing(folder, root, left)
    except SegrayError:
        return [], []


def _is_own(folder: str, root: str) -> bool:
    return OWN in _readable(folder, root)[1]


def _structure(folder: str) -> str | None:
    """The structure of a mask folder by its name; None for other folders."""
    match = _MASKS.fullmatch(folder)
    return None if match is None else match[1] or PLAIN


def _places(root: str, found: Findings) -> list[_Place]:
    tried = {root: ("", ""), **_splits(root)}
    places = []
    for path, (name, split) in tried.items():
        below, _ = listing(path, root, found.problems)
        folder = _image_folder(path, root)
        if folder is not None:
            folders, files = listing(folder, root, None if folder == path else found.problems)
            place = _place(folder, files, (name, split), found)
            if folder != path:
                tell_folders(root, folder, folders, found)
            _add_masks(place, path, below, root, found)
            places.append(place)
    return places


def _place(folder: str, files: Sequence[str], name_and_split: tuple[str, str], found: Findings) -> _Place:
    images, twice, others = pictures_of(folder, files)
    found.problems += twice
    return _Place(*name_and_split, folder, images, others=others)


def _add_masks(place: _Place, path: str, below: Sequence[str], root: str, found: Findings) -> None:
    """Add the masks in the folders ``below`` a path."""
    for mask_folder in below:
        structure = _structure(mask_folder)
        if structure is None and mask_folder == LABEL_FOLDER and not any(map(_structure, below)):
            structure = PLAIN
        whole = storage.join(path, mask_folder)
        if structure is None or whole == place.folder:
            continue
        if not is_safe(structure) or structure in place.masks:
            found.problems.append((mask_folder, "The folder is left out: that is no name for a structure of its own."))
            continue
        folders, files = _readable(whole, root, found.problems if found.labelled else None)
        masks, twice, others = pictures_of(whole, files)
        place.masks[structure] = masks
        place.others += others
        found.problems += twice
        if found.labelled:
            tell_folders(root, whole, folders, found)
    if place.folder == path and not place.masks:
        _masks_beside(place)


def _masks_beside(place: _Place) -> None:
    """Take ``x_mask`` beside ``x`` as its mask, in a folder that holds both."""
    marks = {
        base: path
        for base, path in place.images.items()
        if any(end and base.endswith(end) and base[: -len(end)] in place.images for end in MASK_ENDINGS)
    }
    if marks:
        place.masks[PLAIN] = marks
        place.images = {base: path for base, path in place.images.items() if base not in marks}


def meaning_of_masks(root: str, names: Sequence[str], found: Findings) -> Meaning:
    """What the masks of the folders ``names`` mean, by the settings and the ``dataset.json`` of ``root``.

    Raises:
        UsageError: settings that do not fit the folders; several of them, and nobody said whether they overlap.
    """
    config = found.config
    dataset = dataset_labels(root)
    if config.mask_colours is not None:
        return _coloured(names, config, found.notes)
    if len(names) == 1 and len(config.labels or dataset or {}) > 1:
        label_map, dropped = volume_labels(dataset, config, found.notes)
        found.notes.append("The grey levels (or palette indices) of the masks are their label values.")
        return Meaning(label_map, single=True, dropped=dropped)
    renamed = _renamed(names, config, found.notes)
    label_map = mask_labels([renamed.get(name, name) for name in names], config, found.notes)
    if label_map is not None and len(label_map.names) > 1 and "overlap" not in config.model_fields_set:
        raise UsageError(
            f"There are mask folders of {', '.join(label_map.names)}, and it is not said whether they overlap.",
            mend="Set ingest.overlap=keep where a pixel may be in several of them, or ingest.overlap=smallest where it "
            "goes to the smallest, or choose one by ingest.structures.",
        )
    return Meaning(label_map, renamed)


def _coloured(names: Sequence[str], config: IngestConfig, notes: list[str]) -> Meaning:
    from segray.formats.picture_labels import BACKGROUND, COLOURS

    table = config.mask_colours or {}
    if len(names) > 1:
        raise UsageError(
            f"ingest.mask_colours needs one mask folder, and there are {len(names)}: {', '.join(names)}.",
            mend="Leave it out, or ingest a folder with one of them.",
        )
    structures = [name for name in table if name != BACKGROUND]
    values = config.labels or {name: number for number, name in enumerate(structures, start=1)}
    missing = sorted(set(structures) ^ set(values))
    if missing:
        raise UsageError(f"ingest.mask_colours and ingest.labels name different structures: {', '.join(missing[:5])}.")
    shown = ", ".join(f"{table[name]} is {name} ({values[name]})" for name in structures)
    notes.append(f"Colours of the masks by ingest.mask_colours: {shown}.")
    label_map, _ = volume_labels(None, config.model_copy(update={"labels": values}), [])
    return Meaning(label_map, single=True, details={COLOURS: dict(table)})


def _renamed(names: Sequence[str], config: IngestConfig, notes: list[str]) -> dict[str, str]:
    """What ``masks/`` is called where ingest.labels names one structure that no folder has."""
    absent = [name for name in config.labels or {} if name not in names]
    if PLAIN in names and PLAIN not in (config.labels or {}) and len(absent) == 1:
        notes.append(f"The masks without a name of their own are {absent[0]}, as ingest.labels says.")
        return {PLAIN: absent[0]}
    if PLAIN in names:
        notes.append(f"Nothing says what masks/ shows; the structure is called {PLAIN} (ingest.labels names it).")
    return {}


def _source(case_id: str, base: str, place: _Place, meaning: Meaning, look: Mapping[str, Any]) -> CaseSource:
    masks: dict[str, str] = {}
    for folder_name, files in place.masks.items():
        name = meaning.renamed.get(folder_name, folder_name)
        path = _mask_of(base, files)
        wanted = meaning.single or meaning.label_map is None or name in meaning.label_map.values
        if path is not None and wanted:
            masks[name] = path
    labels = next(iter(masks.values()), None) if meaning.single else None
    return CaseSource(
        case_id,
        place.images[base],
        masks={} if meaning.single else masks,
        labels=labels,
        dropped=meaning.dropped,
        kind="picture",
        split=place.split,
        details={**look, **meaning.details},
    )


def _mask_of(base: str, masks: Mapping[str, str]) -> str | None:
    """The mask of a picture among those of one folder."""
    return next((masks[base + end] for end in MASK_ENDINGS if base + end in masks), None)


def _lone_masks(place: _Place) -> list[str]:
    known = {base + end for base in place.images for end in MASK_ENDINGS}
    return sorted({base for files in place.masks.values() for base in files if base not in known})


def _tell(names: Sequence[str], others: int, meaning: Meaning, found: Findings) -> None:
    cases = found.cases.values()
    said = f"; masks of {', '.join(meaning.renamed.get(name, name) for name in names)}" if names else ", without masks"
    found.notes.insert(0, f"Pictures: {len(cases)} cases{said}.")
    kept = () if meaning.label_map is None or meaning.single else meaning.label_map.names
    for name in kept:
        lacking = sum(bool(case.masks) and name not in case.masks for case in cases)
        if lacking:
            found.notes.append(f"{lacking} cases have no mask of {name}, but others: there it counts as background.")
    if others:
        found.notes.append(Note(f"{others} files are no pictures that segray reads, and are left out.", "files"))
