"""When the trials of a sweep ran, and where: lanes of hosts over time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from segray.report.sweep_axes import OUTCOME_COLOURS
from segray.report.theme import FAINT, INK, WIDTH, new_figure, plain, tidy
from segray.tuning.ranking import OUTCOMES, outcome
from segray.tuning.records import TrialRecord
from segray.tuning.words import shortened

_LANE_INCHES, _LEAST_INCHES, _MOST_INCHES = 0.24, 2.0, 11.0
_NUMBERED = 120
"""Trials above which their numbers are not written into the bars."""

_NOWHERE = "host not known"


@dataclass(frozen=True)
class Span:
    """A trial on a lane.

    Attributes:
        record: the trial.
        began, ended: seconds since the first trial began.
        lane: from 0, over all hosts.
    """

    record: TrialRecord
    began: float
    ended: float
    lane: int


def pack_lanes(spans: Sequence[tuple[float, float]]) -> list[int]:
    """A lane (from 0) for each (began, ended), as few as can be: what overlaps in time lies in different ones.

    One may begin on a lane at the moment at which another ends.
    """
    lanes = [0] * len(spans)
    busy: list[tuple[float, int]] = []
    free: list[int] = []
    used = 0
    for at in sorted(range(len(spans)), key=lambda index: spans[index]):
        began, ended = spans[at]
        while busy and busy[0][0] <= began:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            lanes[at] = heapq.heappop(free)
        else:
            lanes[at], used = used, used + 1
        heapq.heappush(busy, (ended, lanes[at]))
    return lanes


def placed(records: Sequence[TrialRecord]) -> tuple[list[Span], dict[str, range]]:
    """The trials that have begun, on lanes, and the lanes of each host.

    What still runs is drawn up to the last moment of which any trial tells.
    """
    begun = [(record, began) for record in records if (began := _finite(record.began)) is not None]
    moments = [began for _, began in begun]
    moments += [ended for record, _ in begun if (ended := _finite(record.ended)) is not None]
    first, last = min(moments, default=0.0), max(moments, default=0.0)
    by_host: dict[str, list[tuple[TrialRecord, float, float]]] = {}
    for record, began in begun:
        ended = _finite(record.ended)
        until = max(began, last if ended is None else ended) - first
        by_host.setdefault(record.host or _NOWHERE, []).append((record, began - first, until))
    spans: list[Span] = []
    rows: dict[str, range] = {}
    offset = 0
    for host in sorted(by_host, key=lambda name: (name == _NOWHERE, name)):
        lanes = pack_lanes([(began, ended) for _, began, ended in by_host[host]])
        rows[host] = range(offset, offset + max(lanes) + 1)
        spans += [Span(*found, offset + lane) for found, lane in zip(by_host[host], lanes, strict=True)]
        offset = rows[host].stop
    return spans, rows


def _finite(moment: float | None) -> float | None:
    return moment if moment is not None and math.isfinite(moment) else None


def time_line(records: Sequence[TrialRecord]) -> Figure:
    """A bar a trial from its begin to its end, on lanes of its host, in the colour of its state."""
    spans, rows = placed(records)
    count = max((span.lane + 1 for span in spans), default=1)
    height = min(max(1.2 + _LANE_INCHES * count, _LEAST_INCHES), _MOST_INCHES)
    figure = new_figure(WIDTH, height)
    axes = figure.add_subplot()
    total = max((span.ended for span in spans), default=0.0)
    unit, seconds = _unit(total)
    title = f"Where and when {len(spans)} trials ran" if len(spans) != 1 else "Where and when 1 trial ran"
    tidy(axes, title=title, x=f"{unit} since the first began", grid="x")
    width = max(total / seconds, 1e-9)
    _bars(axes, spans, seconds, width)
    _name_hosts(axes, rows, count, height)
    axes.set_xlim(0, 1.01 * width)
    axes.set_ylim(count - 0.4, -0.6)
    kinds = [name for name in OUTCOMES if any(outcome(span.record) == name for span in spans)]
    if kinds:
        handles = [Patch(color=OUTCOME_COLOURS[name], label=name) for name in kinds]
        figure.legend(handles=handles, fontsize=7, frameon=False, loc="outside lower center", ncols=6)
    return figure


def _unit(total_s: float) -> tuple[str, float]:
    """The unit of the time axis and its seconds."""
    if total_s < 180:
        return "seconds", 1.0
    return ("minutes", 60.0) if total_s < 3 * 3600 else ("hours", 3600.0)


def _bars(axes: Axes, spans: Sequence[Span], seconds: float, width: float) -> None:
    """One collection for all bars; one of no length is still seen, since short ones lie above and are widened."""
    corners = []
    spans = sorted(spans, key=lambda span: span.began - span.ended)
    for span in spans:
        left = span.began / seconds
        right = max(span.ended / seconds, left + 0.007 * width)
        low, high = span.lane - 0.4, span.lane + 0.4
        corners.append([(left, low), (right, low), (right, high), (left, high)])
    colours = [OUTCOME_COLOURS[outcome(span.record)] for span in spans]
    axes.add_collection(PolyCollection(corners, facecolors=colours, edgecolors="white", linewidths=0.4, zorder=2))
    if len(spans) > _NUMBERED:
        return
    for span in spans:
        if (span.ended - span.began) / seconds > 0.035 * width:
            middle = (span.began + span.ended) / 2 / seconds
            pale = outcome(span.record) in ("pruned", "out of memory", "waiting")
            axes.text(
                middle,
                span.lane,
                str(span.record.number),
                fontsize=6.5,
                color=INK if pale else "white",
                ha="center",
                va="center_baseline",
                zorder=3,
            )


def _name_hosts(axes: Axes, rows: dict[str, range], count: int, height: float) -> None:
    """Hosts at the middle of their lanes; of very many only as many names as find room."""
    for lanes in list(rows.values())[1:]:
        axes.axhline(lanes.start - 0.5, color=FAINT, linewidth=0.8, zorder=1)
    room = 0.14 * count / max(height - 1.2, 0.5)
    names: list[str] = []
    middles: list[float] = []
    for host, lanes in rows.items():
        middle = (lanes.start + lanes.stop - 1) / 2
        if not middles or middle - middles[-1] >= min(room, count):
            middles.append(middle)
            names.append(plain(shortened(host, 24)))
    axes.set_yticks(np.array(middles), names)
