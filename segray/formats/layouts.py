"""The layouts of folders that segray understands: TotalSegmentator, image and label pairs, lone images."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from segray import storage
from segray.case import LabelMap, check_case_id
from segray.config import IngestConfig
from segray.errors import CaseError, UsageError
from segray.formats.folder import is_file, listing, stem, walk
from segray.formats.label_names import dataset_labels, is_safe, mask_labels, volume_labels
from segray.formats.source import CaseSource, Discovery

SCANS = ("ct.nii.gz", "ct.nii", "mri.nii.gz", "mri.nii")
MASKS = "segmentations"
PAIRS = (("images", "labels"), ("imagesTr", "labelsTr"))
LABEL_FOLDERS = frozenset({MASKS, *(labels for _, labels in PAIRS)})
LABEL_ENDINGS = ("_mask", "_seg", "_label", "_labels", "_segmentation")
NOT_KEPT = "The case has no mask of the structures that are kept."

_CHANNEL = re.compile(r"(.+)_(\d{4})")


@dataclass
class _Findings:
    """What the reading of one folder gathers."""

    config: IngestConfig
    labelled: bool
    cases: dict[str, CaseSource] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, source: CaseSource) -> None:
        """Keep a case with a usable id of its own; else note the problem."""
        try:
            check_case_id(source.case_id)
        except CaseError as error:
            self.problems.append((source.case_id, str(error)))
            return
        if source.case_id in self.cases:
            other = self.cases[source.case_id].image
            self.problems.append((source.case_id, f"{source.image} has the same case id as {other}; it is left out."))
            return
        self.cases[source.case_id] = source

    def finish(self, kind: str, label_map: LabelMap | None) -> Discovery:
        """The findings in order, with what lacks labels among the problems, if labels are wanted."""
        cases = [self.cases[case_id] for case_id in sorted(self.cases)]
        bare = [case.case_id for case in cases if not case.has_labels]
        if self.labelled and bare:
            if len(bare) < len(cases):
                told = {case_id for case_id, reason in self.problems if reason == NOT_KEPT}
                self.problems += [(case_id, "The image has no labels.") for case_id in bare if case_id not in told]
            else:
                self.notes.append("No case has labels.")
        return Discovery(kind, cases, label_map, sorted(self.problems), self.notes)


def discover_folder(source: str, config: IngestConfig, *, labelled: bool = True) -> Discovery:
    """The cases below ``source``, a folder or one file, a path or a URI.

    Args:
        source: where to look.
        config: the format (or ``auto``), the label values and the structures to keep.
        labelled: False for prediction: an image without labels is no problem then, nor are labels without image.

    Raises:
        UsageError: nothing is there, or settings that do not fit the folder.
    """
    root = storage.absolute(source)
    if not storage.exists(root):
        raise UsageError(f"{source} is not there.", mend="Give a folder of cases or a .nii.gz file.")
    kind = _detect(root) if config.format == "auto" else config.format
    found = _READERS[kind](root, _Findings(config, labelled))
    if found.cases:
        return found
    if found.problems:
        where, reason = found.problems[0]
        raise UsageError(f"{source} holds no usable case; the first problem is {where}: {reason}")
    raise UsageError(
        f"{source} holds no cases in the layout {kind}.",
        mend="segray looks for */ct.nii.gz with segmentations/, images/ with labels/, or .nii.gz files.",
    )


def _detect(root: str) -> str:
    """The layout that a folder has."""
    if is_file(root):
        return "images"
    folders, files = listing(root)
    if any(images in folders and labels in folders for images, labels in PAIRS):
        return "pairs"
    if _scan_of(files) or any(_scan_of(listing(storage.join(root, folder))[1]) for folder in folders):
        return "totalseg"
    return "pairs" if any(images in folders for images, _ in PAIRS) else "images"


def _scan_of(files: list[str]) -> str | None:
    return next((scan for scan in SCANS if scan in files), None)


def _read_totalseg(root: str, found: _Findings) -> Discovery:
    folders, files = listing(root)
    places = [root] if _scan_of(files) else [storage.join(root, folder) for folder in folders]
    for place in places:
        _read_totalseg_case(place, found)
    named = [name for case in found.cases.values() for name in case.masks]
    found.notes.insert(0, f"A folder a case, a mask a structure (TotalSegmentator): {len(found.cases)} cases.")
    label_map = mask_labels(named, found.config, found.notes) if found.labelled else None
    if label_map is not None:
        found.cases = {case_id: _keep(case, label_map, found) for case_id, case in found.cases.items()}
    return found.finish("totalseg", label_map)


def _read_totalseg_case(place: str, found: _Findings) -> None:
    case_id = place.rsplit("/", 1)[-1]
    folders, files = listing(place)
    scan = _scan_of(files)
    masks: dict[str, str] = {}
    for name in listing(storage.join(place, MASKS))[1] if MASKS in folders else []:
        structure = stem(name)
        if structure is None:
            continue
        if not is_safe(structure):
            found.problems.append((case_id, f"The mask {name!r} is left out: that is no name for a structure."))
        elif structure in masks:
            found.problems.append((case_id, f"{structure} has two masks; {name} is left out."))
        else:
            masks[structure] = storage.join(place, MASKS, name)
    if scan is not None:
        found.add(CaseSource(case_id, storage.join(place, scan), masks=masks))
    elif masks and found.labelled:
        found.problems.append((case_id, "The folder has masks, but no ct.nii.gz."))


def _keep(case: CaseSource, label_map: LabelMap, found: _Findings) -> CaseSource:
    """The case with the masks of the label map only."""
    masks = {name: path for name, path in case.masks.items() if name in label_map.values}
    if case.masks and not masks:
        found.problems.append((case.case_id, NOT_KEPT))
    return replace(case, masks=masks)


def _read_pairs(root: str, found: _Findings) -> Discovery:
    folders, _ = listing(root)
    present = [pair for pair in PAIRS if pair[0] in folders]
    if not present:
        return found.finish("pairs", None)
    image_folder, label_folder = (storage.join(root, name) for name in present[0])
    labels = _files(label_folder, found)
    images = _channels(_files(image_folder, found), set(labels), found)
    known = volume_labels(dataset_labels(root), found.config, found.notes) if found.labelled and labels else (None, ())
    label_map, dropped = known
    for case_id, image in images.items():
        found.add(CaseSource(case_id, image, labels=labels.get(case_id), dropped=dropped))
    if found.labelled:
        found.problems += [(name, "The labels have no image.") for name in labels if name not in images]
    count = sum(case.has_labels for case in found.cases.values())
    found.notes.insert(0, f"Pairs of {'/ and '.join(present[0])}/: {count} of {len(found.cases)} images have labels.")
    return found.finish("pairs", label_map)


def _files(folder: str, found: _Findings) -> dict[str, str]:
    """File name without ending to path; a second file of one name is a problem."""
    paths: dict[str, str] = {}
    for name in reversed(listing(folder)[1]):
        base = stem(name)
        if base is None:
            continue
        if base in paths:
            found.problems.append((base, f"{name} lies beside {paths[base].rsplit('/', 1)[-1]}; it is left out."))
            continue
        paths[base] = storage.join(folder, name)
    return dict(sorted(paths.items()))


def _channels(images: dict[str, str], labels: set[str], found: _Findings) -> dict[str, str]:
    """Images by case id: nnU-Net's ``_0000`` stripped, cases of several channels left out as problems."""
    bases: dict[str, list[str]] = {}
    for name in images:
        match = _CHANNEL.fullmatch(name)
        if match and name not in labels:
            bases.setdefault(match[1], []).append(match[2])
    single: dict[str, str] = {}
    for name, path in images.items():
        match = _CHANNEL.fullmatch(name)
        channels = bases.get(match[1], []) if match else []
        if not match or name in labels or "0000" not in channels:
            single[name] = path
        elif len(channels) == 1:
            single[match[1]] = path
        elif match[2] == "0000":
            found.problems.append((match[1], f"The case has {len(channels)} channels; segray reads one."))
    return single


def _read_images(root: str, found: _Findings) -> Discovery:
    if is_file(root):
        base = stem(root.rsplit("/", 1)[-1])
        if base is None:
            raise UsageError(f"{root} is no NIfTI file.", mend="Its name must end in .nii.gz or .nii.")
        found.add(CaseSource(base, root))
        return found.finish("images", None)
    skipped = 0
    for below, files in walk(root):
        if LABEL_FOLDERS & set(below.split("/")):
            continue
        names = {base: name for name in files if (base := stem(name)) is not None}
        for base in [base for base in names if _is_label_of(base, names)]:
            skipped += 1
            del names[base]
        _add_images(root, below, files, names, found)
    found.notes.insert(0, f"Images without labels: {len(found.cases)}.")
    if skipped:
        found.notes.append(f"{skipped} files beside an image are named as its labels and are no images.")
    return found.finish("images", None)


def _add_images(root: str, below: str, files: list[str], names: dict[str, str], found: _Findings) -> None:
    folder = storage.join(root, below) if below else root
    paths = {base: storage.join(folder, name) for base, name in names.items()}
    prefix = below.replace("/", "_") + "_" if below else ""
    single = _channels(paths, set(), found)
    for base, path in single.items():
        found.add(CaseSource(prefix + base, path))
    for name in files:
        base_name = stem(name)
        if base_name is not None and names.get(base_name, name) != name:
            reason = f"{name} lies beside {names[base_name]}; it is left out."
            found.problems.append((prefix + base_name, reason))


def _is_label_of(base: str, names: dict[str, str]) -> bool:
    """True for ``x_mask`` and the like where ``x`` lies beside it."""
    return any(base.endswith(end) and base[: -len(end)] in names for end in LABEL_ENDINGS)


_READERS: dict[str, Callable[[str, _Findings], Discovery]] = {
    "totalseg": _read_totalseg,
    "pairs": _read_pairs,
    "images": _read_images,
}
