"""Training curves of a run: loss, validation Dice, learning rate, share of time that waited for data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from segray.report.theme import ACCENT, FAINT, FEW_COLOURS, SECOND, WIDTH, new_figure, plain, structure_colours, tidy

Texts = Mapping[str, str]

_HEIGHT = 3.2
_NAMED_LINES = 12


def column(rows: Sequence[Texts], name: str) -> list[float]:
    """A column of CSV rows as numbers; what is empty or no number is NaN, and so breaks a line instead of the plot."""
    return [_number(row.get(name, "")) for row in rows]


def loss_curve(epochs: Sequence[Texts], steps: Sequence[Texts] = ()) -> Figure:
    """Training loss an epoch with its parts, over the loss a step where ``steps.csv`` is there."""
    figure = new_figure(WIDTH, _HEIGHT)
    axes = figure.add_subplot()
    tidy(axes, title="Training loss", x="step", y="loss")
    of_step = next((name for name in ("loss", "train_loss") if steps and name in steps[0]), None)
    if of_step is not None:
        axes.plot(column(steps, "step"), column(steps, of_step), color=FAINT, linewidth=0.7, label="a step")
    parts = (
        ("train_loss", "an epoch, mean"),
        ("train_dice_loss", "Dice loss"),
        ("train_cross_entropy", "cross entropy"),
    )
    at = column(epochs, "step")
    for (name, label), colour in zip(parts, FEW_COLOURS, strict=False):
        _line(axes, at, column(epochs, name), colour, label)
    _legend(axes)
    return figure


def dice_curve(epochs: Sequence[Texts]) -> Figure:
    """Validation Dice an epoch: the mean, and every structure as a thin line; named where they are few."""
    figure = new_figure(WIDTH, _HEIGHT)
    axes = figure.add_subplot()
    tidy(axes, title="Validation Dice", x="epoch", y="Dice")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    prefix = "val_dice_"
    names = [name.removeprefix(prefix) for name in (epochs[0] if epochs else {}) if name.startswith(prefix)]
    colours = structure_colours(names)
    # Where not every epoch is validated, the empty ones would break the line everywhere.
    epochs = [row for row in epochs if row.get("val_dice", "") != ""]
    at = column(epochs, "epoch")
    for name in names:
        label = name if len(names) <= _NAMED_LINES else None
        _line(axes, at, column(epochs, prefix + name), colours[name], label, width=1.0)
    _line(axes, at, column(epochs, "val_dice"), "black", "mean", width=2.2)
    axes.set_ylim(0, 1.02)
    _legend(axes, "lower right")
    return figure


def learning_rate_curve(epochs: Sequence[Texts]) -> Figure:
    """Learning rate at the end of every epoch."""
    figure = new_figure(WIDTH, _HEIGHT)
    axes = figure.add_subplot()
    tidy(axes, title="Learning rate", x="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _line(axes, column(epochs, "epoch"), column(epochs, "lr"), ACCENT, None)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_ylim(bottom=0)
    return figure


def data_wait_curve(epochs: Sequence[Texts]) -> Figure:
    """Share of an epoch's time that waited for data, in %: what the readers cost the device."""
    figure = new_figure(WIDTH, _HEIGHT)
    axes = figure.add_subplot()
    tidy(axes, title="Time that waited for data", x="epoch", y="% of wait and step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    shares = [100 * wait_share(wait, step) for wait, step in zip(*_times(epochs), strict=True)]
    _line(axes, column(epochs, "epoch"), shares, SECOND, None)
    highest = max((share for share in shares if not math.isnan(share)), default=0.0)
    axes.set_ylim(0, min(max(5.0, 1.15 * highest), 100.0))
    return figure


def wait_share(wait_s: float, step_s: float) -> float:
    """wait / (wait + step), 0..1; NaN where no time was measured."""
    return wait_s / (wait_s + step_s) if wait_s + step_s > 0 else math.nan


def _times(epochs: Sequence[Texts]) -> tuple[list[float], list[float]]:
    return column(epochs, "data_wait_s"), column(epochs, "step_s")


def _line(
    axes: Axes, x: Sequence[float], y: Sequence[float], colour: str, label: str | None, width: float = 1.6
) -> None:
    if all(math.isnan(value) for value in y):
        return
    # one lone epoch is a point: a line of one point shows nothing
    marker = "o" if sum(not math.isnan(value) for value in y) < 3 else None
    shown = plain(label) if label else "_nolegend_"
    axes.plot(x, y, color=colour, linewidth=width, marker=marker, markersize=4, label=shown)


def _legend(axes: Axes, place: Literal["best", "lower right"] = "best") -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False, loc=place, ncols=2)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
