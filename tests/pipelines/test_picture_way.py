"""Pictures with PNG masks, the whole way: ingest, train, predict as PNG, evaluate."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from train_here import train_here

from segray.config import Config, load_config
from segray.pipelines.evaluate import evaluate
from segray.pipelines.ingest import ingest
from segray.pipelines.predict import predict
from segray.shards.manifest import load_manifest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]

SHAPE = (40, 56)
"""(row, column): not square, so that turned masks would be seen."""

PICTURES = {"train": 10, "valid": 3}
SETTINGS = (
    "net.features=[8,16]",
    "intensity.window=[0,255]",
    "ingest.grid.mode=native",
    "ingest.labels={lung: 1}",
    "train.epochs=8",
    "train.batch_size=2",
    "train.cpus_per_worker=1.5",
    "predict.cpus_per_predictor=1",
    "optim.lr=0.01",
)


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A grey picture and where it is brightest, an ellipse at a place of its own."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(SHAPE)
    inside = ((rows - rng.uniform(14, 26)) / 9) ** 2 + ((columns - rng.uniform(18, 38)) / 14) ** 2 < 1
    values = 70 + 90 * inside + rng.normal(0, 8, SHAPE)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8), inside


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(None, list(SETTINGS))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and valid/ with frames/ and masks/; the truth of a picture is :func:`drawn` of its number."""
    folder = tmp_path_factory.mktemp("pictures") / "set"
    number = 0
    for split, count in PICTURES.items():
        for name in ("frames", "masks"):
            (folder / split / name).mkdir(parents=True)
        for _ in range(count):
            picture, inside = drawn(number)
            Image.fromarray(picture).save(folder / split / "frames" / f"p{number:02d}.png")
            Image.fromarray(np.uint8(255) * inside).save(folder / split / "masks" / f"p{number:02d}.png")
            number += 1
    return folder


@pytest.fixture(scope="module")
def predictions(pictures: Path, config: Config, embedded_ray: None) -> Path:
    shards, run, folder = (str(pictures.parent / name) for name in ("shards", "run", "predictions"))
    assert ingest(str(pictures), shards, config).failed == []
    assert len(load_manifest(shards).cases("validation")) == PICTURES["valid"]
    train_here(config.model_copy(update={"train": config.train.model_copy(update={"shards": shards, "run": run})}))
    summary = predict(run, str(pictures), folder, config)
    assert (summary.done, summary.failed) == (sum(PICTURES.values()), [])
    return Path(folder)


def test_masks_are_png_of_the_size_of_their_picture_that_name_their_structures(predictions: Path) -> None:
    paths = sorted((predictions / "masks").iterdir())
    assert [path.name for path in paths] == [f"p{number:02d}.png" for number in range(sum(PICTURES.values()))]
    for path in paths:
        with Image.open(path) as mask:
            assert mask.size == SHAPE[::-1]
            assert "lung" in mask.text["segray"]  # type: ignore[attr-defined]
            assert set(np.unique(np.asarray(mask))) == {0, 1}


def test_evaluation_measures_the_pictures_held_out_by_their_folder(
    predictions: Path, pictures: Path, config: Config
) -> None:
    summary = evaluate(str(predictions), str(pictures), config)
    assert (summary.cases, summary.failed) == (PICTURES["valid"], [])
    rows = list(csv.DictReader((predictions / "metrics.csv").open()))
    assert sorted(row["case_id"] for row in rows) == ["p10", "p11", "p12"]
    for row in rows:
        found = np.asarray(Image.open(predictions / "masks" / f"{row['case_id']}.png")) == 1
        truth = drawn(int(row["case_id"][1:]))[1]
        dice = 2 * np.count_nonzero(found & truth) / (np.count_nonzero(found) + np.count_nonzero(truth))
        assert float(row["dice"]) == pytest.approx(dice, abs=1e-4)
        assert dice > 0.7
