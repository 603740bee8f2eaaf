"""Copies of turned volumes: the same result as ``np.ascontiguousarray``, without its slow paths."""

from __future__ import annotations

from typing import Any

import numpy as np

from segray.case import Volume

WORD = 8
"""Bytes that a processor reverses at once."""

TILE = 32
"""Voxels a side of a block whose lines stay in the first cache while it is transposed."""


def copy_turned(target: Volume, view: Volume) -> None:
    """Copy ``view`` into ``target`` (same shape, three axes), casting where the types differ.

    numpy walks both arrays in the order of one of them: a transpose then misses the cache at every voxel, and a
    mirror of the fastest axis alone falls out of its fast loop.
    """
    fast = int(np.argmin(np.abs(target.strides)))
    if abs(view.strides[fast]) != view.itemsize and view.shape[fast] > 1:
        _copy_tiled(target, view)
    elif target.strides[fast] * view.strides[fast] < 0 and view.dtype == target.dtype:
        _copy_mirrored(target, view, fast)
    else:
        np.copyto(target, view, casting="unsafe")


def contiguous(view: Volume, dtype: np.dtype[Any] | None = None) -> Volume:
    """A C-ordered copy of a three-dimensional view, or the view itself where it is that already."""
    if view.flags.c_contiguous and (dtype is None or dtype == view.dtype):
        return view
    target = np.empty(view.shape, dtype or view.dtype)
    copy_turned(target, view)
    return target


def _copy_tiled(target: Volume, view: Volume) -> None:
    first, second, third = view.shape
    for a in range(0, first, TILE):
        for b in range(0, second, TILE):
            for c in range(0, third, TILE):
                block = (slice(a, a + TILE), slice(b, b + TILE), slice(c, c + TILE))
                np.copyto(target[block], view[block], casting="unsafe")


def _copy_mirrored(target: Volume, view: Volume, fast: int) -> None:
    """Reverse eight bytes at a time, or whole planes, which is one fast run, and set the order of their rows right."""
    order = np.argsort([-abs(stride) for stride in target.strides], kind="stable")
    if order[2] != fast or min(view.shape) < 1:
        np.copyto(target, view)
        return
    outs = np.transpose(target, order)
    ins = np.transpose(view, order)
    if outs.itemsize == 1 and abs(outs.strides[2]) == 1 and outs.shape[2] % WORD == 0:
        if outs.strides[2] < 0:
            outs, ins = outs[..., ::-1], ins[..., ::-1]
        # Words in the other order, and the bytes of each in the other order.
        outs.view(">u8")[...] = ins[..., ::-1].view("<u8")[..., ::-1]
        return
    same_rows = outs.strides[1] * ins.strides[1] > 0
    for out, plane in zip(outs, ins, strict=True):
        if same_rows:
            reversed_plane = np.ascontiguousarray(plane[::-1])
            out[...] = reversed_plane[::-1]
        else:
            out[...] = plane
