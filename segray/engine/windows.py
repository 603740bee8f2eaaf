"""Logits by overlapping windows: of a case from a 3D net, a few slices in memory at a time; of large slices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from segray.config import NetConfig

OVERLAP = 0.5
"""Share of a patch's side that neighbouring patches have in common, as in nnU-Net."""

SPREAD = 1 / 8
"""Standard deviation of a patch's weights, as a share of its side."""

ACTIVATION_BYTES = 12
"""Bytes a pixel and channel at full resolution while a U-Net sees a slice, in 16 bits: the widest skip, what is joined
to it, both together, and the outputs of two convolutions. Measured at 2048x2048, 32 channels: 453 bytes a pixel."""

WHOLE_SLICE = 2**30
"""Bytes of activations in 16 bits, twice as many in float32, up to which a slice is seen as a whole."""

OWN_WINDOW = 512
"""Side of the windows of a slice that is larger, where none is told; a multiple of every net's stride."""

HANDED_ON = 2**28
"""Bytes of the logits of a case that are given at once where patches overlap; a slice at least."""

Forward = Callable[[Tensor], Tensor]
"""(n, c, [D], h, w) to logits (n, L, [D], h, w)."""

ReadSlices = Callable[[int, int], Tensor]
"""The normalised slices from one place to another, exclusive: (c, k, H, W)."""


def patch_starts(side: int, patch: int, overlap: float = OVERLAP) -> list[int]:
    """Where patches begin along a side: evenly, from one end to the other, with at least that share in common."""
    if side <= patch:
        return [0]
    steps = math.ceil((side - patch) / max(patch * (1 - overlap), 1))
    return [round(number * (side - patch) / steps) for number in range(steps + 1)]


@lru_cache(maxsize=8)
def patch_weights(patch: tuple[int, int, int]) -> Tensor:
    """(D, h, w) weights of a patch's voxels: a Gaussian, so that its edges, where the net sees least, count least.

    Isensee et al. 2021 ("nnU-Net"), methods, inference. At the corners, where it would vanish, it has its lowest value
    that is not below 1e-3.
    """
    sides = []
    for size in patch:
        at = (torch.arange(size) - (size - 1) / 2) / max(size * SPREAD, 1e-6)
        sides.append(torch.exp(-0.5 * at**2))
    z, y, x = sides
    return (z[:, None, None] * y[:, None] * x).clamp(min=1e-3)


def predicted_patch(
    net: NetConfig, told: tuple[int, int, int] | None, slices: int | None = None
) -> tuple[int, int, int]:
    """The patch in which a net of patches sees a case.

    Args:
        net: its config.
        told: ``predict.patch``; None: the patch that it was trained on.
        slices: of the case; where it has fewer than the told patch, that is as deep as the case needs, and at least as
            deep as the trained one. None: unknown.

    Returns:
        (D, h, w); in-plane 0 is the whole canvas.

    Raises:
        ValueError: the net sees slices.
    """
    if net.patch is None:
        raise ValueError("a network without patches sees slices")
    if told is None:
        return net.patch
    deep, rows, columns = told
    if slices is not None:
        step = net.strides[0]
        deep = min(deep, max(math.ceil(slices / step) * step, net.patch[0]))
    return deep, rows, columns


def slice_window(canvas: tuple[int, int], told: tuple[int, int] | None, width: int) -> tuple[int, int]:
    """The window in which a net of slices sees a canvas.

    Args:
        canvas: (H, W).
        told: ``predict.window``; 0, or more than there is, is the whole side. None: the whole canvas, or where its
            activations would take more than :data:`WHOLE_SLICE`, windows of :data:`OWN_WINDOW`. It depends on neither
            device nor arithmetic, so that a case has the same mask everywhere.
        width: channels of the net at full resolution.

    Returns:
        (h, w), at most the canvas.
    """
    height, columns = canvas
    if told is not None:
        return min(told[0] or height, height), min(told[1] or columns, columns)
    if ACTIVATION_BYTES * width * height * columns <= WHOLE_SLICE:
        return canvas
    return min(OWN_WINDOW, height), min(OWN_WINDOW, columns)


class WindowedForward:
    """A forward pass over slices by overlapping windows, averaged with :func:`patch_weights`.

    At once in memory are the activations of a window, and the sums of the logits of whole slices in float32.
    """

    def __init__(self, forward: Forward, told: tuple[int, int] | None, width: int, overlap: float = OVERLAP) -> None:
        """``told`` and ``width`` are those of :func:`slice_window`; ``overlap`` that of :func:`patch_starts`."""
        self._forward, self._told, self._width, self._overlap = forward, told, width, overlap

    def __call__(self, images: Tensor) -> Tensor:
        """(n, C, H, W) to logits (n, L, H, W) in channels_last; slices in a single window get the pass itself."""
        height, width = images.shape[-2:]
        rows, columns = slice_window((height, width), self._told, self._width)
        if (rows, columns) == (height, width):
            return self._forward(images)
        starts = (patch_starts(height, rows, self._overlap), patch_starts(width, columns, self._overlap))
        weights = patch_weights((1, rows, columns))[0].to(images.device)
        seen = torch.zeros(height, width, device=images.device)
        total: Tensor | None = None
        for y, x in product(*starts):
            here = (..., slice(y, y + rows), slice(x, x + columns))
            logits = self._forward(images[here]).float()
            if total is None:
                size = (len(images), logits.shape[1], height, width)
                total = torch.empty(size, device=images.device, memory_format=torch.channels_last).zero_()
            total[here].addcmul_(logits, weights)
            seen[here] += weights
        if total is None:
            raise ValueError("slices without pixels")
        return total.div_(seen)


def volume_logits(
    forward: Forward,
    read: ReadSlices,
    shape: tuple[int, int, int],
    patch: tuple[int, int, int],
    overlap: float = OVERLAP,
    at_once: int = 1,
) -> Iterator[Tensor]:
    """Logits of all slices of a case, in their order.

    Patches that overlap are averaged with :func:`patch_weights`. Slices are given as soon as no further patch touches
    them: memory is that of one patch's depth; the host's, where the device has not enough. Where the case has fewer
    slices than a patch, its first and last slice stand in around it, as in training.

    Args:
        forward: the net.
        read: the slices.
        shape: (Z, H, W) of the case on the canvas.
        patch: (D, h, w); in-plane 0, or more than there is, is the whole canvas.
        overlap: the share of a side that neighbouring patches have in common at least, 0 to below 1.
        at_once: patches beside each other that the net sees at once; half as many where they do not fit into memory.

    Raises:
        torch.OutOfMemoryError: a single patch does not fit, with nothing beside it.

    Yields:
        (k, L, H, W) float32, in all Z slices.
    """
    count, height, width = shape
    deep, rows, columns = patch[0], min(patch[1] or height, height), min(patch[2] or width, width)
    tiles = list(product(patch_starts(height, rows, overlap), patch_starts(width, columns, overlap)))
    starts = patch_starts(count, deep, overlap)
    if len(starts) == len(tiles) == 1:
        below = max(deep - count, 0) // 2
        yield _by_slices(forward(_around(read(0, count), deep, below)[None])[0, :, below : below + count])
        return
    sums = _Sums((deep, rows, columns), (height, width))
    seen_together = _Together(forward, at_once, sums.leave_device)
    for start, after in zip(starts, [*starts[1:], None], strict=True):
        below = max(deep - count, 0) // 2
        images = _around(read(start, min(start + deep, count)), deep, below)
        patches = [images[:, :, y : y + rows, x : x + columns] for y, x in tiles]
        for (y, x), logits in zip(tiles, seen_together(patches), strict=True):
            sums.add(logits, y, x)
        done = min(deep, count) if after is None else after - start
        yield from sums.means(below, below + done)
        sums.move_up(done)


class _Sums:
    """Logits of overlapping patches, weighted and summed: a patch's depth over the whole canvas, in float32.

    They lie on the device of the logits; in the host's memory where the device has no room for both them and a patch.
    """

    def __init__(self, patch: tuple[int, int, int], canvas: tuple[int, int]) -> None:
        self._patch, self._canvas = patch, canvas
        self._device = self._home = torch.device("cpu")
        self._left = False
        self._total: Tensor | None = None
        self._seen = self._weights = torch.zeros(())

    def add(self, logits: Tensor, y: int, x: int) -> None:
        """Add a patch's (L, D, h, w) that begins at this row and column."""
        total = self._begun(logits)
        here = (..., slice(y, y + self._patch[1]), slice(x, x + self._patch[2]))
        total[here].addcmul_(logits.to(self._home), self._weights)
        self._seen[here] += self._weights

    def _begun(self, logits: Tensor) -> Tensor:
        if self._total is not None:
            return self._total
        self._device = self._home = logits.device
        if self._left:
            self._home = torch.device("cpu")
        size = (len(logits), self._patch[0], *self._canvas)
        try:
            self._total = torch.zeros(size, device=self._home)
        except torch.OutOfMemoryError:
            self._left, self._home = True, torch.device("cpu")
            self._total = torch.zeros(size)
        self._seen = torch.zeros(size[1:], device=self._home)
        self._weights = patch_weights(self._patch).to(self._home)
        return self._total

    def leave_device(self) -> bool:
        """Make room on the device; False where that has been done before."""
        if self._left:
            return False
        self._left, self._home = True, torch.device("cpu")
        if self._total is not None:
            self._total, self._seen, self._weights = self._total.cpu(), self._seen.cpu(), self._weights.cpu()
        torch.cuda.empty_cache()
        return True

    def means(self, first: int, last: int) -> Iterator[Tensor]:
        """(k, L, H, W) of the slices from one place in the depth to another, on the device, :data:`HANDED_ON` each."""
        if self._total is None:
            raise ValueError("a case without patches")
        step = max(HANDED_ON // (self._total[:, :1].numel() * self._total.element_size()), 1)
        for start in range(first, last, step):
            here = slice(start, min(start + step, last))
            yield _by_slices((self._total[:, here] / self._seen[here]).to(self._device))

    def move_up(self, done: int) -> None:
        """Forget the first slices: those after them come first, and as many empty ones last."""
        for sums in (self._total, self._seen):
            if sums is None:
                continue
            deep = sums.shape[-3]
            # Piece by piece, since what is read and what is written may not lie on one another.
            for start in range(0, deep - done, done):
                stop = min(start + done, deep - done)
                sums[..., start:stop, :, :] = sums[..., start + done : stop + done, :, :]
            sums[..., deep - done :, :, :] = 0


class _Together:
    """A forward pass over patches of one size, as many at once as fit into the memory of the device."""

    def __init__(self, forward: Forward, at_once: int, make_room: Callable[[], bool]) -> None:
        """``make_room`` is called where a single patch does not fit, and says whether there is more room now."""
        self._forward, self._at_once, self._make_room = forward, max(at_once, 1), make_room

    def __call__(self, patches: list[Tensor]) -> Iterator[Tensor]:
        """The float32 logits (L, D, h, w) of each of the patches (c, D, h, w)."""
        done = 0
        while done < len(patches):
            some = patches[done : done + self._at_once]
            try:
                found = self._forward(some[0][None] if len(some) == 1 else torch.stack(some))
            except torch.OutOfMemoryError:
                if len(some) == 1 and not self._make_room():
                    raise
                torch.cuda.empty_cache()
                self._at_once = max(len(some) // 2, 1)
                continue
            yield from found.float()
            done += len(some)


def _around(images: Tensor, deep: int, below: int) -> Tensor:
    """(c, k, H, W) to (c, deep, H, W), the first and last slice repeated."""
    places = torch.arange(deep, device=images.device).sub(below).clamp(0, images.shape[1] - 1)
    return images if images.shape[1] == deep else images[:, places]


def _by_slices(logits: Tensor) -> Tensor:
    """(L, k, H, W) to (k, L, H, W), the scores of a pixel beside each other in memory."""
    return logits.float().transpose(0, 1).contiguous(memory_format=torch.channels_last)
