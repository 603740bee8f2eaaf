"""The cases of a prediction run in the order in which a person should look at them, each with its reasons in words.

Nothing here knows the truth. A case is conspicuous by what it alone is in its run, in six ways, each of a severity
from 0 to 1 for every structure:

=========== ====== ==================================================================================================
kind        weight severity
=========== ====== ==================================================================================================
empty       0.8    nothing was found where most cases have the structure: 0 at a share of 0.8, 1 where all others do
volume      0.7    an outlier on a logarithmic scale: 1 - 3 / z, where z is the distance from the median in standard
                   deviations, these by the quartiles; 0 up to z = 3
confidence  0.6    the same for a low margin, a high entropy or a high disagreement, the largest of the three
hu          0.5    the same for the mean HU
border      0.3    the border of the volume cuts the structure: the voxels there against voxels ** (2/3), at most 1,
                   times the share of cases in which it is not cut
nothing     0.1    1 where none of the structures was found, unless empty says so
=========== ====== ==================================================================================================

The points of a finding are weight * severity; below 0.01 it is none. The score of a case is 1 - product of (1 - points)
over the six kinds, each by its strongest finding, so that 0 is inconspicuous, several kinds add up, and 30 structures
of one kind are no more than the worst of them. A failed case has the score 1 and follows all cases with masks, since
there is nothing to look at. It is an order, no probability of an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = Mapping[str, Any]
Table = Sequence[Row] | Mapping[str, Sequence[Any]]
"""Rows, or columns by their names: a mapping of lists or arrays of one length."""

Floats = NDArray[np.float64]

LEAST_CASES = 8
"""Fewer cases with a structure say nothing of what is usual."""

MOST = 0.8
"""Share of cases with a structure from which its absence is conspicuous."""

CONSPICUOUS = 3.0
"""Standard deviations from the median beyond which a value is an outlier."""

LEAST_SPREAD = {"volume": 0.05, "hu": 5.0, "confidence": 0.02}
"""Standard deviations are taken to be at least this: 5 % of a volume, 5 HU, and 0.02 of a confidence."""

WEIGHTS = {"empty": 0.8, "volume": 0.7, "confidence": 0.6, "hu": 0.5, "border": 0.3, "nothing": 0.1}

LEAST_POINTS = 0.01
"""What has fewer is no finding: a border that nearly all scans cut would fill every case's reasons."""

MOST_REASONS = 5
"""Reasons that are written out; further ones are counted."""

CONFIDENCES = {
    "confidence_margin": (-1, "confidence"),
    "confidence_entropy": (1, "entropy"),
    "confidence_disagreement": (1, "disagreement"),
}
"""Columns of the long table, in which direction they are bad, and what they are called in a reason."""


@dataclass(frozen=True)
class Findings:
    """One kind of finding in all cases; arrays are (cases, structures).

    Attributes:
        severity: 0..1.
        words: what to say of a case and a structure by their places.
    """

    severity: Floats
    words: Callable[[int, int], str]


def review(cases: Table, structures: Table) -> list[dict[str, Any]]:
    """A row a case, the most conspicuous first: rank (from 1), case_id, status, score, structure, findings, reasons.

    Failed cases come last.

    ``structure`` is the one with most points, None where there is no finding; ``findings`` counts them; ``reasons`` are
    the strongest ones in words, joined by "; ". Cases of equal score follow by the sum of all points, then by the mean
    of their confidences, then by id.

    Args:
        cases: of ``cases.parquet``: case_id, status, reason; further columns are not looked at.
        structures: the long table: case_id and structure with voxels, volume_ml, mean_hu and border_voxels, and where
            there are any border_inferior_voxels, border_superior_voxels, and 0..1: confidence_margin (mean of the
            difference between the two largest probabilities), confidence_entropy (mean, normalised) and
            confidence_disagreement (1 - mean Dice between members or mirrors). A column may be missing, and so may
            rows and numbers (None or NaN): what is not known is not judged.
    """
    table = _LongTable.of(cases, structures)
    kinds = {
        "empty": _empty(table),
        "volume": _volume(table),
        "confidence": _confidence(table),
        "hu": _hu(table),
        "border": _border(table),
    }
    kinds["nothing"] = _nothing(table, kinds["empty"])
    points = np.stack([WEIGHTS[name] * found.severity for name, found in kinds.items()])
    points[points < LEAST_POINTS] = 0.0
    strongest = points.max(axis=2, initial=0.0)
    failed = np.array([status == "failed" for status in table.status], dtype=np.bool_)
    score = np.where(failed, 1.0, 1.0 - np.prod(1.0 - strongest, axis=0))
    order = np.lexsort((np.array(table.cases), -_doubt(table), -points.sum(axis=(0, 2)), -score, failed))
    worst = _worst(points[:-1], table.structures)  # that nothing was found is of no structure
    reasons = _reasons(points, list(kinds.values()))
    return [
        {
            "rank": rank,
            "case_id": table.cases[case],
            "status": table.status[case],
            "score": round(float(score[case]), 4),
            "structure": worst[case],
            "findings": int((points[:, case] > 0).sum()),
            "reasons": "; ".join([*table.failure(case), *reasons[case]]),
        }
        for rank, case in enumerate(order.tolist(), start=1)
    ]


@dataclass(frozen=True)
class _LongTable:
    """The long table as a matrix a column: (cases, structures), NaN where nothing is known."""

    cases: list[str]
    status: list[str]
    reason: list[str]
    structures: list[str]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: Table

    @classmethod
    def of(cls, cases: Table, structures: Table) -> _LongTable:
        ids = _texts(cases, "case_id")
        status, reason = (_texts(cases, name) or [""] * len(ids) for name in ("status", "reason"))
        told = {case: (state or "ok", why) for case, state, why in zip(ids, status, reason, strict=True)}
        places: dict[str, int] = {case: place for place, case in enumerate(told)}
        names: dict[str, int] = {}
        rows = [places.setdefault(case, len(places)) for case in _texts(structures, "case_id")]
        columns = [names.setdefault(name, len(names)) for name in _texts(structures, "structure")]
        status, reason = ([told.get(case, ("ok", ""))[part] for case in places] for part in (0, 1))
        return cls(list(places), status, reason, list(names), np.array(rows, int), np.array(columns, int), structures)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.cases), len(self.structures)

    def matrix(self, name: str) -> Floats:
        """A column of numbers; all NaN where there is none."""
        found = np.full(self.shape, np.nan)
        values = _column(self.values, name)
        if values is not None:
            found[self.rows, self.columns] = _numbers(values)
        return found

    def failure(self, case: int) -> list[str]:
        """Why a case failed, as a list of one reason; of the others an empty one."""
        return [f"failed: {self.reason[case] or 'no reason given'}"] if self.status[case] == "failed" else []


@dataclass(frozen=True)
class _Usual:
    """What is usual in a run, a number a structure; NaN where too few cases are known."""

    low: Floats
    median: Floats
    high: Floats

    @classmethod
    def of(cls, values: Floats) -> _Usual:
        """The quartiles over cases of (cases, structures)."""
        found = np.full((3, values.shape[1]), np.nan)
        for place, column in enumerate(values.T):
            known = column[~np.isnan(column)]
            if known.size >= LEAST_CASES:
                found[:, place] = np.percentile(known, (25, 50, 75))
        return cls(*found)

    def deviations(self, values: Floats, least: float) -> Floats:
        """Signed distances from the median in standard deviations; NaN where they cannot be told."""
        # The quartiles of a normal distribution lie 1.349 standard deviations apart.
        return np.asarray((values - self.median) / np.maximum((self.high - self.low) / 1.349, least), dtype=np.float64)


def _severity(deviations: Floats) -> Floats:
    """0 up to ``CONSPICUOUS`` standard deviations, then rising towards 1; where nothing is known 0."""
    beyond = np.maximum(np.nan_to_num(deviations, nan=0.0), CONSPICUOUS)
    return np.asarray(1.0 - CONSPICUOUS / beyond, dtype=np.float64)


def _sizes(table: _LongTable) -> Floats:
    voxels, volume = table.matrix("voxels"), table.matrix("volume_ml")
    return np.where(np.isnan(voxels), volume, voxels)  # a rounded volume may be 0 where there are voxels


def _nothing(table: _LongTable, empty: Findings) -> Findings:
    """At the first structure, for the case as a whole."""
    size = _sizes(table)
    severity = np.zeros(table.shape)
    if table.structures:
        none = (size == 0).any(axis=1) & ~(size > 0).any(axis=1)
        told = (WEIGHTS["empty"] * empty.severity >= LEAST_POINTS).any(axis=1)
        severity[:, 0] = none & ~told
    return Findings(severity, lambda _, __: "nothing was found at all")


def _empty(table: _LongTable) -> Findings:
    size = _sizes(table)
    known = (~np.isnan(size)).sum(axis=0)
    share = (size > 0).sum(axis=0) / np.maximum(known, 1)
    conspicuous = np.where(known >= LEAST_CASES, np.maximum(share - MOST, 0.0) / (1.0 - MOST), 0.0)
    return Findings(
        np.where(size == 0, conspicuous, 0.0),
        lambda _, place: (
            f"{table.structures[place]} is empty; {math.floor(100 * share[place])} % of the cases have one"
        ),
    )


def _volume(table: _LongTable) -> Findings:
    volume, cut = table.matrix("volume_ml"), table.matrix("border_voxels") > 0
    logarithm = np.log(volume, out=np.full(volume.shape, np.nan), where=volume > 0)
    whole = np.where(cut, np.nan, logarithm)
    # What is cut says little of what is usual, unless nearly all are.
    enough = (~np.isnan(whole)).sum(axis=0) >= LEAST_CASES
    usual = _Usual.of(np.where(enough, whole, logarithm))
    deviations = usual.deviations(logarithm, LEAST_SPREAD["volume"])
    # That a cut structure is small is told by its border.
    severity = _severity(np.where(cut, deviations, np.abs(deviations)))

    def words(case: int, place: int) -> str:
        return f"{table.structures[place]}: {_amount(volume[case, place])} ml {_where(usual, place, _of_log)} ml"

    return Findings(severity, words)


def _hu(table: _LongTable) -> Findings:
    mean = table.matrix("mean_hu")
    usual = _Usual.of(mean)

    def words(case: int, place: int) -> str:
        return f"{table.structures[place]}: mean of {mean[case, place]:.0f} HU {_where(usual, place, _whole)} HU"

    return Findings(_severity(np.abs(usual.deviations(mean, LEAST_SPREAD["hu"]))), words)


def _confidence(table: _LongTable) -> Findings:
    found = [_of_confidence(table, column, sign, name) for column, (sign, name) in CONFIDENCES.items()]
    severities = np.stack([of_column.severity for of_column in found])
    which = severities.argmax(axis=0)
    return Findings(severities.max(axis=0), lambda case, place: found[which[case, place]].words(case, place))


def _of_confidence(table: _LongTable, column: str, sign: int, name: str) -> Findings:
    values = table.matrix(column)
    usual = _Usual.of(values)
    extreme = (sign * values).max(axis=0, where=~np.isnan(values), initial=-np.inf)

    def words(case: int, place: int) -> str:
        value = values[case, place]
        last = "lowest" if sign < 0 else "highest"
        of_run = f", the {last} of the run" if sign * value == extreme[place] else ""
        return f"{table.structures[place]}: {name} {value:.2f} {_where(usual, place, _share)}{of_run}"

    return Findings(_severity(sign * usual.deviations(values, LEAST_SPREAD["confidence"])), words)


def _border(table: _LongTable) -> Findings:
    border, voxels = table.matrix("border_voxels"), table.matrix("voxels")
    cut = border > 0
    present = np.maximum((~np.isnan(border) & (voxels != 0)).sum(axis=0), 1)
    section = np.maximum(np.where(np.isnan(voxels), border, voxels), 1.0) ** (2 / 3)
    severity = np.where(cut, np.minimum(border / section, 1.0) * (1.0 - cut.sum(axis=0) / present), 0.0)
    ends = {"feet": table.matrix("border_inferior_voxels") > 0, "head": table.matrix("border_superior_voxels") > 0}

    def words(case: int, place: int) -> str:
        sides = [side for side, reached in ends.items() if reached[case, place]]
        where = f" towards the {' and the '.join(sides)}" if sides else ""
        return f"{table.structures[place]} reaches the border of the volume{where}: cut"

    return Findings(severity, words)


def _worst(points: Floats, names: Sequence[str]) -> list[str | None]:
    """The structure of most points in each case."""
    if not names:
        return [None] * points.shape[1]
    together = 1.0 - np.prod(1.0 - points, axis=0)
    return [
        names[place] if most > 0 else None
        for place, most in zip(together.argmax(axis=1).tolist(), together.max(axis=1).tolist(), strict=True)
    ]


def _reasons(points: Floats, kinds: Sequence[Findings]) -> list[list[str]]:
    """The strongest findings of each case in words, and how many more there are."""
    kind, case, place = np.nonzero(points)
    order = np.lexsort((place, kind, -points[kind, case, place], case))
    ends = np.searchsorted(case[order], np.arange(points.shape[1] + 1))
    found: list[list[str]] = []
    for first, last in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        told = order[first : min(last, first + MOST_REASONS)]
        words = [kinds[kind[at]].words(int(case[at]), int(place[at])) for at in told]
        more = last - first - len(words)
        found.append([*words, f"and {more} more"] if more else words)
    return found


def _doubt(table: _LongTable) -> Floats:
    """(cases,) how little sure the net was on the whole, by the first confidence that the table has; else 0."""
    for column, (sign, _) in CONFIDENCES.items():
        values = sign * table.matrix(column)
        known = ~np.isnan(values)
        if known.any():
            mean = np.nansum(values, axis=1) / np.maximum(known.sum(axis=1), 1)
            return np.asarray(np.where(known.any(axis=1), mean, mean[known.any(axis=1)].min()), dtype=np.float64)
    return np.zeros(len(table.cases))


def _where(usual: _Usual, place: int, words: Callable[[float], str]) -> str:
    low, high = words(float(usual.low[place])), words(float(usual.high[place]))
    return f"where half of the run's cases lie between {low} and {high}"


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _of_log(value: float) -> str:
    return _amount(math.exp(value))


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _share(value: float) -> str:
    return f"{value:.2f}"


def _column(table: Table, name: str) -> Sequence[Any] | None:
    if isinstance(table, Mapping):
        return table.get(name)
    values = [row.get(name) for row in table]
    return values if any(value is not None for value in values) else None


def _numbers(values: Sequence[Any]) -> Floats:
    """None and '' are NaN."""
    try:
        return np.asarray(values, dtype=np.float64)
    except ValueError:  # a text that is no number, as CSV has for what is missing
        return np.array([value or math.nan if isinstance(value, str) else value for value in values], dtype=np.float64)


def _texts(table: Table, name: str) -> list[str]:
    """A column of texts, '' where there is none; [] where the column is missing."""
    values = _column(table, name)
    return [] if values is None else [str(value) if isinstance(value, str) else "" for value in values]
