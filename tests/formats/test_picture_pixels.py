"""Pictures of every kind against the arrays that they were made of, and pictures that lie, are cut or are none."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from segray.errors import CaseError
from segray.formats.picture_pixels import MOST_PIXELS, read_picture_header, read_pixels
from segray.formats.png_rows import PASSES, lacks_rows

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (13, 21), dtype=np.uint8)
COLOURS = RNG.integers(0, 256, (13, 21, 3), dtype=np.uint8)
DEEP_GREY = RNG.integers(0, 65536, (13, 21), dtype=np.uint16)
DEEP = RNG.integers(0, 65536, (13, 21, 3), dtype=np.uint16)


def png(width: int, height: int, depth: int, kind: int, rows: bytes, interlaced: bool = False) -> bytes:
    """A PNG file of raw rows, whatever its header claims."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "tiff", "gif"])
def test_grey_pictures_keep_every_value(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(GREY).save(path)
    pixels = read_pixels(str(path))
    assert np.array_equal(pixels.colours() if pixels.palette is None else pixels.colours()[..., 0], GREY)
    header = read_picture_header(str(path))
    assert (header.height, header.width) == GREY.shape


@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
def test_colours_keep_every_value(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(COLOURS).save(path)
    assert np.array_equal(read_pixels(str(path)).values, COLOURS)


@pytest.mark.parametrize("save", [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}])
def test_16_bit_grey_tiff(tmp_path: Path, save: dict[str, str]) -> None:
    Image.fromarray(DEEP_GREY).save(tmp_path / "a.tif", **save)
    values = read_pixels(str(tmp_path / "a.tif")).values
    assert values.dtype == np.uint16
    assert np.array_equal(values, DEEP_GREY)


def test_16_bit_grey_png(tmp_path: Path) -> None:
    Image.fromarray(DEEP_GREY).save(tmp_path / "a.png")
    assert np.array_equal(read_pixels(str(tmp_path / "a.png")).values, DEEP_GREY)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_colours_are_not_cut_to_8(tmp_path: Path, name: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(DEEP, isVector=True), str(tmp_path / name))
    pixels = read_pixels(str(tmp_path / name))
    assert pixels.values.dtype == np.uint16
    assert np.array_equal(pixels.values, DEEP)
    assert read_picture_header(str(tmp_path / name)).depth == 16


def test_16_bit_colours_with_alpha_lose_the_alpha_alone(tmp_path: Path) -> None:
    alpha = np.concatenate([DEEP, DEEP[..., :1]], axis=2)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in alpha)
    (tmp_path / "a.png").write_bytes(png(21, 13, 16, 6, rows))
    assert np.array_equal(read_pixels(str(tmp_path / "a.png")).values, DEEP)


def test_white_is_zero_is_turned(tmp_path: Path) -> None:
    """TIFF may say that 0 is white; 8 and 16 bits alike are then read as they are seen."""
    for values, top in ((GREY, 255), (DEEP_GREY, 65535)):
        stream = io.BytesIO()
        Image.fromarray(values).save(stream, "TIFF")
        data = bytearray(stream.getvalue())
        at = data.find(struct.pack("<HHI", 262, 3, 1))
        assert at > 0
        data[at + 8 : at + 10] = struct.pack("<H", 0)
        (tmp_path / "a.tif").write_bytes(data)
        assert np.array_equal(read_pixels(str(tmp_path / "a.tif")).values, top - values)


def test_float_and_32_bit_tiff(tmp_path: Path) -> None:
    values = RNG.normal(size=(5, 7)).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "f.tif")
    assert np.array_equal(read_pixels(str(tmp_path / "f.tif")).values, values)
    wide = np.array([[0, 1, 70000]], np.int32)
    Image.fromarray(wide).save(tmp_path / "i.tif")
    assert read_pixels(str(tmp_path / "i.tif")).values.tolist() == wide.tolist()


@pytest.mark.parametrize(("depth", "samples"), [(1, 8), (2, 4), (4, 2)])
def test_few_bits_of_grey_stay_what_the_file_says(tmp_path: Path, depth: int, samples: int) -> None:
    """Pillow stretches 2 and 4 bits to 0..255, which would turn label 1 into 85."""
    values = list(range(min(samples, 1 << depth)))
    packed = 0
    for value in values:
        packed = packed << depth | value
    packed <<= depth * (samples - len(values))
    (tmp_path / "a.png").write_bytes(png(len(values), 1, depth, 0, bytes([0, packed])))
    assert read_pixels(str(tmp_path / "a.png")).values.tolist() == [values]


def test_palette_has_indices_and_colours(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "a.png")
    pixels = read_pixels(str(tmp_path / "a.png"))
    assert pixels.values.tolist() == [[0, 1, 2]]
    assert pixels.colours().tolist() == [[[0, 0, 0], [255, 0, 0], [0, 255, 0]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped(tmp_path: Path, mode: str) -> None:
    bands = [*np.moveaxis(COLOURS, 2, 0)] if mode == "RGBA" else [GREY]
    image = Image.merge(mode, [Image.fromarray(band) for band in (*bands, np.zeros_like(GREY))])
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_pixels(str(tmp_path / "a.png")).values, COLOURS if mode == "RGBA" else GREY)


def test_exif_turns_the_picture_and_its_header(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=exif)
    pixels = read_pixels(str(tmp_path / "a.png"))
    assert np.array_equal(pixels.values, np.rot90(COLOURS, -1))
    assert (pixels.header.height, pixels.header.width) == (21, 13)
    assert "EXIF" in pixels.notes[0]


def bad(tmp_path: Path, data: bytes, name: str = "a.png") -> str:
    """What segray says of a file."""
    (tmp_path / name).write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CaseError) as told:
            read_pixels(str(tmp_path / name))
    return str(told.value)


def test_60000_pixels_square_are_refused_before_memory_is_touched(tmp_path: Path) -> None:
    data = png(60000, 60000, 8, 0, b"\0" * 1000)
    tracemalloc.start()
    message = bad(tmp_path, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "60,000 x 60,000 pixels" in message
    assert peak < 20_000_000


def test_a_header_that_lies_is_refused(tmp_path: Path) -> None:
    assert MOST_PIXELS > 16000 * 16000
    assert "far too small" in bad(tmp_path, png(16000, 16000, 8, 2, b"\0" * 1000))
    assert "cut or damaged" in bad(tmp_path, png(30, 30, 8, 0, b"\0" * 40))


@pytest.mark.parametrize(
    ("depth", "kind", "samples"), [(1, 0, 1), (4, 3, 1), (8, 0, 1), (8, 2, 3), (16, 4, 2), (16, 6, 4)]
)
@pytest.mark.parametrize("rows", [12, 13])
def test_a_png_of_fewer_rows_than_it_claims_is_refused(depth: int, kind: int, samples: int, rows: int) -> None:
    """Pillow fills the others with zeros."""
    row = b"\0" * (1 + -(-21 * depth * samples // 8))
    assert lacks_rows(io.BytesIO(png(21, 13, depth, kind, row * rows))) is (rows < 13)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 9), (8, 8), (21, 13)])
def test_the_rows_of_an_interlaced_png_are_those_of_its_passes(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    plane = RNG.integers(0, 256, (height, width), dtype=np.uint8)
    passes = [plane[top::down, left::right] for left, top, right, down in PASSES]
    rows = b"".join(b"\0" + row.tobytes() for one in passes if one.size for row in one)
    (tmp_path / "a.png").write_bytes(png(width, height, 8, 0, rows, interlaced=True))
    assert np.array_equal(read_pixels(str(tmp_path / "a.png")).values, plane)
    assert not lacks_rows(io.BytesIO(png(width, height, 8, 0, rows, interlaced=True)))
    assert lacks_rows(io.BytesIO(png(width, height, 8, 0, rows[:-1], interlaced=True)))


def test_a_large_picture_brings_no_warning(tmp_path: Path) -> None:
    """Pillow warns from 89 million pixels on."""
    Image.fromarray(np.zeros((10000, 9500), np.uint8)).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture_header(str(tmp_path / "a.png")).height == 10000


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "bmp"])
def test_cut_files(tmp_path: Path, ending: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.tile(COLOURS, (8, 8, 1))).save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending))
    data = stream.getvalue()
    for share in (0.02, 0.5, 0.9):
        message = bad(tmp_path, data[: int(len(data) * share)], f"a.{ending}")
        assert f"a.{ending}" in message
        assert "\n" not in message


def test_cut_16_bit_colours(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif"):
        sitk.WriteImage(sitk.GetImageFromArray(np.tile(DEEP, (9, 9, 1)), isVector=True), str(tmp_path / name))
        data = (tmp_path / name).read_bytes()
        assert name in bad(tmp_path, data[: len(data) // 2], name)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"no picture at all", "is no picture"),
        (b"II*\0" + b"\xff" * 40, "has no pixels"),
        (b"\x1f\x8b\x08\x00 gzip", "is no picture"),
    ],
)
def test_what_is_no_picture(tmp_path: Path, data: bytes, said: str) -> None:
    assert said in bad(tmp_path, data)


def test_several_pages_are_refused(tmp_path: Path) -> None:
    pages: list[Any] = [Image.fromarray(GREY), Image.fromarray(GREY)]
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=pages[1:])
    assert "holds 2 pictures" in bad(tmp_path, (tmp_path / "b.tif").read_bytes(), "a.tif")


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(CaseError, match="cannot be read"):
        read_pixels("/nowhere/a.png")
