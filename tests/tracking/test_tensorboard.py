from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from event_files import curve, shown_events
from PIL import Image

from segray.tracking.tensorboard import TensorBoard
from segray.tracking.tracker import Start


def _board(folder: Path, first_step: int = 0) -> TensorBoard:
    return TensorBoard(Start(str(folder), {}, first_step))


def test_scalars_come_back_with_their_steps(tmp_path: Path) -> None:
    board = _board(tmp_path)
    for step in range(3):
        board.scalars({"train/loss": 1.0 / (step + 1), "train/lr": 0.5}, step)
    board.close(failed=False)
    loss = curve(tmp_path / "tensorboard", "train/loss")
    assert [step for step, _ in loss] == [0, 1, 2]
    assert [value for _, value in loss] == pytest.approx([1.0, 0.5, 1 / 3])
    assert len(curve(tmp_path / "tensorboard", "train/lr")) == 3


def test_a_resumed_run_shows_every_step_once(tmp_path: Path) -> None:
    """Killed after step 4, with a checkpoint after step 2: steps 3 and 4 are made again."""
    killed = _board(tmp_path)
    for step in range(5):
        killed.scalars({"train/loss": float(step)}, step)
    killed.flush()
    resumed = _board(tmp_path, first_step=3)
    for step in range(3, 7):
        resumed.scalars({"train/loss": 10.0 + step}, step)
    resumed.close(failed=False)
    expected = [(0, 0.0), (1, 1.0), (2, 2.0), (3, 13.0), (4, 14.0), (5, 15.0), (6, 16.0)]
    assert curve(tmp_path / "tensorboard", "train/loss") == expected


def test_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    killed = _board(tmp_path)
    killed.scalars({"train/loss": 1.0}, 0)
    killed.scalars({"train/loss": 2.0}, 1)
    killed.flush()
    again = _board(tmp_path)
    again.scalars({"train/loss": 1.0}, 0)
    again.close(failed=False)
    assert curve(tmp_path / "tensorboard", "train/loss") == [(0, 1.0)]


def test_pictures_keep_their_pixels(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    board = _board(tmp_path)
    board.pictures({"validation/a": picture}, 7)
    board.close(failed=False)
    (event,) = shown_events(tmp_path / "tensorboard")
    shown = event.summary.value[0].image
    assert (event.step, shown.height, shown.width) == (7, 20, 30)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown.encoded_image_string))), picture)


def test_histograms_count_the_finite_values(tmp_path: Path) -> None:
    values = np.array([[0.0, 1.0, 2.0], [2.0, np.nan, np.inf]], dtype=np.float32)
    board = _board(tmp_path)
    board.histograms({"weights/a": values, "gradients/a": np.full(3, np.nan, dtype=np.float32)}, 1)
    board.close(failed=False)
    (event,) = shown_events(tmp_path / "tensorboard")
    histogram = event.summary.value[0].histo
    assert (histogram.num, sum(histogram.bucket), histogram.min, histogram.max) == (4, 4, 0.0, 2.0)


def test_weights_that_hardly_differ_have_a_histogram(tmp_path: Path) -> None:
    one = np.float32(1.0)
    board = _board(tmp_path)
    board.histograms({"weights/a": np.array([one, np.nextafter(one, np.float32(2.0))])}, 1)
    board.close(failed=False)
    (event,) = shown_events(tmp_path / "tensorboard")
    assert event.summary.value[0].histo.num == 2


def test_values_that_are_not_finite_are_shown_as_such(tmp_path: Path) -> None:
    board = _board(tmp_path)
    board.scalars({"train/loss": math.nan}, 0)
    board.close(failed=False)
    assert math.isnan(curve(tmp_path / "tensorboard", "train/loss")[0][1])
