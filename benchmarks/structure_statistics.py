"""The statistics of all structures of a case against a loop over boolean masks, one thread.

The peer is what one writes with numpy: for each structure its mask, the voxels in it with mean, standard deviation and
percentiles, the places of its voxels for box and centre, the faces of the volume, and the surface by the same formula
on the mask cut to its box. Both must give equal numbers. Beside it SimpleITK's LabelIntensityStatisticsImageFilter, one
pass in C++ with fewer results. Prints the ratios, and writes ``results/structure_statistics.json``.

    python benchmarks/structure_statistics.py            # 117 structures on 512x512x120, 3 rounds
    python benchmarks/structure_statistics.py --small    # for CI: 40 structures on 128x128x40, 3 rounds
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from machine import write_result
from numpy.typing import NDArray

from segray.case import Geometry
from segray.evaluation.statistics import StructureStatistics, structure_statistics
from segray.evaluation.surface import direction_weights, lattice_directions

Labels = NDArray[np.uint8]
Voxels = NDArray[np.int16]
SPACING = (1.5, 0.8, 0.8)
TARGET = 50.0


def phantom(shape: tuple[int, int, int], structures: int, seed: int) -> tuple[Voxels, Labels]:
    """(z, y, x) HU with noise and ellipsoids in the middle of it, each with its own mean; later ones cover earlier."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, dtype=np.uint8)
    for number in range(1, structures + 1):
        centre, radius = rng.uniform(0.2, 0.8, 3) * shape, rng.uniform(0.03, 0.12, 3) * shape
        ends = np.clip([np.floor(centre - radius), np.ceil(centre + radius) + 1], 0, shape).astype(int).T
        z, y, x = (((np.arange(*of_axis) - c) / r) ** 2 for of_axis, c, r in zip(ends, centre, radius, strict=True))
        box = labels[tuple(slice(*of_axis) for of_axis in ends)]
        box[z[:, None, None] + y[:, None] + x < 1] = number
        labels[0, 0, number] = number
    voxels = np.append(-900, rng.integers(-100, 300, structures)).astype(np.int16)[labels]
    voxels += (25 * rng.standard_normal(shape, dtype=np.float32)).astype(np.int16)
    return voxels, labels


def surface_of(mask: NDArray[np.bool_]) -> float:
    """mm2 of a mask in its box, by the passes along the thirteen directions of the lattice."""
    padded = np.pad(mask, 1)
    steps = lattice_directions()
    directions = (steps * SPACING)[:, ::-1].astype(np.float64)
    area = 0.0
    for step, weight, length in zip(
        steps, direction_weights(directions), np.linalg.norm(directions, axis=1), strict=True
    ):
        here = tuple(slice(max(0, -at), size - max(0, at)) for at, size in zip(step, padded.shape, strict=True))
        there = tuple(slice(max(0, at), size - max(0, -at)) for at, size in zip(step, padded.shape, strict=True))
        area += 2 * np.prod(SPACING) * weight / length * np.count_nonzero(padded[here] ^ padded[there])
    return float(area)


def of_mask(voxels: Voxels, mask: NDArray[np.bool_]) -> list[float]:
    """The numbers of one structure: voxels, mean, sd, three percentiles, surface, centre, box, voxels of the border."""
    values = voxels[mask]
    places = np.nonzero(mask)
    ends = [(int(along.min()), int(along.max())) for along in places]
    cut = mask[tuple(slice(first, last + 1) for first, last in ends)]
    border = values.size - np.count_nonzero(mask[1:-1, 1:-1, 1:-1])
    centre = [along.mean() for along in places]
    found = [values.size, values.mean(), values.std(), *np.percentile(values, (5, 50, 95)), surface_of(cut)]
    return [float(value) for value in (*found, *centre, *(end for pair in ends for end in pair), border)]


def by_masks(voxels: Voxels, labels: Labels, structures: int) -> NDArray[np.float64]:
    """(structures, 17): a loop over boolean masks."""
    return np.array([of_mask(voxels, labels == number) for number in range(1, structures + 1)])


def by_simpleitk(voxels: Voxels, labels: Labels) -> sitk.LabelIntensityStatisticsImageFilter:
    """Count, box, centroid, perimeter, mean, sd and median of all labels."""
    images = [sitk.GetImageFromArray(volume) for volume in (labels, voxels)]
    for image in images:
        image.SetSpacing(SPACING[::-1])
    found = sitk.LabelIntensityStatisticsImageFilter()
    found.SetNumberOfThreads(1)
    found.Execute(*images)
    return found


def as_table(found: StructureStatistics) -> NDArray[np.float64]:
    """segray's numbers in the columns of :func:`by_masks`; the file of the grid has its axes along (x, y, z)."""
    index = found.centre_mm[:, ::-1] / SPACING
    box = found.box[:, ::-1].reshape(len(index), 6)
    columns = (found.voxels, found.mean_hu, found.sd_hu, *found.percentiles_hu.T, found.surface_mm2)
    return np.column_stack([*columns, index, box, found.border_voxels])


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(shape: tuple[int, int, int], structures: int, rounds: int) -> dict[str, Any]:
    """Medians in ms and the ratios paired within a round; raises AssertionError where the numbers differ."""
    voxels, labels = phantom(shape, structures, seed=0)
    geometry = Geometry(np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0]), (shape[2], shape[1], shape[0]))
    ways: dict[str, Callable[[], Any]] = {
        "masks": lambda: by_masks(voxels, labels, structures),
        "simpleitk": lambda: by_simpleitk(voxels, labels),
        "segray": lambda: structure_statistics(voxels, labels, structures + 1, geometry),
    }
    np.testing.assert_allclose(as_table(ways["segray"]()), ways["masks"](), rtol=1e-9, atol=1e-9)
    itk, ours = ways["simpleitk"](), ways["segray"]()
    for number in range(1, structures + 1):
        assert itk.GetNumberOfPixels(number) == ours.voxels[number - 1]
        np.testing.assert_allclose(itk.GetMean(number), ours.mean_hu[number - 1], rtol=1e-6)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            times[name].append(seconds(work))
    result: dict[str, Any] = {f"{name}_ms": round(1e3 * statistics.median(found), 2) for name, found in times.items()}
    for peer in ("masks", "simpleitk"):
        paired = [theirs / mine for theirs, mine in zip(times[peer], times["segray"], strict=True)]
        result[f"times_{peer}"] = round(statistics.median(paired), 1)
    result["ns_a_voxel"] = round(1e9 * statistics.median(times["segray"]) / labels.size, 2)
    return {"labelled": round(float((labels > 0).mean()), 3), **result}


def main() -> None:
    """Run the comparison; exit 1 where the full size misses the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small volume, for CI; no target, no result file")
    small = parser.parse_args().small
    shape, structures, rounds = ((40, 128, 128), 40, 3) if small else ((120, 512, 512), 117, 3)
    found = measure(shape, structures, rounds)
    print(f"{structures} structures on {shape}, one thread, medians of {rounds} rounds, equal numbers")
    print(f"loop over boolean masks                    {found['masks_ms']:10.1f} ms  {found['times_masks']:6.1f} x")
    itk = f"{found['simpleitk_ms']:10.1f} ms  {found['times_simpleitk']:6.1f} x"
    print(f"SimpleITK LabelIntensityStatistics         {itk}")
    print(f"segray structure_statistics                {found['segray_ms']:10.1f} ms, {found['ns_a_voxel']} ns a voxel")
    if small:
        return
    facts = {"shape": shape, "spacing": SPACING, "structures": structures, "rounds": rounds, "threads": 1}
    write_result("structure_statistics", {**facts, "target_times_masks": TARGET, **found})
    if found["times_masks"] < TARGET:
        sys.exit(f"{found['times_masks']} times the loop over masks, below the target of {TARGET}")


if __name__ == "__main__":
    main()
