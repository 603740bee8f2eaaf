"""Shards that were damaged in place: the training stops and names the slice, or goes on without it, as configured."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from train_here import train_here, train_unrated

from segray.config import Config, load_config
from segray.errors import SegrayError
from segray.phantoms import make_phantoms
from segray.pipelines.ingest import ingest
from segray.pipelines.train import train
from segray.shards.manifest import load_manifest

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.usefixtures("embedded_ray")]

SETTINGS = (
    "net.features=[4,8]",
    "train.batch_size=8",
    "train.epochs=1",
    "train.cpus_per_worker=1.5",
    "sampling.mode=all",
    "ingest.split.validation=0.3",
    "ingest.grid.spacing=[9,9]",
    "ingest.structures=[liver,body]",
    "ingest.rows_per_group=8",
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    make_phantoms(str(folder / "scans"), cases=4, seed=3, broken=False)
    ingest(str(folder / "scans"), str(folder / "shards"), load_config(None, list(SETTINGS)))
    return folder / "shards"


def _damaged(shards: Path, folder: Path, split: str, *, whole: bool) -> tuple[Path, str]:
    """A copy of the shards, and a case of the split whose part has a few wrong bytes, or nothing but zeros."""
    copy = folder / "shards"
    shutil.copytree(shards, copy)
    case = next(part for part in load_manifest(str(shards)).parts if part.split == split)
    path = copy / case.file
    data = bytearray(path.read_bytes())
    if whole:
        data[:] = bytes(len(data))
    else:
        start = len(data) // 3
        data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    return copy, case.case_id


def _config(shards: Path, run: Path, *more: str) -> Config:
    return load_config(None, [*SETTINGS, f"train.shards={shards}", f"train.run={run}", *more])


def test_a_damaged_slice_stops_the_training_and_is_named(shards: Path, tmp_path: Path) -> None:
    folder, case = _damaged(shards, tmp_path, "train", whole=False)
    with pytest.raises(SegrayError, match=f"part-{case}.parquet"):
        train(_config(folder, tmp_path / "run"))


@pytest.mark.parametrize(
    ("whole", "more"), [(False, ()), (True, ("net.neighbours=1",)), (True, ("net.patch=[4,0,0]",))]
)
def test_it_goes_on_without_it_where_that_is_asked_for(
    shards: Path, tmp_path: Path, whole: bool, more: tuple[str, ...]
) -> None:
    folder, case = _damaged(shards, tmp_path, "train", whole=whole)
    summary = train(_config(folder, tmp_path / "run", "train.damaged=skip", *more))
    assert summary.epochs == 1
    log = (tmp_path / "run" / "run.log").read_text()
    assert f"left out: part-{case}.parquet, case {case}" in log
    assert ("cannot be read" in log) == whole


def test_a_batch_without_a_sound_slice_is_the_one_before_again(shards: Path, tmp_path: Path) -> None:
    folder, case = _damaged(shards, tmp_path, "train", whole=False)
    summary = train_here(_config(folder, tmp_path / "run", "train.damaged=skip", "train.batch_size=1"))
    assert summary.epochs == 1
    assert f"left out: part-{case}.parquet, case {case}" in (tmp_path / "run" / "run.log").read_text()


def test_a_damaged_held_out_case_is_left_out_of_the_validation(shards: Path, tmp_path: Path) -> None:
    folder, case = _damaged(shards, tmp_path, "validation", whole=False)
    summary = train_unrated(_config(folder, tmp_path / "run", "train.damaged=skip"))
    assert (summary.best_epoch, summary.best_dice) == (1, None)
    assert f"{case} is left out of the validation" in (tmp_path / "run" / "run.log").read_text()
