"""`segray watch` of a cross-validation: a line a fold, from the files of the folds' runs."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from segray.cli import app
from segray.config import dump_config, load_config
from segray.pipelines.folds_view import FoldsReader, is_cross_validation
from segray.pipelines.run_folder import RunFolder

sys.path.insert(0, str(Path(__file__).parent / "pipelines"))

from made_run import make_run, under_way


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three folds: one has ended, one is under way, one has not begun."""
    whole = RunFolder(str(tmp_path / "run"))
    whole.begin(dump_config(load_config(None, ["train.folds=3"])))
    whole.write_history(state="running")
    for fold, done in enumerate((4, 2)):
        made = make_run(tmp_path / "run" / f"fold_{fold}", done=done, settings=("train.folds=3", f"train.fold={fold}"))
        if done == 4:
            made.write_history(state="finished", finished=True)
        else:
            under_way(made, 3, 5)
    return tmp_path / "run"


def _told(*words: str) -> str:
    result = CliRunner().invoke(app, ["watch", *words], env={"COLUMNS": "140"})
    assert result.exit_code == 0, result.output
    return result.output


def test_a_line_a_fold(run: Path) -> None:
    told = _told(str(run), "--once").splitlines()
    assert told[0].startswith("running")
    assert told[1] == "mean best Dice 0.8000"
    (first,) = [line.split() for line in told if line.strip().startswith("0 ")]
    (second,) = [line.split() for line in told if line.strip().startswith("1 ")]
    assert first[:3] == ["0", "finished", "4/4"]
    assert first[4:6] == ["0.9000", "0.9000"]
    assert second[:6] == ["1", "running", "3/4", "0.2500", "0.7000", "0.7000"]
    assert "90 s" in " ".join(second)


def test_a_pipe_gets_lines_until_the_end(run: Path) -> None:
    RunFolder(str(run)).write_history(state="finished", finished=True)
    (line,) = _told(str(run)).splitlines()
    assert line == "finished  2 of 3 folds begun  epochs 4/4, 3/4  mean best Dice 0.8000"


def test_before_the_first_fold_has_begun(tmp_path: Path) -> None:
    RunFolder(str(tmp_path)).begin(dump_config(load_config(None, ["train.folds=3"])))
    view = FoldsReader(str(tmp_path)).view()
    assert (view.state, view.count, list(view.folds)) == ("running", 3, [])


def test_a_fold_is_a_run_like_any_other(run: Path) -> None:
    assert is_cross_validation(str(run))
    assert not is_cross_validation(str(run / "fold_0"))
    assert "4 of 4" in _told(str(run / "fold_0"), "--once")


def test_a_fold_that_failed_says_why(run: Path) -> None:
    from segray.cli_folds import frame

    RunFolder(str(run / "fold_1")).write_history(fatal="No step of the epoch had a finite loss.")
    text = io.StringIO()
    console = Console(file=text, width=100)
    console.print(frame(FoldsReader(str(run)).view(), console))
    assert "fold 1: No step of the epoch had a finite loss." in text.getvalue()
