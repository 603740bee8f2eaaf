"""Turned copies equal numpy's own."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from segray.formats.turning import contiguous, copy_turned

TURNS = [(order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)]


@pytest.mark.parametrize(("order", "flips"), TURNS)
@pytest.mark.parametrize("shape", [(3, 70, 5), (40, 33, 65), (1, 2, 1), (5, 8, 16)])
def test_copy_equals_numpys(order: tuple[int, ...], flips: tuple[int, ...], shape: tuple[int, ...]) -> None:
    volume = np.random.default_rng(0).integers(0, 200, shape).astype(np.uint8)
    view = volume.transpose(order)[tuple(slice(None, None, flip) for flip in flips)]
    copied = contiguous(view)
    assert copied.flags.c_contiguous
    assert np.array_equal(copied, view)
    target: Any = np.empty(shape, np.uint8).transpose(order)[tuple(slice(None, None, flip) for flip in flips)]
    copy_turned(target, view[::-1])
    assert np.array_equal(target, view[::-1])


def test_copy_casts() -> None:
    volume = np.arange(-60, 60, dtype=np.int32).reshape(4, 5, 6)
    turned = contiguous(volume[:, ::-1, ::-1], np.dtype(np.int16))
    assert turned.dtype == np.int16
    assert np.array_equal(turned, volume[:, ::-1, ::-1])


def test_contiguous_volume_is_not_copied() -> None:
    volume = np.zeros((2, 3, 4))
    assert contiguous(volume) is volume
