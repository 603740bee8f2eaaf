"""Voxels that nobody judged, from dataset.json to the tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from train_here import train_here

from segray.config import Config, load_config
from segray.pipelines.evaluate import evaluate
from segray.pipelines.ingest import ingest
from segray.pipelines.predict import predict
from segray.report.api import report
from segray.shards.index import load_index
from segray.shards.manifest import load_manifest
from segray.shards.reader import read_case_volume

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.usefixtures("embedded_ray")]

IGNORED = 9


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright cube in noise; a slab of rows is ignored, and bright cubes there would be no structure."""
    folder, rng = tmp_path_factory.mktemp("ignored"), np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    for number in range(4):
        labels = np.zeros((24, 24, 10), np.uint8)
        labels[4:12, 4:12, 2:8] = 1
        image = (400.0 * labels + rng.normal(0, 20, labels.shape)).astype(np.int16)
        image[4:12, 16:22, 2:8] += 400
        labels[:, 14:, :] = IGNORED
        nibabel.Nifti1Image(image, np.eye(4)).to_filename(folder / "imagesTr" / f"c{number}_0000.nii.gz")
        nibabel.Nifti1Image(labels, np.eye(4)).to_filename(folder / "labelsTr" / f"c{number}.nii.gz")
    table = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "cube": 1, "ignore": IGNORED}}
    (folder / "dataset.json").write_text(json.dumps(table))
    return folder


def test_what_nobody_judged_neither_teaches_nor_measures(data: Path, tmp_path: Path) -> None:
    shards, run, masks = (str(tmp_path / name) for name in ("shards", "run", "masks"))
    settings = [
        "net.features=[8,16]",
        "train.epochs=12",
        "train.batch_size=4",
        "optim.warmup_steps=5",
        "train.cpus_per_worker=1.5",
        "ingest.split.validation=0.3",
    ]
    config: Config = load_config(
        None, [*settings, f"train.shards={shards}", f"train.run={run}", "optim.lr=0.01", "intensity.window=[-100,500]"]
    )
    ingest(str(data), shards, config)
    manifest = load_manifest(shards)
    assert (manifest.label_map.values, manifest.label_map.ignored) == ({"cube": 1}, IGNORED)
    index = load_index(shards, manifest)
    labels = read_case_volume(shards, index, "c0")[1]
    assert np.bincount(labels.ravel()).tolist()[1:] == [8 * 8 * 6, 24 * 10 * 10]
    assert manifest.intensity[0].count == 3 * 8 * 8 * 6
    train_here(config)
    predict(run, str(data), masks, config)
    evaluate(masks, str(data), config)
    rows = list(csv.DictReader((Path(masks) / "metrics.csv").open()))
    assert len(rows) == 1
    assert float(rows[0]["dice"]) > 0.9
    # The cube that nobody judged is bright too, so that the net finds it: it costs nothing.
    mask = np.asarray(nibabel.load(Path(masks, "masks", f"{rows[0]['case_id']}.nii.gz")).dataobj)
    assert mask[4:12, 16:22, 2:8].mean() > 0.8
    assert set(np.unique(mask)) == {0, 1}
    report(run, predictions=masks)
    assert (Path(run) / "index.html").exists()
