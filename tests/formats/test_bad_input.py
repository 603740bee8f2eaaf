"""What people's disks hold: each bad case is one row with a reason, and the good one beside it is ingested."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from ingested import rows_of
from isal import isal_zlib
from made_niftis import Array, Save, affine_of

from segray import formats, storage
from segray.errors import UsageError
from segray.formats import limits
from segray.formats.source import CaseSource
from segray.shards.writer import read_part_facts

SCAN = np.random.default_rng(0).integers(-1000, 1000, (6, 5, 4)).astype(np.int16)
LABELS = (SCAN > 0).astype(np.uint8)
AFFINE = affine_of("LPS")

Edit = Callable[[bytes], bytes]


def nifti(array: Array = SCAN, affine: Array = AFFINE, **fields: Any) -> bytes:
    """An uncompressed NIfTI file with header fields set afterwards."""
    data = bytearray(nib.Nifti1Image(array, affine, dtype=array.dtype).to_bytes())
    header = nib.Nifti1Header(bytes(data[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    data[:348] = header.binaryblock
    return bytes(data)


def packed(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def wrong_crc(data: bytes) -> bytes:
    spoiled = bytearray(data)
    spoiled[-6] ^= 255
    return bytes(spoiled)


class Beside:
    """A folder of pairs with one good case, beside which bad ones are put."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "pairs"
        self.target = tmp_path / "shards"
        self.put("good")

    def put(self, name: str, image: bytes | None = None, labels: bytes | None = None) -> None:
        for folder, data in (("images", image), ("labels", labels)):
            path = self.root / folder / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(packed(nifti(SCAN if folder == "images" else LABELS)) if data is None else data)

    def rows(self, **settings: Any) -> dict[str, str]:
        """The reasons of all but the good case, which must be in the shards."""
        reasons = rows_of(self.root, self.target, **{"labels": {"liver": 1, "lesion": 2}, **settings})
        assert reasons.pop("good") == ""
        assert read_part_facts(str(self.target), "good") is not None
        return reasons


@pytest.fixture
def beside(tmp_path: Path) -> Beside:
    return Beside(tmp_path)


NAN_AFFINE = {"srow_x": np.nan, "qform_code": 0, "pixdim": np.nan}
SINGULAR = {"srow_x": [1, 1, 0, 0], "srow_y": [1, 1, 0, 0], "qform_code": 0, "pixdim": 0}
NO_FORMS = {"sform_code": 0, "qform_code": 0}
HUGE = {"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}
RGB = np.zeros((6, 5, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])

IMAGES: dict[str, tuple[bytes, str]] = {
    "truncated gzip": (packed(nifti())[:-40], "cut off"),
    "wrong crc": (wrong_crc(packed(nifti())), "is damaged"),
    "not gzip": (nifti(), "is not gzip"),
    "text": (b"<html>404 Not Found</html>", "is not gzip"),
    "zero bytes": (b"", "is empty"),
    "packed nothing": (packed(b""), "ends too early"),
    "huge": (packed(nifti(SCAN[:2, :2, :2], **HUGE)), "too small for its header, which claims 32767x32767x32767"),
    "all nan": (packed(nifti(np.full((6, 5, 4), np.nan, np.float32))), "no finite voxel"),
    "all inf": (packed(nifti(np.full((6, 5, 4), np.inf, np.float32))), "no finite voxel"),
    "nan affine": (packed(nifti(**NAN_AFFINE)), "no usable affine"),
    "singular affine": (packed(nifti(**SINGULAR)), "no usable affine"),
    "zero spacing": (packed(nifti(pixdim=[1, 0, 1, 1, 0, 0, 0, 0], **NO_FORMS)), "no usable affine"),
    "negative spacing": (packed(nifti(pixdim=[1, 1, -1, 1, 0, 0, 0, 0], **NO_FORMS)), "no usable affine"),
    "nan spacing": (packed(nifti(pixdim=[1, np.nan, 1, 1, 0, 0, 0, 0], **NO_FORMS)), "no usable affine"),
    "2d": (packed(nifti(SCAN[:, :, 0])), "its image has"),
    "5d": (packed(nifti(np.zeros((6, 5, 4, 1, 3), np.int16))), "3 volumes"),
    "time series": (packed(nifti(np.zeros((6, 5, 4, 40), np.int16))), "40 volumes"),
    "complex": (packed(nifti(SCAN.astype(np.complex64))), "complex numbers"),
    "rgb": (packed(nifti(RGB)), "colours"),
    "unknown type": (packed(nifti(datatype=999)), "unknown voxel type"),
    "other shape": (packed(nifti(SCAN[:5])), "but its image has"),
    "other grid": (packed(nifti(affine=affine_of("LPS", (1.5, 2.0, 6.0)))), "lies elsewhere"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_bad_image_is_a_row(beside: Beside, name: str) -> None:
    data, words = IMAGES[name]
    beside.put("bad", data)
    reasons = beside.rows()
    assert list(reasons) == ["bad"]
    assert words in reasons["bad"]
    assert read_part_facts(str(beside.target), "bad") is None


def mask(value: float, dtype: Any = np.float32) -> bytes:
    labels = LABELS.astype(dtype)
    labels[0, 0, 0] = value
    return packed(nifti(labels))


BAD_LABELS: dict[str, tuple[bytes, str]] = {
    "another shape": (packed(nifti(LABELS[:, :4])), "but its image has"),
    "another grid": (packed(nifti(LABELS, affine_of("LPS", (1.5, 2.5, 3.0)))), "lies elsewhere"),
    "half a voxel": (packed(nifti(LABELS, AFFINE + np.eye(4, k=3) * 0.75)), "lies elsewhere"),
    "no integer": (mask(0.5), "no integer"),
    "nan": (mask(np.nan), "label"),
    "negative": (mask(-1), "the label -1"),
    "too high": (mask(70000), "the label 70000"),
    "outside of the map": (mask(7), "the values [7], which the label map does not name"),
    "0 and 255": (packed(nifti(LABELS * np.uint8(255))), "the values [255], which the label map does not name"),
    "wrong crc": (wrong_crc(packed(nifti(LABELS))), "is damaged"),
    "truncated": (packed(nifti(LABELS))[:-9], "cut off"),
    "zero bytes": (b"", "is empty"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_bad_labels_are_a_row(beside: Beside, name: str) -> None:
    data, words = BAD_LABELS[name]
    beside.put("bad", None, data)
    assert words in beside.rows()["bad"]


ODD_BUT_GOOD: dict[str, bytes] = {
    "nan voxels": packed(nifti(np.where(SCAN > 900, np.nan, SCAN).astype(np.float32))),
    "inf voxels": packed(nifti(np.where(SCAN > 900, -np.inf, SCAN).astype(np.float32))),
    "uint64": packed(nifti(np.abs(SCAN).astype(np.uint64))),
    "big endian": packed(bytes(nib.Nifti1Image(SCAN, AFFINE, nib.Nifti1Header(endianness=">")).to_bytes())),
    "two members": packed(nifti()[:300]) + packed(nifti()[300:]),
}


@pytest.mark.parametrize("name", ODD_BUT_GOOD)
def test_what_is_odd_but_whole_is_ingested(beside: Beside, name: str) -> None:
    beside.put("odd", ODD_BUT_GOOD[name])
    assert beside.rows() == {"odd": ""}
    part = read_part_facts(str(beside.target), "odd")
    assert part is not None
    assert any("NaN or infinite" in note for note in part.notes) is name.endswith("voxels")


def test_binary_masks_of_0_and_255_are_masks(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "in/s1/ct.nii.gz", SCAN, AFFINE)
    save(tmp_path / "in/s1/segmentations/liver.nii.gz", LABELS * np.uint8(255), AFFINE)
    assert rows_of(tmp_path / "in", tmp_path / "out") == {"s1": ""}


def test_two_files_of_one_case_are_a_row(beside: Beside) -> None:
    (beside.root / "images" / "good.nii").write_bytes(nifti())
    assert rows_of(beside.root, beside.target)["good"] == ""
    problems = formats.discover(str(beside.root), _settings()).problems
    assert problems == [("good", "good.nii lies beside good.nii.gz; it is left out.")]


def _settings() -> Any:
    from segray.config import IngestConfig

    return IngestConfig()


NAMES = ["a b", "new\nline", "\N{FACE WITH TEARS OF JOY}", "x" * 240, "a..x", "-x", "a;rm", "\udcff", "\x1b[31mred"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_cannot_be_case_ids_are_rows(beside: Beside, name: str) -> None:
    beside.put(name)
    reasons = beside.rows()
    (told,) = reasons
    assert told.isprintable()
    assert len(told) <= 60
    assert "cannot be a file name" in reasons[told]


@pytest.mark.parametrize(
    "name", ["../up", "/etc/passwd", "a/b", "a\\b", "x" * 300, "\N{FACE WITH TEARS OF JOY}", "a b"]
)
def test_ids_of_a_table_that_cannot_be_file_names_are_rows(beside: Beside, name: str, tmp_path: Path) -> None:
    table = beside.root / "cases.csv"
    row = "images/good.nii.gz,labels/good.nii.gz"
    table.write_text(f"case_id,image,label\ngood,{row}\n{name},{row}\n", encoding="utf-8")
    reasons = rows_of(table, beside.target, labels={"liver": 1})
    assert reasons.pop("good") == ""
    assert "cannot be a file name" in next(iter(reasons.values()))
    assert sorted(path.name for path in beside.target.iterdir()) == ["part-good.parquet"]


def test_links_in_circles_and_to_nothing_are_rows(beside: Beside) -> None:
    for folder in ("images", "labels"):
        place = beside.root / folder
        os.symlink(place / "loop.nii.gz", place / "loop.nii.gz")
        os.symlink(place / "gone", place / "dangling.nii.gz")
        os.symlink(beside.root, place / "again")
    reasons = beside.rows()
    assert set(reasons) == {"loop", "dangling"}
    for reason in reasons.values():
        assert "cannot be read" in reason


def test_a_search_does_not_leave_the_folder_by_a_link(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "elsewhere" / "secret.nii.gz", SCAN)
    save(tmp_path / "in" / "a.nii.gz", SCAN)
    os.symlink(tmp_path / "elsewhere", tmp_path / "in" / "out")
    os.symlink("/", tmp_path / "in" / "root")
    os.symlink(tmp_path / "in", tmp_path / "in" / "self")
    discovery = formats.discover(str(tmp_path / "in"), _settings(), labelled=False)
    assert [case.case_id for case in discovery.cases] == ["a"]
    assert {where for where, _ in discovery.problems} == {"out", "root"}
    assert all("outside of the one that is searched" in reason for _, reason in discovery.problems)


def test_a_link_to_a_file_elsewhere_is_the_file(tmp_path: Path, beside: Beside, save: Save) -> None:
    for folder, array in (("images", SCAN), ("labels", LABELS)):
        os.symlink(save(tmp_path / "store" / f"{folder}.nii.gz", array, AFFINE), beside.root / folder / "linked.nii.gz")
    assert beside.rows() == {"linked": ""}


READ_AS_NOBODY = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from ingested import rows_of
rows_of(Path(sys.argv[1]), Path(sys.argv[2]) / "by_root")
for path in sys.argv[4:]:
    os.chmod(path, 0)
if os.geteuid() == 0:
    os.setuid(65534)
for name, reason in sorted(rows_of(Path(sys.argv[1]), Path(sys.argv[2]) / "out").items()):
    print(f"{name}: {reason}")
"""


def test_what_may_not_be_read_is_a_row() -> None:
    """In a process without root's rights, which may read everything."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "out").mkdir()
        os.chmod(root, 0o755)
        os.chmod(root / "out", 0o777)
        for case in ("closed_image", "closed_mask", "closed_folder", "good"):
            place = root / "in" / case / "segmentations"
            place.mkdir(parents=True)
            (place.parent / "ct.nii.gz").write_bytes(packed(nifti()))
            (place / "liver.nii.gz").write_bytes(packed(nifti(LABELS)))
        closed = [root / "in/closed_image/ct.nii.gz", root / "in/closed_mask/segmentations/liver.nii.gz"]
        command = [
            sys.executable,
            "-c",
            READ_AS_NOBODY,
            str(root / "in"),
            str(root / "out"),
            str(Path(__file__).parent),
            *map(str, closed),
            str(root / "in/closed_folder"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        os.chmod(root / "in/closed_folder", 0o755)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["closed_folder", "closed_image", "closed_mask", "good"]
    assert all("cannot be read (Permission denied)" in line for line in lines[:3])
    assert lines[3] == "good: "


def test_a_folder_named_as_a_file_is_a_row(tmp_path: Path, save: Save, beside: Beside) -> None:
    save(tmp_path / "ts/s1/ct.nii.gz", SCAN, AFFINE)
    save(tmp_path / "ts/s1/segmentations/liver.nii.gz", LABELS, AFFINE)
    save(tmp_path / "ts/s2/ct.nii.gz/ct.nii", SCAN, AFFINE)
    save(tmp_path / "ts/s2/segmentations/liver.nii.gz/liver.nii", LABELS, AFFINE)
    reasons = rows_of(tmp_path / "ts", tmp_path / "out")
    assert reasons == {"s1": "", "s2": "ct.nii.gz is a folder, not a file; what lies in it is left out."}
    for folder in ("images", "labels"):
        (beside.root / folder / "x.nii.gz").mkdir()
    assert "is a folder, not a file" in beside.rows()["x.nii.gz"]
    lone = formats.discover(str(tmp_path / "ts"), _settings().model_copy(update={"format": "images"}), labelled=False)
    assert ("s2/ct.nii.gz", reasons["s2"]) in lone.problems
    assert [case.case_id for case in lone.cases if "liver" not in case.case_id] == ["s1_ct"]


def bomb(path: Path, shape: tuple[int, int, int], dtype: type, count: int) -> None:
    """A gzip file of ``count`` zero bytes whose header claims ``shape``, written without holding them."""
    packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header.set_sform(np.eye(4), 1)
    zeros = bytes(1 << 24)
    with open(path, "wb") as stream:
        stream.write(packer.compress(bytes(header.binaryblock) + bytes(4)))
        for start in range(0, count, len(zeros)):
            stream.write(packer.compress(zeros[: min(len(zeros), count - start)]))
        stream.write(packer.flush())


@pytest.mark.parametrize("honest", [True, False])
def test_a_gzip_bomb_is_refused_before_memory_is_touched(beside: Beside, honest: bool) -> None:
    shape = (1024, 1024, 640 if honest else 6)
    beside.put("bomb")
    bomb(beside.root / "images" / "bomb.nii.gz", shape, np.int16, 1024 * 1024 * 640 * 2)
    assert (beside.root / "images" / "bomb.nii.gz").stat().st_size < 20_000_000
    tracemalloc.start()
    reason = beside.rows()["bomb"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ("would expand" if honest else "but its image has") in reason
    assert peak < (60_000_000 if honest else 80_000_000)


def ten_gigabytes(path: Path, dtype: type) -> None:
    """A file of 10 MB that expands to 10 GB of zeros, as its header says: one packed piece again and again."""
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape((2048, 2048, 2400 // np.dtype(dtype).itemsize))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header.set_sform(np.eye(4), 1)
    path.write_bytes(packed(bytes(header.binaryblock) + bytes(4)) + gzip.compress(bytes(1 << 24), 9) * 600)
    assert 9_000_000 < path.stat().st_size < 11_000_000


@pytest.mark.parametrize(
    ("folder", "dtype", "named", "words"),
    [
        ("images", np.int16, True, "would expand 1027 times, to 10.1 GB"),
        ("images", np.float32, True, "would expand 1027 times, to 10.1 GB"),
        ("labels", np.uint8, True, "but its image has"),
        ("labels", np.uint8, False, "would expand 1027 times, to 10.1 GB"),
        ("labels", np.float32, False, "would expand 1027 times, to 10.1 GB"),
    ],
)
def test_ten_gigabytes_of_zeros_cost_neither_memory_nor_time(
    beside: Beside, monkeypatch: pytest.MonkeyPatch, folder: str, dtype: type, named: bool, words: str
) -> None:
    """On a machine whose memory would hold them."""
    monkeypatch.setattr(limits, "machine_memory", lambda: 1 << 40)
    beside.put("bomb")
    ten_gigabytes(beside.root / folder / "bomb.nii.gz", dtype)
    tracemalloc.start()
    begin = time.process_time()
    reasons = beside.rows(**({} if named else {"labels": {}}))
    took = time.process_time() - begin
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert words in reasons["bomb"]
    assert peak < 60_000_000
    assert took < 4


def test_a_claim_beyond_the_memory_of_the_machine_is_refused(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 << 28 < limits.machine_memory() < 1 << 50
    monkeypatch.setattr(limits, "machine_memory", lambda: SCAN.nbytes - 1)
    reasons = rows_of_broken(beside)
    assert "this machine has" in reasons


def rows_of_broken(beside: Beside) -> str:
    from segray.pipelines.headers import read_header_row

    source = CaseSource("good", str(beside.root / "images" / "good.nii.gz"))
    return str(read_header_row({"number": 0, "source": source.to_json()}, with_label_values=False)["reason"])


def test_an_empty_mask_may_expand_as_it_likes(tmp_path: Path) -> None:
    bomb(tmp_path / "m.nii.gz", (512, 512, 300), np.uint8, 512 * 512 * 300)
    assert (tmp_path / "m.nii.gz").stat().st_size * 400 < 512 * 512 * 300
    assert not formats.read_mask(str(tmp_path / "m.nii.gz"))[0].any()


def test_a_table_without_its_columns_is_one_sentence(beside: Beside) -> None:
    (beside.root / "cases.csv").write_text("id,image\ngood,images/good.nii.gz\n")
    with pytest.raises(UsageError, match="lacks the column case_id"):
        rows_of(beside.root / "cases.csv", beside.target)


def test_a_file_that_goes_away_meanwhile_is_a_row(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    beside.put("going")
    reading = storage.read_bytes

    def read(uri: str) -> bytes:
        if uri.endswith("images/going.nii.gz"):
            os.unlink(uri)
        return reading(uri)

    monkeypatch.setattr(storage, "read_bytes", read)
    assert "cannot be read (No such file" in beside.rows()["going"]


NRRD = (
    b"NRRD0004\ntype: %b\ndimension: 3\nspace: left-posterior-superior\nsizes: %b\n"
    b"space directions: (1,0,0) (0,2,0) (0,0,3)\nendian: little\nencoding: raw\nspace origin: (5,6,7)\n\n"
)
OTHERS: dict[str, tuple[str, bytes, str]] = {
    "no header": ("nrrd", b"NRRD0004\nsizes: 9999999 9999999 9999999\n\n", "incomplete or wrong"),
    "no MetaImage": ("mha", b"NRRD0004\nsizes: 9999999 9999999 9999999\n\n", "is no MetaImage file"),
    "huge": ("nrrd", NRRD % (b"short", b"32767 32767 32767") + bytes(240), "too small for its header"),
    "half precision": ("nrrd", NRRD % (b"float16", b"6 5 4") + bytes(240), "holds 'float16'; segray reads one real"),
    "half precision, as teem calls it": ("nrrd", NRRD % (b"half", b"6 5 4") + bytes(240), "holds 'half'"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("folder", ["images", "labels"])
def test_bad_volumes_of_other_formats_are_rows(beside: Beside, name: str, folder: str) -> None:
    ending, data, words = OTHERS[name]
    beside.put("bad")
    (beside.root / folder / "bad.nii.gz").unlink()
    (beside.root / folder / f"bad.{ending}").write_bytes(data)
    assert words in beside.rows()["bad"]
