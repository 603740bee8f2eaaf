"""Phantoms whose masks overlap as in life: ingest, train, predict, evaluate and report with ingest.overlap=keep."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from train_here import train_here

from segray import formats
from segray.config import Config, load_config
from segray.phantoms import make_phantoms
from segray.pipelines.evaluate import evaluate
from segray.pipelines.ingest import ingest
from segray.pipelines.predict import predict
from segray.pipelines.verify import verify_on_ray
from segray.report.api import report
from segray.shards.index import load_index
from segray.shards.manifest import load_manifest
from segray.shards.reader import read_case_volume

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]

SETTINGS = (
    "ingest.overlap=keep",
    "ingest.structures=[body,liver,lesion]",
    "ingest.grid.spacing=[4.5,4.5]",
    "ingest.split.validation=0.4",
    "net.features=[8,16,32]",
    "intensity.window=[-160,240]",
    "train.epochs=6",
    "train.batch_size=8",
    "train.cpus_per_worker=1.5",
    "predict.cpus_per_predictor=1",
    "optim.lr=0.005",
)
BODY, LESION, LIVER = 1, 2, 4
"""The bits: structures are numbered by their sorted names."""


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(None, list(SETTINGS))


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("overlapping")
    make_phantoms(str(folder / "scans"), cases=4, seed=3, broken=False)
    return folder / "scans"


@pytest.fixture(scope="module")
def shards(scans: Path, config: Config, embedded_ray: None) -> str:
    folder = str(scans.parent / "shards")
    assert ingest(str(scans), folder, config).failed == []
    return folder


@pytest.fixture(scope="module")
def run(scans: Path, shards: str, config: Config, embedded_ray: None) -> Path:
    folder = scans.parent / "run"
    update = {"shards": shards, "run": str(folder)}
    train_here(config.model_copy(update={"train": config.train.model_copy(update=update)}))
    return folder


@pytest.fixture(scope="module")
def predictions(scans: Path, run: Path, config: Config, embedded_ray: None) -> Path:
    folder = scans.parent / "predictions"
    assert predict(str(run), str(scans), str(folder), config).failed == []
    return folder


def _with_lesion(scans: Path) -> str:
    return next(path.parent.parent.name for path in sorted(scans.glob("*/segmentations/lesion.nii.gz")))


def test_the_lesion_is_in_the_liver_and_in_the_body_in_the_shards(scans: Path, shards: str) -> None:
    manifest = load_manifest(shards)
    assert manifest.label_map.overlapping
    assert manifest.label_map.names == ("body", "lesion", "liver")
    index = load_index(shards, manifest)
    _, fields = read_case_volume(shards, index, _with_lesion(scans))
    lesion = fields[(fields & LESION) > 0]
    assert lesion.size > 0
    assert ((lesion & BODY) > 0).mean() > 0.99
    assert ((lesion & LIVER) > 0).mean() > 0.95
    present = index.present[0]
    assert set(present.tolist()) == {1, 2, 3}


def test_the_truth_has_every_voxel_of_every_mask(scans: Path, shards: str, config: Config) -> None:
    label_map = load_manifest(shards).label_map
    case_id = _with_lesion(scans)
    source = next(case for case in formats.discover(str(scans), config.ingest).cases if case.case_id == case_id)
    case = formats.read_case(source, label_map, overlap="keep")
    assert case.labels is not None
    for bit, name in ((BODY, "body"), (LESION, "lesion"), (LIVER, "liver")):
        mask = np.asarray(nibabel.load(scans / case_id / "segmentations" / f"{name}.nii.gz").dataobj)
        np.testing.assert_array_equal(case.geometry.from_lps((case.labels & bit) > 0), mask > 0)


def test_bundle_and_validation_know_of_it(run: Path) -> None:
    description = json.loads((run / "bundle" / "bundle.json").read_text())
    assert description["overlapping"] is True
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert float(rows[-1]["val_dice_body"]) > 0.8


def test_masks_have_a_volume_a_structure_on_the_grid_of_the_case(predictions: Path, scans: Path) -> None:
    label_map = json.loads((predictions / "label_map.json").read_text())
    assert label_map == {"overlapping": True, "labels": {"body": 1, "lesion": 2, "liver": 3}}
    for path in sorted((predictions / "masks").glob("*.nii.gz")):
        mask = nibabel.load(path)
        image = nibabel.load(scans / path.name.removesuffix(".nii.gz") / "ct.nii.gz")
        assert mask.shape == (*image.shape, 3)
        np.testing.assert_array_equal(mask.affine, image.affine)
        body, _, liver = np.moveaxis(np.asarray(mask.dataobj), -1, 0)
        assert body.any()
        assert liver.sum() < body.sum()


def test_evaluate_measures_each_structure_with_all_its_voxels(predictions: Path, scans: Path, config: Config) -> None:
    everything = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"split": "all"})})
    summary = evaluate(str(predictions), str(scans), everything)
    assert summary.failed == []
    rows = {(row["case_id"], row["structure"]): row for row in csv.DictReader((predictions / "metrics.csv").open())}
    for (case_id, name), row in rows.items():
        path = scans / case_id / "segmentations" / f"{name}.nii.gz"
        voxels = int((np.asarray(nibabel.load(path).dataobj) > 0).sum()) if path.exists() else 0
        assert int(row["truth_voxels"]) == voxels
    assert {row["structure"]: row["dice_mean"] for row in summary.structures}["body"] > 0.8


def test_a_file_a_structure_alone_is_measured_and_drawn_as_the_bit_fields_are(
    predictions: Path, run: Path, scans: Path
) -> None:
    folder = scans.parent / "apart"
    config = load_config(None, [*SETTINGS, "evaluate.split=all", "predict.output=structures"])
    assert predict(str(run), str(scans), str(folder), config).new == 4
    assert not (folder / "masks").exists()
    for path in sorted((predictions / "masks").glob("*.nii.gz")):
        together = np.asarray(nibabel.load(path).dataobj)
        for number, name in enumerate(("body", "lesion", "liver")):
            apart = nibabel.load(folder / "structures" / path.name.removesuffix(".nii.gz") / f"{name}.nii.gz")
            np.testing.assert_array_equal(np.asarray(apart.dataobj), together[..., number])
    assert verify_on_ray(str(folder), str(scans), config).clean
    assert predict(str(run), str(scans), str(folder), config).new == 0
    evaluate(str(predictions), str(scans), config)
    evaluate(str(folder), str(scans), config)
    assert (folder / "metrics.csv").read_bytes() == (predictions / "metrics.csv").read_bytes()
    assert (folder / "structures.csv").read_bytes() == (predictions / "structures.csv").read_bytes()
    assert len(list((folder / "previews").glob("*.png"))) == 4
    assert "No overlay" not in Path(report(str(run), predictions=str(folder))).read_text()


def test_report_draws_what_overlaps(predictions: Path, run: Path) -> None:
    page = Path(report(str(run), predictions=str(predictions)))
    assert "No overlay" not in page.read_text()
    assert list((page.parent / "plots").glob("overlay_*.png"))
