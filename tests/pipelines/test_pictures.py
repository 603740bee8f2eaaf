"""Pictures through the pipelines: the folder's split, and what prediction and evaluation know from the training."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segray import formats
from segray.case import LabelMap
from segray.config import parse_config
from segray.pipelines.ingest import ingest
from segray.pipelines.predict import _as_trained
from segray.pipelines.truth_cases import _as_predicted, _unnamed
from segray.shards.manifest import load_manifest

SQUARE = [4, 4, 20, 4, 20, 20, 4, 20]


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Three pictures to train on, two to validate; one annotation is nonsense."""
    for split, count in (("train", 3), ("valid", 2)):
        folder = tmp_path / "coco" / split
        folder.mkdir(parents=True)
        for number in range(count):
            Image.fromarray(np.full((32, 32), 90, np.uint8)).save(folder / f"{split}{number}.png")
        images = [{"id": n, "file_name": f"{split}{n}.png", "width": 32, "height": 32} for n in range(count)]
        outlines: list[Any] = [
            {"id": n, "image_id": n, "category_id": 0, "segmentation": [SQUARE]} for n in range(count)
        ]
        if split == "train":
            outlines[2]["segmentation"] = [[1, 1, 2, 2]]
        table = {"images": images, "annotations": outlines, "categories": [{"id": 0, "name": "Tumor"}]}
        (folder / "_annotations.coco.json").write_text(json.dumps(table), encoding="utf-8")
    return tmp_path / "coco"


@pytest.mark.ray
def test_ingest_keeps_the_split_and_goes_on_after_a_bad_annotation(
    coco: Path, tmp_path: Path, embedded_ray: None
) -> None:
    summary = ingest(str(coco), str(tmp_path / "shards"), parse_config({"ingest": {"grid": {"mode": "native"}}}))
    assert [case_id for case_id, _ in summary.failed] == ["train2"]
    assert "a polygon of 2 points" in summary.failed[0][1]
    manifest = load_manifest(str(tmp_path / "shards"))
    assert sorted(manifest.cases("train")) == ["train0", "train1"]
    assert sorted(manifest.cases("validation")) == ["valid0", "valid1"]


@pytest.mark.parametrize(("channels", "told", "wanted"), [(1, "auto", "grey"), (3, "auto", "rgb"), (1, "rgb", "rgb")])
def test_prediction_reads_pictures_as_training_did(channels: int, told: str, wanted: str) -> None:
    settings = parse_config({"ingest": {"picture_channels": told}}).ingest
    bundle: Any = SimpleNamespace(in_channels=channels)
    assert _as_trained(settings, bundle).picture_channels == wanted


def test_evaluation_knows_whether_labels_overlap_and_says_what_the_truth_does_not_name(tmp_path: Path) -> None:
    for folder in ("frames", "masks", "lung_masks"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / folder / "a.png")
    label_map = LabelMap({"lung": 1, "infection": 2}, overlapping=True)
    found = formats.discover(str(tmp_path), _as_predicted(parse_config({}).ingest, label_map))
    assert "names no infection" in _unnamed(label_map, found.label_map)[0]
    named = parse_config({"ingest": {"labels": {"lung": 1, "infection": 2}}}).ingest
    assert _unnamed(label_map, formats.discover(str(tmp_path), _as_predicted(named, label_map)).label_map) == []
