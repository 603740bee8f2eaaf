"""What a sweep needs before its first trial, without ingest: shards that are a manifest alone, and a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segray.case import LabelMap
from segray.config import Config, load_config
from segray.grid import Grid
from segray.shards.manifest import MANIFEST, Manifest, PartEntry, pool_intensity

RATES = """
def space(trial):
    return {"optim.lr": trial.suggest_float("optim.lr", 1e-4, 1e-2, log=True)}
"""


def hollow_shards(folder: Path, *, splits: tuple[str, ...] = ("train", "validation")) -> Path:
    """A folder whose manifest tells of a case of each split, with liver and body, and holds no part."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [PartEntry(split, split, split, f"{split}.parquet", 1, 1, "", "") for split in splits]
    labels = LabelMap.of_names(["liver", "body"])
    made = Manifest(labels, Grid("native", (32, 32), None, 0.0), [pool_intensity([])], parts, {"overlap": "smallest"})
    (folder / MANIFEST).write_text(made.to_json())
    return folder


def sweep_config(tmp_path: Path, *more: str, space: str = RATES, **shards: Any) -> Config:
    """The config of a sweep in ``tmp_path`` over :func:`hollow_shards`."""
    (tmp_path / "space.py").write_text(space)
    places = (
        f"train.shards={hollow_shards(tmp_path / 'shards', **shards)}",
        f"tune.run={tmp_path / 'sweep'}",
        f"tune.space={tmp_path / 'space.py'}",
    )
    return load_config(None, ["net.features=[4,8]", "train.trackers=[]", *places, *more])
