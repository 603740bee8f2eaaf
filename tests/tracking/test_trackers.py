"""No tracker stops a training: what it raises is said once and switches it off."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from event_files import curve, shown_events

from segray.tracking.tracker import Pictures, Scalars, Start, Tracker
from segray.tracking.trackers import OPENERS, Opener, Trackers


class Breaking(Tracker):
    """Takes numbers up to step 1, then raises as a full disk does."""

    def __init__(self, start: Start) -> None:
        self.calls = 0

    def scalars(self, values: Scalars, step: int) -> None:
        self.calls += 1
        if step > 1:
            raise OSError(28, "No space left on device")

    def flush(self) -> None:
        self.calls += 1

    def close(self, *, failed: bool) -> None:
        self.calls += 1


def _absent(start: Start) -> Tracker:
    import a_package_that_nobody_has  # type: ignore[import-not-found]  # noqa: F401

    return Breaking(start)


def _trackers(folder: Path | str, names: list[str], log: list[str], **more: Opener) -> Trackers:
    openers: Mapping[str, Opener] = {**OPENERS, **more}
    return Trackers(names, Start(str(folder), {}), log.append, openers)


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    log: list[str] = []
    trackers = _trackers(tmp_path, ["tensorboard"], log)
    for step in range(3):
        trackers.scalars({"train/loss": 0.1}, step)
    trackers.close()
    assert trackers.names == []
    assert len(log) == 1
    assert "the tracker tensorboard is off" in log[0]
    assert "File exists" in log[0]


def test_a_tracker_that_fails_midway_leaves_the_others_alone(tmp_path: Path) -> None:
    log: list[str] = []
    trackers = _trackers(tmp_path, ["broken", "tensorboard"], log, broken=Breaking)
    for step in range(5):
        trackers.scalars({"train/loss": 0.1}, step)
    trackers.flush()
    assert trackers.names == ["tensorboard"]
    trackers.close()
    assert log == ["the tracker broken is off: [Errno 28] No space left on device"]
    assert [step for step, _ in curve(tmp_path / "tensorboard", "train/loss")] == [0, 1, 2, 3, 4]


def test_an_event_file_that_can_no_longer_be_written_is_no_end(tmp_path: Path) -> None:
    log: list[str] = []
    trackers = _trackers(tmp_path, ["tensorboard"], log)
    trackers.scalars({"train/loss": 0.1}, 0)
    board = trackers._open["tensorboard"]
    board._writer._py_recordio_writer.close()  # type: ignore[attr-defined]
    trackers.scalars({"train/loss": 0.1}, 1)
    trackers.flush()
    assert trackers.names == []
    assert len(log) == 1


def test_a_picture_that_cannot_be_made_counts_as_the_failure_of_the_tracker(tmp_path: Path) -> None:
    def fail() -> Pictures:
        raise RuntimeError("CUDA out of memory")

    log: list[str] = []
    trackers = _trackers(tmp_path, ["tensorboard"], log)
    trackers.pictures(fail, 0)
    assert log == ["the tracker tensorboard is off: CUDA out of memory"]


def test_pictures_are_made_only_where_they_are_drawn(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> Pictures:
        made.append(1)
        return {"a": np.zeros((4, 4, 3), dtype=np.uint8)}

    _trackers(tmp_path, ["broken"], [], broken=Breaking).pictures(make, 0)
    assert made == []
    trackers = _trackers(tmp_path, ["tensorboard"], [])
    trackers.pictures(make, 0)
    trackers.close()
    assert made == [1]
    assert len(shown_events(tmp_path / "tensorboard")) == 1


def test_a_run_on_an_object_store_says_that_tensorboard_is_off() -> None:
    log: list[str] = []
    _trackers("s3://bucket/run", ["tensorboard"], log)
    assert log == ["the tracker tensorboard is off: it writes to a local disk, and the run folder is s3://bucket/run."]


def test_a_missing_package_is_said_with_its_mend(tmp_path: Path) -> None:
    log: list[str] = []
    _trackers(tmp_path, ["mlflow"], log, mlflow=_absent)
    assert log[0].endswith("No module named 'a_package_that_nobody_has' Install it by `pip install segray[mlflow]`.")


def test_an_empty_list_writes_nothing(tmp_path: Path) -> None:
    trackers = _trackers(tmp_path, [], [])
    trackers.scalars({"train/loss": 0.1}, 0)
    trackers.close()
    assert list(tmp_path.iterdir()) == []
