"""Test-time augmentation by small turns and zooms: a network that looks at a slice or patch from a little aside."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor

from segray.config import NetConfig
from segray.config.predict import Axis
from segray.engine.mirrors import Forward
from segray.engine.precision import channels_last
from segray.engine.probabilities import Listener, logits_of, mean_probabilities, probabilities
from segray.engine.spatial import between_sides, rotations

PLANES: dict[Axis, tuple[int, int]] = {"x": (1, 2), "y": (0, 2), "z": (0, 1)}
"""The plane, of the axes (x, y, z), in which a turn about an axis turns."""


def turned_axes(asked: Mapping[Axis, float], net: NetConfig) -> dict[Axis, float]:
    """The turns that a net can be given: about z alone where it sees slices. Axis to degrees."""
    return {axis: degrees for axis, degrees in asked.items() if net.patch is not None or axis == "z"}


def moves_of(turn: Mapping[Axis, float], zoom: float, net: NetConfig) -> list[Tensor]:
    """What a net sees beside its input as it is.

    Args:
        turn: axes and degrees, ``predict.turn``; axes that the net has no plane for are left out.
        zoom: ``predict.zoom``; 0: none.
        net: whether it sees slices or patches.

    Returns:
        (d, d) float64 matrices, each with its inverse: from where the net sees something to where it is, about the
        middle, in pixels along (x, y, [z]).
    """
    axes = 2 if net.patch is None else 3
    moves: list[Tensor] = []
    for axis, degrees in sorted(turned_axes(turn, net).items()):
        angles = torch.tensor([degrees, -degrees], dtype=torch.float64).mul_(math.pi / 180.0)
        moves += rotations(angles, axes, *PLANES[axis])
    if zoom:
        same = torch.eye(axes, dtype=torch.float64)
        moves += [same / (1.0 + zoom), same * (1.0 + zoom)]
    return moves


class MovedForward:
    """A forward pass averaged over its input as it is and moved, by turns and zooms about the middle.

    What has been found of a moved image is moved back, both by linear interpolation. Where a pixel was moved out of the
    image, it counts with what was found without moving; what comes into it has its lowest value, as in training.

    Its logits are those of the mean probability, as :class:`segray.engine.mirrors.MirroredForward` has them.
    """

    def __init__(
        self,
        forward: Forward,
        moves: Sequence[Tensor],
        *,
        overlapping: bool,
        listener: Listener | None = None,
    ) -> None:
        """Average ``forward`` over moves.

        Args:
            forward: a network.
            moves: of :func:`moves_of`, for slices or patches.
            overlapping: probabilities are sigmoids.
            listener: told of the probabilities of each move, the one as it is first, and of their mean.
        """
        self._forward, self._moves, self._overlapping, self._listener = forward, moves, overlapping, listener

    def __call__(self, images: Tensor) -> Tensor:
        """The logits of normalised slices or patches, float32 in channels_last."""
        total = mean_probabilities(self._members(images), self._listener)
        layout = channels_last(images.ndim - 2)
        return logits_of(total, overlapping=self._overlapping).contiguous(memory_format=layout)

    def _members(self, images: Tensor) -> Iterator[Tensor]:
        still = probabilities(self._forward(images), overlapping=self._overlapping)
        # The mean is made in the memory of the first member.
        yield still.clone() if self._moves else still
        lowest = images.amin(dim=tuple(range(2, images.ndim)), keepdim=True)
        raised = images - lowest
        for move in self._moves:
            # grid_sample pads with 0: with the lowest value subtracted, 0 is air.
            seen = functional.grid_sample(raised, _grid(move, raised), mode="bilinear", align_corners=False) + lowest
            found = probabilities(self._forward(seen), overlapping=self._overlapping)
            back = _grid(move.inverse(), found)
            inside = (back.abs() <= 1.0).all(-1)[:, None]
            moved = functional.grid_sample(found, back, mode="bilinear", padding_mode="border", align_corners=False)
            yield torch.where(inside, moved, still)


def _grid(matrix: Tensor, like: Tensor) -> Tensor:
    """(1, [D], H, W, d), repeated for all of ``like``: where the pixels of an image lie in another one."""
    sides = like.shape[2:]
    linear = torch.cat((between_sides(matrix, sides), matrix.new_zeros(len(matrix), 1)), 1)
    theta = linear.to(like.device, torch.float32)[None]
    grid = functional.affine_grid(theta, [1, 1, *sides], align_corners=False)
    return grid.expand(len(like), *grid.shape[1:])
