"""What the facts of one case mean for who wants to train on it."""

from __future__ import annotations

from collections.abc import Iterator

from segray.doctor.examine import CaseReport, LabelFacts
from segray.doctor.findings import Finding
from segray.doctor.intensity import air_is_odd
from segray.doctor.noted import finding_of
from segray.doctor.placement import LEAST_FIT

FEW_CROPPED = 1e-3
"""Share of the labelled voxels that a crop may cost without a word."""

UNREADABLE_MEND = "Ingest leaves the case out: mend the file, or take it away."
LABELS_MEND = "Ingest leaves the case out: bring the labels to the grid of their image, or take them away."

MR_MEND = "Set intensity.mode=case for training (or foreground), as for MR."


def findings_of(report: CaseReport) -> list[Finding]:
    """All findings of one case."""
    if report.problem:
        return [Finding("unreadable", "error", report.case_id, report.problem, UNREADABLE_MEND)]
    return [*_image(report), *_notes(report), *_labels(report), *_fit(report)]


def _image(report: CaseReport) -> Iterator[Finding]:
    case = report.case_id
    low, high = report.intensities[0].low, report.intensities[0].high
    shown = f"its values run from {low:g} to {high:g}"
    flat = report.shape[0] == 1
    if report.meaning == "constant":
        yield Finding("constant", "warning", case, f"All voxels have the value {low:g}.", "Leave the case out.")
    elif report.meaning == "0..255":
        sentence = f"The image is no HU: {shown}, as of a picture of 8 bits."
        mend = "Set intensity.window=[0,255], or intensity.mode=case."
        if not flat:
            mend = f"Read the original scan if there is one; else {mend[0].lower()}{mend[1:]}"
        yield Finding("values-0-255", "note" if flat else "warning", case, sentence, mend)
    elif report.meaning == "0..1":
        yield Finding(
            "values-0-1", "warning", case, f"The image is scaled: {shown}.", "Read the original, or set the window."
        )
    elif report.meaning == "HU + 1024":
        yield Finding(
            "offset-1024",
            "warning",
            case,
            f"The image looks like CT with 1024 added: {shown}, with air at 0 and tissue near 1024.",
            "Subtract 1024: the rescale intercept was not applied when it was converted.",
        )
    elif report.meaning == "other":
        yield Finding("not-hu", "note", case, f"The image is no CT in HU: {shown}, as in MR.", MR_MEND)
    elif air_is_odd(report.intensities[0]):
        yield Finding(
            "odd-air",
            "warning",
            case,
            f"Air lies near {report.intensities[0].dark_peak:.0f}, where it should be at -1000 HU.",
            "Check slope and intercept of the conversion.",
        )


def _notes(report: CaseReport) -> Iterator[Finding]:
    yield from (finding_of(note, report.case_id) for note in report.notes)
    if report.blank_slices:
        sentence = f"{report.blank_slices} of {report.shape[0]} slices hold one value only."
        yield Finding("blank-slices", "note", report.case_id, sentence)
    if min(report.spacing) < 0.05 or max(report.spacing) > 20:
        shown = " x ".join(f"{one:g}" for one in report.spacing)
        yield Finding(
            "spacing-implausible",
            "warning",
            report.case_id,
            f"The spacing is {shown} mm (z, y, x).",
            "Check the unit of the header: metres, or micrometres?",
        )


def _labels(report: CaseReport) -> Iterator[Finding]:
    case = report.case_id
    if report.label_problem:
        how = f" ({report.grid_words})" if report.grid_words else ""
        code = "label-grid" if report.grid_words else "labels-unusable"
        yield Finding(code, "error", case, f"The labels cannot be used{how}: {report.label_problem}", LABELS_MEND)
    facts = report.labels
    if facts is None:
        return
    if facts.outside:
        yield _outside(case, facts)
    elif not any(facts.voxels.values()):
        yield Finding("empty-labels", "warning", case, "The labels are empty.", "Meant so? Else leave the case out.")
    total = sum(facts.voxels.values())
    if facts.cropped > FEW_CROPPED * max(total, 1):
        yield Finding(
            "cropped-labels",
            "error",
            case,
            f"{facts.cropped:,} of {total:,} labelled voxels lie outside of the canvas and would be lost.",
            "Raise ingest.grid.size or ingest.grid.max_size.",
        )
    if facts.overlap:
        yield Finding("overlap", "note", case, f"{facts.overlap:,} voxels belong to several structures; all are kept.")


def _outside(case: str, facts: LabelFacts) -> Finding:
    shown = ", ".join(f"{value} ({count:,} voxels)" for value, count in list(facts.outside.items())[:6])
    more = f" and {len(facts.outside) - 6} more" if len(facts.outside) > 6 else ""
    mend = "Add them to ingest.labels, or mend the label file."
    if list(facts.outside) == [255]:
        mend = "Masks of 0 and 255: name the structure as ingest.labels={name: 255}."
    return Finding(
        "values-outside",
        "error",
        case,
        f"The labels hold values that the label map does not name: {shown}{more}.",
        mend,
    )


def _fit(report: CaseReport) -> Iterator[Finding]:
    fit = report.fit
    if fit is None:
        return
    if fit.better:
        code = "flipped" if fit.better.startswith("mirrored") else "misplaced"
        yield Finding(
            code,
            "warning",
            report.case_id,
            f"The labels would fit the image clearly better {fit.better}: they explain {100 * fit.fit:.0f} % of its "
            f"contrast as they are, {100 * fit.better_fit:.0f} % there ({100 * fit.inside:.0f} and "
            f"{100 * fit.better_inside:.0f} % of them lie in the body).",
            "Look at the contact sheet; check the orientation of the label file.",
        )
    elif report.meaning == "HU" and fit.inside < 0.5 and fit.fit < LEAST_FIT:
        yield Finding(
            "outside-body",
            "warning",
            report.case_id,
            f"Only {100 * fit.inside:.0f} % of the labelled voxels lie in the body.",
            "Look at the contact sheet.",
        )
