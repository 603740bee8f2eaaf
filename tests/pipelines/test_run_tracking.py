"""A training that tells trackers: every step once over a stop and a resume, and pictures."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segray.config import Config, load_config
from segray.nets.bundle import load_bundle
from segray.phantoms import make_phantoms
from segray.pipelines.ingest import ingest
from segray.pipelines.run_tracking import epoch_scalars, shown_slices
from segray.pipelines.run_view import RunReader
from segray.pipelines.train import train
from segray.shards.index import load_index
from segray.shards.manifest import load_manifest

sys.path.insert(0, str(Path(__file__).parents[1] / "tracking"))

from event_files import curve, shown_events

SETTINGS = (
    "net.features=[4,8]",
    "train.epochs=2",
    "train.batch_size=16",
    "train.cpus_per_worker=1.5",
    "train.histograms_every=2",
    "ingest.split.validation=0.4",
    "ingest.grid.spacing=[6,6]",
)


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(None, list(SETTINGS))


@pytest.fixture(scope="module")
def shards(config: Config, tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> Path:
    folder = tmp_path_factory.mktemp("tracked")
    make_phantoms(str(folder / "scans"), cases=4, seed=5, broken=False)
    ingest(str(folder / "scans"), str(folder / "shards"), config)
    return folder / "shards"


def _train_config(config: Config, shards: Path, run: Path, **changes: object) -> Config:
    update = {"shards": str(shards), "run": str(run), **changes}
    return config.model_copy(update={"train": config.train.model_copy(update=update)})


@pytest.fixture(scope="module")
def run(shards: Path, config: Config, embedded_ray: None) -> Path:
    """Halted after its first epoch and gone on with."""
    folder = shards.parent / "run"
    train(_train_config(config, shards, folder), stop_after=1)
    assert RunReader(str(folder)).view().state == "stopped"
    train(config, resume=str(folder))
    return folder


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.usefixtures("embedded_ray")
def test_tensorboard_shows_every_step_once_and_what_the_tables_say(run: Path) -> None:
    rows = list(csv.DictReader((run / "steps.csv").open()))
    loss = curve(run / "tensorboard", "train/loss")
    assert [step for step, _ in loss] == list(range(len(rows)))
    assert [value for _, value in loss] == pytest.approx([float(row["loss"]) for row in rows], rel=1e-5)
    epochs = list(csv.DictReader((run / "metrics.csv").open()))
    dice = curve(run / "tensorboard", "validation/dice")
    assert [value for _, value in dice] == pytest.approx([float(row["val_dice"]) for row in epochs])
    assert [step for step, _ in dice] == [int(row["step"]) - 1 for row in epochs]
    assert len(list((run / "tensorboard").iterdir())) == 2


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.usefixtures("embedded_ray")
def test_tensorboard_shows_held_out_slices_and_histograms(run: Path, shards: Path) -> None:
    values = [value for event in shown_events(run / "tensorboard") for value in event.summary.value]
    pictures = [value for value in values if value.HasField("image")]
    held_out = load_index(str(shards), load_manifest(str(shards))).cases("validation")
    assert len(pictures) == 2 * len(held_out)
    assert all(any(f"validation/{case}" in value.tag for value in pictures) for case in held_out)
    shown = np.asarray(Image.open(io.BytesIO(pictures[0].image.encoded_image_string)))
    assert (shown.max(axis=2) > shown.min(axis=2)).sum() > 100  # outlines in colour
    histograms = {value.tag for value in values if value.HasField("histo")}
    weights = {name.removeprefix("weights/") for name in histograms if name.startswith("weights/")}
    assert weights
    assert {f"gradients/{name}" for name in weights} < histograms


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.usefixtures("embedded_ray")
def test_a_tracker_that_cannot_write_does_not_stop_the_training(shards: Path, config: Config) -> None:
    folder = shards.parent / "unwritable"
    folder.mkdir()
    (folder / "tensorboard").write_text("a file where the folder should be")
    assert train(_train_config(config, shards, folder, epochs=1)).epochs == 1
    assert (folder / "run.log").read_text().count("the tracker tensorboard is off") == 1


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.usefixtures("embedded_ray")
def test_the_view_of_a_finished_training(run: Path) -> None:
    view = RunReader(str(run)).view()
    assert (view.state, view.epoch, view.epochs, view.starts) == ("finished", 2, 2, 2)
    assert len(view.losses) == len(curve(run / "tensorboard", "train/loss"))
    assert [one.name for one in view.structures] == list(load_bundle(str(run / "bundle")).label_map.names)


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.usefixtures("embedded_ray")
def test_the_slices_shown_are_the_fullest_of_different_held_out_cases(shards: Path) -> None:
    index = load_index(str(shards), load_manifest(str(shards)))
    chosen = shown_slices(index, 4)
    held_out = index.slices_of("validation")
    assert len(set(index.part[chosen].tolist())) == len(chosen) == len(index.cases("validation"))
    for one in chosen:
        mine = held_out[index.part[held_out] == index.part[one]]
        structures = {slice_: index.present[1][slice_ + 1] - index.present[1][slice_] for slice_ in mine.tolist()}
        assert structures[int(one)] == max(structures.values()) > 1
        rivals = [slice_ for slice_, count in structures.items() if count == structures[int(one)]]
        assert index.foreground[one] == index.foreground[rivals].max()


def test_the_numbers_of_an_epoch_leave_out_what_was_not_measured() -> None:
    row = {"epoch": 2, "step": 20, "lr": "0.001", "train_loss": 0.5, "val_dice": "", "val_dice_liver": 0.75}
    assert epoch_scalars(row) == {
        "epoch/epoch": 2.0, "epoch/lr": 0.001, "epoch/loss": 0.5, "validation/dice/liver": 0.75,
    }  # fmt: skip
