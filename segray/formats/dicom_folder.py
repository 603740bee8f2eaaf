"""The layout of DICOM archives: series anywhere below a folder, their labels matched by what the files refer to."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from segray.case import LabelMap
from segray.errors import CaseError
from segray.formats.findings import NOT_KEPT, Findings
from segray.formats.folder import Left
from segray.formats.label_names import mask_labels
from segray.formats.note import Note
from segray.formats.source import CaseSource, Discovery

if TYPE_CHECKING:
    from segray.formats.dicom_labels import LabelFile
    from segray.formats.dicom_scan import Scan, ScannedFile

LONGEST = 80
"""Letters of a case id that is made of folder names."""

RULE = (
    "Every DICOM series of two or more slices is a case, named after its folder; several in one folder get their "
    "SeriesNumber too."
)

VOLUMES = (".gz", ".nii", ".nrrd", ".mha", ".mhd")
"""Last endings of files that may be volumes."""

Series = dict[str, list["ScannedFile"]]
"""SeriesInstanceUID to the files of its slices in order."""


def read_dicom(root: str, found: Findings) -> Discovery:
    """The series below a folder, or in one multi-frame file, with the DICOM SEG and RTSTRUCT that refer to them."""
    from segray.formats.dicom_scan import group_slices, scan_folder

    left: Left = []
    scan = scan_folder(root, left)
    found.problems += left + scan.broken
    series = _kept(group_slices(scan.files), scan, found)
    for uid, case_id in _case_ids(root, series).items():
        found.add(_source(case_id, uid, series[uid]))
    labels = _labels(scan, series, found) if found.labelled else []
    found.notes.insert(0, f"DICOM series: {len(found.cases)} cases of {sum(map(len, series.values()))} files.")
    found.notes.insert(1, RULE)
    _tell_others(scan, found)
    return found.finish("dicom", _attach(labels, found))


def _kept(series: Series, scan: Scan, found: Findings) -> Series:
    """The series that are cases, and a note on the others."""
    from segray.formats.dicom_scan import NAMELESS

    _tell_files(scan, found)
    nameless = [uid for uid in series if uid.startswith(NAMELESS)]
    if nameless:
        found.notes.append("Some images name no series (SeriesInstanceUID); those of one folder count as one series.")
    single = [uid for uid, files in series.items() if sum(one.frames for one in files) < 2]
    if single:
        shown = ", ".join(series[uid][0].path for uid in single[:3])
        found.notes.append(Note(f"{len(single)} series of a single slice are left out: {shown}.", "single"))
    kept = {uid: files for uid, files in series.items() if uid not in single}
    kinds = Counter(files[0].modality for files in kept.values())
    if "CT" in kinds and len(kinds) > 1:
        others = ", ".join(
            f"{count} {kind or 'without modality'}" for kind, count in sorted(kinds.items()) if kind != "CT"
        )
        sentence = f"Series that are no CT are left out, because there are CTs: {others}."
        found.notes.append(Note(sentence, "modality"))
        kept = {uid: files for uid, files in kept.items() if files[0].modality == "CT"}
    return kept


def _tell_files(scan: Scan, found: Findings) -> None:
    """What becomes of DICOM files that are neither slices of a series nor labels."""
    scouts = sum(one.scout for one in scan.files)
    if scouts:
        found.notes.append(Note(f"{scouts} overview images (localizers, scouts) are left out.", "overview"))
    without = [one for one in scan.files if not one.frames and one.modality != "RTSTRUCT"]
    pictures = [one for one in without if one.modality in ("CT", "MR", "PT")]
    found.problems += [(one.path, "The DICOM file holds no pixels.") for one in pictures]
    if len(without) > len(pictures):
        sentence = f"{len(without) - len(pictures)} DICOM files are neither images nor labels and are left out."
        found.notes.append(Note(sentence, "others"))


def _case_ids(root: str, series: Series) -> dict[str, str]:
    """SeriesInstanceUID to a case id, the same in every run as long as the folder's own series stay the same."""
    places = {uid: _folder(files) for uid, files in series.items()}
    crowds = Counter(places.values())
    ids = {}
    for uid, files in series.items():
        below = posixpath.relpath(places[uid], root) if places[uid] != root else "."
        name = _safe(_own_name(root, files) if below in (".", "..") else below.replace("/", "_"))
        if len(name) > LONGEST:
            name = f"{_safe(files[0].patient)[:40] or 'case'}_{_digest(uid)}"
        elif crowds[places[uid]] > 1:
            name += f"_{_safe(files[0].number)}" if files[0].number else f"_{_digest(uid)}"
        ids[uid] = name
    doubled = {name for name, count in Counter(ids.values()).items() if count > 1}
    return {uid: f"{name}_{_digest(uid)}" if name in doubled else name for uid, name in ids.items()}


def _own_name(root: str, files: list[ScannedFile]) -> str:
    """The name of a series that lies in the folder itself: the patient's, else the folder's."""
    return files[0].patient or root.rstrip("/").rsplit("/", 1)[-1]


def _folder(files: list[ScannedFile]) -> str:
    """The deepest folder that holds all files; of one multi-frame file the file, without its ending."""
    if len(files) == 1:
        return re.sub(r"(?i)\.(dcm|dicom|ima)$", "", files[0].path)
    return posixpath.commonpath([posixpath.dirname(one.path) for one in files])


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).replace("..", "_").strip("_.-") or "case"


def _patient(told: str) -> str:
    """A PatientID with the letters of all scripts: without them, all patients of some archives would be one."""
    return re.sub(r"[^\w.-]+", "_", told).replace("..", "_").strip("_.-") or "case"


def _digest(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:8]


def _source(case_id: str, uid: str, files: list[ScannedFile]) -> CaseSource:
    paths = tuple(one.path for one in files)
    image = paths[0] if len(paths) == 1 else posixpath.commonpath([posixpath.dirname(path) for path in paths])
    details = {"series": uid, "frame_of_reference": files[0].frame_of_reference}
    patient = _patient(files[0].patient) if files[0].patient else ""
    return CaseSource(case_id, image, kind="dicom", parts=paths, patient=patient, details=details)


def _labels(scan: Scan, series: Series, found: Findings) -> list[tuple[str, LabelFile]]:
    """(SeriesInstanceUID, file of labels) of all that refer to a series that is a case."""
    from segray.formats.dicom_labels import describe_labels
    from segray.formats.dicom_scan import LABELS

    matched = []
    for one in scan.files:
        if one.modality not in LABELS:
            continue
        try:
            labels = describe_labels(one.path)
            matched.append((_series_of(labels, series), labels))
        except CaseError as error:
            found.problems.append((one.path, str(error)))
            continue
        if labels.empty:
            shown = ", ".join(labels.empty[:5])
            found.notes.append(f"{one.path}: {len(labels.empty)} structures without closed contours: {shown}.")
    return matched


def _series_of(labels: LabelFile, series: Series) -> str:
    """The series that a file of labels belongs to: the one it names, else the only one of its frame of reference."""
    frames = set(labels.frames_of_reference)
    for uid in labels.series:
        if uid in series:
            own = series[uid][0].frame_of_reference
            if own and frames and own not in frames:
                raise CaseError(
                    f"The {labels.kind} is drawn in another frame of reference than its series.",
                    mend="Its coordinates mean other places; export it for this series.",
                )
            return uid
    same = [uid for uid, files in series.items() if files[0].frame_of_reference in frames]
    if labels.series or len(same) != 1:
        raise CaseError(
            f"The {labels.kind} refers to a series that is not among the cases.",
            mend="Put the series into the folder too, or remove the file.",
        )
    return same[0]


def _attach(labels: list[tuple[str, LabelFile]], found: Findings) -> LabelMap | None:
    """Give each case the structures of its files, of which the label map is made."""
    masks: dict[str, dict[str, str]] = {}
    numbers: dict[str, dict[str, int]] = {}
    for uid, one in labels:
        for name, number in one.numbers.items():
            if name in masks.setdefault(uid, {}):
                found.problems.append((one.path, f"{name} has two masks; this one is left out."))
                continue
            masks[uid][name] = one.path
            numbers.setdefault(uid, {})[name] = number
    label_map = mask_labels([name for of_case in masks.values() for name in of_case], found.config, found.notes)
    if label_map is None:
        return None
    for case_id, case in found.cases.items():
        uid = str(case.details["series"])
        kept = {name: path for name, path in masks.get(uid, {}).items() if name in label_map.values}
        if uid in masks and not kept:
            found.problems.append((case_id, NOT_KEPT))
        told = {name: numbers[uid][name] for name in kept}
        found.cases[case_id] = replace(case, masks=kept, details={**case.details, "structures": told})
    return label_map


def _tell_others(scan: Scan, found: Findings) -> None:
    count = scan.others.total()
    if count:
        shown = ", ".join(
            f"{number} {ending or 'without ending'}" for ending, number in sorted(scan.others.items())[:5]
        )
        sentence = f"{count} files are no DICOM and are not read: {shown}."
        if any(ending in scan.others for ending in VOLUMES):
            more = "To read the volumes among them instead, set ingest.format=images or pairs."
            found.notes.append(Note(f"{sentence} {more}", "files"))
        else:
            found.notes.append(Note(sentence, "others"))
