from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from segray.errors import UsageError
from segray.pipelines.run_view import RunReader

sys.path.insert(0, str(Path(__file__).parent))

from made_run import add_epoch, make_run, under_way


def test_a_run_in_its_third_epoch_of_four(tmp_path: Path) -> None:
    under_way(make_run(tmp_path / "run"), 3, 5)
    view = RunReader(str(tmp_path / "run")).view()
    assert (view.state, view.ended) == ("running", False)
    assert (view.epoch, view.epochs, view.step, view.steps) == (3, 4, 5, 10)
    # Epochs of 60 s; one and a half are left.
    assert view.seconds_left == pytest.approx(90.0)
    assert (view.loss, view.lr, view.slices_per_s) == (0.25, 0.0005, 20.0)
    assert view.wait_share == pytest.approx(0.25)
    assert view.gpu_memory_mib == 2048
    assert len(view.losses) == 20
    assert view.workers == ["node-a (cuda:0)"]
    assert view.starts == 1
    assert view.quiet_s < 5
    assert view.log[-1].endswith("validation Dice 0.7")


def test_last_and_best_dice_of_every_structure(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    view = RunReader(str(tmp_path / "run")).view()
    assert (view.dice.last, view.dice.best, view.dice.best_epoch) == (0.7, 0.7, 2)
    liver, spleen = view.structures
    assert (liver.name, liver.best_epoch, spleen.name, spleen.best_epoch) == ("liver", 2, "spleen", 1)
    assert (spleen.last, spleen.best) == (pytest.approx(0.3), pytest.approx(0.4))


def test_a_time_limit_ends_it_sooner(tmp_path: Path) -> None:
    under_way(make_run(tmp_path / "run", epochs=100, settings=("train.minutes=3",)), 3, 5, 100)
    # Two and a half minutes of three are over.
    assert RunReader(str(tmp_path / "run")).view().seconds_left == pytest.approx(30.0)


def test_the_first_epoch_is_judged_by_its_speed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", done=0)
    view = RunReader(str(tmp_path / "run")).view()
    assert (view.epoch, view.seconds_left, view.losses, view.structures) == (0, None, [], [])
    assert math.isnan(view.loss)
    under_way(run, 1, 5)
    # 35 steps of 4 slices at 20 slices/s.
    assert RunReader(str(tmp_path / "run")).view().seconds_left == pytest.approx(7.0)


@pytest.mark.parametrize(
    ("history", "state", "reason"),
    [
        ({"state": "finished", "finished": True}, "finished", ""),
        ({"state": "running", "fatal": "No step of the epoch had a finite loss."}, "failed", "No step of the epoch"),
        ({"state": "interrupted"}, "interrupted", ""),
        ({"state": "", "finished": True}, "finished", ""),
    ],
)
def test_a_run_that_has_ended(tmp_path: Path, history: dict[str, object], state: str, reason: str) -> None:
    run = make_run(tmp_path / "run")
    run.write_history(**history)
    view = RunReader(run.path).view()
    assert (view.state, view.ended, view.seconds_left) == (state, True, None)
    assert view.reason.startswith(reason)


def test_a_reader_sees_what_is_added_and_no_half_row(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    reader = RunReader(run.path)
    assert (reader.view().epoch, len(reader.view().losses)) == (2, 20)
    add_epoch(run, 3)
    assert (reader.view().epoch, len(reader.view().losses)) == (3, 30)
    with (tmp_path / "run" / "metrics.csv").open("a") as stream:
        stream.write("4,40,240.0")
    assert reader.view().epoch == 3


def test_a_folder_that_is_no_run_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no run of segray train"):
        RunReader(str(tmp_path))
