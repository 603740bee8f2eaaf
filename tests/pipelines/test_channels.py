"""Cases of several channels: slices, the choice of cases, and the stages of predict, without Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from segray.case import Case, Geometry, LabelMap
from segray.config import NetConfig, PredictConfig, load_config
from segray.engine.predictor import STAGES
from segray.engine.trainer import Batch, Trainer
from segray.errors import CaseError
from segray.formats.source import CaseSource
from segray.grid import Grid
from segray.nets.bundle import load_bundle, save_bundle
from segray.nets.unet import build_net
from segray.pipelines import ingest, predict_stages
from segray.pipelines.headers import Planned
from segray.pipelines.ingest import Recipe, ingest_case, same_channels, slices_of_case
from segray.pipelines.normalisation import normalisation_of
from segray.pipelines.predict_stages import WriteStage, read_stage
from segray.pipelines.predictor_stage import PredictStage
from segray.shards.manifest import Manifest, pool_intensity
from segray.shards.reader import decode_batch, slices_of
from segray.shards.schema import PIXEL_COLUMNS
from segray.shards.writer import write_part

LABELS = LabelMap.of_names(["tumour"])
GRID = Grid("spacing", (24, 24), (1.5, 1.5), -1024.0)


def make_case(seed: int = 0, case_id: str = "a") -> Case:
    """Two modalities; only the second shows the structure."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((6, 30, 26), np.uint8)
    labels[1:5, 8:20, 6:18] = 1
    first, second = rng.normal(0, 40, (2, *labels.shape))
    voxels = np.stack([first + 1000, second + 300.0 * labels], axis=1).astype(np.int16)
    return Case(case_id, voxels, Geometry(np.diag([-1.2, -1.2, 3.0, 1.0]), (26, 30, 6)), labels, channels=("T1", "T2"))


def test_slices_have_statistics_of_each_channel() -> None:
    case = make_case()
    slices = slices_of_case(case, LABELS, GRID, "print", "recipe")
    assert slices.images.shape == (6, 2, 24, 24)
    assert case.labels is not None
    for channel in (0, 1):
        volume = case.voxels[:, channel].astype(np.float64)
        assert slices.mean[channel] == pytest.approx(volume.mean())
        assert slices.sd[channel] == pytest.approx(volume.std())
        inside = volume[case.labels > 0]
        assert slices.intensity[channel].total == pytest.approx(inside.sum())
        assert slices.intensity[channel].count == inside.size


def test_one_channel_on_an_axis_of_its_own_is_no_channel() -> None:
    case = make_case()
    case.voxels = case.voxels[:, :1]
    assert slices_of_case(case, LABELS, GRID, "print", "recipe").images.shape == (6, 24, 24)


def test_shards_to_training_to_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(None, ["net.features=[8,16]", "intensity.mode=foreground", "optim.lr=0.02"])
    slices = [slices_of_case(make_case(seed, f"c{seed}"), LABELS, GRID, "p", "r") for seed in range(3)]
    intensity = [pool_intensity([case.intensity[channel] for case in slices]) for channel in (0, 1)]
    manifest = Manifest(LABELS, GRID, intensity, [], channels=["T1", "T2"])
    recipe = normalisation_of(config, manifest)
    rows = [row for case in slices for row in rows_of(tmp_path, case)]
    batch = decode_batch(rows)
    torch.manual_seed(0)
    trainer = Trainer(config, build_net(config.net, manifest.in_channels, 2), recipe, device="cpu")
    for step in range(60):
        arrays = Batch.from_arrays(batch.images, batch.labels, batch.mean, batch.sd, batch.case_ids)
        result = trainer.step(arrays, epoch=1, step=step, progress=0.0)
    assert result.loss < 0.3
    save_bundle(
        str(tmp_path / "bundle"), trainer.network, net=NetConfig(features=[8, 16]), label_map=LABELS, grid=GRID,
        normalisation=recipe, in_channels=2, channels=["T1", "T2"],
    )  # fmt: skip
    assert load_bundle(str(tmp_path / "bundle")).normalisation == recipe
    unseen = make_case(9, "unseen")
    row = through_the_stages(tmp_path, unseen, monkeypatch)
    assert row["status"] == "ok"
    assert unseen.labels is not None
    true = int(unseen.labels.sum()) * unseen.geometry.voxel_ml
    assert row["volume_ml_tumour"] == pytest.approx(true, rel=0.15)
    assert row["mean_hu_tumour"] == pytest.approx(1000, abs=20)
    unseen.voxels = unseen.voxels[:, 0]
    row = through_the_stages(tmp_path, unseen, monkeypatch)
    assert row["status"] == "failed"
    assert "Channels of the case: 1; of the bundle's network: 2 (T1, T2)." in row["reason"]


def rows_of(folder: Path, case: Any) -> list[Any]:
    import pyarrow.parquet as pq

    facts = write_part(str(folder), case)
    return [row.own() for row in slices_of(pq.read_table(folder / facts.file, columns=PIXEL_COLUMNS))]


def through_the_stages(folder: Path, case: Case, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(predict_stages.formats, "read_image", lambda source: case)
    source = CaseSource(case.case_id, str(folder / "no.nii.gz"))
    table = read_stage(pa.table({"source": [source.to_json()]}))
    stage = PredictStage([str(folder / "bundle")], PredictConfig(precision="float32", gpu="no"), 1)
    done = WriteStage(str(folder / "out"), LABELS.to_json())(stage(table))
    row: dict[str, Any] = json.loads(done.column("row")[0].as_py())
    stages = [row[f"seconds_{stage}"] for stage in STAGES]
    assert (sum(stages) > 0) is (row["status"] == "ok")
    assert sum(stages) <= row["seconds_predict"] + 0.001
    return row


def planned(case_id: str, channels: tuple[str, ...]) -> Planned:
    return Planned(CaseSource(case_id, case_id), (1, 2, 3), (1.0, 1.0, 1.0), 12, channels=channels)


def test_cases_with_other_channels_are_left_out_with_a_reason() -> None:
    cases = [planned("a", ("T1", "T2")), planned("b", ()), planned("c", ("T1", "T2"))]
    kept, odd = same_channels(cases)
    assert [case.source.case_id for case in kept] == ["a", "c"]
    assert odd == [("b", "Its channels are one without a name, those of most cases T1, T2.")]
    assert same_channels([]) == ([], [])


def test_a_file_that_holds_other_channels_than_its_header_said_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest.formats, "read_case", lambda source, label_map, overlap: make_case())
    recipe = Recipe(dict(LABELS.values), GRID.to_dict(), "smallest", 32, "zstd", 1, channels=("T1", "T2", "FLAIR"))
    with pytest.raises(CaseError, match="2 channels, the others 3"):
        ingest_case(CaseSource("a", "a"), recipe, str(tmp_path))
