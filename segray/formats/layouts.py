"""The layouts of volume files: TotalSegmentator, image and label pairs, lone images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from segray import storage
from segray.case import LabelMap
from segray.errors import SegrayError, UsageError
from segray.formats.channel_files import Channels, group_channels
from segray.formats.findings import NOT_KEPT, Findings, shown
from segray.formats.folder import KINDS, Left, is_file, kind_of, listing, real_folder, stem
from segray.formats.label_names import dataset_channels, dataset_labels, is_safe, mask_labels, volume_labels
from segray.formats.overlooked import OWN, below_root, first_below, folders_of_images, holds_labels, tell_folders
from segray.formats.source import CaseSource, Discovery

SCANS = {f"{scan}{end}": rank for rank, (scan, end) in enumerate(product(("ct", "mri"), KINDS))}
"""Names of a scan in small letters; of several the first is the case's."""

MASKS = "segmentations"
PAIRS = (("images", "labels"), ("imagesTr", "labelsTr"))
LABEL_ENDINGS = ("_mask", "_seg", "_label", "_labels", "_segmentation")

BESIDE = "{} lies beside {}; it is left out."
IS_FOLDER = "{} is a folder, not a file; what lies in it is left out."
NO_SCAN = "The folder holds no ct.nii.gz and no mri.nii.gz; found {}. Name the scan so, right in the case's folder."
BELOW_A_CASE = "{} lies below the scan of a case; it is left out. Give it a folder of its own beside that case."
IN_NO_FOLDER = "{} lies in no folder of a case; it is left out. Move it to a folder of its own, as ct.nii.gz."


def is_totalseg(root: str) -> bool:
    """True for a folder of folders with a scan each, or such a folder itself."""
    folders, files = listing(root, root)
    places = [storage.join(root, folder) for folder in folders]
    return bool(_scans_of(files) or any(_scans_of(_readable(place, root)[1]) for place in places))


def is_pairs(root: str) -> bool:
    """True for images/ with labels/, or imagesTr/ with or without labelsTr/."""
    folders, _ = listing(root, root)
    if not any(images in folders for images, _ in PAIRS):
        return False
    return any(labels in folders for _, labels in PAIRS) or not is_totalseg(root)


def _scans_of(names: list[str]) -> list[str]:
    """The scans among the names of one folder; the first is the case's."""
    scans = [(SCANS[low], low != name, name) for name in names if (low := name.lower()) in SCANS]
    return [name for _, _, name in sorted(scans)]


def _readable(folder: str, root: str) -> tuple[list[str], list[str]]:
    """The listing of a folder; empty where it cannot be read."""
    try:
        return listing(folder, root)
    except SegrayError:
        return [], []


@dataclass(frozen=True)
class _Folder:
    """A folder that may hold scans which the layout does not look for.

    Attributes:
        path: of the folder.
        folders: names in it.
        files: names in it.
        is_case: it has a scan of its own.
        has_masks: it has masks.
    """

    path: str
    folders: list[str]
    files: list[str]
    is_case: bool
    has_masks: bool


def read_totalseg(root: str, found: Findings) -> Discovery:
    """A folder a case with ct.nii.gz, and a mask a structure in segmentations/."""
    folders, files = listing(root, root, found.problems)
    places = [root] if _scans_of(files) else [storage.join(root, folder) for folder in folders]
    rest = [one for place in places if (one := _read_totalseg_case(place, root, found)) is not None]
    _tell_overlooked(root, places, rest, found)
    if places != [root]:
        lost = [(base, storage.join(root, name)) for name in files if (base := stem(name)) is not None]
        found.problems += [(shown(base), IN_NO_FOLDER.format(path)) for base, path in lost]
    named = [name for case in found.cases.values() for name in case.masks]
    found.notes.insert(0, f"A folder a case, a mask a structure (TotalSegmentator): {len(found.cases)} cases.")
    label_map = mask_labels(named, found.config, found.notes) if found.labelled else None
    if label_map is not None:
        found.cases = {case_id: _keep(case, label_map, found) for case_id, case in found.cases.items()}
    return found.finish("totalseg", label_map)


def _read_totalseg_case(place: str, root: str, found: Findings) -> _Folder | None:
    """Add the case of a folder; returns the folder where other scans may lie in it."""
    case_id = place.rsplit("/", 1)[-1]
    try:
        # The links of the root itself are told already.
        folders, files = listing(place, root, None if place == root else found.problems)
        named = listing(storage.join(place, MASKS), root, found.problems)[1] if MASKS in folders else []
    except SegrayError as error:
        found.problems.append((case_id, str(error)))
        return None
    scans = _scans_of(files)
    masks = _masks_of(case_id, storage.join(place, MASKS), named, found)
    others = [folder for folder in folders if not holds_labels(folder)]
    if scans:
        kinds = {kind_of(path) for path in masks.values()}
        label_kind = "volume" if "volume" in kinds else "nifti"
        image = storage.join(place, scans[0])
        found.add(CaseSource(case_id, image, masks=masks, kind=kind_of(image), label_kind=label_kind))
        found.problems += [(case_id, BESIDE.format(other, scans[0])) for other in scans[1:]]
    elif odd := _scans_of(folders):
        found.problems.append((case_id, IS_FOLDER.format(odd[0])))
        return None
    elif holds_labels(case_id) or OWN in files:
        return None
    return _Folder(place, others, files, bool(scans), bool(masks)) if others or not scans else None


def _tell_overlooked(root: str, places: Sequence[str], rest: Sequence[_Folder], found: Findings) -> None:
    """Make problems of the scans that lie where the layout does not look for them."""
    seen = {real_folder(place) for place in (root, *places)} if any(one.folders for one in rest) else set()
    for one in rest:
        below = below_root(root, one.path)
        if one.is_case:
            for deeper in (storage.join(below, folder) for folder in one.folders):
                if path := first_below(root, deeper, _is_scan, found.problems, seen):
                    found.problems.append((shown(deeper), BELOW_A_CASE.format(path)))
        elif path := _volume_of(one, root, seen, found):
            found.problems.append((shown(below), NO_SCAN.format(path)))
        elif one.has_masks and found.labelled:
            found.problems.append((below, "The folder has masks, but no ct.nii.gz."))


def _is_scan(name: str) -> bool:
    return name.lower() in SCANS


def _is_volume(name: str) -> bool:
    return stem(name) is not None


def _volume_of(one: _Folder, root: str, seen: set[str], found: Findings) -> str | None:
    """A volume in a folder without scan, or below it, by which it may be a case; None without one."""
    name = next(filter(_is_volume, one.files), None)
    if name is not None:
        return storage.join(one.path, name)
    below = below_root(root, one.path)
    deeper = (storage.join(below, folder) for folder in one.folders)
    paths = (first_below(root, place, _is_volume, found.problems, seen) for place in deeper)
    return next((path for path in paths if path is not None), None)


def _masks_of(case_id: str, folder: str, names: list[str], found: Findings) -> dict[str, str]:
    """Structure to mask; names that cannot be used and second masks are problems."""
    masks: dict[str, str] = {}
    for name in names:
        structure = stem(name)
        if structure is None:
            continue
        if not is_safe(structure):
            found.problems.append((case_id, f"The mask {name!r} is left out: that is no name for a structure."))
        elif structure in masks:
            found.problems.append((case_id, f"{structure} has two masks; {name} is left out."))
        else:
            masks[structure] = storage.join(folder, name)
    return masks


def _keep(case: CaseSource, label_map: LabelMap, found: Findings) -> CaseSource:
    """The case with the masks of the label map only."""
    masks = {name: path for name, path in case.masks.items() if name in label_map.values}
    if case.masks and not masks:
        found.problems.append((case.case_id, NOT_KEPT))
    return replace(case, masks=masks)


def read_pairs(root: str, found: Findings) -> Discovery:
    """images/ and labels/ with equal file names."""
    folders, _ = listing(root, root, found.problems)
    present = [pair for pair in PAIRS if pair[0] in folders]
    if not present:
        return found.finish("pairs", None)
    image_folder, label_folder = (storage.join(root, name) for name in present[0])
    found.notes += [f"{other}/ lies beside {present[0][0]}/ and is left out." for other, _ in present[1:]]
    labels = _files(label_folder, root, found, told=found.labelled)
    images = group_channels(_files(image_folder, root, found), set(labels), dataset_channels(root), found)
    known = volume_labels(dataset_labels(root), found.config, found.notes) if found.labelled and labels else (None, ())
    label_map, dropped = known
    for case_id, image in images.items():
        found.add(_pair(case_id, image, labels.get(case_id), dropped))
    if found.labelled:
        found.problems += [(name, "The labels have no image.") for name in labels if name not in images]
    count = sum(case.has_labels for case in found.cases.values())
    found.notes.insert(0, f"Pairs of {'/ and '.join(present[0])}/: {count} of {len(found.cases)} images have labels.")
    return found.finish("pairs", label_map)


def _pair(case_id: str, image: Channels, labels: str | None, dropped: tuple[int, ...]) -> CaseSource:
    return CaseSource(
        case_id,
        image.files[0],
        labels=labels,
        dropped=dropped,
        kind=kind_of(image.files[0]),
        label_kind="" if labels is None else kind_of(labels),
        parts=image.files[1:],
        details=image.details,
    )


def _files(folder: str, root: str, found: Findings, *, told: bool = True) -> dict[str, str]:
    """File name without ending to path; a second file of one name is a problem, as is a folder named as a file.

    ``told``: folders that hold files are problems too.
    """
    folders, names = listing(folder, root, found.problems)
    found.problems += [(name, IS_FOLDER.format(name)) for name in folders if stem(name) is not None]
    if told:
        tell_folders(root, folder, [name for name in folders if stem(name) is None], found)
    return {base: storage.join(folder, name) for base, name in _first_files(names, "", found).items()}


def _first_files(names: list[str], prefix: str, found: Findings) -> dict[str, str]:
    """File name without ending to file name; of several the one whose ending comes first in :data:`KINDS`."""
    by_base: dict[str, list[str]] = {}
    for name in names:
        base = stem(name)
        if base is not None:
            by_base.setdefault(base, []).append(name)
    endings = list(KINDS)
    for base, same in by_base.items():
        same.sort(key=lambda name: endings.index(name[len(base) :].lower()))
        reasons = [BESIDE.format(name, same[0]) for name in same[1:]]
        found.problems += [(prefix + base, reason) for reason in reasons]
    return {base: same[0] for base, same in sorted(by_base.items())}


def read_images(root: str, found: Findings) -> Discovery:
    """Lone scans, anywhere below the folder, or one file."""
    if is_file(root):
        base = stem(root.rsplit("/", 1)[-1])
        if base is None:
            raise UsageError(f"{root} is no volume that segray reads.", mend=f"It reads {', '.join(KINDS)}.")
        found.add(CaseSource(base, root, kind=kind_of(root)))
        return found.finish("images", None)
    skipped = 0
    left: Left = []
    for below, files in folders_of_images(root, left, found.notes):
        if any(stem(part) is not None for part in below.split("/")):
            continue
        skipped += _add_images(root, below, files, found)
        folders = [name for name in _readable(storage.join(root, below) if below else root, root)[0] if stem(name)]
        found.problems += [(storage.join(below, name), IS_FOLDER.format(name)) for name in folders]
    found.problems += left
    found.notes.insert(0, f"Images without labels: {len(found.cases)}.")
    if skipped:
        found.notes.append(f"{skipped} files beside an image are named as its labels and are no images.")
    return found.finish("images", None)


def _add_images(root: str, below: str, files: list[str], found: Findings) -> int:
    """Add the scans of one folder; returns how many files are named as labels of others."""
    folder = storage.join(root, below) if below else root
    prefix = below.replace("/", "_") + "_" if below else ""
    names = {base for name in files if (base := stem(name)) is not None}
    marks = {base for base in names if _is_label_of(base, names)}
    images = [name for name in files if stem(name) not in marks]
    paths = {base: storage.join(folder, name) for base, name in _first_files(images, prefix, found).items()}
    for base, image in group_channels(paths, set(), dataset_channels(root), found).items():
        found.add(_pair(prefix + base, image, None, ()))
    return len(marks)


def _is_label_of(base: str, names: set[str]) -> bool:
    """True for ``x_mask`` and the like where ``x`` lies beside it."""
    return any(base.endswith(end) and base[: -len(end)] in names for end in LABEL_ENDINGS)
