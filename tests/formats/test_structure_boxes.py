"""Boxes of structures against scipy's, in any layout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segray.case import LabelMap
from segray.formats.structure_boxes import inside, structure_boxes


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 6)] * 3), st.floats(0.02, 0.9), st.booleans())
def test_boxes_of_values_are_scipys(seed: int, shape: tuple[int, int, int], share: float, turned: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.integers(1, 5, shape) * (rng.random(shape) < share)).astype(np.uint8)
    labels[rng.random(shape) < 0.3] = 3
    view = labels.transpose(2, 0, 1)[:, ::-1, ::-1] if turned else labels
    label_map = LabelMap({f"s{value}": value for value in (1, 2, 3, 4, 300)})
    found = ndimage.find_objects(np.ascontiguousarray(view), 4)
    expected = {f"s{value}": box for value, box in enumerate(found, start=1) if box is not None}
    assert structure_boxes(view, label_map) == expected


@pytest.mark.parametrize("count", [3, 20, 32])
def test_boxes_of_bits_are_those_of_each_bit(count: int) -> None:
    rng = np.random.default_rng(count)
    label_map = LabelMap({f"s{number:02}": number + 1 for number in range(count)}, overlapping=True)
    bits = np.zeros((7, 6, 9), label_map.dtype)
    for number in range(0, count, 2):
        bits |= (rng.random(bits.shape) < 0.01).astype(bits.dtype) << number
    boxes = structure_boxes(bits[::-1], label_map)
    for number, name in enumerate(label_map.names):
        alone = bits[::-1] >> number & 1
        (box,) = ndimage.find_objects(alone.astype(int), 1) or [None]
        assert boxes.get(name) == box
        assert np.array_equal(inside(bits[::-1], label_map, name), alone > 0)


def test_high_values_and_nothing_at_all() -> None:
    labels = np.zeros((3, 4, 5), np.uint16)
    label_map = LabelMap({"a": 1, "b": 65535})
    assert structure_boxes(labels, label_map) == {}
    labels[1, 2, 3] = 65535
    assert structure_boxes(labels, label_map) == {"b": (slice(1, 2), slice(2, 3), slice(3, 4))}
