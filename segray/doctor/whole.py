"""What only all cases together tell: absent structures, odd ones out, near-duplicates, labels half a voxel off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from segray.config import SplitConfig
from segray.doctor.case_findings import findings_of
from segray.doctor.examine import CaseReport
from segray.doctor.findings import Finding
from segray.doctor.fingerprint import clusters, near_pairs
from segray.doctor.placement import AXES, HALF
from segray.errors import UsageError
from segray.shards.manifest import SPLITS
from segray.shards.split import match_table, split_cases

NAMED = 6
"""Names in a sentence; the tables hold all."""

FEW = 3
"""Cases from which a common shift of the labels is believed."""

SPREAD = 0.2
"""Voxels by which the shifts of half of the cases may differ for a common shift."""


@dataclass(frozen=True)
class StructureRow:
    """A structure over all cases.

    Attributes:
        name: of the structure.
        cases: cases that show it.
        empty: cases that were looked at for it and do not.
        unmasked: cases without a mask file of it, or in which nobody looked for it.
        median_ml, low_ml, high_ml: of the cases that show it.
    """

    name: str
    cases: int
    empty: int
    unmasked: int
    median_ml: float
    low_ml: float
    high_ml: float

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Whole:
    """What all cases together tell.

    Attributes:
        findings: of the cases and of the set, not in order.
        split: case id of the usable cases to train, validation or test.
        structures: a row a structure.
    """

    findings: list[Finding]
    split: dict[str, str]
    structures: list[StructureRow] = field(default_factory=list)


def usable(report: CaseReport) -> bool:
    """True where ingest will take the case."""
    facts = report.labels
    return not report.problem and not report.label_problem and facts is not None and not facts.outside


def conclude(
    reports: Sequence[CaseReport], config: SplitConfig, left_out: Sequence[str] = (), told: Collection[str] = ()
) -> Whole:
    """Findings, split and structures of all cases; a split that ingest would refuse is a finding.

    Args:
        reports: of all cases that were examined.
        config: of the split.
        left_out: names of cases and files that were left out before.
        told: cases of which the user says what was looked for in them, so that what they lack is no finding.
    """
    readable = [report for report in reports if not report.problem]
    taken = [report for report in reports if usable(report)]
    structures = structure_rows(taken)
    findings = [one for report in reports for one in findings_of(report)]
    try:
        findings += _strays(match_table([*(report.case_id for report in reports), *left_out], config))
        split = split_of(taken, config)
    except UsageError as error:
        findings.append(Finding("split", "error", "", error.message, error.mend))
        split = dict.fromkeys((report.case_id for report in taken), "train")
    for check in (_unlike_values, _spacings, _sizes, _orientations, _channels, _half_voxel):
        findings += check(readable)
    findings += _structures(structures, len(taken))
    findings += _unmasked([report for report in taken if report.case_id not in told])
    findings += _untrained(taken, split)
    findings += _duplicates(readable, split)
    return Whole(findings, split, structures)


def split_of(reports: Sequence[CaseReport], config: SplitConfig) -> dict[str, str]:
    """Which split each case will be in. Raises UsageError as ingest does."""
    patients = {report.case_id: report.patient for report in reports}
    return split_cases(patients, config, {report.case_id: report.split for report in reports})


def _strays(notes: Sequence[str]) -> list[Finding]:
    mend = "Mend these ids; cases that you have taken away may stay in the CSV."
    return [Finding("split-ids", "warning", "", note, mend) for note in notes]


def structure_rows(reports: Sequence[CaseReport]) -> list[StructureRow]:
    """A row a structure, in the order in which the cases name them."""
    ml: dict[str, list[float]] = {}
    unmasked: Counter[str] = Counter()
    for report in reports:
        facts = report.labels
        for name, voxels in (facts.voxels if facts else {}).items():
            ml.setdefault(name, [])
            if facts is not None and facts.annotated is not None and name not in facts.annotated:
                unmasked[name] += 1
            elif voxels:
                ml[name].append(voxels * report.voxel_ml)
    return [
        StructureRow(
            name,
            len(found),
            len(reports) - len(found) - unmasked[name],
            unmasked[name],
            *(_rounded(found, measure) for measure in (np.median, np.min, np.max)),
        )
        for name, found in ml.items()
    ]


def _rounded(values: Sequence[float], measure: Callable[[Sequence[float]], Any]) -> float:
    return round(float(measure(values)), 3) if values else 0.0


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _structures(rows: Sequence[StructureRow], cases: int) -> Iterator[Finding]:
    nowhere = [row.name for row in rows if row.cases == 0]
    partly = [f"{row.name} (in {row.cases} of {cases})" for row in rows if 0 < row.cases < cases]
    if nowhere:
        yield Finding(
            "structure-nowhere",
            "warning",
            "",
            f"No case shows {_some(nowhere)}: {len(nowhere)} of {len(rows)} structures.",
            "A net cannot learn them; keep the others by ingest.structures.",
        )
    if partly:
        yield Finding("structure-absent", "note", "", f"Absent from some cases: {_some(partly)}.")


def _unmasked(reports: Sequence[CaseReport]) -> Iterator[Finding]:
    for report in reports:
        facts = report.labels
        if facts is None or facts.annotated is None:
            continue
        lacking = [name for name in facts.voxels if name not in facts.annotated]
        if lacking:
            yield Finding(
                "no-mask-file",
                "warning",
                report.case_id,
                f"The case has no mask file of {_some(lacking)}; whatever it shows of them counts as background.",
                "Train with loss.missing=mask where nobody drew them; or keep the structures that all cases have by "
                "ingest.structures, or leave the case out.",
            )


def _untrained(reports: Sequence[CaseReport], split: Mapping[str, str]) -> Iterator[Finding]:
    shown: dict[str, set[str]] = {name: set() for name in SPLITS}
    for report in reports:
        facts = report.labels
        shown[split[report.case_id]] |= {name for name, voxels in (facts.voxels if facts else {}).items() if voxels}
    held = sorted((shown["validation"] | shown["test"]) - shown["train"])
    if held:
        yield Finding(
            "untrained",
            "warning",
            "",
            f"Only held-out cases show {_some(held)}: no training case does.",
            "Choose the split by ingest.split.patients, or another ingest.split.seed.",
        )


def _unlike_values(reports: Sequence[CaseReport]) -> Iterator[Finding]:
    kinds = Counter(report.meaning for report in reports)
    if len(kinds) < 2:
        return
    most = kinds.most_common(1)[0][0]
    for report in reports:
        if report.meaning != most:
            yield Finding(
                "unlike-values",
                "warning",
                report.case_id,
                f"The values of the case are of the kind {report.meaning}, those of most cases {most}.",
                "One window does not fit both: leave it out, or set intensity.mode=case.",
            )


def _odd_ones(
    reports: Sequence[CaseReport], of: Callable[[CaseReport], tuple[float, ...]], factor: float
) -> Iterator[tuple[CaseReport, tuple[float, ...]]]:
    """The reports of which a number is ``factor`` times larger or smaller than the median, with the medians."""
    if len(reports) < FEW:
        return
    table = np.array([of(report) for report in reports], dtype=float)
    middle = np.median(table, axis=0)
    ratios = np.maximum(table / middle, middle / np.maximum(table, 1e-12))
    for number in np.flatnonzero(ratios.max(axis=1) > factor):
        yield reports[int(number)], tuple(middle.tolist())


def _spacings(reports: Sequence[CaseReport]) -> Iterator[Finding]:
    for report, middle in _odd_ones(reports, lambda one: one.spacing, 2.0):
        sentence = f"The spacing is {_mm(report.spacing)} mm (z, y, x), the median of the cases {_mm(middle)}."
        yield Finding("outlier-spacing", "note", report.case_id, sentence)


def _sizes(reports: Sequence[CaseReport]) -> Iterator[Finding]:
    for report, middle in _odd_ones(reports, lambda one: one.shape, 3.0):
        sentence = f"The case has {_by(report.shape)} voxels (z, y, x), the median of the cases {_by(middle)}."
        yield Finding("outlier-size", "note", report.case_id, sentence)


def _mm(values: Sequence[float]) -> str:
    return " x ".join(f"{one:.3g}" for one in values)


def _by(values: Sequence[float]) -> str:
    return "x".join(f"{one:.0f}" for one in values)


def _orientations(reports: Sequence[CaseReport]) -> Iterator[Finding]:
    found = Counter(report.orientation for report in reports)
    if len(found) > 1:
        shown = _some([f"{codes} ({count})" for codes, count in found.most_common()])
        yield Finding(
            "orientations", "note", "", f"The files have several orientations: {shown}; segray turns all to LPS."
        )


def _channels(reports: Sequence[CaseReport]) -> Iterator[Finding]:
    found = Counter((len(report.intensities), report.channels) for report in reports)
    if len(found) < 2:
        return
    most, _ = found.most_common(1)[0]
    for report in reports:
        if (len(report.intensities), report.channels) != most:
            sentence = (
                f"The case has {len(report.intensities)} channels, most cases {most[0]} ({', '.join(most[1]) or '-'})."
            )
            yield Finding(
                "channels", "error", report.case_id, sentence, "Ingest leaves it out: all cases need the same channels."
            )


def _half_voxel(reports: Sequence[CaseReport]) -> Iterator[Finding]:
    """A shift that most cases share; one case alone does not tell half a voxel from its own anatomy."""
    offsets = [one.fit.offset for one in reports if one.fit is not None and one.fit.offset and not one.fit.better]
    middle = [0.0, 0.0, 0.0]
    for axis, along in enumerate(zip(*offsets, strict=True)):
        known = np.array([by for by in along if by == by])
        if len(known) >= max(FEW, len(offsets) // 2):
            common = float(np.median(known))
            middle[axis] = common if np.median(np.abs(known - common)) <= SPREAD else 0.0
    off = [axis for axis in range(3) if abs(middle[axis]) >= HALF[0]]
    if off:
        shown = ", ".join(f"{middle[at]:+.1f} along {AXES[at]}" for at in off)
        half = all(abs(middle[at]) <= HALF[1] for at in off)
        yield Finding(
            "half-voxel" if half else "shifted",
            "warning",
            "",
            f"The labels of {len(offsets)} cases would fit best moved by {shown} voxels"
            + (": half a voxel, as of a tool that counts from the corner of a voxel." if half else "."),
            "Look at the contact sheet; mend the affine of the label files.",
        )


def _duplicates(reports: Sequence[CaseReport], split: Mapping[str, str]) -> Iterator[Finding]:
    pairs = near_pairs([one.fingerprint for one in reports], [one.shape for one in reports])
    for group in clusters(pairs):
        alike = [reports[at] for at in group]
        names = _some([f"{one.case_id} ({split.get(one.case_id, 'not used')})" for one in alike])
        sides = {split[one.case_id] for one in alike if one.case_id in split}
        if len(sides) > 1:
            yield Finding(
                "duplicate-across-split",
                "warning",
                alike[0].case_id,
                f"Nearly the same image is in training and held out: {names}. The score would be too good.",
                "Leave all but one out, or give them one patient in ingest.split.patients.",
            )
        elif len({one.patient for one in alike}) > 1 or alike[0].shape[0] > 1:
            yield Finding("near-duplicate", "note", alike[0].case_id, f"Nearly the same image: {names}.")
