"""A small folder of shards, written and indexed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from segray import storage
from segray.case import LabelMap
from segray.grid import Grid
from segray.shards.index import SliceIndex, build_index, load_index
from segray.shards.manifest import INDEX, MANIFEST, Manifest, PartEntry, case_intensity, load_manifest, pool_intensity
from segray.shards.writer import CaseSlices, write_part

SIDE = (24, 20)


def make_case(case_id: str, slices: int, seed: int = 0, dtype: str = "int16", labelled: bool = True) -> CaseSlices:
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 300, (slices, *SIDE)).astype(dtype)
    labels = np.zeros((slices, *SIDE), np.uint8)
    labels[slices // 4 : 3 * slices // 4, 4:12, 5:9] = 1
    labels[slices // 2, 14, 3] = 2
    stats = case_intensity(images, labels, seed)
    return CaseSlices(
        case_id,
        images,
        labels if labelled else None,
        (5.0, 1.0, 1.5),
        -70.0,
        [3.5],
        [300.0],
        [stats],
        "print",
        "recipe",
        [],
    )


@dataclass
class Folder:
    path: str
    cases: dict[str, CaseSlices]
    manifest: Manifest
    index: SliceIndex


MakeFolder = Callable[..., Folder]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    def make(slices: dict[str, int], splits: dict[str, str] | None = None, rows_per_group: int = 4) -> Folder:
        folder = str(tmp_path / "shards")
        cases = {name: make_case(name, count, number) for number, (name, count) in enumerate(slices.items())}
        facts = [write_part(folder, case, rows_per_group=rows_per_group) for case in cases.values()]
        parts = [
            PartEntry(
                f.case_id,
                f.case_id,
                (splits or {}).get(f.case_id, "train"),
                f.file,
                f.bytes,
                f.slices,
                "p",
                "r",
                content=f.content,
            )
            for f in facts
        ]
        stats = pool_intensity([f.intensity[0] for f in facts])
        grid = Grid("native", SIDE, None, -1024.0)
        manifest = Manifest(LabelMap.of_names(["liver", "lesion"]), grid, [stats], parts, {"overlap": "smallest"})
        storage.write_bytes(storage.join(folder, INDEX), build_index(folder, parts))
        storage.write_text(storage.join(folder, MANIFEST), manifest.to_json())
        found = load_manifest(folder)
        return Folder(folder, cases, found, load_index(folder, found))

    return make


@pytest.fixture
def folder(make_folder: MakeFolder) -> Folder:
    return make_folder({"a": 10, "b": 7, "c": 1}, {"b": "validation"})
