"""Ingest, train, predict, evaluate and report on phantoms, on one embedded Ray, as a user runs them."""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from segray.config import Config, load_config
from segray.errors import UsageError
from segray.phantoms import make_phantoms
from segray.pipelines.evaluate import evaluate
from segray.pipelines.ingest import ingest
from segray.pipelines.predict import predict
from segray.pipelines.train import train
from segray.report.api import report
from segray.shards.manifest import load_manifest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]

SETTINGS = (
    "net.features=[8,16,32]",
    "train.epochs=3",
    "train.batch_size=16",
    "train.cpus_per_worker=1.5",
    "predict.cpus_per_predictor=1",
    "optim.lr=0.004",
    "ingest.split.validation=0.3",
    "ingest.grid.spacing=[4.5,4.5]",
)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    make_phantoms(str(folder), cases=5, seed=3)
    return folder


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(None, list(SETTINGS))


@pytest.fixture(scope="module")
def shards(scans: Path, config: Config, tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> Path:
    folder = tmp_path_factory.mktemp("work") / "shards"
    summary = ingest(str(scans), str(folder), config)
    assert len(summary.failed) == 1
    return folder


def _train_config(config: Config, shards: Path, run: Path, **changes: object) -> Config:
    update = {"shards": str(shards), "run": str(run), **changes}
    return config.model_copy(update={"train": config.train.model_copy(update=update)})


@pytest.fixture(scope="module")
def run(shards: Path, config: Config, embedded_ray: None) -> Path:
    folder = shards.parent / "run"
    summary = train(_train_config(config, shards, folder))
    assert summary.epochs == 3
    return folder


@pytest.fixture(scope="module")
def predictions(run: Path, scans: Path, config: Config, embedded_ray: None) -> Path:
    folder = run.parent / "predictions"
    summary = predict(str(run), str(scans), str(folder), config)
    assert (summary.done, len(summary.failed)) == (4, 1)
    return folder


def test_the_broken_case_is_a_row_with_a_reason(shards: Path) -> None:
    rows = list(csv.DictReader((shards / "failures.csv").open()))
    assert len(rows) == 1
    assert "ct.nii.gz" in rows[0]["reason"]


def test_ingest_again_writes_nothing_and_a_changed_case_only(shards: Path, scans: Path, config: Config) -> None:
    assert ingest(str(scans), str(shards), config).written == 0
    case = load_manifest(str(shards)).parts[0].case_id
    os.utime(scans / case / "ct.nii.gz", (time.time() + 5, time.time() + 5))
    assert ingest(str(scans), str(shards), config).written == 1


def test_ingest_mends_a_part_that_was_lost(shards: Path, scans: Path, config: Config) -> None:
    part = shards / load_manifest(str(shards)).parts[1].file
    before = part.read_bytes()
    part.write_bytes(before[:100])
    assert ingest(str(scans), str(shards), config).written == 1
    assert part.read_bytes() == before


def test_the_run_folder_holds_what_its_contract_says(run: Path) -> None:
    for name in ("config.yaml", "metrics.csv", "steps.csv", "history.json", "run.log", "bundle/bundle.json"):
        assert (run / name).exists(), name
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert all(float(row["data_wait_s"]) >= 0 and float(row["step_s"]) > 0 for row in rows)
    history = json.loads((run / "history.json").read_text())
    assert history["finished"] is True
    assert len(history["workers"]) == 1


def test_a_used_run_folder_is_refused(run: Path, shards: Path, config: Config) -> None:
    with pytest.raises(UsageError, match="holds a run already"):
        train(_train_config(config, shards, run))


@pytest.mark.long
def test_a_resumed_run_ends_as_the_undisturbed_one(run: Path, shards: Path, config: Config) -> None:
    """Stop after epoch 2 of 3 and go on: the weights are those of three epochs in one go."""
    halted = run.parent / "halted"
    settings = _train_config(config, shards, halted)
    train(settings, stop_after=2)
    rows = list(csv.DictReader((halted / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    summary = train(config, resume=str(halted))
    assert summary.epochs == 3
    one = sorted((run / "checkpoints").glob("checkpoint_*/state.pt"))[-1]
    two = sorted((halted / "checkpoints").glob("checkpoint_*/state.pt"))[-1]
    a, b = (torch.load(path, weights_only=True)["trainer"] for path in (one, two))
    assert _flat(a).keys() == _flat(b).keys()
    for key, value in _flat(a).items():
        assert torch.equal(value, _flat(b)[key]), key


def _flat(tree: object, prefix: str = "") -> dict[str, torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return {prefix: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found: dict[str, torch.Tensor] = {}
    for key, value in items:
        found |= _flat(value, f"{prefix}.{key}")
    return found


def test_masks_lie_on_their_cases(predictions: Path, scans: Path) -> None:
    masks = sorted((predictions / "masks").glob("*.nii.gz"))
    assert len(masks) == 4
    for path in masks:
        mask = nibabel.load(path)
        image = nibabel.load(scans / path.name.removesuffix(".nii.gz") / "ct.nii.gz")
        assert mask.shape == image.shape
        assert np.array_equal(mask.affine, image.affine)
        assert (int(mask.header["qform_code"]), int(mask.header["sform_code"])) == (
            int(image.header["qform_code"]),
            int(image.header["sform_code"]),
        )
        assert np.asarray(mask.dataobj).any()


def test_predict_again_does_only_what_is_missing(predictions: Path, run: Path, scans: Path, config: Config) -> None:
    assert predict(str(run), str(scans), str(predictions), config).new == 0
    lost = sorted((predictions / "masks").glob("*.nii.gz"))[0]
    before = lost.read_bytes()
    lost.unlink()
    assert predict(str(run), str(scans), str(predictions), config).new == 1
    assert np.array_equal(
        np.asarray(nibabel.load(lost).dataobj), np.asarray(nibabel.Nifti1Image.from_bytes(_gunzip(before)).dataobj)
    )


def _gunzip(data: bytes) -> bytes:
    import gzip

    return gzip.decompress(data)


def test_another_bundles_masks_are_not_mixed_in(predictions: Path, run: Path, scans: Path, config: Config) -> None:
    facts = json.loads((predictions / "prediction.json").read_text())
    (predictions / "prediction.json").write_text(json.dumps(facts | {"bundle_id": "another"}))
    with pytest.raises(UsageError, match="another bundle"):
        predict(str(run), str(scans), str(predictions), config)
    (predictions / "prediction.json").write_text(json.dumps(facts))


def test_evaluate_measures_the_held_out_cases(predictions: Path, scans: Path, config: Config) -> None:
    summary = evaluate(str(predictions), str(scans), config)
    assert summary.cases == 1
    assert "has not seen" in summary.notes[0]
    rows = list(csv.DictReader((predictions / "metrics.csv").open()))
    assert {row["case_id"] for row in rows} == set(json.loads((predictions / "evaluation.json").read_text())["truth"])
    everything = evaluate(str(predictions), str(scans), load_config(None, ["evaluate.split=all"]))
    assert everything.cases == 4
    assert 0 < everything.mean_dice <= 1


def test_report_shows_run_and_predictions(predictions: Path, run: Path) -> None:
    page = Path(report(str(run), predictions=str(predictions)))
    assert page.name == "index.html"
    text = page.read_text()
    assert "viewport" in text
    assert "liver" in text
