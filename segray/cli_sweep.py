"""A sweep in the terminal: as it runs, watched from elsewhere, and its outcome."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from segray.cli_display import sayable
from segray.cli_watch import QUIET_S, STYLES, duration, follow
from segray.errors import SegrayError, UsageError
from segray.pipelines.sweep_view import SweepReader, SweepView, TrialLine, is_sweep

if TYPE_CHECKING:
    from segray.pipelines.tune import SweepSummary

LATEST = 6
"""Ended trials that a frame shows, besides the running ones and the best."""

SETTINGS_SHOWN = 4
TAKEN = ("ray.", "privacy.")
"""Settings that a sweep takes when it is resumed."""

MEND = (
    "Leave it out; --trials, --minutes and settings of ray and privacy are taken. "
    "Or begin another sweep that learns from this one by tune.earlier."
)

EVERY_S = 2.0
PLAIN_EVERY_S = 15.0

LOST = "no sign of it for {quiet}: if it was killed, `segray tune --resume {run}` goes on"


class SweepLive:
    """Shows a sweep while this process drives it: a frame on a terminal, now and then a line elsewhere."""

    def __init__(self, path: str, console: Console | None = None) -> None:
        self._path, self._console = path, console or Console(highlight=False)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True, name="sweep")

    def __enter__(self) -> SweepLive:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _show(self) -> None:
        reader: SweepReader | None = None
        while reader is None and not self._done.wait(EVERY_S):
            with suppress(SegrayError):
                reader = SweepReader(self._path) if is_sweep(self._path) else None
        if reader is None:
            return
        if self._console.is_terminal:
            with Live(console=self._console, auto_refresh=False, transient=True) as live:
                while not self._done.wait(EVERY_S):
                    with suppress(SegrayError):  # a disk that is away for a moment; the sweep itself waits for it
                        live.update(frame(reader.view(), self._console), refresh=True)
            return
        while not self._done.wait(PLAIN_EVERY_S):
            with suppress(SegrayError):
                self._console.print(Text(plain_line(reader.view())), soft_wrap=True)


def refuse_beside_resume(
    named: Mapping[str, str | None], overrides: Sequence[str], what: str = "sweep", mend: str = MEND
) -> None:
    """Raise UsageError where ``--resume`` is given what it would not look at: arguments, or settings.

    Args:
        named: what an argument is called, and its value; None where it is not given.
        overrides: ``key=value`` as --set takes them.
        what: goes on.
        mend: what to do instead.
    """
    ignored = [name for name, value in named.items() if value is not None]
    ignored += [f"--set {one.partition('=')[0].strip()}" for one in overrides if not one.strip().startswith(TAKEN)]
    if ignored:
        raise UsageError(
            f"--resume goes on with the settings that the {what} began with, and {ignored[0]} would change nothing.",
            mend=mend,
        )


def watch_sweep(path: str, *, interval: float, once: bool, console: Console | None = None) -> None:
    """Show the sweep at ``path`` until it has ended, or once; Ctrl-C ends it."""
    follow(lambda: SweepReader(path), frame, plain_line, interval=interval, once=once, console=console)


def plain_line(view: SweepView) -> str:
    """The sweep in one line."""
    best = view.best
    parts = [f"{view.state}", f"trial {len(view.lines)}/{view.trials}"]
    parts += [f"{view.count(state)} {state}" for state in ("running", "finished", "pruned", "failed", "lost")]
    parts.append(f"best {view.objective.name} {_shown(best.value)} (trial {best.number})" if best else "no best yet")
    return "  ".join(parts)


def frame(view: SweepView, console: Console) -> RenderableType:
    """The whole picture of a sweep."""
    head = Text.assemble((view.state, STYLES.get(view.state, "bold yellow")), "  ", view.run)
    ended = len(view.lines) - view.count("running") - view.count("waiting")
    facts = f"{ended} of {view.trials} trials ended, {duration(view.seconds)}: " + ", ".join(
        f"{view.count(state)} {state}" for state in ("finished", "pruned", "failed", "lost") if view.count(state)
    )
    parts: list[RenderableType] = [head, Text(facts.removesuffix(": "))]
    if not view.ended and view.quiet_s > QUIET_S:
        parts.append(Text(LOST.format(quiet=duration(view.quiet_s), run=view.run), style="yellow"))
    running = [one for one in view.lines if one.state == "running"]
    latest = [one for one in view.lines if one.state not in ("running", "waiting")][-LATEST:]
    best = [view.best] if view.best else []
    names = varied(view.lines)[: max(1, min(SETTINGS_SHOWN, (console.width - 50) // 16))]
    parts.append(_table("best", best, view, names))
    parts.append(_table("running", running, view, names))
    parts.append(_table("latest", latest, view, names))
    return Group(*parts)


def varied(lines: Sequence[TrialLine]) -> list[str]:
    """Settings that differ between trials, those that differ most first."""
    names = {name for one in lines for name in one.settings}
    counts = {name: len({one.settings.get(name) for one in lines}) for name in names}
    return sorted((name for name in names if counts[name] > 1), key=lambda name: (-counts[name], name))


def _table(title: str, lines: Sequence[TrialLine], view: SweepView, names: Sequence[str]) -> RenderableType:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for column in ("trial", "state", view.objective.name, "epoch", "minutes", *names):
        table.add_column(Text(column), justify="left" if column in ("state", *names) else "right", max_width=24)
    for one in lines:
        value = one.value if not math.isnan(one.value) else one.last
        epoch = f"{one.epoch}/{one.epochs}" if one.epochs else ""
        shown = [str(one.number), one.state, _shown(value), epoch, _shown(one.minutes, 1)]
        table.add_row(*map(Text, [*shown, *(one.settings.get(name, "") for name in names)]))
    return table if lines else Text()


def _shown(value: float, digits: int = 4) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def print_sweep(summary: SweepSummary, console: Console) -> None:
    """The outcome of a sweep."""
    console.print(sayable(summary.answer), soft_wrap=True)
    if len(summary.front) > 1:
        console.print(f"{len(summary.front)} trials that no other beats in all objectives: `front` in trials.csv.")
    places = {"sweep": summary.run, "best": summary.best_config, "bundle": summary.bundle, "report": summary.page}
    for name, path in places.items():
        if path:
            console.print(f"[bold]{name}[/bold]  {sayable(path)}", soft_wrap=True)
    for one in summary.failed[:5]:
        console.print(f"  trial {one.number} {one.state}: {sayable(one.reason)}", soft_wrap=True)


def print_draws(draws: Sequence[dict[str, Any]], console: Console) -> None:
    """Settings that trials would have, as YAML."""
    import yaml

    for number, settings in enumerate(draws):
        console.print(f"[bold]draw {number}[/bold]")
        console.print(sayable(yaml.safe_dump(settings, sort_keys=True, default_flow_style=None)), end="")
