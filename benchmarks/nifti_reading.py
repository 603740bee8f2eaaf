"""Reading a case (CT and masks) and writing a mask, against nibabel, one thread.

Stack: segray's read_case against a loop over nibabel's get_fdata that stacks the same label volume. Volume: an int16
CT of 512x512x160 (84 MB) against nibabel's dataobj and get_fdata, and a uint8 mask of that shape against nibabel's
save. Peers run in turn, results must be equal, ratios are medians of the ratios within a round. Ratios are given by
the clock and by the CPU time of this process, which is steadier where others compute too, but leaves out waiting for
the disk (segray flushes what it writes, nibabel does not). Writes ``results/nifti_reading.json``.

    python benchmarks/nifti_reading.py DATA/totalseg/s0001   # CT + 104 masks, 9 rounds
    python benchmarks/nifti_reading.py                       # a phantom that the benchmark makes
    python benchmarks/nifti_reading.py --small               # for CI: a phantom and a volume of 96x96x40
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from machine import write_result
from numpy.typing import NDArray
from scipy import ndimage

from segray import formats
from segray.case import LabelMap
from segray.config import IngestConfig
from segray.formats.source import CaseSource
from segray.phantoms import make_phantoms

Array = NDArray[Any]
TARGETS = {"stack": 12.0, "read_dataobj": 1.5, "write": 9.0}


def peer_stack(source: CaseSource, label_map: LabelMap, order: Sequence[str] | None = None) -> tuple[Array, Array]:
    """What a plain script does: every file through nibabel's get_fdata, masks painted one over the other.

    Args:
        source: a case with masks.
        label_map: the value of each structure.
        order: structures in the order of painting, later ones on top; None: as in the label map.

    Returns:
        The scan as float64 and the labels as uint8, both (i, j, k) in the order of the file.
    """
    scan = nib.load(source.image).get_fdata()
    labels = np.zeros(scan.shape, np.uint8)
    for name in order or label_map.names:
        if name in source.masks:
            labels[nib.load(source.masks[name]).get_fdata() > 0] = label_map.values[name]
    return scan, labels


def paint_order(source: CaseSource, label_map: LabelMap) -> list[str]:
    """The order of painting that leaves every voxel to the smallest structure, as segray does."""
    counts = {}
    for name, path in source.masks.items():
        counts[name] = int(np.count_nonzero(nib.load(path).dataobj))
    return sorted(counts, key=lambda name: (-counts[name], -label_map.values[name]))


def seconds_of(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock and CPU seconds of this process for one call."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, max(time.process_time() - cpu, 1e-6)


def compare(ours: Callable[[], Any], peers: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Run ours and the peers in turn after a warm-up round; medians in ms, and the median ratios within a round."""
    work = {"segray": ours, **peers}
    taken = [{name: seconds_of(call) for name, call in work.items()} for _ in range(rounds + 1)][1:]
    result: dict[str, Any] = {}
    for kind, clock in enumerate(("clock", "cpu")):
        for name in work:
            result[f"{name}_{clock}_ms"] = round(statistics.median(turn[name][kind] for turn in taken) * 1e3, 2)
        for name in peers:
            ratio = statistics.median(turn[name][kind] / turn["segray"][kind] for turn in taken)
            result[f"times_{name}_{clock}"] = round(ratio, 2)
    return result


def measure_stack(folder: str, rounds: int) -> dict[str, Any]:
    """CT and masks of the first case of ``folder`` to voxels and labels."""
    discovery = formats.discover(folder, IngestConfig())
    source, label_map = discovery.cases[0], discovery.label_map
    if label_map is None or not source.masks:
        raise SystemExit(f"{folder} holds no case with masks.")
    order = paint_order(source, label_map)
    case = formats.read_case(source, label_map)
    scan, labels = peer_stack(source, label_map, order)
    if case.labels is None or not np.array_equal(case.geometry.to_lps(labels), case.labels):
        raise SystemExit("The label volumes differ.")
    if not np.allclose(case.geometry.to_lps(scan), case.voxels):
        raise SystemExit("The scans differ.")
    found = compare(
        lambda: formats.read_case(source, label_map),
        {"get_fdata": lambda: peer_stack(source, label_map, order)},
        rounds,
    )
    return {"masks": len(source.masks), "shape_zyx": list(case.voxels.shape), "rounds": rounds, **found}


def measure_volume(folder: Path, shape: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """A noisy int16 CT read, and a mask of its shape written."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 300, [max(2, side // 16) for side in shape])
    scan = ndimage.zoom(coarse, [s / c for s, c in zip(shape, coarse.shape, strict=True)], order=1)
    scan = (scan + rng.normal(0, 8, scan.shape)).astype(np.int16)
    affine = np.diag([-0.8, -0.8, 1.5, 1.0])
    path = str(folder / "scan.nii.gz")
    source = formats.lone_image(path)
    nib.Nifti1Image(scan, affine).to_filename(path)
    case = formats.read_image(source)
    if not np.array_equal(case.geometry.to_lps(scan), case.voxels):
        raise SystemExit("The scans differ.")
    mask = (case.voxels > 300).astype(np.uint8)
    stored = np.asfortranarray(case.geometry.from_lps(mask))
    ours, theirs = str(folder / "ours.nii.gz"), str(folder / "theirs.nii.gz")
    reading = compare(
        lambda: formats.read_image(source),
        {
            "dataobj": lambda: np.asarray(nib.load(path).dataobj),
            "get_fdata": lambda: nib.load(path).get_fdata(),
        },
        rounds,
    )
    writing = compare(
        lambda: formats.write_mask(ours, mask, case.geometry),
        {"nibabel": lambda: nib.Nifti1Image(stored, affine).to_filename(theirs)},
        rounds,
    )
    if not np.array_equal(np.asarray(nib.load(ours).dataobj), np.asarray(nib.load(theirs).dataobj)):
        raise SystemExit("The masks differ.")
    writing["size_ratio"] = round(os.path.getsize(ours) / os.path.getsize(theirs), 3)
    return {"shape": list(shape), "rounds": rounds, "read": reading, "write": writing}


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="a case or a folder of cases in the TotalSegmentator layout")
    parser.add_argument("--small", action="store_true", help="a small volume and few rounds, for CI")
    parser.add_argument("--rounds", type=int, default=0)
    chosen = parser.parse_args()
    rounds = chosen.rounds or (5 if chosen.small else 9)
    with tempfile.TemporaryDirectory() as folder:
        data = chosen.data or f"{folder}/phantoms"
        if chosen.data is None:
            make_phantoms(data, cases=1, broken=False)
        stack = measure_stack(data, rounds)
        volume = measure_volume(Path(folder), (96, 96, 40) if chosen.small else (512, 512, 160), rounds)
    print(f"stack of {stack['masks']} masks (to reach on 104: {TARGETS['stack']} times get_fdata): {stack}")
    print(f"volume, read (to reach: {TARGETS['read_dataobj']} times dataobj): {volume['read']}")
    print(f"volume, write (to reach: {TARGETS['write']} times nibabel): {volume['write']}")
    if not chosen.small:
        of = "phantom" if chosen.data is None else "totalseg"
        write_result("nifti_reading", {"data": of, "stack": stack, "volume": volume, "targets": TARGETS})


if __name__ == "__main__":
    main()
