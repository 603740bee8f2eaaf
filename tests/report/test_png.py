from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from segray.report.png import encode_png, png_size


@pytest.mark.parametrize("shape", [(1, 1, 3), (37, 23, 3), (400, 300, 3)])
def test_pillow_reads_what_was_written(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    for given in (pixels, pixels[::-1, ::-1]):
        image = Image.open(io.BytesIO(encode_png(given)))
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), given)
    assert png_size(encode_png(pixels)[:24]) == (shape[1], shape[0])


def test_palettes() -> None:
    rng = np.random.default_rng(1)
    palette = rng.integers(0, 256, (200, 3)).astype(np.uint8)
    pixels = rng.integers(0, 200, (31, 50)).astype(np.uint8)
    image = Image.open(io.BytesIO(encode_png(pixels, palette)))
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette[pixels])


def test_what_is_no_png_has_no_size() -> None:
    assert png_size(b"") is None
    assert png_size(b"GIF89a" + b"\0" * 30) is None
    assert png_size(encode_png(np.zeros((2, 2, 3), np.uint8))[:20]) is None
