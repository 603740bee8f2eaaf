"""`train.batch_size=auto` on one embedded Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from segray.config import Config, load_config
from segray.phantoms import make_phantoms
from segray.pipelines.batch_size import STEPS_AN_EPOCH, largest_batch
from segray.pipelines.feed import items_of_epoch
from segray.pipelines.ingest import IngestSummary, ingest
from segray.pipelines.live import Planner
from segray.pipelines.run_folder import RunFolder
from segray.pipelines.runtime import WorkerShape
from segray.pipelines.train import train
from segray.shards.index import load_index
from segray.shards.manifest import load_manifest

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]

SETTINGS = (
    "net.features=[4,8]",
    "train.batch_size=auto",
    "train.epochs=1",
    "train.cpus_per_worker=1.5",
    "ingest.split.validation=0.3",
    "ingest.grid.spacing=[9,9]",
    "ingest.structures=[liver]",
)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch_size")
    make_phantoms(str(folder / "scans"), cases=3, seed=3, broken=False)
    return folder / "scans"


def _config(shards: Path, run: Path, *more: str) -> Config:
    return load_config(None, [*SETTINGS, f"train.shards={shards}", f"train.run={run}", *more])


def test_a_batch_size_is_found_and_kept_with_the_run(scans: Path, tmp_path: Path) -> None:
    shards, run = tmp_path / "shards", tmp_path / "run"
    ingest(str(scans), str(shards), load_config(None, list(SETTINGS)))
    said: list[str] = []
    train(_config(shards, run), say=said.append)
    kept = load_config(str(run / "config.yaml"), []).train.batch_size
    assert isinstance(kept, int)
    assert said[0].startswith(f"train.batch_size is {kept} slices (trained a second by batches of 1: ")
    rows = RunFolder(str(run)).rows("steps.csv")
    assert max(int(row["slices"]) for row in rows) <= kept
    assert len(rows) >= STEPS_AN_EPOCH
    config, shape = _config(shards, run), WorkerShape(1.5, 0.0)
    manifest = load_manifest(str(shards))
    slices = items_of_epoch(load_index(str(shards), manifest), config)
    assert largest_batch(config, manifest, shape) == slices // STEPS_AN_EPOCH
    two = _config(shards, run, "train.workers=[1,2]")
    assert largest_batch(two, manifest, shape) == slices // (2 * STEPS_AN_EPOCH)


def test_folds_on_files_are_planned_once_and_share_a_batch_size(tmp_path: Path) -> None:
    make_phantoms(str(tmp_path / "scans"), cases=4, seed=3)
    planned: list[IngestSummary] = []
    run = tmp_path / "run"
    summary = train(_config(tmp_path / "scans", run, "train.folds=2"), planner=Planner(planned=planned.append))
    (plan,) = planned
    assert summary.failed
    assert summary.failed == sorted(plan.failed)
    assert (run / "live" / "manifest.json").exists()
    kept = [load_config(str(run / f"fold_{fold}" / "config.yaml"), []).train for fold in (0, 1)]
    assert kept[0].batch_size == kept[1].batch_size == load_config(str(run / "config.yaml"), []).train.batch_size
    for fold in (0, 1):
        assert not (run / f"fold_{fold}" / "live").exists()
        assert RunFolder(str(run / f"fold_{fold}")).history()["state"] == "finished"
