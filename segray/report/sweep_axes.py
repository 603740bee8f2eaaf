"""Axes of the plots of a sweep: where a drawn value lies, what an objective shows, and the colours."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

from segray.report.theme import ACCENT, SECOND, plain
from segray.tuning.ranking import Outcome
from segray.tuning.records import Objective, TrialRecord
from segray.tuning.words import number_text, setting_text, shortened

MOST_PARAMETERS = 12
"""Parameters that a plot shows: more panels or axes can be read by nobody."""

MOST_CATEGORIES = 8
LOG_FROM = 100.0
"""Largest over smallest value from which a positive parameter gets a logarithmic axis."""

LOW_SHARE = 0.15
"""Share of values below a tenth of the highest from which they count as drawn by decades."""

FEW_VALUES = 6
"""Numbers of at most so many different values are named one by one."""

OTHERS = "others"

QUALITY = LinearSegmentedColormap.from_list("quality", ["#DCE6F0", "#8DB0D2", ACCENT, "#16365C"])
"""From pale to dark: worst to best, or early to late."""

OUTCOME_COLOURS: dict[Outcome, str] = {
    "finished": ACCENT,
    "pruned": "#C3D2E2",
    "failed": SECOND,
    "out of memory": "#CCBB44",
    "lost": "#AA3377",
    "running": "#228833",
    "waiting": "#BBBBBB",
}


@dataclass(frozen=True)
class ParamAxis:
    """How one parameter is laid out between 0 and 1.

    Attributes:
        name: of the parameter.
        kind: linear or logarithmic numbers, or categories side by side.
        low, high: the ends, in values; of categories -0.5 and their count - 0.5.
        values: the different numbers where they are few, else empty.
        categories: their texts, in order; the last is OTHERS where there are too many.
    """

    name: str
    kind: Literal["linear", "log", "category"]
    low: float
    high: float
    values: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()

    def place(self, params: Mapping[str, Any]) -> float:
        """Where a trial lies, 0..1; NaN where the parameter was not drawn."""
        if self.name not in params:
            return math.nan
        value = params[self.name]
        if self.kind == "category":
            text = setting_text(value)
            return self._at(self.categories.index(text if text in self.categories else OTHERS))
        return self._at(float(value)) if math.isfinite(value) else math.nan

    def _at(self, value: float) -> float:
        if self.kind == "log":
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def places(self, records: Sequence[TrialRecord]) -> np.ndarray:
        """Of each trial: float64, NaN where not drawn; categories are spread a little, so that not all lie on one."""
        found = np.array([self.place(record.params) for record in records], dtype=np.float64)
        if self.kind != "category":
            return found
        # a fixed golden-ratio sequence spreads the points without a random number
        spread = (np.array([record.number for record in records]) * 0.618034 + 0.5) % 1.0 - 0.5
        return found + spread * 0.5 / len(self.categories)

    def ticks(self, most: int, letters: int) -> list[tuple[float, str]]:
        """(place, text) of about ``most`` ticks, each text of at most ``letters`` letters."""
        if self.kind == "category":
            return [(self._at(at), plain(text)) for at, text in enumerate(told_apart(self.categories, letters))]
        gap = 0.7 / most
        shown: list[tuple[float, str]] = []
        for value in self.values or self._round_values(most):
            place = self._at(value)
            if -1e-9 <= place <= 1 + 1e-9 and (not shown or place - shown[-1][0] >= gap):
                shown.append((place, number_text(value)))
        return shown

    def _round_values(self, most: int) -> list[float]:
        if self.kind == "linear":
            return [float(value) for value in MaxNLocator(most).tick_values(self.low, self.high)]
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        step = max(1, math.ceil((last - first) / (most + 1)))
        return [10.0**power for power in range(first, last + 1, step)]


def param_axis(name: str, records: Sequence[TrialRecord]) -> ParamAxis:
    """The axis of a parameter: numbers, logarithmic where they are positive and span two decades, or categories."""
    drawn = [record.params[name] for record in records if name in record.params]
    if not drawn or any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in drawn):
        return _category_axis(name, drawn)
    finite = sorted({float(value) for value in drawn if math.isfinite(value)}) or [0.0]
    low, high = finite[0], finite[-1]
    values = tuple(finite) if len(finite) <= FEW_VALUES else ()
    if low > 0 and _drawn_by_decades([float(value) for value in drawn if math.isfinite(value)]):
        return ParamAxis(name, "log", low, high, values)
    if low == high:
        half = abs(low) / 2 or 0.5
        low, high = low - half, high + half
    return ParamAxis(name, "linear", low, high, values)


def told_apart(texts: Sequence[str], most: int) -> list[str]:
    """``texts`` of at most ``most`` letters each; where they are too long what all begin or end with goes first."""
    own = [text for text in texts if text != OTHERS]
    if max(map(len, own), default=0) <= most or len(own) < 2:
        return [shortened(text, most) for text in texts]
    begin = _shared_letters(own)
    end = min(_shared_letters([text[::-1] for text in own]), min(map(len, own)) - begin)
    dots = "\N{HORIZONTAL ELLIPSIS}"
    return [
        text
        if text == OTHERS
        else shortened(f"{dots * (begin > 0)}{text[begin : len(text) - end]}{dots * (end > 0)}", most)
        for text in texts
    ]


def _shared_letters(texts: Sequence[str]) -> int:
    """How many letters all begin with."""
    for at, letters in enumerate(zip(*texts, strict=False)):
        if len(set(letters)) > 1:
            return at
    return min(map(len, texts))


def _drawn_by_decades(values: Sequence[float]) -> bool:
    """Whether positive values span two decades, and not only since an even draw came near 0 once.

    Of n even draws one in ten lies below a tenth of the highest, and in one sweep of 200 the lowest is less than the
    highest over 200 n.
    """
    high, span = max(values), max(values) / min(values)
    low_share = sum(value < high / 10 for value in values) / len(values)
    return span >= LOG_FROM and (low_share >= LOW_SHARE or span >= 200 * len(values))


def _category_axis(name: str, drawn: Sequence[Any]) -> ParamAxis:
    counts = Counter(setting_text(value) for value in drawn)
    kept = [text for text, _ in counts.most_common(MOST_CATEGORIES if len(counts) <= MOST_CATEGORIES else 7)]
    texts = sorted(kept, key=_order) + ([OTHERS] if len(counts) > len(kept) else [])
    return ParamAxis(name, "category", -0.5, max(len(texts), 1) - 0.5, categories=tuple(texts))


def _order(text: str) -> tuple[bool, float, list[tuple[int, str]]]:
    """Numbers first, by size; of texts the numbers in them count by size, and a list comes before its longer ones."""
    try:
        return False, float(text), []
    except ValueError:
        pieces = re.split(r"(\d+)", text.rstrip("])"))
        # letters and digits take turns, so that the same place always holds the same kind
        return True, 0.0, [(int(one) if one.isdecimal() and len(one) < 19 else 0, one) for one in pieces]


def shown_parameters(records: Sequence[TrialRecord], importances: Mapping[str, float]) -> tuple[list[str], int]:
    """The parameters that plots show, most important first, and how many there are.

    Those without an importance come after the others, and the ones that never varied last.
    """
    values: dict[str, set[str]] = {}
    for record in records:
        for name, value in record.params.items():
            values.setdefault(name, set()).add(setting_text(value))
    shares = {name: share for name, share in importances.items() if math.isfinite(share)}
    ranked = sorted(values, key=lambda name: (-shares.get(name, 0.0), len(values[name]) < 2))
    return ranked[:MOST_PARAMETERS], len(ranked)


def shown_note(shown: int, known: int) -> str:
    """What a title says where not all parameters are shown, else nothing."""
    return f" ({shown} of {known} shown)" if shown < known else ""


def value_limits(values: Sequence[float], objective: Objective) -> tuple[float, float]:
    """The ends of an axis of the objective, a little beyond the finite ``values``.

    The bad end is cut where a few values lie far off (three times the distance of the quartiles beyond them), so that
    a diverged trial does not press all others into a line.
    """
    finite = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    first, third = (float(one) for one in np.percentile(finite, [25, 75]))
    if finite.size >= 8 and third > first:
        low, high = (
            (max(low, first - 3 * (third - first)), high)
            if objective.maximise
            else (low, min(high, third + 3 * (third - first)))
        )
    pad = 0.04 * (high - low) or abs(high) * 0.05 or 0.05
    return low - pad, high + pad


def qualities(values: Sequence[float], objective: Objective) -> np.ndarray:
    """0 (worst) to 1 (best) of each value within its limits, for QUALITY."""
    low, high = value_limits(values, objective)
    scaled = np.clip((np.asarray(values, dtype=np.float64) - low) / (high - low), 0.0, 1.0)
    return scaled if objective.maximise else 1.0 - scaled
