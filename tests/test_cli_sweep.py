"""A sweep in the terminal, from a folder as `segray tune` leaves it."""

from __future__ import annotations

import dataclasses
import io
import time
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from segray.case import LabelMap
from segray.cli import app
from segray.cli_sweep import frame, plain_line, refuse_beside_resume, varied, watch_sweep
from segray.config import dump_config, load_config
from segray.errors import UsageError
from segray.grid import Grid
from segray.pipelines.sweep_folder import SPACE, SweepFolder
from segray.pipelines.sweep_view import SweepReader
from segray.shards.manifest import MANIFEST, Manifest, PartEntry, pool_intensity
from segray.tuning.records import Objective, TrialRecord


def _trial(number: int, state: str, value: float | None, run: str = "", **settings: object) -> TrialRecord:
    curve = ((1, 0.1), (2, value or 0.2))
    ended = None if state == "running" else 1060.0
    values = None if value is None else (value,)
    found = {"optim.lr": 0.001 * (number + 1), "optim.name": "adamw", **settings}
    return TrialRecord(
        number, state, {}, found, values, curve, 1000.0, ended, "node-a", run, "it broke" * (state == "failed")
    )  # type: ignore[arg-type]


@pytest.fixture
def sweep(tmp_path: Path) -> SweepFolder:
    folder = SweepFolder(str(tmp_path / "sweep"))
    settings = ["tune.trials=10", "train.epochs=8", f"tune.run={folder.path}"]
    folder.begin(dump_config(load_config(None, settings)))
    (tmp_path / "sweep" / SPACE).write_text("")
    running = folder.trial(4)
    running.show_progress(force=True, epoch=3, epochs=8)
    records = [
        _trial(0, "finished", 0.5),
        _trial(1, "pruned", None),
        _trial(2, "finished", 0.8),
        _trial(3, "failed", None),
        _trial(4, "running", None, running.path),
    ]
    folder.write_trials(records, [Objective("val_dice")])
    folder.write_history(state="running", seconds=90.0)
    folder.show_progress(force=True, seconds=100.0, at=time.time())
    return folder


def _drawn(sweep: SweepFolder) -> str:
    out = io.StringIO()
    console = Console(file=out, width=120, highlight=False)
    console.print(frame(SweepReader(sweep.path).view(), console))
    return out.getvalue()


def test_a_frame_shows_best_running_and_latest(sweep: SweepFolder) -> None:
    lines = _drawn(sweep).splitlines()
    assert "4 of 10 trials ended, 2 min: 2 finished, 1 pruned, 1 failed" in " ".join(lines).replace("  ", " ")
    best = lines[lines.index(next(line for line in lines if line.startswith("best"))) + 2]
    assert best.split()[:3] == ["2", "finished", "0.8000"]
    assert "0.003" in best
    running = lines[lines.index(next(line for line in lines if line.startswith("running") and "/" not in line)) + 2]
    assert running.split()[:4] == ["4", "running", "0.2000", "3/8"]
    assert "adamw" not in "".join(lines), "a setting that all trials share takes up room"


def test_a_line_says_it_shorter(sweep: SweepFolder) -> None:
    view = SweepReader(sweep.path).view()
    assert plain_line(view) == (
        "running  trial 5/10  1 running  2 finished  1 pruned  1 failed  0 lost  best val_dice 0.8000 (trial 2)"
    )
    assert varied(view.lines) == ["optim.lr"]


def test_silence_is_said(sweep: SweepFolder) -> None:
    sweep.show_progress(force=True, seconds=100.0, at=time.time() - 600)
    assert "segray tune --resume" in _drawn(sweep)
    sweep.write_history(state="finished")
    assert "segray tune --resume" not in _drawn(sweep)


def test_watch_knows_a_sweep(sweep: SweepFolder) -> None:
    shown = CliRunner().invoke(app, ["watch", sweep.path, "--once"])
    assert shown.exit_code == 0, shown.output
    assert "of 10 trials ended" in shown.output


def test_watch_ends_with_the_sweep(sweep: SweepFolder) -> None:
    out = io.StringIO()
    sweep.write_history(state="finished")
    watch_sweep(sweep.path, interval=0.1, once=False, console=Console(file=out, width=120))
    assert out.getvalue().startswith("finished  trial 5/10")


def test_lower_is_better_for_costs(tmp_path: Path) -> None:
    folder = SweepFolder(str(tmp_path / "sweep"))
    folder.begin(dump_config(load_config(None, ["tune.objectives=[train_loss]"])))
    (tmp_path / "sweep" / SPACE).write_text("")
    folder.write_trials([_trial(0, "finished", 0.5), _trial(1, "finished", 0.3)], [Objective("train_loss")])
    best = SweepReader(folder.path).view().best
    assert best is not None
    assert best.number == 1


def test_a_folder_without_sweep(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no sweep"):
        SweepReader(str(tmp_path))


def test_examples_without_training(tmp_path: Path) -> None:
    space = tmp_path / "space.py"
    space.write_text('def space(trial):\n    return {"optim.lr": trial.suggest_float("optim.lr", 1e-4, 1e-2)}\n')
    labels, grid = LabelMap.of_names(["liver"]), Grid("native", (512, 512), None, 0.0)
    part = PartEntry("one", "one", "validation", "part-one.parquet", 1, 1, "", "")
    (tmp_path / MANIFEST).write_text(Manifest(labels, grid, [pool_intensity([])], [part]).to_json())
    words = ["tune", "--space", str(space), "--shards", str(tmp_path), "--dry-run", "3"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert [line for line in shown.output.splitlines() if line.startswith("draw")] == ["draw 0", "draw 1", "draw 2"]
    assert shown.output.count("optim.lr") == 3

    folder = SweepFolder(str(tmp_path / "sweep"))
    folder.begin(dump_config(load_config(None, [f"train.shards={tmp_path}", f"tune.run={folder.path}"])))
    (tmp_path / "sweep" / SPACE).write_text(space.read_text().replace("optim.lr", "optim.weight_decay"))
    shown = CliRunner().invoke(app, ["tune", "--resume", folder.path, "--dry-run", "2"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("optim.weight_decay") == 2


def test_what_resume_would_not_look_at_is_refused(sweep: SweepFolder, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("")
    for words, said in (
        ([str(tmp_path / "my.yaml")], "CONFIG"),
        (["--space", "other.py"], "--space"),
        (["--shards", "other"], "--shards"),
        (["--run", "other"], "--run"),
        (["--set", "ray.cpus=2", "--set", "tune.trials=9"], "--set tune.trials"),
    ):
        found = CliRunner().invoke(app, ["tune", "--resume", sweep.path, *words])
        assert isinstance(found.exception, UsageError), words
        assert f"{said} would change nothing" in str(found.exception)
    refuse_beside_resume({"--space": None}, ["ray.cpus=2", "privacy.hash_ids=true"])


def test_a_resumed_training_refuses_what_it_would_not_look_at(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("")
    for words, said in (
        ([str(tmp_path / "my.yaml")], "CONFIG"),
        (["--shards", "other"], "--shards"),
        (["--set", "ray.cpus=2", "--set", "train.epochs=9"], "--set train.epochs"),
    ):
        found = CliRunner().invoke(app, ["train", "--resume", str(tmp_path / "run"), *words])
        assert isinstance(found.exception, UsageError), words
        assert f"the training began with, and {said} would change nothing" in str(found.exception)


def test_a_raised_number_of_trials_is_seen(sweep: SweepFolder) -> None:
    reader = SweepReader(sweep.path)
    assert reader.view().trials == 10
    settings = ["tune.trials=200", "train.epochs=8", f"tune.run={sweep.path}"]
    Path(sweep.file("config.yaml")).write_text(dump_config(load_config(None, settings)))
    assert reader.view().trials == 200


def test_dice_of_structures_is_no_setting(sweep: SweepFolder) -> None:
    found = dataclasses.replace(_trial(5, "finished", 0.7), other={"val_dice_liver": 0.6, "seconds": 3.0})
    sweep.write_trials([_trial(0, "finished", 0.5), found], [Objective("val_dice")])
    view = SweepReader(sweep.path).view()
    assert set(view.lines[1].settings) == {"optim.lr", "optim.name"}


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    run = CliRunner()
    for words, said in (
        (["tune"], "No folder for the sweep is named"),
        (["tune", "--run", str(tmp_path / "s")], "No shards are named"),
        (["tune", "--run", str(tmp_path / "s"), "--shards", "x"], "No search space is named"),
        (["tune", "--resume", str(tmp_path)], "holds no sweep to resume"),
        (["tune", "--run", "a", "--shards", "x", "--space", "none.py"], "There is no search space none.py"),
    ):
        found = run.invoke(app, words)
        assert isinstance(found.exception, UsageError), (words, found.output)
        assert said in str(found.exception)
