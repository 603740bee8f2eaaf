"""A case by overlapping 3D patches, a slice by overlapping windows: every voxel once, in order, averaged by weights."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from segray.engine.windows import WindowedForward, patch_starts, patch_weights, slice_window, volume_logits


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


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.5, 0.75, 0.99])
def test_patches_of_any_overlap_leave_no_gap(overlap: float) -> None:
    for patch in (1, 4, 7, 16):
        for side in range(1, 70):
            starts = patch_starts(side, patch, overlap)
            assert starts[0] == 0
            assert starts[-1] == max(side - patch, 0)
            assert all(0 < after - one <= patch for one, after in pairwise(starts))
    assert patch_starts(64, 16, 0.0) == [0, 16, 32, 48]
    assert patch_starts(64, 16, 0.25) == [0, 12, 24, 36, 48]


def test_less_overlap_means_fewer_patches_and_the_same_voxels() -> None:
    volume, calls = torch.randn(1, 20, 16, 16), []

    def forward(images: Tensor) -> Tensor:
        calls.append(images.shape)
        return images * 3

    for overlap, patches in ((0.0, 3 * 2 * 2), (0.5, 4 * 3 * 3)):
        calls.clear()
        found = volume_logits(forward, lambda a, b: volume[:, a:b], (20, 16, 16), (8, 8, 8), overlap)
        torch.testing.assert_close(torch.cat(list(found)).transpose(0, 1), volume * 3)
        assert len(calls) == patches


@pytest.mark.parametrize("window", [(16, 16), (16, 0), (0, 32), (48, 16)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_windows_of_a_net_that_sees_one_pixel_give_its_own_logits(window: tuple[int, int], overlap: float) -> None:
    images = torch.randn(3, 2, 48, 80)

    def forward(some: Tensor) -> Tensor:
        assert some.shape[2:] == (min(window[0] or 48, 48), min(window[1] or 80, 80))
        return torch.cat((some * 2, some[:, :1] - some[:, 1:]), 1)

    found = WindowedForward(forward, window, 32, overlap)(images)
    torch.testing.assert_close(found, torch.cat((images * 2, images[:, :1] - images[:, 1:]), 1))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_pixel_in_two_windows_believes_the_nearer_middle_more() -> None:
    calls: list[int] = []

    def forward(images: Tensor) -> Tensor:
        calls.append(len(calls))
        return torch.full((1, 1, *images.shape[2:]), float(calls[-1]))

    row = WindowedForward(forward, (0, 8), 32, 0.5)(torch.zeros(1, 1, 4, 12))[0, 0, 1]
    assert len(calls) == 2
    assert row[:4].eq(0).all()
    assert row[8:].eq(1).all()
    weights = patch_weights((1, 4, 8))[0, 1]
    torch.testing.assert_close(row[5], weights[1] / (weights[1] + weights[5]))


def test_a_slice_in_one_window_is_the_pass_itself() -> None:
    given = torch.randn(2, 1, 16, 16)
    for window in ((16, 16), (0, 0), (64, 64), None):
        assert WindowedForward(lambda images: images, window, 32)(given) is given


def test_windows_that_nobody_told_are_for_slices_whose_activations_are_large() -> None:
    assert slice_window((1536, 1536), None, 32) == (1536, 1536)
    assert slice_window((2048, 2048), None, 32) == (512, 512)
    assert slice_window((2048, 2048), None, 8) == (2048, 2048)
    assert slice_window((256, 16384), None, 32) == (256, 512)
    assert slice_window((2048, 2048), (0, 0), 32) == (2048, 2048)
    assert slice_window((100, 64), (64, 128), 32) == (64, 64)


@pytest.mark.parametrize("at_once", [2, 4, 99])
def test_patches_that_are_seen_together_give_what_each_gives_alone(at_once: int) -> None:
    torch.manual_seed(0)
    net, volume, sizes = torch.nn.Conv3d(1, 2, 3, padding=1), torch.randn(1, 13, 20, 17), []

    def forward(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return net(images)

    def logits(together: int) -> Tensor:
        pieces = volume_logits(forward, lambda a, b: volume[:, a:b], (13, 20, 17), (6, 8, 8), at_once=together)
        return torch.cat(list(pieces))

    with torch.inference_mode():
        alone = logits(1)
        assert set(sizes) == {1}
        torch.testing.assert_close(logits(at_once), alone)
    tiles = len(patch_starts(20, 8)) * len(patch_starts(17, 8))
    assert max(sizes) == min(at_once, tiles)


def test_fewer_patches_are_seen_together_where_they_do_not_fit() -> None:
    volume, sizes = torch.randn(1, 4, 20, 20), []

    def forward(images: Tensor) -> Tensor:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError
        return images

    found = torch.cat(list(volume_logits(forward, lambda a, b: volume[:, a:b], (4, 20, 20), (4, 8, 8), at_once=9)))
    torch.testing.assert_close(found.transpose(0, 1), volume)
    assert sizes[:3] == [9, 4, 2]
    assert max(sizes[3:]) == 2


def test_a_patch_that_does_not_fit_by_itself_is_an_error() -> None:
    def forward(images: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        list(volume_logits(forward, lambda a, b: torch.zeros(1, b - a, 9, 9), (4, 9, 9), (4, 8, 8), at_once=2))


@pytest.mark.parametrize("fails", [0, 3, 30])
def test_sums_that_leave_no_room_for_a_patch_go_to_the_host(fails: int) -> None:
    volume, calls = torch.randn(1, 9, 20, 20), []

    def forward(images: Tensor) -> Tensor:
        calls.append(len(calls))
        if calls[-1] == fails:
            raise torch.OutOfMemoryError
        return images * 2

    found = torch.cat(list(volume_logits(forward, lambda a, b: volume[:, a:b], (9, 20, 20), (4, 8, 8))))
    torch.testing.assert_close(found.transpose(0, 1), volume * 2)
    assert len(calls) == 1 + 4 * 4 * 4


def test_sums_that_find_no_room_begin_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros, asked = torch.zeros, []

    def short(*size: object, **more: object) -> Tensor:
        if more.get("device") is not None and not asked:
            asked.append(size)
            raise torch.OutOfMemoryError
        return zeros(*size, **more)

    monkeypatch.setattr(torch, "zeros", short)
    volume = torch.randn(1, 9, 20, 20)
    found = torch.cat(list(volume_logits(lambda images: images, lambda a, b: volume[:, a:b], (9, 20, 20), (4, 8, 8))))
    torch.testing.assert_close(found.transpose(0, 1), volume)
    assert asked == [((1, 4, 20, 20),)]


def test_no_more_slices_are_given_at_once_than_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = torch.randn(1, 9, 20, 20)

    def pieces() -> list[Tensor]:
        return list(volume_logits(lambda images: images, lambda a, b: volume[:, a:b], (9, 20, 20), (4, 8, 8)))

    whole = pieces()
    monkeypatch.setattr("segray.engine.windows.HANDED_ON", 2 * 20 * 20 * 4)
    some = pieces()
    assert [len(piece) for piece in whole] == [2, 1, 2, 4]
    assert [len(piece) for piece in some] == [2, 1, 2, 2, 2]
    assert torch.equal(torch.cat(some), torch.cat(whole))
