"""`segray watch`: a training in the terminal, drawn anew every few seconds from the files of its run folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from segray.errors import SegrayError, UsageError
from segray.pipelines.run_view import RunReader, RunView, Scored

PLOT_ROWS = 7
MOST_PLOT_COLUMNS = 100
QUIET_S = 60.0
"""After so long without a sign the frame says so."""

FRAME_LINES = 26
"""Lines of a frame besides those of the structures."""

STYLES = {"finished": "bold green", "failed": "bold red", "running": "bold cyan"}
BLOCKS = " ▁▂▃▄▅▆▇█"

MEANWHILE = "no sign of it for {quiet}: a long validation, or it was killed; then `segray train --resume {run}` goes on"


V = TypeVar("V", bound="Shown")
V_co = TypeVar("V_co", bound="Shown", covariant=True)


class Shown(Protocol):
    """What can be watched: it ends some time."""

    @property
    def ended(self) -> bool:
        """Nothing more will come."""


class Reader(Protocol[V_co]):
    """Reads what can be watched from its folder."""

    def view(self) -> V_co:
        """How it stands now. Raises UsageError where the folder has been removed."""


def watch(path: str, *, interval: float, once: bool, console: Console | None = None) -> None:
    """Show the run at ``path`` until it has ended, or once; Ctrl-C ends it.

    A terminal gets one frame that is drawn again; anything else a line whenever something has changed.
    """
    follow(lambda: RunReader(path), frame, plain_line, interval=interval, once=once, console=console)


def follow(
    open_reader: Callable[[], Reader[V]],
    draw: Callable[[V, Console], RenderableType],
    say: Callable[[V], str],
    *,
    interval: float,
    once: bool,
    console: Console | None = None,
) -> None:
    """Watch anything as :func:`watch` does a run: ``draw`` makes its frame, ``say`` its line."""
    console = console or Console(highlight=False)
    try:
        reader = open_reader()
        if once:
            console.print(draw(reader.view(), console))
        elif console.is_terminal:
            _redraw(reader, draw, interval, console)
        else:
            _lines(reader, say, interval, console)
    except KeyboardInterrupt:
        return


def _redraw(reader: Reader[V], draw: Callable[[V, Console], RenderableType], interval: float, console: Console) -> None:
    view = reader.view()
    with Live(draw(view, console), console=console, auto_refresh=False) as live:
        while not view.ended:
            time.sleep(interval)
            view = _again(reader, view)
            live.update(draw(view, console), refresh=True)


def _lines(reader: Reader[V], say: Callable[[V], str], interval: float, console: Console) -> None:
    shown, view = "", reader.view()
    while True:
        line = say(view)
        if line != shown:
            console.print(Text(line), soft_wrap=True)
            shown = line
        if view.ended:
            return
        time.sleep(interval)
        view = _again(reader, view)


def _again(reader: Reader[V], before: V) -> V:
    """How it stands now; as it was before where an object store did not answer this time."""
    try:
        return reader.view()
    except UsageError:
        raise
    except SegrayError:
        return before


def plain_line(view: RunView) -> str:
    """The run in one line."""
    parts = [view.state, f"epoch {view.epoch}/{view.epochs}", f"step {view.step}/{view.steps}"]
    parts += [f"loss {_shown(view.loss)}", f"Dice {_shown(view.dice.last)} best {_shown(view.dice.best)}"]
    parts += [f"{_shown(view.slices_per_s, 1)} slices/s"]
    if view.seconds_left is not None:
        parts.append(f"{duration(view.seconds_left)} left")
    if view.reason:
        parts.append(view.reason)
    return "  ".join(parts)


def frame(view: RunView, console: Console) -> RenderableType:
    """The whole picture of a run, as wide as the console."""
    width = min(console.width, MOST_PLOT_COLUMNS + 12)
    room = max(4, console.height - FRAME_LINES) if console.is_terminal else len(view.structures)
    parts: list[RenderableType] = [_head(view, width), _facts(view)]
    if view.losses:
        parts += [Text("\nloss a step", style="bold"), Text("\n".join(text_plot(view.losses, width - 12, PLOT_ROWS)))]
    if view.structures:
        parts += [Text(), _dice_table(view, room)]
    parts.append(Text("\nrun.log", style="bold"))
    parts += [Text(line, style="dim", overflow="ellipsis", no_wrap=True) for line in view.log]
    return Group(*parts)


def _head(view: RunView, width: int) -> Text:
    text = Text.assemble((view.state, STYLES.get(view.state, "bold yellow")), "  ", view.run, "\n")
    steps = max(view.steps, 1)
    done = (max(view.epoch - 1, 0) + view.step / steps) / max(view.epochs, 1) if view.epoch else 0.0
    filled = round(min(done, 1.0) * (width - 8))
    text.append("━" * filled, style="green").append("━" * (width - 8 - filled), style="dim")
    text.append(f" {100 * done:.0f} %")
    if view.reason:
        text.append(f"\n{view.reason}", style="red")
    if not view.ended and view.quiet_s > QUIET_S:
        text.append("\n" + MEANWHILE.format(quiet=duration(view.quiet_s), run=view.run), style="yellow")
    return text


def _facts(view: RunView) -> Table:
    left = "-" if view.seconds_left is None else duration(view.seconds_left)
    restarts = max(view.starts - 1, 0)
    workers = f"{len(view.workers)}: {', '.join(view.workers)}" if view.workers else "-"
    facts = [
        ("epoch", f"{view.epoch} of {view.epochs}", "learning rate", _shown(view.lr, significant=True)),
        ("step", f"{view.step} of {view.steps}", "slices/s", _shown(view.slices_per_s, 1)),
        ("time left", left, "waiting for data", _percent(view.wait_share)),
        ("loss", _shown(view.loss), "GPU memory", _memory(view.gpu_memory_mib)),
        ("Dice", f"{_shown(view.dice.last)}, best {_best(view.dice)}", "restarts", str(restarts)),
        ("workers", workers, "", ""),
    ]
    table = Table(show_header=False, box=None, pad_edge=False)
    for style in ("bold", "", "bold", ""):
        table.add_column(style=style)
    for fact in facts:
        table.add_row(*map(Text, fact))
    return table


def _dice_table(view: RunView, most: int) -> Table:
    """The ``most`` structures with the lowest Dice, in their own order."""
    table = Table(box=None, pad_edge=False)
    for name in ("structure", "Dice", "best"):
        table.add_column(name, justify="left" if name == "structure" else "right")
    lowest = sorted(view.structures, key=lambda one: (not math.isnan(one.last), one.last))[:most]
    for one in (one for one in view.structures if one in lowest):
        table.add_row(Text(one.name), _shown(one.last), _best(one))
    if len(view.structures) > len(lowest):
        table.add_row(Text(f"and {len(view.structures) - len(lowest)} with a higher Dice", style="dim"), "", "")
    return table


def text_plot(points: Sequence[tuple[float, float]], width: int, height: int) -> list[str]:
    """A curve of (x, y) as ``height`` lines of block characters behind the names of its highest and lowest value.

    A column shows the mean of the points that fall on it; points that are not finite are left out, and a column
    without a point stays empty.
    """
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not finite:
        return []
    first, last = min(x for x, _ in finite), max(x for x, _ in finite)
    width = max(1, min(width, len(finite)))
    columns: list[list[float]] = [[] for _ in range(width)]
    for x, y in finite:
        columns[round((x - first) / max(last - first, 1e-9) * (width - 1))].append(y)
    means = [sum(column) / len(column) if column else None for column in columns]
    known = [mean for mean in means if mean is not None]
    low, high = min(known), max(known)
    # The lowest value still has a block to be seen.
    units = [
        None if mean is None else 1 + round((mean - low) / max(high - low, 1e-12) * (8 * height - 1)) for mean in means
    ]
    lines = []
    for level in range(height - 1, -1, -1):
        name = f"{high:.3g}" if level == height - 1 else f"{low:.3g}" if level == 0 else ""
        cells = [" " if unit is None else BLOCKS[min(max(unit - 8 * level, 0), 8)] for unit in units]
        lines.append(f"{name:>9} " + "".join(cells))
    return lines


def duration(seconds: float) -> str:
    """Seconds as people say them: 40 s, 12 min, 3 h 05 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _shown(value: float, digits: int = 4, *, significant: bool = False) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.3g}" if significant else f"{value:.{digits}f}"


def _best(one: Scored) -> str:
    return "-" if math.isnan(one.best) else f"{one.best:.4f} (epoch {one.best_epoch})"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def _memory(mib: float) -> str:
    return "-" if math.isnan(mib) else f"{mib / 1024:.1f} GiB"
