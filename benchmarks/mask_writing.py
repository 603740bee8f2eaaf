"""Writing a mask: segray's write_mask against nibabel's and SimpleITK's defaults, and a file a structure.

The mask is the label volume of a public CT (31 structures of TotalSegmentator, 512x512x20), mirrored to 160 slices,
or what ``--labels`` names. Peers run in turn, what is written must be equal and no larger, ratios are medians of the
ratios within a round, by the clock and by the CPU time of this process, which is steadier where others compute too.
segray packs a volume of this size with up to four threads, one a core, its peers with one. segray flushes what it
writes and nobody else does: ``ram`` is a RAM disk, where a flush costs nothing, ``disk`` the folder for temporary
files. The grid is that of the file (LAS), so that segray's turn from LPS is in its time; nibabel and SimpleITK have
their arrays as they want them. Writes ``results/mask_writing.json``.

    python benchmarks/mask_writing.py                        # the public mask, or a phantom where it is not there
    python benchmarks/mask_writing.py --labels mask.nii.gz   # any other label volume
    python benchmarks/mask_writing.py --small                # for CI: a phantom of 96x96x40
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK
from machine import write_result
from nifti_reading import compare
from numpy.typing import NDArray

from segray import formats
from segray.case import Geometry, LabelMap
from segray.config import IngestConfig
from segray.formats.structure_files import structure_files, write_structures
from segray.phantoms import make_phantoms

Array = NDArray[Any]
TARGET = 9.0
"""Times nibabel's default, from the issue."""

PUBLIC = Path(__file__).resolve().parents[2] / "shared" / "data" / "dicom_jpeg2000" / "example_seg_dicom.nii.gz"
SLICES = 160
RAM = Path("/dev/shm")


def label_volume(chosen: str | None, small: bool, folder: str) -> tuple[Array, Array, str]:
    """The labels (i, j, k) as uint8 in Fortran's order, as a file has them, the affine, and what they are."""
    path = Path(chosen) if chosen else PUBLIC
    if not small and path.exists():
        image = nib.load(path)
        labels = np.asarray(image.dataobj).astype(np.uint8)
        both = np.concatenate([labels, labels[:, :, ::-1]], axis=2)
        repeats = -(-SLICES // both.shape[2])
        return np.asfortranarray(np.tile(both, (1, 1, repeats))[:, :, :SLICES]), image.affine, path.name
    make_phantoms(folder, cases=1, broken=False)
    source = formats.discover(folder, IngestConfig()).cases[0]
    case = formats.read_case(source, None)
    assert case.labels is not None
    return np.asfortranarray(case.geometry.from_lps(case.labels)), case.geometry.affine, "phantom"


def measure_labels(labels: Array, affine: Array, folder: Path, rounds: int) -> dict[str, Any]:
    """One file of label values, by three writers, into ``folder``."""
    geometry = Geometry(affine, labels.shape)
    turned = np.ascontiguousarray(geometry.to_lps(labels))
    image = SimpleITK.GetImageFromArray(labels.T)
    ours, nibabels, itks = (str(folder / f"{name}.nii.gz") for name in ("ours", "nibabel", "simpleitk"))
    found = compare(
        lambda: formats.write_mask(ours, turned, geometry),
        {
            "nibabel": lambda: nib.save(nib.Nifti1Image(labels, affine), nibabels),
            "simpleitk": lambda: SimpleITK.WriteImage(image, itks, useCompression=True),
        },
        rounds,
    )
    for path in (ours, nibabels, itks):
        if not np.array_equal(np.asarray(nib.load(path).dataobj), labels):
            raise SystemExit(f"{path} holds other labels.")
    if not np.allclose(nib.load(ours).affine, nib.load(nibabels).affine):
        raise SystemExit("The grids differ.")
    sizes = {name: os.path.getsize(path) for name, path in (("segray", ours), ("nibabel", nibabels), ("itk", itks))}
    return {"rounds": rounds, **found, "bytes": sizes, "no_larger": sizes["segray"] <= sizes["nibabel"]}


def measure_structures(labels: Array, affine: Array, folder: Path, rounds: int, names: int) -> dict[str, Any]:
    """A file a structure, those of the volume and further ones without a voxel up to ``names``."""
    geometry = Geometry(affine, labels.shape)
    turned = np.ascontiguousarray(geometry.to_lps(labels))
    values = [int(value) for value in np.unique(labels) if value]
    values += [value for value in range(1, 256) if value not in values][: max(names - len(values), 0)]
    label_map = LabelMap({f"structure_{value}": value for value in sorted(values)})
    theirs = folder / "theirs"
    theirs.mkdir()

    def loop() -> None:
        for name, value in label_map.values.items():
            nib.save(nib.Nifti1Image((labels == value).astype(np.uint8), affine), theirs / f"{name}.nii.gz")

    ours = folder / "ours"
    found = compare(lambda: write_structures(str(ours), turned, geometry, label_map), {"loop": loop}, rounds)
    sizes = {"segray": 0, "loop": 0}
    for name, file in structure_files(label_map).items():
        mine, other = (np.asarray(nib.load(path).dataobj) for path in (ours / file, theirs / f"{name}.nii.gz"))
        if not np.array_equal(mine, other):
            raise SystemExit(f"{name} differs.")
        sizes["segray"] += os.path.getsize(ours / file)
        sizes["loop"] += os.path.getsize(theirs / f"{name}.nii.gz")
    shutil.rmtree(theirs)
    return {"rounds": rounds, "structures": len(label_map.names), **found, "bytes": sizes}


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", help="a label volume, instead of the public one")
    parser.add_argument("--small", action="store_true", help="a phantom and few rounds, for CI")
    parser.add_argument("--rounds", type=int, default=0)
    chosen = parser.parse_args()
    rounds = chosen.rounds or (3 if chosen.small else 9)
    with tempfile.TemporaryDirectory() as disk, tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as ram:
        labels, affine, name = label_volume(chosen.labels, chosen.small, f"{disk}/phantoms")
        result: dict[str, Any] = {"labels": name, "shape": list(labels.shape), "share": round((labels > 0).mean(), 3)}
        for place, folder in (("ram", ram), ("disk", disk)):
            result[place] = measure_labels(labels, affine, Path(folder), rounds)
            print(f"one file, {place} (to reach: {TARGET} times nibabel, no larger): {result[place]}")
        result["structures"] = measure_structures(labels, affine, Path(ram), max(rounds // 3, 1), 117)
        print(f"a file a structure: {result['structures']}")
    if not result["ram"]["no_larger"]:
        raise SystemExit("segray's file is larger than nibabel's.")
    if not chosen.small:
        write_result("mask_writing", {**result, "targets": {"write": TARGET}})


if __name__ == "__main__":
    main()
