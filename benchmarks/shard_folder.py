"""A shard folder of phantoms, without the way through NIfTI files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segray import storage
from segray.case import LabelMap, channel_volumes
from segray.grid import Grid
from segray.shards.index import build_index
from segray.shards.manifest import INDEX, MANIFEST, Manifest, PartEntry, case_intensity, pool_intensity
from segray.shards.writer import CaseSlices, write_part

Volumes = tuple[NDArray[Any], NDArray[Any]]


def write_shards(folder: Path, cases: Iterable[Volumes], channels: int) -> Manifest:
    """Write (images, labels) volumes, (z, H, W) or (z, c, H, W) and (z, H, W), as training cases of a shard folder."""
    parts, stats, size, inputs = [], [], (0, 0), 1
    for number, (images, labels) in enumerate(cases):
        volumes = channel_volumes(images)
        name, size, inputs = f"case{number:05d}", (images.shape[-2], images.shape[-1]), len(volumes)
        stats.append([case_intensity(volume[::8], labels[::8], number) for volume in volumes])
        means, sds = [0.0] * inputs, [1.0] * inputs
        case = CaseSlices(name, images, labels, (5.0, 1.0, 1.0), 0.0, means, sds, stats[-1], "-", "-", [])
        facts = write_part(str(folder), case)
        parts.append(PartEntry(name, name, "train", facts.file, facts.bytes, facts.slices, "-", "-"))
    label_map = LabelMap.of_names([f"structure{number}" for number in range(1, channels)])
    pooled = [pool_intensity(of_channel) for of_channel in zip(*stats, strict=True)]
    names = [f"channel{number}" for number in range(inputs)] if inputs > 1 else []
    manifest = Manifest(label_map, Grid("native", size, None, -1024.0), pooled, parts, channels=names)
    storage.write_bytes(str(folder / INDEX), build_index(str(folder), parts))
    storage.write_text(str(folder / MANIFEST), manifest.to_json())
    return manifest
