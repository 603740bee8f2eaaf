"""Shards and settings of sweeps whose trials take seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from segray.config import Config, load_config
from segray.phantoms import make_phantoms
from segray.pipelines.ingest import ingest

ConfigOf = Callable[..., Config]
"""A space and further settings to the config of a sweep in the folder of a test."""

SETTINGS = (
    "net.features=[4,8]",
    "train.batch_size=8",
    "train.epochs=2",
    "train.trackers=[]",
    "train.cpus_per_worker=1",
    "optim.warmup_steps=0",
    "ingest.split.validation=0.3",
    "ingest.grid.spacing=[9,9]",
    "ingest.structures=[liver,body]",
    "tune.trials=4",
    "tune.sampler=random",
    "tune.pruner=none",
)

RATES = """
def space(trial):
    return {"optim.lr": trial.suggest_float("optim.lr", 1e-4, 1e-2, log=True)}
"""


def shards_of_phantoms(folder: Path) -> Path:
    """Three phantoms and their shards, below a folder; the shards."""
    make_phantoms(str(folder / "scans"), cases=3, seed=3, broken=False)
    ingest(str(folder / "scans"), str(folder / "shards"), load_config(None, list(SETTINGS)))
    return folder / "shards"


def sweep_config(shards: Path, folder: Path, space: str, *more: str) -> Config:
    """The config of a sweep into a folder, where its space is written too."""
    (folder / "space.py").write_text(space)
    places = (f"train.shards={shards}", f"tune.run={folder / 'sweep'}", f"tune.space={folder / 'space.py'}")
    return load_config(None, [*SETTINGS, *places, *more])
