"""The whole ingest of a case in the TotalSegmentator layout, against nibabel, on one core.

Ours: pipelines.ingest.ingest_case as a Ray task calls it: CT and masks are read, brought to the grid, measured,
compressed and written as a part with its checksums, flushed to the disk. The peer: a loop over nibabel's get_fdata that
stacks the same label volume in memory, and writes nothing. They run in turn; the labels and the voxels decoded from the
part must equal the peer's. Ratios are medians of the ratios within a round, by the clock and by the CPU time of this
process, which is steadier where others compute too. Writes ``results/ingest_case.json``.

    python benchmarks/ingest_case.py DATA/totalseg/s0001   # CT + 104 masks of 122x101x112, and the phantom
    python benchmarks/ingest_case.py                       # a phantom of 200x180x160 with 104 masks
    python benchmarks/ingest_case.py --small               # for CI: a phantom of 60x50x40 with 20 masks

The larger the case, the larger the ratio: the peer's float64 copy of every mask leaves the cache. The small real case
(2.8 MB as int16) takes about 45 ms of CPU: 9 to inflate the CT, 5 to inflate the masks that are not empty, 6 to
compress, 4 for page faults of new volumes, 3 for statistics, 2 to assemble and write the part, the rest in single calls
a file, a slice and a mask. At 8 times there would be 35 ms, of which the libraries' inflating and compressing take 20.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
from machine import write_result
from nifti_reading import compare, paint_order, peer_stack
from numpy.typing import NDArray
from scipy import ndimage

from segray import formats
from segray.config import IngestConfig
from segray.formats.source import CaseSource
from segray.grid import plan, resolve_grid
from segray.pipelines.ingest import Recipe, ingest_case
from segray.shards.codec import decode_pixels_into
from segray.shards.writer import part_name

TARGET = 8.0
MASKS = 104
EMPTY = 46
"""As in the case of the TotalSegmentator's test files."""


def make_case(folder: Path, shape: tuple[int, int, int], masks: int) -> None:
    """A CT of noise (sd 15 HU) over smooth tissue in air, and ellipsoid masks, nearly half of them empty."""
    rng = np.random.default_rng(0)
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    centred = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij"))
    tissue = ndimage.zoom(rng.normal(40, 60, (6, 6, 6)), [side / 6 for side in shape], order=1)
    hu = np.where((centred[:2] ** 2).sum(axis=0) < 0.6, tissue, -1000.0) + rng.normal(0, 15, shape)
    (folder / "segmentations").mkdir(parents=True)
    nib.Nifti1Image(np.rint(hu).astype(np.int16), affine).to_filename(folder / "ct.nii.gz")
    for number in range(masks):
        mask = np.zeros(shape, np.uint8)
        if number >= masks * EMPTY // MASKS:
            middle, radius = rng.uniform(-0.6, 0.6, 3), rng.uniform(0.05, 0.25, 3)
            distance = ((centred - middle[:, None, None, None]) / radius[:, None, None, None]) ** 2
            mask[distance.sum(axis=0) < 1] = 1
        nib.Nifti1Image(mask, affine).to_filename(folder / "segmentations" / f"structure_{number:03d}.nii.gz")


def decoded(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Images and label indices (z, H, W) of a part, with their checksums compared."""
    rows = pq.read_table(path).to_pylist()
    height, width = rows[0]["height"], rows[0]["width"]
    images = np.empty((len(rows), height, width), rows[0]["dtype"])
    labels = np.empty((len(rows), height, width), rows[0]["labels_dtype"])
    for row, image, label in zip(rows, images, labels, strict=True):
        decode_pixels_into(row["image"], image, row["image_crc"])
        decode_pixels_into(row["labels"], label, row["labels_crc"])
    return images, labels


def check_equal(part: Path, source: CaseSource, recipe: Recipe, grid: Any, order: list[str], label_map: Any) -> None:
    """Stop where the part does not hold what the peer stacks."""
    header = formats.read_header(source)
    (y, x), _ = plan(header.size, header.spacing, grid).windows()
    scan, stacked = peer_stack(source, label_map, order)
    images, labels = decoded(part)
    if not np.array_equal(label_map.to_value(labels[:, y, x]), header.geometry.to_lps(stacked)):
        raise SystemExit(f"The label volumes differ ({recipe.hash}).")
    if not np.array_equal(images[:, y, x], header.geometry.to_lps(scan)):
        raise SystemExit(f"The voxels differ ({recipe.hash}).")


def measure(folder: str, rounds: int) -> dict[str, Any]:
    """Ingest of the first case of ``folder`` against the peer."""
    settings = IngestConfig()
    discovery = formats.discover(folder, settings)
    source, label_map = discovery.cases[0], discovery.label_map
    if label_map is None or not source.masks:
        raise SystemExit(f"{folder} holds no case with masks.")
    header = formats.read_header(source)
    grid = resolve_grid(settings.grid, [(header.size, header.spacing)])
    recipe = Recipe(
        dict(label_map.values),
        grid.to_dict(),
        settings.overlap,
        settings.rows_per_group,
        settings.codec,
        settings.level,
    )
    order = paint_order(source, label_map)
    with tempfile.TemporaryDirectory() as shards:
        numbers = itertools.count()
        found = compare(
            lambda: ingest_case(source, recipe, f"{shards}/{next(numbers)}"),
            {"get_fdata": lambda: peer_stack(source, label_map, order)},
            rounds,
        )
        check_equal(Path(shards) / "0" / part_name(source.case_id), source, recipe, grid, order, label_map)
    return {"masks": len(source.masks), "shape_zyx": list(header.size), "rounds": rounds, **found}


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="a case or a folder of cases in the TotalSegmentator layout")
    parser.add_argument("--small", action="store_true", help="a small phantom, for CI")
    parser.add_argument("--rounds", type=int, default=0)
    chosen = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rounds = chosen.rounds or (5 if chosen.small else 9)
    result: dict[str, Any] = {"target": TARGET}
    if chosen.data is not None:
        result["totalseg"] = measure(chosen.data, rounds)
        print(f"{chosen.data} (to reach: {TARGET} times get_fdata): {result['totalseg']}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        shape, masks = ((60, 50, 40), 20) if chosen.small else ((200, 180, 160), MASKS)
        make_case(Path(folder) / "phantom", shape, masks)
        result["phantom"] = measure(f"{folder}/phantom", rounds)
    print(f"phantom (to reach: {TARGET} times get_fdata): {result['phantom']}")
    if not chosen.small:
        write_result("ingest_case", result)


if __name__ == "__main__":
    main()
