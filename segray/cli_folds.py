"""`segray watch` of a cross-validation: a line a fold."""

from __future__ import annotations

import math

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from segray.cli_watch import MEANWHILE, QUIET_S, STYLES, duration, follow
from segray.pipelines.folds_view import FoldsReader, FoldsView
from segray.pipelines.run_view import RunView

COLUMNS = ("fold", "state", "epoch", "loss", "Dice", "best", "slices/s", "left")


def watch_folds(path: str, *, interval: float, once: bool, console: Console | None = None) -> None:
    """Show the cross-validation at ``path`` until it has ended, or once; Ctrl-C ends it."""
    follow(lambda: FoldsReader(path), frame, plain_line, interval=interval, once=once, console=console)


def plain_line(view: FoldsView) -> str:
    """The cross-validation in one line."""
    epochs = ", ".join(f"{one.epoch}/{one.epochs}" for _, one in view.folds)
    parts = [view.state, f"{len(view.folds)} of {view.count} folds begun"]
    parts += [f"epochs {epochs}"] if epochs else []
    return "  ".join([*parts, f"mean best Dice {_shown(view.mean_best)}"])


def frame(view: FoldsView, _console: Console) -> RenderableType:
    """The whole picture of a cross-validation."""
    head = Text.assemble((view.state, STYLES.get(view.state, "bold yellow")), "  ", view.run)
    parts: list[RenderableType] = [head, Text(f"mean best Dice {_shown(view.mean_best)}")]
    if not view.ended and view.quiet_s > QUIET_S:
        parts.append(Text(MEANWHILE.format(quiet=duration(view.quiet_s), run=view.run), style="yellow"))
    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "state" else "right")
    for fold, one in view.folds:
        table.add_row(*map(Text, (str(fold), *_cells(one))))
    parts.append(table)
    parts += [Text(f"fold {fold}: {one.reason}", style="red") for fold, one in view.folds if one.reason]
    example = f"{view.run}/fold_{view.folds[0][0]}" if view.folds else ""
    return Group(*parts, *([Text(f"\na fold in full: segray watch {example}", style="dim")] if example else []))


def _cells(one: RunView) -> tuple[str, ...]:
    best = "-" if math.isnan(one.dice.best) else f"{one.dice.best:.4f} (epoch {one.dice.best_epoch})"
    left = "-" if one.seconds_left is None else duration(one.seconds_left)
    speed = _shown(one.slices_per_s, 1)
    return one.state, f"{one.epoch}/{one.epochs}", _shown(one.loss), _shown(one.dice.last), best, speed, left


def _shown(value: float, digits: int = 4) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
