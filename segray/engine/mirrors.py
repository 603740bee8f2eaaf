"""Test-time augmentation by mirroring: a network that looks at a case from both sides."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import combinations

from torch import Tensor

from segray.config import NetConfig
from segray.engine.precision import channels_last
from segray.engine.probabilities import Listener, logits_of, mean_probabilities, probabilities

Forward = Callable[[Tensor], Tensor]
"""(n, C, [D], H, W) to logits (n, L, [D], H, W)."""

DIMENSIONS = {"x": -1, "y": -2, "z": -3}
"""Where the axes of a case lie in images and logits; z in those of patches only."""


def mirrored_axes(asked: Collection[str], net: NetConfig) -> tuple[str, ...]:
    """The axes along which a mirror image is another one for the net: no z where it sees single slices."""
    flat = net.patch is None and not net.neighbours
    return tuple(axis for axis in asked if not (flat and axis == "z"))


class MirroredForward:
    """A forward pass averaged over the mirror images of what it is given, slices with neighbours or patches.

    Its logits are those of the mean probability: their softmax, or sigmoid where labels overlap, is the mean over all
    combinations of the axes. So they go wherever the logits of a single pass go: into the average over the patches of a
    3D net, or over the members of an ensemble.
    """

    def __init__(
        self,
        forward: Forward,
        net: NetConfig,
        axes: Collection[str],
        *,
        overlapping: bool,
        listener: Listener | None = None,
    ) -> None:
        """Average ``forward`` over mirrors.

        Args:
            forward: the network of ``net``.
            net: its config: whether it sees slices, slices with neighbours, or patches.
            axes: of :func:`mirrored_axes`; their 2 to the power of n combinations are predicted.
            overlapping: probabilities are sigmoids.
            listener: told of the probabilities of each mirror, and of their mean.
        """
        self._forward, self._overlapping, self._listener = forward, overlapping, listener
        self._format = channels_last(2 if net.patch is None else 3)
        self._around = 0 if net.patch is not None else 2 * net.neighbours + 1
        self._mirrors = [chosen for count in range(len(axes) + 1) for chosen in combinations(axes, count)]

    def __call__(self, images: Tensor) -> Tensor:
        """The logits of normalised slices or patches, float32 in channels_last."""
        total = mean_probabilities((self._probabilities(images, chosen) for chosen in self._mirrors), self._listener)
        return logits_of(total, overlapping=self._overlapping).contiguous(memory_format=self._format)

    def _probabilities(self, images: Tensor, chosen: tuple[str, ...]) -> Tensor:
        turned = [DIMENSIONS[axis] for axis in chosen if axis != "z" or not self._around]
        if "z" in chosen and self._around:
            # The neighbours of a slice are its channels, from the lowest z up, and it stays the one in the middle.
            stacked = images.reshape(len(images), self._around, -1, *images.shape[2:])
            images = stacked.flip(1).flatten(1, 2)
        logits = self._forward(images.flip(turned) if turned else images)
        return probabilities(logits.flip(turned) if turned else logits, overlapping=self._overlapping)
