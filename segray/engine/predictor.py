"""Voxels of a case in, label indices on the same grid out, slab by slab."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segray.case import Volume, channel_volumes, voxel_statistics
from segray.config import PredictConfig
from segray.engine.inference import ForwardPass
from segray.engine.windows import volume_logits
from segray.errors import CaseError, UsageError
from segray.grid import Grid, Placement, fill_value, plan_prediction
from segray.nets.bundle import Bundle
from segray.resample import LABELS_AT_ONCE, place_slab, scores_to_bits, scores_to_labels

CPU_PIXELS = 256 * 256
"""Pixels a forward pass on a CPU: more slices at once fall out of the cache. Measured at 256x256 with 32..512
features, bf16, 2 threads: 1 slice 32/s, 2 slices 27/s, 4 slices 28/s, 8 slices 24/s."""

STAGES = ("place", "forward", "labels")


class Predictor:
    """A network that stays resident; deterministic, so that a case has the same mask wherever it is predicted.

    Attributes:
        bundles: what it was made of.
        bundle: the first of them; in all that describes a case they are alike.
        device: where the network is.
        last_seconds: of the last case: ``place`` (to the grid, normalised), ``forward``, ``labels`` (back to the
            case's grid, argmax) and ``total``.
    """

    def __init__(
        self,
        bundles: Bundle | Sequence[Bundle],
        config: PredictConfig,
        device: torch.device | str = "auto",
        threads: int | None = None,
    ) -> None:
        """Load the networks to the device.

        Args:
            bundles: network, grid and normalisation; of several the probabilities are averaged.
            config: precision, slab size, whether to use a GPU.
            device: ``auto``: a GPU where there is one and ``config.gpu`` allows it, else the CPU.
            threads: CPU threads of torch in this process; None leaves them as they are.

        Raises:
            UsageError: a GPU is asked for and there is none, or the bundles do not go together.
        """
        if threads is not None:
            torch.set_num_threads(max(threads, 1))
        self.bundles = [bundles] if isinstance(bundles, Bundle) else list(bundles)
        check_alike(self.bundles)
        self.bundle, self.device = self.bundles[0], choose_device(device, config.gpu)
        self.last_seconds: dict[str, float] = dict.fromkeys((*STAGES, "total"), 0.0)
        self._config = config
        networks = [bundle.network() for bundle in self.bundles]
        self._stride, self._width = (
            max(network.stride for network in networks),
            max(network.features[0] for network in networks),
        )
        self._forwards = [ForwardPass(network, self.device, config.precision) for network in networks]
        self._channels = self.bundle.label_map.channels
        self._overlapping = self.bundle.label_map.overlapping

    def predict(self, voxels: Volume, spacing: tuple[float, float, float]) -> NDArray[Any]:
        """Label indices of a case.

        Args:
            voxels: (z, y, x), or (z, c, y, x) with several channels, LPS, any real type; int16 and float32 are used
                as they are.
            spacing: (z, y, x) mm.

        Returns:
            (z, y, x) channel indices on the case's own grid: uint8, or uint16 for more than 256 channels; of a bundle
            with overlapping labels bit fields, bit k where the score of structure k is above 0.

        Raises:
            CaseError: the voxels are no volume, have other channels than the bundle's network, or do not fit its grid.
        """
        channels = self._channel_volumes(voxels)
        begin = time.perf_counter()
        depth, height, width = channels[0].shape
        grids = [replace(self.bundle.grid, fill=fill_value(volume)) for volume in channels]
        placement = plan_prediction((depth, height, width), spacing, grids[0], self._stride)
        by_case = any(bundle.normalisation.mode == "case" for bundle in self.bundles)
        statistics = [voxel_statistics(volume) if by_case else (0.0, 1.0) for volume in channels]
        out = np.empty((depth, height, width), self._type())
        clock = _Clock(self.device)
        case = _Where(channels, grids, placement, statistics)
        with torch.inference_mode():
            members = [
                self._member(one, forward, case, clock)
                for one, forward in zip(self.bundles, self._forwards, strict=True)
            ]
            self._fill(out, members, case, clock)
        self.last_seconds = clock.seconds() | {"total": time.perf_counter() - begin}
        return out

    def slices_at_once(self, canvas: tuple[int, int]) -> int:
        """Slices a forward pass on a canvas (H, W): the setting, or as many as fit ``slab_mib`` and the cache."""
        if self._config.batch_slices:
            return self._config.batch_slices
        pixels = canvas[0] * canvas[1]
        # Scores, the planes in float32 that are interpolated together, and the widest skips and their concatenation.
        bytes_a_pixel = 2 * self._channels + 4 * LABELS_AT_ONCE + 12 * self._width
        if len(self.bundles) > 1:
            bytes_a_pixel += 8 * self._channels  # probabilities of one network and their sum
        fitting = max(self._config.slab_mib * 2**20 // (bytes_a_pixel * pixels), 1)
        return min(fitting, max(CPU_PIXELS // pixels, 1)) if self.device.type == "cpu" else fitting

    def warm_up(self) -> None:
        """Predict one empty slice, so that the first case does not pay for set-up."""
        grid = self.bundle.grid
        y, x = grid.spacing or (1.0, 1.0)
        before = self.last_seconds
        shape = (1, *((self.bundle.in_channels,) if self.bundle.in_channels > 1 else ()), *grid.size)
        self.predict(np.full(shape, round(grid.fill), dtype=np.int16), (1.0, y, x))
        self.last_seconds = before

    def _channel_volumes(self, voxels: Volume) -> list[Volume]:
        if voxels.ndim not in (3, 4) or 0 in voxels.shape:
            raise CaseError(f"A case of shape {voxels.shape} is no volume (z, y, x).")
        channels = channel_volumes(voxels)
        if len(channels) != self.bundle.in_channels:
            names = f" ({', '.join(self.bundle.channels)})" if self.bundle.channels else ""
            raise CaseError(
                f"Channels of the case: {len(channels)}; of the bundle's network: {self.bundle.in_channels}{names}.",
                mend="Predict cases with the channels of the training.",
            )
        return channels

    def _type(self) -> np.dtype[Any]:
        if self._overlapping:
            return self.bundle.label_map.dtype
        return np.dtype(np.uint8 if self._channels <= 256 else np.uint16)

    def _fill(self, out: NDArray[Any], members: Sequence[_Member], case: _Where, clock: _Clock) -> None:
        step, start = self.slices_at_once(case.placement.canvas), 0
        # On a GPU the labels stay there to the end, so that no slab waits for a transfer.
        pieces: list[Tensor] = []
        while start < len(out):
            stop = min(start + step, len(out))
            try:
                labels = self._slab(members, start, stop, case, clock)
            except torch.OutOfMemoryError as error:
                if any(bundle.net.patch for bundle in self.bundles):
                    raise CaseError(
                        "A 3D patch does not fit into the memory of the GPU.", mend="Set predict.gpu=no."
                    ) from error
                if step == 1:
                    raise CaseError(
                        "A single slice does not fit into the memory of the GPU.", mend="Set predict.gpu=no."
                    ) from error
                step //= 2
                torch.cuda.empty_cache()
                continue
            if self.device.type == "cpu":
                out[start:stop] = labels.numpy()
            else:
                pieces.append(labels)
            start = stop
        if pieces:
            np.copyto(out, torch.cat(pieces).cpu().numpy(), casting="unsafe")

    def _slab(self, members: Sequence[_Member], start: int, stop: int, case: _Where, clock: _Clock) -> Tensor:
        """The voxels of slices ``start`` to ``stop`` of every channel to (n, y, x) label indices, on the device."""
        shared: _Slab | None = None
        if not all(bundle.net.patch for bundle in self.bundles):
            beside = max(bundle.net.neighbours for bundle in self.bundles)
            low, high = max(start - beside, 0), min(stop + beside, case.depth)
            with clock.stage("place"):
                shared = _Slab(case.placed(low, high, self.device), low)
        scores = self._scores(members, range(start, stop), shared)
        with clock.stage("labels"):
            return (scores_to_bits if self._overlapping else labels_of_scores)(scores, case.placement)

    def _scores(self, members: Sequence[_Member], slices: range, shared: _Slab | None) -> Tensor:
        """Logits of the one network, or the mean of the probabilities of several, less 0.5 where labels overlap."""
        first = members[0](slices, shared)
        if len(members) == 1:
            return first
        total = self._probabilities(first)
        for member in members[1:]:
            total.add_(self._probabilities(member(slices, shared)))
        total.div_(len(members))
        return (total.sub_(0.5) if self._overlapping else total).contiguous(memory_format=torch.channels_last)

    def _probabilities(self, scores: Tensor) -> Tensor:
        return scores.float().sigmoid() if self._overlapping else scores.float().softmax(1)

    def _member(self, bundle: Bundle, forward: ForwardPass, case: _Where, clock: _Clock) -> _Member:
        """What gives one network's logits of the slices of a case, asked for in their order."""
        mean, sd = case.moments(self.device)

        def slices_of(shared: Tensor) -> Tensor:
            return bundle.normalisation.apply(shared, *(one.expand(len(shared), -1).contiguous() for one in (mean, sd)))

        def flat(slices: range, shared: _Slab | None) -> Tensor:
            if shared is None:
                raise ValueError("a 2D network needs placed slices")
            beside = bundle.net.neighbours
            with clock.stage("place"):
                images = slices_of(shared.slices)
                if beside or len(images) > len(slices):
                    places = torch.arange(slices.start, slices.stop)[:, None] + torch.arange(-beside, beside + 1)
                    places = places.clamp_(0, case.depth - 1).sub_(shared.low)
                    images = images[places.to(self.device)].flatten(1, 2)
            with clock.stage("forward"):
                return forward(images)

        if bundle.net.patch is None:
            return flat

        def read(start: int, stop: int) -> Tensor:
            return slices_of(case.placed(start, stop, self.device)).transpose(0, 1)

        found = volume_logits(forward, read, (case.depth, *case.placement.canvas), bundle.net.patch)
        waiting: list[Tensor] = []

        def deep(slices: range, shared: _Slab | None) -> Tensor:
            del shared
            with clock.stage("forward"):
                while sum(map(len, waiting)) < len(slices):
                    waiting.append(next(found))
            joined = waiting[0] if len(waiting) == 1 else torch.cat(waiting)
            waiting[:] = [joined[len(slices) :]]
            return joined[: len(slices)]

        return deep


def check_alike(bundles: Sequence[Bundle]) -> None:
    """Raise UsageError where bundles cannot be averaged: other structures, grid or input channels."""
    first = bundles[0]
    for other in bundles[1:]:
        for what, mine, theirs in (
            ("structures", first.label_map, other.label_map),
            ("grids", first.grid, other.grid),
            ("slicing directions", first.plane, other.plane),
            ("input channels", (first.in_channels, first.channels), (other.in_channels, other.channels)),
        ):
            if mine != theirs:
                raise UsageError(
                    f"The bundles {first.bundle_id} and {other.bundle_id} have other {what}.",
                    mend="Average bundles that were trained on the same shards.",
                )


@dataclass(frozen=True)
class _Slab:
    """Slices of a case on the canvas, (n, H, W) or (n, c, H, W), from the place ``low`` on."""

    slices: Tensor
    low: int


_Member = Callable[[range, _Slab | None], Tensor]
"""Slices, and as the case holds them, to logits (n, L, H, W)."""


@dataclass(frozen=True)
class _Where:
    """A case: its channels, how they lie on the canvas, and what each holds: grid with fill value, mean and sd."""

    channels: Sequence[Volume]
    grids: Sequence[Grid]
    placement: Placement
    statistics: Sequence[tuple[float, float]]

    @property
    def depth(self) -> int:
        """Slices."""
        return len(self.channels[0])

    def moments(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """(1, c) mean and (1, c) sd."""
        mean, sd = torch.tensor(self.statistics, device=device).T[:, None]
        return mean, sd

    def placed(self, low: int, high: int, device: torch.device) -> Tensor:
        """(n, H, W), or (n, c, H, W) with several channels: the slices ``low`` to ``high`` on the canvas."""
        dtype = np.int16 if self.channels[0].dtype == np.int16 else np.float32
        cut = [np.require(one[low:high], dtype=dtype, requirements=["C", "W"]) for one in self.channels]
        placed = [place_slab(one, self.placement, grid, device) for one, grid in zip(cut, self.grids, strict=True)]
        return placed[0] if len(placed) == 1 else torch.stack(placed, dim=1)


def labels_of_scores(scores: Tensor, placement: Placement) -> Tensor:
    """Scores on the canvas to labels on the case's in-plane grid, the way that is fastest for their layout.

    Args:
        scores: (n, L, H, W), best in channels_last.
        placement: a placement that crops nothing.

    Returns:
        (n, Y, X) uint8, or int16 for more than 256 channels; equal to :func:`segray.resample.scores_to_labels`.
    """
    if placement.resamples:
        return scores_to_labels(scores.contiguous(), placement)
    (y, x), _ = placement.windows()
    # In channels_last the scores of a pixel are neighbours: a maximum over the last axis reads memory in order.
    indices = scores[:, :, y, x].permute(0, 2, 3, 1).max(-1).indices
    return indices.to(torch.uint8 if scores.shape[1] <= 256 else torch.int16)


def choose_device(device: torch.device | str, gpu: str) -> torch.device:
    """The device of ``auto``, ``cpu``, ``cuda`` or ``cuda:1``; ``gpu`` is the setting yes, no or auto.

    Raises:
        UsageError: a GPU is asked for and there is none.
    """
    there = torch.cuda.is_available()
    if str(device) == "auto":
        device = "cuda" if gpu == "yes" or (gpu == "auto" and there) else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda" and not there:
        raise UsageError("There is no GPU here that torch can use.", mend="Set predict.gpu=no.")
    return chosen


class _Clock:
    """Seconds a stage; on a GPU by events, so that measuring makes nothing wait."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._sums = dict.fromkeys(STAGES, 0.0)
        self._events: list[tuple[str, Any, Any]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if not self._on_gpu:
            begin = time.perf_counter()
            yield
            self._sums[name] += time.perf_counter() - begin
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        first.record()
        yield
        last.record()
        self._events.append((name, first, last))

    def seconds(self) -> dict[str, float]:
        """Sums by stage; waits for the GPU."""
        if self._events:
            torch.cuda.synchronize()
        for name, first, last in self._events:
            self._sums[name] += first.elapsed_time(last) / 1000.0
        self._events.clear()
        return dict(self._sums)
