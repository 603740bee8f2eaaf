"""Shards of small cases with known structures, written without ingest and without Ray, and a config for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from segray import storage
from segray.case import LabelMap
from segray.config import Config, load_config
from segray.grid import Grid
from segray.nets.bundle import save_bundle
from segray.nets.unet import build_net
from segray.pipelines.normalisation import normalisation_of
from segray.shards.index import build_index
from segray.shards.manifest import (
    INDEX,
    MANIFEST,
    Manifest,
    PartEntry,
    case_intensity,
    load_manifest,
    pool_intensity,
)
from segray.shards.writer import CaseSlices, write_part

SIDE = (32, 32)
STRUCTURES = ("liver", "lesion")
SETTINGS = (
    "net.features=[4,8]",
    "net.norm=group",
    "train.batch_size=8",
    "train.trackers=[]",
    "train.precision=float32",
    "optim.warmup_steps=0",
)


def tiny_shards(
    folder: Path,
    *,
    cases: int = 3,
    missing: Mapping[str, list[str]] | None = None,
    without_lesion: Sequence[str] = (),
) -> Path:
    """Cases c0 (validation), c1, ... (train) of 6 slices with a liver and, but in those named, a lesion."""
    parts, intensities = [], []
    for number in range(cases):
        name = f"c{number}"
        case = _case(name, number, lesion=name not in without_lesion)
        file = write_part(str(folder), case, rows_per_group=4)
        split = "train" if number else "validation"
        parts.append(
            PartEntry(
                name, name, split, file.file, file.bytes, file.slices, "p", "r",
                content=file.content, missing=(missing or {}).get(name, []),
            )
        )  # fmt: skip
        intensities.append(case.intensity[0])
    grid = Grid("native", SIDE, None, -1024.0)
    manifest = Manifest(
        LabelMap.of_names(list(STRUCTURES)), grid, [pool_intensity(intensities)], parts, {"overlap": "smallest"}
    )
    storage.write_bytes(storage.join(str(folder), INDEX), build_index(str(folder), parts))
    storage.write_text(storage.join(str(folder), MANIFEST), manifest.to_json())
    return folder


def _case(name: str, seed: int, *, lesion: bool) -> CaseSlices:
    labels = np.zeros((6, *SIDE), np.uint8)
    labels[1:5, 8:20, 8:20] = 1
    if lesion:
        labels[2:4, 22:28, 4:10] = 2
    noise = np.random.default_rng(seed).normal(-200, 50, labels.shape)
    images = (noise + 300 * (labels == 1) + 600 * (labels == 2)).astype(np.int16)
    statistics = [case_intensity(images, labels, seed)]
    mean, sd = float(images.mean()), float(images.std())
    return CaseSlices(name, images, labels, (5.0, 1.0, 1.0), 0.0, [mean], [sd], statistics, "p", "r", [])


def tiny_config(shards: Path, run: Path | None, *more: str) -> Config:
    """A net of two levels for :func:`tiny_shards`."""
    places = [f"train.shards={shards}", *([] if run is None else [f"train.run={run}"])]
    return load_config(None, [*SETTINGS, *places, *more])


def tiny_bundle(folder: Path, shards: Path) -> Path:
    """A bundle of fresh weights for the shards: its net is that of :func:`tiny_config`, but its activation is relu."""
    config = tiny_config(shards, None, "net.activation=relu")
    manifest = load_manifest(str(shards))
    save_bundle(
        str(folder),
        build_net(config.net, manifest.in_channels, manifest.label_map.channels),
        net=config.net,
        label_map=manifest.label_map,
        grid=manifest.grid,
        normalisation=normalisation_of(config, manifest),
    )
    return folder
