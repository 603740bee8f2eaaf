"""What the commands print: progress lines and closing summaries (the doctor's: ``cli_doctor``)."""

from __future__ import annotations

import json
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from segray.privacy import hide, hide_case

if TYPE_CHECKING:
    from segray.config import Config
    from segray.engine.export import Exported
    from segray.pipelines.evaluate import EvaluateSummary
    from segray.pipelines.ingest import IngestSummary
    from segray.pipelines.predict import PredictSummary
    from segray.pipelines.train import TrainSummary
    from segray.pipelines.verify import VerifySummary

console = Console(highlight=False)

PLAIN_EVERY_S = 15.0
"""Where the output is no terminal, a progress line comes this often."""

FAILURES_SHOWN = 5


def sayable(text: str) -> str:
    """``text`` for the terminal: without rich's markup, and with pseudonyms where names are hidden."""
    return escape(hide(text))


class _Line:
    """A progress bar on a terminal; now and then a plain line elsewhere."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._progress = Progress(
            TextColumn(f"[bold]{title}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=1)
        self._plain_at = time.monotonic()

    def show(self, done: float, total: float, text: str) -> None:
        """Move the bar to ``done`` of ``total`` and show ``text`` behind it."""
        self._progress.update(self._task, completed=done, total=total, description=sayable(text))
        if not console.is_terminal and time.monotonic() - self._plain_at > PLAIN_EVERY_S:
            self._plain_at = time.monotonic()
            console.print(sayable(f"{self._title} {done:.0f}/{total:.0f} {text}"))

    def __enter__(self) -> Any:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class CaseLine(_Line):
    """Progress over cases; a watcher of ingest, predict and evaluate."""

    def __call__(self, row: dict[str, Any], done: int, total: int) -> None:
        """Take the row of a finished case."""
        self.show(done, total, hide_case(str(row.get("case_id", ""))))


class TrainLine(_Line):
    """Progress of a training; a watcher of train."""

    def __init__(self) -> None:
        super().__init__("train")

    def plan_case(self, row: dict[str, Any], done: int, total: int) -> None:
        """Take the row of a case that was planned, in a training on cases without ingest."""
        self.show(done, total, f"plan {hide_case(str(row.get('case_id', '')))}")

    def __call__(self, facts: dict[str, Any]) -> None:
        """Take the content of the run's progress.json."""
        if not facts:
            return
        done = (facts["epoch"] - 1) * facts["steps"] + facts["step"]
        dice = "" if facts["dice"] is None else f"  best Dice {facts['dice']:.3f}"
        epoch, speed = f"epoch {facts['epoch']}/{facts['epochs']}", f"{facts['slices_per_s']:.1f} slices/s"
        text = f"{epoch}  loss {facts['loss']:.3f}{dice}  {speed}"
        if "folds" in facts:
            self.show(100 * facts["share"], 100, f"fold {facts['fold']}/{facts['folds']}  {text}")
            return
        self.show(done, facts["epochs"] * facts["steps"], text)


def print_paths(**paths: str) -> None:
    """A line for each named path."""
    for name, path in paths.items():
        console.print(f"[bold]{name}[/bold]  {sayable(path)}", soft_wrap=True)


def print_failures(failed: list[tuple[str, str]], where: str) -> None:
    """Say how many cases failed, the first reasons, and where all of them are."""
    if not failed:
        return
    console.print(f"[yellow]{len(failed)} case{'s' * (len(failed) > 1)} failed[/yellow]; reasons in {sayable(where)}")
    for case_id, reason in failed[:FAILURES_SHOWN]:
        console.print(f"  {sayable(hide_case(case_id))}: {sayable(reason)}", soft_wrap=True)


def print_ingest(summary: IngestSummary) -> None:
    """The outcome of an ingest."""
    for note in summary.notes:
        console.print(sayable(note), soft_wrap=True)
    split = ", ".join(f"{count} {name}" for name, count in summary.split.items() if count)
    print_paths(
        shards=f"{summary.folder}  ({summary.cases} cases: {split}; {summary.slices} slices; {summary.written} written)"
    )
    print_failures(summary.failed, f"{summary.folder}/failures.csv")


def print_plan(summary: IngestSummary) -> None:
    """What a training on cases without ingest will use, and what not."""
    for note in summary.notes:
        console.print(sayable(note), soft_wrap=True)
    split = ", ".join(f"{count} {name}" for name, count in summary.split.items() if count)
    print_paths(
        plan=f"{summary.folder}  ({summary.cases} cases: {split}; {summary.slices} slices, read from the files)"
    )
    print_failures(summary.failed, f"{summary.folder.removesuffix('/live')}/failures.csv")


def print_note(sentence: str) -> None:
    """A sentence that a command has to say."""
    console.print(sayable(sentence), soft_wrap=True)


def print_train(summary: TrainSummary) -> None:
    """The outcome of a training."""
    for number, fold in enumerate(summary.folds):
        print_paths(
            **{f"fold {number}": f"{fold.run}  (epoch {fold.best_epoch} of {fold.epochs}, {_validation(fold)})"}
        )
    if summary.folds:
        print_paths(run=f"{summary.run}  (mean over {len(summary.folds)} folds: {_validation(summary)})")
        return
    dice = _validation(summary)
    print_paths(run=summary.run, bundle=f"{summary.bundle}  (epoch {summary.best_epoch} of {summary.epochs}, {dice})")


def _validation(summary: TrainSummary) -> str:
    return "no validation cases" if summary.best_dice is None else f"validation Dice {summary.best_dice:.4f}"


def print_predict(summary: PredictSummary) -> None:
    """The outcome of a prediction."""
    print_paths(masks=f"{summary.masks}  ({summary.done} of {summary.cases} cases, {summary.new} new)")
    if summary.review:
        print_paths(review=summary.review)
    print_failures(summary.failed, f"{summary.folder}/cases.csv")


def print_verify(summary: VerifySummary) -> None:
    """What a check of a prediction folder found."""
    print_paths(masks=f"{summary.masks}  ({summary.whole} of {summary.cases} are whole and what their rows say)")
    for note in summary.notes:
        print_note(note)
    told = [finding for finding in summary.findings if finding.reason][:FAILURES_SHOWN]
    for finding in told:
        console.print(f"  {sayable(hide_case(finding.name))}: {sayable(finding.reason)}", soft_wrap=True)


def print_export(written: Exported) -> None:
    """The files of an export."""
    for path in written.files:
        print_paths(written=path)
    size = "any batch and sides" if written.any_size else "one shape of input"
    console.print(f"It takes {size}, and differs from the bundle's logits by {written.difference:.2g} at most.")


def print_evaluate(summary: EvaluateSummary) -> None:
    """The Dice of every structure and the mean."""
    for note in summary.notes:
        console.print(sayable(note), soft_wrap=True)
    table = Table(title=f"Dice over {summary.cases} cases", title_justify="left")
    for name, justify in (
        ("structure", "left"),
        ("mean", "right"),
        ("median", "right"),
        ("min", "right"),
        ("cases", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in summary.structures:
        numbers = [_number(row[f"dice_{key}"]) for key in ("mean", "median", "min")]
        table.add_row(sayable(str(row["structure"])), *numbers, str(row["cases"]))
    console.print(table)
    console.print(f"[bold]mean Dice {_number(summary.mean_dice)}[/bold]")
    print_paths(tables=f"{summary.folder}/metrics.csv, {summary.folder}/summary.csv")
    print_failures(summary.failed, f"{summary.folder}/evaluation.json")


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.4f}"


def print_settings(config: Config) -> None:
    """Every setting with its value, unit and meaning."""
    from segray.config import known_keys

    tree = config.model_dump(mode="json")
    for key, field in known_keys():
        value: Any = tree
        for part in key.split("."):
            value = value[part]
        unit = (field.json_schema_extra or {}).get("unit", "")
        shown = "" if value is None else json.dumps(value)
        console.print(f"[bold]{key}[/bold] = {sayable(shown)} {sayable(unit)}".rstrip(), soft_wrap=True)
        console.print(f"    {sayable(field.description or '')}", soft_wrap=True)


def run_demo(data: str | None, out: str, overrides: list[str]) -> int:
    """The whole way; returns the number of cases that failed."""
    from segray.pipelines.demo import Demo

    demo = Demo(data, out, overrides)
    with demo.session():
        console.rule("ingest")
        with CaseLine("ingest") as line:
            ingested = demo.ingest(line)
        print_ingest(ingested)
        console.rule("train")
        with TrainLine() as curve:
            print_train(demo.train(curve))
        console.rule("predict")
        with CaseLine("predict") as line:
            predicted = demo.predict(line)
        print_predict(predicted)
        console.rule("evaluate")
        with CaseLine("evaluate") as line:
            evaluated = demo.evaluate(line)
        print_evaluate(evaluated)
    console.rule("report")
    print_paths(masks=predicted.masks, report=demo.report())
    return len({case_id for case_id, _ in (*ingested.failed, *predicted.failed)})
