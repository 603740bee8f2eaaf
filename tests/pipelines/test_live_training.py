"""A training straight on cases ends as the one on their shards; also halted, and with a case that went missing."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from segray.config import Config, load_config
from segray.errors import SegrayError
from segray.phantoms import make_phantoms
from segray.pipelines.ingest import IngestSummary, ingest
from segray.pipelines.live import Planner
from segray.pipelines.predict import predict
from segray.pipelines.train import train
from segray.shards.manifest import load_manifest

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]

SETTINGS = (
    "net.features=[8,16]",
    "train.epochs=2",
    "train.batch_size=16",
    "train.cpus_per_worker=1.5",
    "predict.cpus_per_predictor=1",
    "ingest.split.validation=0.3",
    "ingest.grid.spacing=[6,6]",
    "ingest.rows_per_group=500",
)
"""One row group a case, so that the epochs of both trainings have the same order."""


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    make_phantoms(str(folder), cases=5, seed=3)
    return folder


def settings(shards: Path, run: Path) -> Config:
    return load_config(None, [*SETTINGS, f"train.shards={shards}", f"train.run={run}"])


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The network of the last checkpoint."""
    state = sorted((run / "checkpoints").glob("checkpoint_*/state.pt"))[-1]
    found: dict[str, torch.Tensor] = torch.load(state, weights_only=True)["trainer"]["network"]
    assert found
    return found


def assert_equal(one: Path, two: Path) -> None:
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@pytest.fixture(scope="module")
def live_run(scans: Path, tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> Path:
    run = tmp_path_factory.mktemp("live") / "run"
    told: list[IngestSummary] = []
    seen: list[str] = []
    planner = Planner(lambda row, done, total: seen.append(row["case_id"]), told.append)
    summary = train(settings(scans, run), planner=planner)
    assert summary.epochs == 2
    assert len(seen) == 5
    assert [len(plan.failed) for plan in told] == [1]
    assert summary.failed == told[0].failed
    return run


def test_the_weights_and_the_validation_are_those_of_the_shards(scans: Path, live_run: Path, tmp_path: Path) -> None:
    ingest(str(scans), str(tmp_path / "shards"), settings(scans, live_run))
    train(settings(tmp_path / "shards", tmp_path / "run"))
    assert_equal(live_run, tmp_path / "run")
    columns = ("train_loss", "val_dice", "val_dice_liver")
    ours, theirs = (
        [[row[name] for name in columns] for row in csv.DictReader((run / "metrics.csv").open())]
        for run in (live_run, tmp_path / "run")
    )
    assert ours == theirs
    assert all(row[1] for row in ours)


def test_the_run_folder_holds_the_plan_and_no_pixels(scans: Path, live_run: Path) -> None:
    rows = list(csv.DictReader((live_run / "failures.csv").open()))
    assert len(rows) == 1
    assert "ct.nii.gz" in rows[0]["reason"]
    plan = load_manifest(str(live_run / "live"))
    assert len(plan.parts) == 4
    assert sum(path.stat().st_size for path in (live_run / "live").iterdir()) < plan.parts[0].left_out * 2
    bundle = json.loads((live_run / "bundle" / "bundle.json").read_text())
    assert bundle["provenance"]["shards"] == str(scans)


def test_a_case_that_went_missing_ends_the_run_and_put_back_it_goes_on(
    scans: Path, live_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(scans, tmp_path / "scans", copy_function=shutil.copy)
    run = tmp_path / "run"
    train(settings(tmp_path / "scans", run), stop_after=1)
    case = load_manifest(str(run / "live")).cases("train")[0]
    image = tmp_path / "scans" / case / "ct.nii.gz"
    image.rename(tmp_path / "away.nii.gz")
    # Ray's worker processes outlive a training, and may still have the case in their memory: make the plan a new one.
    (run / "live" / f"part-{case}.parquet").touch()
    with pytest.raises(SegrayError, match=f"The case {case} cannot be read any more") as caught:
        train(load_config(None, []), resume=str(run))
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    shutil.copy(tmp_path / "away.nii.gz", image)
    summary = train(load_config(None, []), resume=str(run))
    assert summary.epochs == 2
    assert len(summary.failed) == 1
    assert_equal(live_run, run)


def test_predict_takes_a_folder_and_a_single_file(scans: Path, live_run: Path, tmp_path: Path) -> None:
    config = load_config(None, list(SETTINGS))
    summary = predict(str(live_run), str(scans), str(tmp_path / "all"), config)
    assert (summary.done, len(summary.failed)) == (4, 1)
    case = load_manifest(str(live_run / "live")).parts[0].case_id
    one = predict(str(live_run), str(scans / case / "ct.nii.gz"), str(tmp_path / "one"), config)
    assert (one.done, one.failed) == (1, [])
    (mask,) = (tmp_path / "one" / "masks").iterdir()
    assert mask.read_bytes() == (tmp_path / "all" / "masks" / f"{case}.nii.gz").read_bytes()
