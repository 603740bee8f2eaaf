"""A training that starts from the weights of another, on one embedded Ray."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from segray.config import Config, load_config
from segray.errors import UsageError
from segray.nets.bundle import load_bundle
from segray.nets.unet import build_net
from segray.phantoms import make_phantoms
from segray.pipelines.ingest import ingest
from segray.pipelines.train import train

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]

SETTINGS = (
    "train.batch_size=8",
    "train.cpus_per_worker=1.5",
    "train.precision=float32",
    "optim.warmup_steps=0",
    "ingest.split.validation=0.3",
    "ingest.grid.spacing=[9,9]",
)
STILL = "optim.lr=1e-12"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> Path:
    """Shards of two label maps, and a run on the first."""
    folder = tmp_path_factory.mktemp("start")
    make_phantoms(str(folder / "scans"), cases=3, seed=3, broken=False)
    for name, structures in (("old", "[liver,body]"), ("new", "[spleen,body]")):
        settings = load_config(None, [*SETTINGS, f"ingest.structures={structures}"])
        ingest(str(folder / "scans"), str(folder / name), settings)
    first = load_config(
        None,
        [*SETTINGS, "net.features=[8,16]", "net.norm=group", "train.epochs=4", "optim.lr=0.01",
         f"train.shards={folder / 'old'}", f"train.run={folder / 'run'}"],
    )  # fmt: skip
    train(first)
    return folder


def _config(folder: Path, shards: str, run: Path, *more: str) -> Config:
    return load_config(None, [*SETTINGS, f"train.shards={folder / shards}", f"train.run={run}", *more])


def test_a_run_begins_with_the_weights_of_another_and_takes_its_net(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = (f"train.start_from={folder / 'run'}", "train.epochs=1", STILL)
    said: list[str] = []
    again = train(_config(folder, "old", run, *more), say=said.append)
    first = load_bundle(str(folder / "run" / "bundle"))
    assert again.best_dice == pytest.approx(first.metrics["validation_dice"], abs=1e-4)
    assert load_config(run / "config.yaml").net == first.net
    assert said[0] == f"The training starts from the bundle {first.bundle_id} in {folder / 'run' / 'bundle'}."
    assert said[0] in (run / "run.log").read_text()


def test_structures_of_the_same_name_are_kept_and_the_run_goes_on_without_the_bundle(
    folder: Path, tmp_path: Path
) -> None:
    """The first checkpoint may be lost with its worker: what the run starts from lies in its own folder."""
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    shutil.copytree(folder / "run" / "bundle", bundle)
    more = (f"train.start_from={bundle}", "train.epochs=2", "net.dropout=0.1", STILL)
    said: list[str] = []
    train(_config(folder, "new", run, *more), stop_after=1, say=said.append)
    assert "Outputs that start anew: spleen." in said
    shutil.rmtree(bundle)
    train(load_config(None, []), resume=str(run))
    assert len((run / "metrics.csv").read_text().splitlines()) == 3
    old, new = load_bundle(str(folder / "run" / "bundle")), load_bundle(str(run / "bundle"))
    body = [1 + list(one.label_map.names).index("body") for one in (old, new)]
    torch.testing.assert_close(new.weights["head.weight"][body[1]], old.weights["head.weight"][body[0]])
    torch.testing.assert_close(new.weights["encoder.0.0.conv.weight"], old.weights["encoder.0.0.conv.weight"])
    began = safetensors.torch.load((run / "start.safetensors").read_bytes())
    torch.testing.assert_close(began["head.weight"], new.weights["head.weight"])


def test_a_net_that_does_not_fit_is_said_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(UsageError, match=r"net.features is \[4, 8\].*\[8, 16\]"):
        train(_config(folder, "old", run, f"train.start_from={folder / 'run'}", "net.features=[4,8]"))
    with pytest.raises(UsageError, match="holds no bundle"):
        train(_config(folder, "old", run, f"train.start_from={folder / 'scans'}"))
    assert not run.exists()


def test_another_input_is_said(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = (f"train.start_from={folder / 'run'}", "train.epochs=1", "intensity.mode=case", STILL)
    said: list[str] = []
    train(_config(folder, "old", run, *more), say=said.append)
    assert "The weights learnt on the window -1000 to 1000, and now see values by each case's own mean and sd." in said
    net = json.loads((run / "history.json").read_text())["net"]
    first = load_bundle(str(folder / "run" / "bundle"))
    assert net["parameters"] == sum(p.numel() for p in build_net(first.net, 1, 3).parameters())
