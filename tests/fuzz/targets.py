"""The readers that take bytes from strangers: bytes in, and any answer or a SegrayError out, but nothing else.

``seeds`` are whole files from which a fuzzer starts.
"""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from segray import formats
from segray.case import LabelMap
from segray.config import IngestConfig
from segray.errors import SegrayError
from segray.formats.source import CaseSource
from segray.grid import Grid
from segray.shards.index import Visit, build_index, load_index
from segray.shards.manifest import INDEX, MANIFEST, Manifest, PartEntry, case_intensity, load_manifest, pool_intensity
from segray.shards.reader import decode_batch, read_visit, slices_of
from segray.shards.writer import CaseSlices, write_part

Target = Callable[[bytes], None]

SCAN = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
PART = "part-a.parquet"


def answers(work: Callable[[], object]) -> None:
    """Run a reader; a SegrayError of one line is an answer."""
    try:
        work()
    except SegrayError as error:
        if "\n" in str(error):
            raise ValueError(f"more than one line: {error}") from error


def _read_case(name: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        image = formats.lone_image(str(path))
        answers(lambda: formats.read_header(image))
        answers(lambda: formats.read_image(image))
        labels = CaseSource("x", str(path), labels=str(path), kind=image.kind)
        answers(lambda: formats.label_values(labels))
        answers(lambda: formats.read_case(labels, LabelMap({"a": 1, "b": 2}), overlap="keep"))
        masks = CaseSource("x", str(path), masks={"a": str(path)}, kind=image.kind)
        answers(lambda: formats.read_case(masks, None))


def nifti(data: bytes) -> None:
    """A NIfTI file as image, labels and mask, plain."""
    _read_case("x.nii", data)


def nifti_gz(data: bytes) -> None:
    """The same, compressed."""
    _read_case("x.nii.gz", data)


def nrrd(data: bytes) -> None:
    """An NRRD file."""
    _read_case("x.nrrd", data)


def mha(data: bytes) -> None:
    """A MetaImage file."""
    _read_case("x.mha", data)


def shard(data: bytes) -> None:
    """A part of a shard folder."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / PART).write_bytes(data)
        answers(lambda: decode_batch(list(slices_of(read_visit(folder, Visit(PART, 0, (0, 1)))))))
        entry = PartEntry("a", "a", "train", PART, len(data), 3, "f", "r")
        answers(lambda: build_index(folder, [entry]))


def manifest(data: bytes) -> None:
    """The manifest of a shard folder."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_bytes(data)
        answers(lambda: load_manifest(folder).slices)


def index(data: bytes) -> None:
    """The index of a shard folder."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / INDEX).write_bytes(data)
        empty = Manifest(LabelMap({"a": 1}), Grid("native", (4, 4), None, 0.0), [pool_intensity([])], [])
        answers(lambda: load_index(folder, empty).slices_of("train"))


def _discover(name: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        answers(lambda: formats.discover(str(Path(folder) / name), IngestConfig(labels={"a": 1})))


def csv_table(data: bytes) -> None:
    """A table of cases as CSV."""
    _discover("cases.csv", data)


def parquet_table(data: bytes) -> None:
    """A table of cases as Parquet."""
    _discover("cases.parquet", data)


def dataset(data: bytes) -> None:
    """A dataset.json beside pairs."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("imagesTr", "labelsTr"):
            (root / name).mkdir()
            (root / name / "a.nii").write_bytes(b"")
        (root / "dataset.json").write_bytes(data)
        answers(lambda: formats.discover(folder, IngestConfig()))


TARGETS: dict[str, Target] = {
    "nifti": nifti,
    "nifti_gz": nifti_gz,
    "nrrd": nrrd,
    "mha": mha,
    "shard": shard,
    "manifest": manifest,
    "index": index,
    "csv": csv_table,
    "parquet": parquet_table,
    "dataset": dataset,
}


def seeds() -> dict[str, list[bytes]]:
    """Whole files for every target."""
    part, table, listed = _shards()
    plain = [nib.Nifti1Image(SCAN, np.eye(4)).to_bytes(), nib.Nifti2Image(SCAN % 3, np.diag([-1, 2, 3, 1])).to_bytes()]
    plain.append(nib.Nifti1Image(np.stack([SCAN % 2, 1 - SCAN % 2], axis=-1), np.eye(4)).to_bytes())
    nrrd_head = (
        b"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 3 4 5\n"
        b"space directions: (1,0,0) (0,2,0) (0,0,3)\nendian: little\nencoding: raw\nspace origin: (5,6,7)\n\n"
    )
    meta_head = (
        b"NDims = 3\nBinaryData = True\nCompressedData = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 5 6 7\n"
        b"ElementSpacing = 1 2 3\nDimSize = 3 4 5\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    body = SCAN.tobytes()
    return {
        "nifti": plain,
        "nifti_gz": [gzip.compress(data, mtime=0) for data in plain],
        "nrrd": [nrrd_head + body, nrrd_head.replace(b"raw", b"gzip") + gzip.compress(body, mtime=0)],
        "mha": [meta_head + body, meta_head.replace(b"= False", b"= True") + zlib.compress(body)],
        "shard": [part],
        "manifest": [table],
        "index": [listed],
        "csv": [b"case_id,image,label,patient,split\na,a.nii,b.nii,p,train\n", b"case_id;image_T1;mask_x\na;b.nii;\n"],
        "parquet": [_parquet()],
        "dataset": [b'{"labels": {"background": 0, "a": 1}, "channel_names": {"0": "T1", "1": "T2"}}'],
    }


def _parquet() -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({"case_id": [1, 2], "image": ["a.nii", None], "split": ["train", "test"]}), buffer)
    return bytes(buffer.getvalue())


def _shards() -> tuple[bytes, bytes, bytes]:
    """A part, a manifest and an index that segray wrote."""
    with tempfile.TemporaryDirectory() as folder:
        images = SCAN.astype(np.int16)
        labels = (SCAN % 2).astype(np.uint8)
        stats = case_intensity(images, labels, 0)
        case = CaseSlices("a", images, labels, (1.0, 1.0, 1.0), 0.0, [1.0], [2.0], [stats], "f", "r", [])
        facts = write_part(folder, case)
        entry = PartEntry("a", "a", "train", facts.file, facts.bytes, facts.slices, "f", "r")
        grid = Grid("native", (4, 5), None, -1024.0)
        made = Manifest(LabelMap({"x": 1}), grid, [pool_intensity([stats])], [entry], {"overlap": "smallest"})
        return (Path(folder) / facts.file).read_bytes(), made.to_json().encode(), build_index(folder, [])
