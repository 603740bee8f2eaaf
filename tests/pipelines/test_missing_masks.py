"""Phantoms with mask files taken away: what the manifest says of them, and a training that does not learn from them."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from train_here import train_here

from segray.config import Config, load_config
from segray.errors import UsageError
from segray.phantoms import make_phantoms
from segray.pipelines.idle_settings import idle_settings
from segray.pipelines.ingest import ingest
from segray.pipelines.train import train
from segray.shards.manifest import load_manifest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]

SETTINGS = (
    "net.features=[8,16]",
    "train.epochs=1",
    "train.batch_size=16",
    "train.cpus_per_worker=1.5",
    "ingest.structures=[liver,spleen]",
    "ingest.split.validation=0.3",
    "ingest.grid.spacing=[6,6]",
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> Path:
    """Shards of four cases: that held out, of the chest, has no mask of the spleen, one trained none of the liver."""
    scans, folder = tmp_path_factory.mktemp("scans"), tmp_path_factory.mktemp("shards")
    make_phantoms(str(scans), cases=4, seed=3, broken=False)
    ingest(str(scans), str(folder), load_config(None, list(SETTINGS)))
    manifest = load_manifest(str(folder))
    trained = next(part.case_id for part in manifest.parts if part.split == "train" and not part.missing)
    (held_out,) = manifest.cases("validation")
    (scans / trained / "segmentations" / "liver.nii.gz").unlink()
    again = ingest(str(scans), str(folder), load_config(None, list(SETTINGS)))
    assert again.written == 1
    missing = {part.case_id: part.missing for part in load_manifest(str(folder)).parts if part.missing}
    assert missing == {trained: ["liver"], held_out: ["spleen"]}
    return folder


def _settings(shards: Path, run: Path, *more: str) -> Config:
    return load_config(None, [*SETTINGS, f"train.shards={shards}", f"train.run={run}", *more])


def _row(run: Path) -> dict[str, str]:
    with (run / "metrics.csv").open(encoding="utf-8") as stream:
        return next(csv.DictReader(stream))


@pytest.mark.long
def test_a_missing_structure_has_no_dice_and_no_part_in_the_loss(shards: Path, tmp_path: Path) -> None:
    train_here(_settings(shards, tmp_path / "background"))
    train_here(_settings(shards, tmp_path / "mask", "loss.missing=mask"))
    background, mask = _row(tmp_path / "background"), _row(tmp_path / "mask")
    assert background["val_dice_spleen"] == "0.0"
    assert mask["val_dice_spleen"] == ""
    assert float(mask["val_dice"]) == float(mask["val_dice_liver"])
    assert float(mask["train_cross_entropy"]) < float(background["train_cross_entropy"])


def test_a_weight_of_no_structure_ends_before_the_run_begins(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"names livr.*Did you mean liver\?"):
        train(_settings(shards, tmp_path / "run", "loss.class_weights={livr: 2}"))
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_setting_that_changes_nothing_is_said(shards: Path, tmp_path: Path) -> None:
    settings = _settings(shards, tmp_path, "loss.missing=mask")
    manifest = load_manifest(str(shards))
    assert idle_settings(settings, manifest) == []
    complete = replace(manifest, parts=[replace(part, missing=[]) for part in manifest.parts])
    (said,) = idle_settings(settings, complete)
    assert said.startswith("loss.missing=mask changes nothing")
    assert idle_settings(_settings(shards, tmp_path), complete) == []
