"""What folders of pictures hold: each bad picture is a row with a reason, and the good one beside it is ingested."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingested import rows_of
from PIL import Image

from segray.shards.writer import read_part_facts

FRAME = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
MASK = np.where(FRAME > 127, 255, 0).astype(np.uint8)


def png_of(values: Any, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind)
    return stream.getvalue()


def claiming(data: bytes, width: int, height: int) -> bytes:
    """A PNG whose header was given another size, with the checksum that fits."""
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def pages() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(FRAME).save(stream, "TIFF", save_all=True, append_images=[Image.fromarray(FRAME)])
    return stream.getvalue()


class Beside:
    """Pictures with masks, one of them good, beside which bad ones are put."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "pictures"
        self.target = tmp_path / "shards"
        self.put("good")

    def put(self, name: str, picture: bytes | None = None, mask: bytes | None = None) -> None:
        for folder, data, values in (("frames", picture, FRAME), ("masks", mask, MASK)):
            path = self.root / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png_of(values) if data is None else data)

    def rows(self) -> dict[str, str]:
        """The reasons of all but the good case, which must be in the shards."""
        reasons = rows_of(self.root, self.target)
        assert reasons.pop("good") == ""
        assert read_part_facts(str(self.target), "good") is not None
        return reasons


@pytest.fixture
def beside(tmp_path: Path) -> Beside:
    return Beside(tmp_path)


BAD: dict[str, tuple[bytes, str]] = {
    "60,000 x 60,000": (claiming(png_of(FRAME), 60_000, 60_000), "claims 60,000 x 60,000 pixels; segray reads"),
    "lying header": (claiming(png_of(FRAME), 15_000, 15_000), "claims 15,000 x 15,000 pixels, but it is far too small"),
    "a row more": (claiming(png_of(FRAME), 30, 21), "fewer rows than its header claims"),
    "no pixels": (claiming(png_of(FRAME), 0, 20), "is no picture that segray reads"),
    "cut": (png_of(FRAME)[:-200], "is cut or damaged"),
    "cut in its header": (png_of(FRAME)[:20], "damaged header"),
    "empty": (b"", "is empty (0 bytes)"),
    "text": (b"<html>404 Not Found</html>" * 9, "is no picture that segray reads"),
    "two pages": (pages(), "holds 2 pictures"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("folder", ["frames", "masks"])
def test_a_bad_picture_is_a_row_and_costs_no_memory(beside: Beside, name: str, folder: str) -> None:
    data, words = BAD[name]
    beside.put("bad", **{"picture" if folder == "frames" else "mask": data})
    tracemalloc.start()
    begin = time.process_time()
    reasons = beside.rows()
    took = time.process_time() - begin
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert list(reasons) == ["bad"]
    assert words in reasons["bad"]
    assert read_part_facts(str(beside.target), "bad") is None
    assert peak < 60_000_000
    assert took < 10


def test_a_mask_of_another_size_or_of_more_than_black_and_white_is_a_row(beside: Beside) -> None:
    beside.put("small", mask=png_of(MASK[:10]))
    beside.put("grey", mask=png_of(FRAME))
    reasons = beside.rows()
    assert "has 30 x 10 pixels, but its image has 30 x 20" in reasons["small"]
    assert "grey.png" in reasons["grey"]


def test_a_picture_under_the_name_of_another_kind_is_read(beside: Beside) -> None:
    beside.put("bitmap", png_of(FRAME, "BMP"), png_of(MASK, "GIF"))
    assert beside.rows() == {"bitmap": ""}
