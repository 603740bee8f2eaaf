"""Which layout a folder has: a registry of modules, asked in order, each named by a value of ``ingest.format``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from segray import privacy, storage
from segray.config import IngestConfig
from segray.errors import UsageError
from segray.formats import case_table, coco, dicom_folder, frames, layouts
from segray.formats.dicom_signature import is_dicom, is_dicom_file
from segray.formats.findings import Findings
from segray.formats.folder import is_file, kept_listings
from segray.formats.patients import group_patients
from segray.formats.patterns import is_pattern, read_pattern
from segray.formats.source import Discovery


@dataclass(frozen=True)
class Layout:
    """One way in which people keep cases.

    Attributes:
        detect: whether a folder (path or URI) has this layout.
        read: its cases.
    """

    detect: Callable[[str], bool]
    read: Callable[[str, Findings], Discovery]


def anything(root: str) -> bool:
    """True: the layout that takes what no other does."""
    return bool(root)


LAYOUTS: dict[str, Layout] = {
    "table": Layout(case_table.is_table_file, case_table.read_table),
    "coco": Layout(coco.is_coco, coco.read_coco),
    "frames": Layout(frames.is_frames, frames.read_frames),
    "pairs": Layout(layouts.is_pairs, layouts.read_pairs),
    "totalseg": Layout(layouts.is_totalseg, layouts.read_totalseg),
    "dicom": Layout(is_dicom, dicom_folder.read_dicom),
    "images": Layout(anything, layouts.read_images),
}
"""In the order in which a folder is tried; the last takes what is left."""

MEND = (
    "segray looks for */ct.nii.gz with segmentations/, images/ with labels/, frames/ with masks/, COCO annotations, "
    "DICOM series, or .nii.gz, .nrrd, .mha and .mhd files and pictures."
)


def discover_folder(source: str, config: IngestConfig, *, labelled: bool = True) -> Discovery:
    """The cases below ``source``, a folder, one file, or a pattern of files; a path or a URI.

    Args:
        source: where to look; a pattern, as :mod:`segray.formats.patterns` has it, names images without labels.
        config: the format (or ``auto``), the label values and the structures to keep.
        labelled: False for prediction: an image without labels is no problem then, nor are labels without image.

    Raises:
        UsageError: nothing is there, or settings that do not fit the folder.
    """
    root = storage.absolute(source)
    if not storage.exists(root):
        if is_pattern(source):
            return read_pattern(source, Findings(config, labelled))
        raise UsageError(f"{source} is not there.", mend="Give a folder of cases or a .nii.gz file.")
    with kept_listings():
        kind = detect(root) if config.format == "auto" else config.format
        if kind not in LAYOUTS:
            raise UsageError(f"segray does not read the layout {kind} yet.")
        found = LAYOUTS[kind].read(root, Findings(config, labelled))
    if found.cases:
        return group_patients(found, config.split.pattern) if labelled else found
    if found.problems:
        where, reason = privacy.hide_case(found.problems[0][0]), found.problems[0][1]
        raise UsageError(f"{source} holds no usable case in the layout {kind}; the first problem is {where}: {reason}")
    raise UsageError(f"{source} holds no cases in the layout {kind}.", mend=MEND)


def detect(root: str) -> str:
    """The layout of a folder or file."""
    if is_file(root):
        if case_table.is_table(root):
            return "table"
        return "dicom" if is_dicom_file(root) else "frames" if frames.is_frames(root) else "images"
    return next(name for name, layout in LAYOUTS.items() if layout.detect(root))
