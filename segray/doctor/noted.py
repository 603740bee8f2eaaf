"""What the notes of readers and layouts mean for who wants to train: each kind has its code, grade and mend."""

from __future__ import annotations

from collections.abc import Mapping

from segray.doctor.findings import Finding, Grade
from segray.formats.note import Kind, kind_of

MEANINGS: Mapping[Kind, tuple[str, Grade, str]] = {
    "odd": ("reader", "note", ""),
    "twice": ("slices", "warning", "Was the series exported twice? Take the copies away."),
    "gap": ("contour-gaps", "warning", "If the structure goes on there, draw it: a net would learn the gap."),
    "between": ("contours-between", "warning", "Draw the contours on the slices of the series."),
    "lost": ("labels-lost", "error", "Add the slices on which they were drawn, or take these contours away."),
    "overview": ("overviews", "warning", "Right for scouts; a scan to train on must not call itself LOCALIZER."),
    "single": ("single-slices", "warning", "A case needs two slices: fetch the rest, or take the series away."),
    "modality": ("other-modalities", "warning", "To use them, take a folder without CTs."),
    "files": ("files-left-out", "warning", "Convert those that are cases or labels; take the others away."),
    "unnamed": ("pictures-unnamed", "warning", "Annotate those to train on; segray predict takes all of them."),
    "others": ("files-not-read", "note", ""),
}
"""Kind of a note to the code, the grade and the mend of its finding."""


def finding_of(note: str, case: str = "") -> Finding:
    """The finding for a note on a case, or on the whole folder."""
    code, grade, mend = MEANINGS[kind_of(note)]
    return Finding(code, grade, case, note, mend)
