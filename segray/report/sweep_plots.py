"""Which plots a sweep has, what each shows, and how it is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from segray import storage
from segray.report.sweep_axes import shown_parameters
from segray.report.sweep_curves import learning_curves, optimisation_history
from segray.report.sweep_front import front_plot
from segray.report.sweep_params import importance_bars, parallel_axes, slices
from segray.report.sweep_timeline import time_line
from segray.report.theme import png_bytes
from segray.tuning.answer import FEWEST_TRIALS
from segray.tuning.ranking import best_of, measured, value_of
from segray.tuning.records import Objective, TrialRecord
from segray.tuning.words import counted, number_text, objective_words, value_text


@dataclass(frozen=True)
class SweepPlot:
    """A plot that has something to show.

    Attributes:
        name: of its file, without ending.
        draw: makes the figure.
        alt: what it shows, for those who do not see it.
        reading: how it is read, in a sentence.
    """

    name: str
    draw: Callable[[], Figure]
    alt: str
    reading: str


def sweep_plots(
    records: Sequence[TrialRecord], objectives: Sequence[Objective], importances: Mapping[str, float]
) -> list[SweepPlot]:
    """The plots of a sweep, in the order of the page, without those that would be empty.

    Args:
        records: all trials.
        objectives: at least one; all plots but the front show the first.
        importances: parameter to its share (0..1) of the variation of the first objective; may be empty.
    """
    found = [*_over_time(records, objectives)]
    if len(objectives) > 1 and measured(records, objectives):
        found.append(_front(records, objectives))
    found += _importances(records, objectives, importances) + _of_hosts(records)
    return found + _of_parameters(records, objectives, importances)


def write_plots(
    folder: Path, records: Sequence[TrialRecord], objectives: Sequence[Objective], importances: Mapping[str, float]
) -> list[tuple[SweepPlot, bytes]]:
    """Draw all plots of :func:`sweep_plots` into ``folder``, a PNG each; returns them with their bytes."""
    written = []
    for plot in sweep_plots(records, objectives, importances):
        png = png_bytes(plot.draw())
        storage.write_bytes(str(folder / f"{plot.name}.png"), png)
        written.append((plot, png))
    return written


def _over_time(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[SweepPlot]:
    words, best = objective_words(objectives[0]), best_of(records, objectives)
    told = ""
    if best is not None:
        told = f", the best {value_text(value_of(best), objectives[0])} in trial {best.number}"
    found = []
    if any(record.state not in ("waiting", "running") for record in records):
        history = SweepPlot(
            "history",
            partial(optimisation_history, records, objectives),
            f"The {words} of {counted(len(records), 'trial')} by number{told}.",
            "Each dot is a trial; where the line has long been flat, more trials of the same kind will hardly help.",
        )
        found.append(history)
    if any(math.isfinite(value) for record in records for _, value in record.curve):
        curves = SweepPlot(
            "curves",
            partial(learning_curves, records, objectives),
            f"The {words} of every trial after each validation{told}.",
            "Pale lines that end early were pruned; where lines still climb at their end, longer trainings would gain.",
        )
        found.append(curves)
    return found


def _front(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> SweepPlot:
    first, second = (objective_words(objective) for objective in objectives[:2])
    return SweepPlot(
        "front",
        partial(front_plot, records, objectives),
        f"The {first} against the {second} of every finished trial, and the front of those that none beats.",
        "On the joined front one objective can be bettered only at the cost of the other; choose a trial there.",
    )


def importances_are_known(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> bool:
    """Whether enough trials have finished for importances to be more than chance."""
    return len(measured(records, objectives)) >= FEWEST_TRIALS


def _importances(
    records: Sequence[TrialRecord], objectives: Sequence[Objective], importances: Mapping[str, float]
) -> list[SweepPlot]:
    shares = {name: share for name, share in importances.items() if math.isfinite(share)}
    if not shares or not importances_are_known(records, objectives):
        return []
    words, top = objective_words(objectives[0]), max(shares, key=lambda name: shares[name])
    bars = SweepPlot(
        "importances",
        partial(importance_bars, shares, objectives),
        f"Shares of the variation of the {words}; the largest is {number_text(100 * shares[top])} % of {top}.",
        "Long bars are parameters to search more finely, short ones can be fixed in the next sweep.",
    )
    return [bars]


def _of_parameters(
    records: Sequence[TrialRecord], objectives: Sequence[Objective], importances: Mapping[str, float]
) -> list[SweepPlot]:
    words = objective_words(objectives[0])
    if not measured(records, objectives) or not shown_parameters(records, importances)[0]:
        return []
    parallel = SweepPlot(
        "parallel",
        partial(parallel_axes, records, objectives, importances),
        f"A line a finished trial through the values of its parameters down to its {words}.",
        "Where the dark lines run close together lie the good values; the thick line is the best trial.",
    )
    panels = SweepPlot(
        "slices",
        partial(slices, records, objectives, importances),
        f"The {words} against each parameter, a dot a finished trial.",
        "A slope says that the parameter matters; where the best dots (the ringed one is the best) crowd an end, widen "
        "the range there.",
    )
    return [parallel, panels]


def _of_hosts(records: Sequence[TrialRecord]) -> list[SweepPlot]:
    begun = [record for record in records if record.began is not None]
    if not begun:
        return []
    hosts = len({record.host for record in begun})
    plot = SweepPlot(
        "timeline",
        partial(time_line, records),
        f"When {counted(len(begun), 'trial')} ran on {counted(hosts, 'host')}.",
        "Each bar is a trial on a lane of its host; white between the bars is a place for a trial that stood idle.",
    )
    return [plot]
