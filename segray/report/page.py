"""One ``index.html`` with everything that a run and its predictions left, and the plots it links to."""

from __future__ import annotations

import json
import math
import os.path
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata

import numpy as np
from matplotlib.figure import Figure

from segray import storage
from segray.errors import UsageError
from segray.evaluation.tables import case_means, mean_present, overall, read_csv_rows, summarise
from segray.report import curves, distributions, html, volumes
from segray.report.cases import choose_cases, draw_cases
from segray.report.folders import (
    PredictionFiles,
    RunFiles,
    as_number,
    is_prediction,
    is_run,
    read_prediction,
    read_run,
)
from segray.report.html import Cell, Markup
from segray.report.review_page import PREVIEWS, REVIEW_PAGE, REVIEW_TABLE
from segray.report.theme import save_png

REVIEWED = 3
"""Previews of the first cases of the review list."""

WORST_CASES = 10
MOST_ROWS = 300
"""Rows of a table on the page; the CSV beside it holds all."""

_VERSIONS = ("segray", "torch", "ray", "monai", "numpy")


@dataclass
class _Page:
    """What the sections are made of.

    Attributes:
        folder: where ``index.html`` goes.
        run, prediction: what was found.
        missing: a sentence for each part that is not there, with the command that makes it.
    """

    folder: str
    run: RunFiles | None
    prediction: PredictionFiles | None
    missing: list[str] = field(default_factory=list)

    @property
    def plots(self) -> str:
        return storage.join(self.folder, "plots")

    def plot(self, name: str, figure: Figure, alt: str) -> Markup:
        save_png(figure, storage.join(self.plots, f"{name}.png"))
        return html.picture(f"plots/{name}.png", alt)

    def link(self, text: str, target: str) -> Markup:
        """A link that is relative where page and target lie on one disk, so that both can be moved together."""
        return html.link(text, self.target(target))

    def target(self, uri: str) -> str:
        """What a link to ``uri`` says: a relative path where page and target lie on one disk."""
        if storage.is_remote(self.folder) or storage.is_remote(uri):
            return uri
        return os.path.relpath(storage.absolute(uri), self.folder)


def write_report(folder: str, *, run: str | None = None, predictions: str | None = None) -> str:
    """Draw all plots into ``<folder>/plots`` and write ``<folder>/index.html``; returns the path of the page.

    Args:
        folder: where the page goes; a run folder or a prediction folder is shown without being named again.
        run: the run folder, where it is another one.
        predictions: the prediction folder, where it is another one.

    Raises:
        UsageError: there is neither a run nor a prediction.
        SegrayError: a file is damaged.
    """
    home = storage.absolute(folder)
    run_home = storage.absolute(run) if run is not None else (home if is_run(home) else None)
    predicted = storage.absolute(predictions) if predictions is not None else (home if is_prediction(home) else None)
    if run_home is None and predicted is None:
        raise UsageError(
            f"{folder} holds neither a training run nor predictions.",
            mend="Name the folder of `segray train` or `segray predict`.",
        )
    page = _Page(
        folder=home,
        run=None if run_home is None else read_run(run_home),
        prediction=None if predicted is None else read_prediction(predicted),
    )
    path = storage.join(home, "index.html")
    storage.write_text(path, _render(page))
    return path


def _render(page: _Page) -> str:
    training = _training(page)
    measured = _measured(page)
    overlays = _overlays(page)
    shown = page.prediction.folder if page.prediction is not None else page.folder
    name = os.path.basename((page.run.folder if page.run is not None else shown).rstrip("/"))
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    sections = [
        ("summary", "Summary", _summary(page)),
        ("structures", "Structures", _structures(page)),
        ("review", "Review", _review(page)),
        ("overlays", "Cases to look at", overlays),
        ("dice", "Dice and volumes", measured),
        ("training", "Training", training),
        ("worst", "Worst cases", _worst(page)),
        ("failed", "Failed cases", _failed(page)),
        ("settings", "Settings", _settings(page)),
    ]
    return html.document(f"segray report: {name}", f"Written {written}", sections)


def _summary(page: _Page) -> list[Markup]:
    shown: list[tuple[str, Cell]] = []
    if page.prediction is not None:
        shown += [("cases with a mask", len(page.prediction.done)), ("cases failed", len(page.prediction.failed))]
        if page.prediction.metrics:
            whole = overall(page.prediction.metrics)
            shown += [
                ("mean Dice over structures", whole["mean_dice"]),
                ("mean Dice over cases", whole["mean_dice_cases"]),
            ]
            shown += [("cases measured", whole["cases"])]
        shown += [("structures", len(page.prediction.structures)), ("median s a case", _case_seconds(page.prediction))]
    if page.run is not None and page.run.epochs:
        dice = curves.column(page.run.epochs, "val_dice")
        shown += [("epochs trained", len(dice)), ("best validation Dice", max(_numbers(dice), default=math.nan))]
        shown += [("time waited for data", _wait(page.run))]
    parts = [html.facts(shown)] if shown else []
    parts.append(html.paragraph("Versions: " + ", ".join(_versions()), "soft"))
    missing = _missing(page)
    if missing:
        parts += [html.paragraph("Not in this report:", "soft"), html.bullets(missing)]
    return parts


def _missing(page: _Page) -> list[str]:
    """A sentence for each part that is not there, with the command that makes it."""
    found = []
    if page.run is None:
        found.append("The training run: `segray report RUN --predictions FOLDER` shows both.")
    elif not page.run.epochs:
        found.append(f"Training curves: no epoch has ended yet; `segray train --resume {page.run.folder}` goes on.")
    if page.prediction is None:
        found.append("Masks and overlays: `segray predict BUNDLE SRC DST` makes them; then name DST by --predictions.")
    elif not page.prediction.metrics:
        found.append(f"Dice and worst cases: `segray evaluate {page.prediction.folder} TRUTH` measures them.")
    return found + page.missing


def _structures(page: _Page) -> list[Markup]:
    files = page.prediction
    if files is None:
        return []
    tables = [
        page.link(name, storage.join(files.folder, name))
        for name in ("metrics.csv", "summary.csv", "cases.csv")
        if storage.exists(storage.join(files.folder, name))
    ]
    links = [Markup(f'<p class="soft">All numbers: {", ".join(one.html for one in tables)}</p>')] if tables else []
    return [*(_dice_table(files) if files.metrics else [_volume_table(files)]), *links]


def _dice_table(files: PredictionFiles) -> list[Markup]:
    """The table of all structures that some case holds, and a line on the others."""
    head = [
        "structure",
        "Dice",
        "sd",
        "median",
        "min",
        "IoU",
        "precision",
        "recall",
        "volume error (ml)",
        "cases",
        "absent",
    ]
    of = {(line["structure"], line["metric"]): line for line in summarise(files.metrics)}
    rows: list[list[Cell]] = []
    absent: list[str] = []
    for name in dict.fromkeys([*files.structures, *(structure for structure, _ in of)]):
        if (name, "dice") not in of or of[name, "dice"]["n"] == 0:
            absent.append(name)
            continue
        dice = of[name, "dice"]
        means = [of[name, metric]["mean"] for metric in ("iou", "precision", "recall", "volume_error_ml")]
        row = [name, *(dice[key] for key in ("mean", "sd", "median", "min")), *means, dice["n"], dice["n_missing"]]
        rows.append(row)
    shown = [html.table(head, rows)]
    if absent:
        text = f"In no measured case, neither in truth nor mask ({len(absent)}): {', '.join(absent)}."
        shown.append(html.paragraph(text, "soft"))
    return shown


def _volume_table(files: PredictionFiles) -> Markup:
    rows: list[list[Cell]] = []
    for name, found in files.volumes().items():
        present = [volume for volume in found if volume > 0]
        means = _numbers([as_number(row.get(f"mean_hu_{name}")) for row in files.done])
        rows.append([name, _median(present), _median(means), len(present)])
    return html.table(["structure", "median volume (ml)", "median of mean HU", "cases"], rows)


def _measured(page: _Page) -> list[Markup]:
    files = page.prediction
    if files is None or not files.done:
        return []
    made = []
    if files.metrics:
        dice, pairs = files.of_structures("dice"), files.volume_pairs()
        ranking, spread = distributions.structure_ranking(dice), distributions.dice_distribution(dice)
        agreement, difference = volumes.volume_agreement(pairs), volumes.volume_difference(pairs)
        made = [
            page.plot("structure_ranking", ranking, "Structures ranked by their mean Dice."),
            page.plot("dice_distribution", spread, "Dice of every case, structure by structure."),
            page.plot("volume_agreement", agreement, "Predicted against true volume; the line is equality."),
            page.plot("volume_difference", difference, "Relative volume difference, its bias and limits."),
        ]
    sizes = volumes.case_volumes(files.volumes())
    made.append(page.plot("case_volumes", sizes, "Predicted volume of every case, structure by structure."))
    return [html.pictures(made, pairs=True)]


def _training(page: _Page) -> list[Markup]:
    run = page.run
    if run is None or not run.epochs:
        return []
    drawn = [
        page.plot("loss", curves.loss_curve(run.epochs, run.steps), "Training loss and its parts."),
        page.plot("validation_dice", curves.dice_curve(run.epochs), "Validation Dice an epoch, mean and structures."),
        page.plot("learning_rate", curves.learning_rate_curve(run.epochs), "Learning rate an epoch."),
        page.plot("data_wait", curves.data_wait_curve(run.epochs), "Share of the time that waited for data."),
    ]
    return [html.pictures(drawn, pairs=True)]


def _overlays(page: _Page) -> list[Markup]:
    if page.prediction is None:
        return []
    drawn = draw_cases(page.prediction, choose_cases(page.prediction), page.plots)
    page.missing += drawn.problems
    found = [html.picture(f"plots/{name}", f"{case.case_id}: {case.why}") for case, name in drawn.pictures]
    return [html.pictures(found)] if found else []


def _review(page: _Page) -> list[Markup]:
    """The list of cases to look at first, where there is one, with the previews of the first few."""
    if page.prediction is None or not storage.exists(storage.join(page.prediction.folder, REVIEW_PAGE)):
        return []
    home = page.prediction.folder
    listed = page.link("The ranked list", storage.join(home, REVIEW_PAGE)).html
    table = storage.join(home, REVIEW_TABLE)
    rows = read_csv_rows(table) if storage.exists(table) else []
    pictures = set(storage.names(storage.join(home, PREVIEWS), ".png"))
    shown = [
        html.picture(page.target(storage.join(home, PREVIEWS, name)), f"{row['case_id']}: {row.get('reasons', '')}")
        for row in rows[:REVIEWED]
        if (name := f"{row.get('case_id')}.png") in pictures
    ]
    told = Markup(f"<p>{listed} says which cases to look at first, and why.</p>")
    return [told, *([html.pictures(shown)] if shown else [])]


def _worst(page: _Page) -> list[Markup]:
    files = page.prediction
    if files is None or not files.metrics:
        return []
    means = {case: mean for case, mean in case_means(files.metrics).items() if not math.isnan(mean)}
    rows: list[list[Cell]] = []
    for case_id in sorted(means, key=lambda case: (means[case], case))[:WORST_CASES]:
        of_case = [row for row in files.metrics if row["case_id"] == case_id]
        known = [row for row in of_case if not math.isnan(as_number(row["dice"]))]
        lowest = min(known, key=lambda row: as_number(row["dice"]))
        mask = files.mask(case_id)
        target: Cell = page.link("mask", mask) if mask is not None else None
        rows.append([case_id, means[case_id], lowest["structure"], as_number(lowest["dice"]), target])
    return [html.table(["case", "mean Dice", "lowest structure", "its Dice", "file"], rows)] if rows else []


def _failed(page: _Page) -> list[Markup]:
    files = page.prediction
    if files is None:
        return []
    rows: list[list[Cell]] = [[str(row["case_id"]), "predict", str(row.get("reason") or "")] for row in files.failed]
    rows += [[case, "evaluate", reason] for case, reason in files.unmeasured.items()]
    if not rows:
        return [html.paragraph("None.", "soft")]
    parts = [html.table(["case", "step", "reason"], rows[:MOST_ROWS])]
    if len(rows) > MOST_ROWS:
        parts.append(
            html.paragraph(f"And {len(rows) - MOST_ROWS} more: cases.csv and evaluation.json hold all.", "soft")
        )
    return parts


def _settings(page: _Page) -> list[Markup]:
    parts = []
    if page.run is not None:
        texts = (
            ("config.yaml", page.run.config),
            ("bundle.json", _shown(page.run.bundle)),
            ("history.json", _shown(page.run.history)),
        )
        parts += [html.folded(name, text) for name, text in texts if text]
    if page.prediction is not None and page.prediction.prediction:
        parts.append(html.folded("prediction.json", _shown(page.prediction.prediction)))
    return parts


def _shown(table: dict[str, object]) -> str:
    return json.dumps(table, indent=1) if table else ""


def _versions() -> list[str]:
    found = []
    for name in _VERSIONS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return found


def _case_seconds(files: PredictionFiles) -> float:
    stages = ("seconds_read", "seconds_predict", "seconds_write")
    return _median(_numbers([sum(as_number(row.get(stage)) for stage in stages) for row in files.done]))


def _wait(run: RunFiles) -> str:
    waits, steps = curves.column(run.epochs, "data_wait_s"), curves.column(run.epochs, "step_s")
    share = mean_present(curves.wait_share(wait, step) for wait, step in zip(waits, steps, strict=True))
    return html.NOTHING if math.isnan(share) else f"{100 * share:.1f} %"


def _numbers(values: list[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else math.nan
