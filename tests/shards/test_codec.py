"""Pixels to bytes and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segray.shards import ShardError
from segray.shards.codec import DTYPES, checksum, decode_pixels_into, encode_pixels, encode_slices

PLANES = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))
)


@given(PLANES, st.sampled_from(["zstd", "lz4"]), st.integers(1, 9))
@settings(max_examples=80, deadline=None)
def test_bytes_come_back(pixels: np.ndarray, codec: str, level: int) -> None:
    data = encode_pixels(pixels, codec, level)  # type: ignore[arg-type]
    out = np.empty_like(pixels)
    decode_pixels_into(memoryview(data), out, checksum(data))
    assert out.tobytes() == pixels.tobytes()


@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=3, max_dims=3, max_side=24))
    ),
    st.sampled_from(["zstd", "lz4"]),
)
@settings(max_examples=60, deadline=None)
def test_slices_together_give_the_bytes_of_each_alone(pixels: np.ndarray, codec: str) -> None:
    together = encode_slices(pixels, codec)  # type: ignore[arg-type]
    assert together == [encode_pixels(plane, codec) for plane in pixels]  # type: ignore[arg-type]


def test_views_of_a_volume_are_encoded_as_they_look() -> None:
    pixels = np.arange(480, dtype=np.int16).reshape(4, 10, 12).transpose(0, 2, 1)
    out = np.empty((4, 12, 10), np.int16)
    for plane, data in zip(out, encode_slices(pixels), strict=True):
        decode_pixels_into(data, plane, checksum(data))
    assert (out == pixels).all()


def test_a_turned_view_is_encoded_as_it_looks() -> None:
    pixels = np.arange(600, dtype=np.int16).reshape(20, 30)
    out = np.empty((30, 20), np.int16)
    decode_pixels_into(encode_pixels(pixels.T), out)
    assert (out == pixels.T).all()


def test_decoding_into_a_slice_of_a_batch_leaves_its_neighbours() -> None:
    batch = np.zeros((3, 8, 8), np.int16)
    decode_pixels_into(encode_pixels(np.full((8, 8), 7, np.int16)), batch[1])
    assert batch.sum(axis=(1, 2)).tolist() == [0, 448, 0]


def test_noisy_ct_shrinks_well_and_labels_better() -> None:
    rng = np.random.default_rng(0)
    image = np.rint(rng.normal(40, 15, (256, 256))).astype(np.int16)
    assert image.nbytes / len(encode_pixels(image)) > 2.2
    labels = np.zeros((256, 256), np.uint8)
    labels[40:200, 60:220] = 3
    assert labels.nbytes / len(encode_pixels(labels)) > 50


def test_every_flipped_byte_is_noticed() -> None:
    data = encode_pixels(np.random.default_rng(0).integers(0, 99, (16, 16)).astype(np.int16))
    out = np.empty((16, 16), np.int16)
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 0x10
        with pytest.raises(ShardError, match="checksum"):
            decode_pixels_into(bytes(broken), out, checksum(data))


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 100, encode_pixels(np.zeros((9, 9), np.int16))])
def test_what_is_no_such_chunk_is_told_in_words(data: bytes) -> None:
    with pytest.raises(ShardError, match=r"decompressed|bytes are stored"):
        decode_pixels_into(data, np.empty((8, 8), np.int16), checksum(data))


def test_other_pixel_types_are_refused() -> None:
    with pytest.raises(ValueError, match="float64"):
        encode_pixels(np.zeros((4, 4)))
