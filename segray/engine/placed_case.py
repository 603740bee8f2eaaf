"""Cases on the canvas of the nets, and slabs: slices of one case or several that go through the nets together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from segray.case import Volume, channel_volumes, voxel_statistics
from segray.errors import CaseError
from segray.grid import Grid, Placement, fill_value, plan_prediction
from segray.nets.bundle import Bundle
from segray.resample import place_slab

CaseStatistics = tuple[Sequence[float], Sequence[float]]
"""Mean and sd of the voxels of a case, an entry a channel each."""


@dataclass(frozen=True)
class PlacedCase:
    """A case and how it lies on the canvas; no pixel has been moved yet.

    Attributes:
        channels: (z, y, x) voxels of each channel.
        grids: of each channel the grid with the fill value of its own.
        placement: where all of them lie.
        mean: (1, c) of the voxels, on the device of the nets; zeros where no net asks.
        sd: (1, c); ones where no net asks.
    """

    channels: Sequence[Volume]
    grids: Sequence[Grid]
    placement: Placement
    mean: Tensor
    sd: Tensor

    @property
    def depth(self) -> int:
        """Slices."""
        return len(self.channels[0])

    def placed(self, low: int, high: int) -> Tensor:
        """(n, H, W), or (n, c, H, W) with several channels: the slices ``low`` to ``high`` on the canvas."""
        dtype = np.int16 if self.channels[0].dtype == np.int16 else np.float32
        device = self.mean.device
        cut = [np.require(one[low:high], dtype=dtype, requirements=["C", "W"]) for one in self.channels]
        placed = [place_slab(one, self.placement, grid, device) for one, grid in zip(cut, self.grids, strict=True)]
        return placed[0] if len(placed) == 1 else torch.stack(placed, dim=1)

    def normalised(self, placed: Tensor, bundle: Bundle) -> Tensor:
        """Slices of :meth:`placed` as (n, c, H, W) input of a bundle's network."""
        mean, sd = (one.expand(len(placed), -1).contiguous() for one in (self.mean, self.sd))
        return bundle.normalisation.apply(placed, mean, sd)


def place_case(
    voxels: Volume,
    spacing: tuple[float, float, float],
    bundle: Bundle,
    *,
    stride: int,
    statistics: bool,
    known: CaseStatistics | None = None,
    device: torch.device,
) -> PlacedCase:
    """Plan where a case lies on the canvas.

    Args:
        voxels: (z, y, x), or (z, c, y, x) with several channels.
        spacing: (z, y, x) mm.
        bundle: grid and channels.
        stride: what the sides of the canvas are a multiple of.
        statistics: mean and sd of all voxels are needed.
        known: those of the case, where the voxels are not all of it, or have more around them; None: computed.
        device: where the nets are.

    Raises:
        CaseError: the voxels are no volume, have other channels than the bundle's network, or do not fit its grid.
    """
    channels = _channels_of(voxels, bundle)
    depth, height, width = channels[0].shape
    grids = [replace(bundle.grid, fill=fill_value(volume)) for volume in channels]
    placement = plan_prediction((depth, height, width), spacing, grids[0], stride)
    if known is not None:
        pairs = list(zip(*known, strict=True))
    else:
        pairs = [voxel_statistics(volume) if statistics else (0.0, 1.0) for volume in channels]
    mean, sd = torch.tensor(pairs, device=device, dtype=torch.float32).T[:, None]
    return PlacedCase(channels, grids, placement, mean, sd)


def _channels_of(voxels: Volume, bundle: Bundle) -> list[Volume]:
    if voxels.ndim not in (3, 4) or 0 in voxels.shape:
        raise CaseError(f"A case of shape {voxels.shape} is no volume (z, y, x).")
    channels = channel_volumes(voxels)
    if len(channels) != bundle.in_channels:
        names = f" ({', '.join(bundle.channels)})" if bundle.channels else ""
        raise CaseError(
            f"Channels of the case: {len(channels)}; of the bundle's network: {bundle.in_channels}{names}.",
            mend="Predict cases with the channels of the training.",
        )
    return channels


@dataclass(frozen=True)
class Piece:
    """Neighbouring slices of one of several cases.

    Attributes:
        number: which case it is.
        case: that case.
        slices: which of its slices.
    """

    number: int
    case: PlacedCase
    slices: range


def pieces_from(cases: Sequence[PlacedCase], number: int, start: int, most: int) -> list[Piece]:
    """The next ``most`` slices, or all that are left, from slice ``start`` of case ``number`` on."""
    pieces: list[Piece] = []
    while most > 0 and number < len(cases):
        stop = min(start + most, cases[number].depth)
        pieces.append(Piece(number, cases[number], range(start, stop)))
        most -= stop - start
        number, start = number + 1, 0
    return pieces


@dataclass(frozen=True)
class Slab:
    """Pieces of cases on one canvas, and the slices that nets of slices see of them.

    Attributes:
        pieces: what it is made of.
        beside: slices below and above each piece that are placed too, where the case has them.
        placed: of each piece its slices, and those beside; () where no net sees slices.
    """

    pieces: Sequence[Piece]
    beside: int = 0
    placed: Sequence[Tensor] = ()

    @classmethod
    def of(cls, pieces: Sequence[Piece], beside: int) -> Slab:
        """Place the slices of some pieces."""
        placed = [
            one.case.placed(max(one.slices.start - beside, 0), min(one.slices.stop + beside, one.case.depth))
            for one in pieces
        ]
        return cls(pieces, beside, placed)

    def images(self, bundle: Bundle) -> Tensor:
        """(n, s * c, H, W): the normalised slices of all pieces, with the s - 1 neighbours that the network sees."""
        found = [self._of_piece(one, placed, bundle) for one, placed in zip(self.pieces, self.placed, strict=True)]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _of_piece(self, piece: Piece, placed: Tensor, bundle: Bundle) -> Tensor:
        images, slices, beside = piece.case.normalised(placed, bundle), piece.slices, bundle.net.neighbours
        if not beside and len(images) == len(slices):
            return images
        low = max(slices.start - self.beside, 0)
        places = torch.arange(slices.start, slices.stop)[:, None] + torch.arange(-beside, beside + 1)
        places = places.clamp_(0, piece.case.depth - 1).sub_(low)
        return images[places.to(images.device)].flatten(1, 2)
