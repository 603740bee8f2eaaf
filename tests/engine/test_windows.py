"""A case by overlapping 3D patches: every voxel once, in order, averaged with weights."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from segray.engine.windows import patch_starts, patch_weights, volume_logits


def test_patches_go_from_end_to_end_and_overlap_by_half() -> None:
    assert patch_starts(10, 10) == patch_starts(3, 10) == [0]
    assert patch_starts(11, 10) == [0, 1]
    assert patch_starts(20, 10) == [0, 5, 10]
    for side in range(11, 60):
        starts = patch_starts(side, 10)
        assert starts[0] == 0
        assert starts[-1] == side - 10
        assert all(after - one <= 5 for one, after in pairwise(starts))


@pytest.mark.parametrize("patch", [(4, 0, 0), (4, 6, 5), (32, 6, 0), (7, 99, 99), (1, 3, 3)])
@pytest.mark.parametrize("depth", [1, 4, 13])
def test_a_net_that_sees_one_voxel_gives_its_own_logits(patch: tuple[int, int, int], depth: int) -> None:
    volume = torch.randn(2, depth, 9, 11)

    def forward(images: Tensor) -> Tensor:
        assert images.shape[2] == patch[0]
        return torch.cat((images * 2, images[:, :1] - images[:, 1:]), dim=1)

    found = torch.cat(list(volume_logits(forward, lambda a, b: volume[:, a:b], (depth, 9, 11), patch)))
    torch.testing.assert_close(found.transpose(0, 1), forward_whole(volume))


def forward_whole(volume: Tensor) -> Tensor:
    """What the net of the test gives for (2, Z, H, W)."""
    return torch.cat((volume * 2, volume[:1] - volume[1:]))


def test_where_patches_disagree_the_nearer_middle_counts_more() -> None:
    calls: list[int] = []

    def forward(images: Tensor) -> Tensor:
        calls.append(len(calls))
        return torch.full((1, 1, *images.shape[2:]), float(calls[-1]))

    found = torch.cat(list(volume_logits(forward, lambda a, b: torch.zeros(1, b - a, 2, 2), (12, 2, 2), (8, 0, 0))))
    assert len(calls) == 2
    depth = found[:, 0, 0, 0]
    assert depth[:4].eq(0).all()
    assert depth[8:].eq(1).all()
    assert depth[4] < 0.5 < depth[7]
    weights = patch_weights((8, 2, 2))[:, 0, 0]
    torch.testing.assert_close(depth[5], weights[1] / (weights[1] + weights[5]))


def test_slices_are_given_as_soon_as_they_are_done() -> None:
    read: list[tuple[int, int]] = []

    def slices(start: int, stop: int) -> Tensor:
        read.append((start, stop))
        return torch.zeros(1, stop - start, 4, 4)

    found = volume_logits(lambda images: images, slices, (100, 4, 4), (10, 0, 0))
    next(found)
    assert read == [(0, 10)]
    assert sum(map(len, found)) + 5 == 100
