"""Voxels of a case in, label indices on the same grid out, slab by slab."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segray.case import Volume
from segray.config import PredictConfig
from segray.engine.backends import BackendChoice, forward_pass
from segray.engine.case_result import CaseResult
from segray.engine.confidence import Agreement, Confidence, ConfidenceSums, Share
from segray.engine.members import Member, patch_member, slice_member
from segray.engine.mirrors import Forward, MirroredForward, mirrored_axes
from segray.engine.moves import MovedForward, moves_of
from segray.engine.placed_case import CaseStatistics, Piece, PlacedCase, Slab, pieces_from, place_case
from segray.engine.predict_checks import check_alike as check_alike
from segray.engine.predict_checks import check_settings as check_settings
from segray.engine.probabilities import mean_probabilities, probabilities
from segray.engine.scores import ScoreReading
from segray.engine.stage_clock import STAGES as STAGES
from segray.engine.stage_clock import StageClock
from segray.engine.windows import ACTIVATION_BYTES, WindowedForward, predicted_patch, slice_window
from segray.errors import CaseError, UsageError
from segray.nets.bundle import Bundle
from segray.nets.unet import SegmentationNet
from segray.postprocess import Cleaning
from segray.resample import LABELS_AT_ONCE

CPU_PIXELS = 256 * 256
"""Pixels a forward pass on a CPU: more slices at once fall out of the cache. Measured at 256x256 with 32..512
features, bf16, 2 threads: 1 slice 32/s, 2 slices 27/s, 4 slices 28/s, 8 slices 24/s."""

ProbabilitySink = Callable[[int, NDArray[Any]], None]
"""Takes the place of a slice, and (n, L, Y, X) probabilities of it and those after it, as ``predict.probabilities``."""

CaseVoxels = tuple[Volume, tuple[float, float, float]]
"""Voxels (z, y, x) or (z, c, y, x) of a case, and its spacing (z, y, x) in mm."""


class Predictor:
    """A network that stays resident; deterministic, so that a case has the same mask wherever it is predicted.

    Attributes:
        bundles: what it was made of.
        bundle: the first of them; in all that describes a case they are alike.
        device: where the network is.
        last_seconds: of the last call: those of each of :data:`STAGES`, and ``total``.
        last_confidences: of each case of the last call; empty without ``predict.confidence``.
    """

    def __init__(
        self,
        bundles: Bundle | Sequence[Bundle],
        config: PredictConfig,
        device: torch.device | str = "auto",
        threads: int | None = None,
        backend: BackendChoice | None = None,
    ) -> None:
        """Load the networks to the device.

        Args:
            bundles: network, grid and normalisation; of several the probabilities are averaged.
            config: precision, slab size, whether to use a GPU; windows, patches, mirrors, turns, thresholds, cleaning.
            device: ``auto``: a GPU where there is one and ``config.gpu`` allows it, else the CPU.
            threads: CPU threads of torch in this process; None leaves them as they are.
            backend: who computes the networks, of :func:`segray.engine.backend_contest.choose_forward`; None: torch.

        Raises:
            UsageError: a GPU is asked for and there is none, the bundles do not go together, the settings do not go
                with them, or OpenVINO is chosen and is not installed or cannot compute them.
        """
        if threads is not None:
            torch.set_num_threads(max(threads, 1))
        self.bundles = [bundles] if isinstance(bundles, Bundle) else list(bundles)
        check_alike(self.bundles)
        check_settings(self.bundles, config)
        self.bundle, self.device = self.bundles[0], choose_device(device, config.gpu)
        self.last_seconds: dict[str, float] = dict.fromkeys((*STAGES, "total"), 0.0)
        self.last_confidences: list[Confidence] = []
        self._config, self._backend = config, backend
        networks = [bundle.network() for bundle in self.bundles]
        self._stride, self._width = (
            max(network.stride for network in networks),
            max(network.features[0] for network in networks),
        )
        self._reading = ScoreReading.of(config, self.bundle.label_map, len(self.bundles))
        self._agreement = Agreement(self._reading)
        self._sees_patches = any(bundle.net.patch for bundle in self.bundles)
        self._forwards = [self._forward(*pair) for pair in zip(self.bundles, networks, strict=True)]
        self._cleaning = Cleaning.of(config, self.bundle.label_map)

    @property
    def last_confidence(self) -> Confidence | None:
        """How sure the nets were of the last case; None without ``predict.confidence``."""
        return self.last_confidences[-1] if self.last_confidences else None

    def predict(
        self,
        voxels: Volume,
        spacing: tuple[float, float, float],
        *,
        probabilities: ProbabilitySink | None = None,
        statistics: CaseStatistics | None = None,
        voxel_ml: float | None = None,
    ) -> NDArray[Any]:
        """Label indices of a case.

        Args:
            voxels: (z, y, x), or (z, c, y, x) with several channels, LPS, any real type; int16 and float32 are used
                as they are.
            spacing: (z, y, x) mm.
            probabilities: is given those of all slices in their order, some at a time: (n, L, Y, X) uint8, 255 times
                the probability, or uint16, 65535 times (``predict.probabilities``), on the case's own in-plane grid; L
                as the nets have it, the background first where labels exclude each other. They are those that labels
                are taken from, before components are removed.
            statistics: of the case, where the voxels have lain on a canvas with a margin around them; None: they are
                computed of these voxels, where the normalisation asks.
            voxel_ml: volume of a voxel, for ``predict.smallest_ml``; None: of a box of the spacing, which on a sheared
                grid (a tilted gantry) is too large.

        Returns:
            (z, y, x) channel indices on the case's own grid: uint8, or uint16 for more than 256 channels; of a bundle
            with overlapping labels bit fields, bit k where the probability of structure k is above 0.5, or at least its
            threshold. Where labels exclude each other, a voxel has the most probable one, after thresholds have
            weighed probabilities as :class:`segray.resample.Weighing` says.

        Raises:
            CaseError: the voxels are no volume, have other channels than the bundle's network, or do not fit its grid;
                the network's scores are not finite, as those of fp16 may be.
        """
        volumes = None if voxel_ml is None else [voxel_ml]
        return self._predict([(voxels, spacing)], probabilities, statistics, volumes)[0]

    def predict_many(self, cases: Sequence[CaseVoxels], voxel_ml: Sequence[float] | None = None) -> list[NDArray[Any]]:
        """Label indices of several cases, each as :meth:`predict` gives them.

        Slices of cases with canvases of one size go through nets of slices together, so that small cases fill the
        device; on a CPU, which likes few slices, it brings nothing. 3D nets see a case after the other. A sum in a
        convolution may run in another order in a batch of another size, so that of two labels that are as good as
        equally probable the other one may win; on a CPU no difference was seen, in float32 and in bf16.

        Args:
            cases: voxels and spacing of each.
            voxel_ml: of each, as :meth:`predict` takes it.

        Raises:
            CaseError: as :meth:`predict`, for the first such case, before any is predicted; for scores behind all.
        """
        return self._predict(cases, None, voxel_ml=voxel_ml)

    def _predict(
        self,
        cases: Sequence[CaseVoxels],
        sink: ProbabilitySink | None,
        known: CaseStatistics | None = None,
        voxel_ml: Sequence[float] | None = None,
    ) -> list[NDArray[Any]]:
        begin = time.perf_counter()
        by_case = any(bundle.normalisation.mode == "case" for bundle in self.bundles)
        placed = [
            place_case(
                voxels, spacing, self.bundle, stride=self._stride, statistics=by_case, known=known, device=self.device
            )
            for voxels, spacing in cases
        ]
        results = [CaseResult((one.depth, *one.placement.original), self._type(), self._sums()) for one in placed]
        clock = StageClock(self.device)
        with torch.inference_mode():
            for group in self._groups(placed):
                self._fill([placed[n] for n in group], [results[n] for n in group], clock, sink)
        for result in results:
            result.finish()
        seconds, cleaning = clock.seconds(), time.perf_counter()
        volumes = voxel_ml or [math.prod(spacing) / 1000.0 for _, spacing in cases]
        for result, volume in zip(results, volumes, strict=True):
            self._cleaning.clean(result.labels, volume)
        end = time.perf_counter()
        self.last_seconds = seconds | {"postprocess": end - cleaning, "total": end - begin}
        self.last_confidences = [result.sums.result() for result in results if result.sums is not None]
        return [result.labels for result in results]

    def slices_at_once(self, canvas: tuple[int, int]) -> int:
        """Slices a forward pass on a canvas (H, W): the setting, or as many as fit ``slab_mib`` and the cache."""
        if self._config.batch_slices:
            return self._config.batch_slices
        pixels, window = canvas[0] * canvas[1], slice_window(canvas, self._config.window, self._width)
        seen, labels = window[0] * window[1], self._reading.labels
        # Scores, and the planes in float32 that are interpolated together.
        bytes_a_pixel = 2 * labels + 4 * LABELS_AT_ONCE
        moved = bool(self._config.turn or self._config.zoom)
        if self._reading.averaged or self._config.mirror or moved:
            bytes_a_pixel += 8 * labels  # probabilities of one network, or mirror, and their sum
        if moved:
            bytes_a_pixel += 8 * labels  # those of what is moved, before it is moved back, and of what is not
        if self._reading.weighing is not None:
            bytes_a_pixel += 4 * labels  # the scores that thresholds have weighed
        if seen < pixels:
            bytes_a_pixel += 4 * labels  # the sum over windows
        slab = bytes_a_pixel * pixels + ACTIVATION_BYTES * self._width * seen
        fitting = max(self._config.slab_mib * 2**20 // slab, 1)
        return min(fitting, max(CPU_PIXELS // seen, 1)) if self.device.type == "cpu" else fitting

    def patches_at_once(self, bundle: Bundle, canvas: tuple[int, int]) -> int:
        """Patches of a 3D net a forward pass: the setting; else one on a CPU, on a GPU what ``slab_mib`` holds."""
        deep, *sides = predicted_patch(bundle.net, self._config.patch)
        if self._config.batch_slices:
            return max(self._config.batch_slices // deep, 1)
        if self.device.type == "cpu":
            return 1
        voxels = deep * math.prod(min(side or most, most) for side, most in zip(sides, canvas, strict=True))
        return max(self._config.slab_mib * 2**20 // (ACTIVATION_BYTES * self._width * voxels), 1)

    def warm_up(self) -> None:
        """Predict one empty slice, so that the first case does not pay for set-up."""
        grid = self.bundle.grid
        y, x = grid.spacing or (1.0, 1.0)
        before = self.last_seconds, self.last_confidences
        shape = (1, *((self.bundle.in_channels,) if self.bundle.in_channels > 1 else ()), *grid.size)
        self.predict(np.full(shape, round(grid.fill), dtype=np.int16), (1.0, y, x))
        self.last_seconds, self.last_confidences = before

    def _forward(self, bundle: Bundle, network: SegmentationNet) -> Forward:
        """The forward pass of one network: by windows, moved, and over all mirrors that are another image for it."""
        forward: Forward = forward_pass(network, self.device, self._config.precision, self._backend)
        if bundle.net.patch is None:
            forward = WindowedForward(forward, self._config.window, self._width, self._config.overlap)
        axes, moves = self._views(bundle)
        # Of several bundles each is a member as a whole, of mirrors each with its moves.
        listener = self._agreement if len(self.bundles) == 1 and self._config.confidence else None
        overlapping = self._reading.overlapping
        if moves:
            forward = MovedForward(forward, moves, overlapping=overlapping, listener=None if axes else listener)
        if axes:
            forward = MirroredForward(forward, bundle.net, axes, overlapping=overlapping, listener=listener)
        return forward

    def _views(self, bundle: Bundle) -> tuple[tuple[str, ...], list[Tensor]]:
        """What a network looks at beside a case as it is: mirrored along axes, and moved."""
        config, net = self._config, bundle.net
        return mirrored_axes(config.mirror, net), moves_of(config.turn, config.zoom, net)

    def _type(self) -> np.dtype[Any]:
        if self._reading.overlapping:
            return self.bundle.label_map.dtype
        return np.dtype(np.uint8 if self._reading.labels <= 256 else np.uint16)

    def _sums(self) -> ConfidenceSums | None:
        """Nothing summed yet; None where nobody asks."""
        if not self._config.confidence:
            return None
        axes, moves = self._views(self.bundle)
        views = 2 ** len(axes) if axes else len(moves) + 1
        members = len(self.bundles) if len(self.bundles) > 1 else views if views > 1 else 0
        return ConfidenceSums(self._reading, members, self.device)

    def _groups(self, cases: Sequence[PlacedCase]) -> list[list[int]]:
        """Which cases go through the nets together: those on canvases of one size."""
        if self._sees_patches:
            return [[number] for number in range(len(cases))]
        by_canvas: dict[tuple[int, int], list[int]] = {}
        for number, case in enumerate(cases):
            by_canvas.setdefault(case.placement.canvas, []).append(number)
        return list(by_canvas.values())

    def _fill(
        self,
        cases: Sequence[PlacedCase],
        results: Sequence[CaseResult],
        clock: StageClock,
        sink: ProbabilitySink | None,
    ) -> None:
        """Predict cases on canvases of one size, slab after slab."""
        members = [self._member(*pair, cases, clock) for pair in zip(self.bundles, self._forwards, strict=True)]
        step, number, start = self.slices_at_once(cases[0].placement.canvas), 0, 0
        while number < len(cases):
            pieces = pieces_from(cases, number, start, step)
            if not self._advance(members, pieces, results, clock, sink):
                step = self._smaller(step)
                continue
            last = pieces[-1]
            number, start = last.number, last.slices.stop
            if start == last.case.depth:
                number, start = number + 1, 0

    def _smaller(self, step: int) -> int:
        """Half as many slices at once. Raises CaseError where there is no less."""
        if self._sees_patches or step == 1:
            what = "3D patch" if self._sees_patches else "single slice"
            raise CaseError(f"A {what} does not fit into the memory of the GPU.", mend="Set predict.gpu=no.")
        torch.cuda.empty_cache()
        return step // 2

    def _advance(
        self,
        members: Sequence[Member],
        pieces: Sequence[Piece],
        results: Sequence[CaseResult],
        clock: StageClock,
        sink: ProbabilitySink | None,
    ) -> bool:
        """Predict one slab; False, and nothing is changed, where it does not fit into the memory of the GPU."""
        sums = [self._sums() for _ in pieces]
        try:
            scores, labels = self._slab(members, pieces, sums, clock)
        except torch.OutOfMemoryError:
            return False
        parts = torch.split(scores, [len(piece.slices) for piece in pieces])
        for piece, found, one, part in zip(pieces, labels, sums, parts, strict=True):
            results[piece.number].check(part)
            results[piece.number].add(piece.slices, found, one)
        if sink is not None:
            with clock.stage("labels"):
                self._give(scores, pieces[0], sink)
        return True

    def _slab(
        self,
        members: Sequence[Member],
        pieces: Sequence[Piece],
        sums: Sequence[ConfidenceSums | None],
        clock: StageClock,
    ) -> tuple[Tensor, list[Tensor]]:
        """Scores (n, L, H, W) of all pieces, and of each its (n, y, x) labels, both on the device; adds to ``sums``."""
        slab = Slab(pieces)
        if not all(bundle.net.patch for bundle in self.bundles):
            with clock.stage("place"):
                slab = Slab.of(pieces, max(bundle.net.neighbours for bundle in self.bundles))
        sizes = [len(piece.slices) for piece in pieces]
        self._agreement.begin(self._shares(pieces, sizes, sums))
        scores = self._scores(members, slab)
        labels = []
        with clock.stage("labels"):
            for part, piece, one in zip(torch.split(scores, sizes), pieces, sums, strict=True):
                placement = piece.case.placement
                labels.append(self._reading.on_case(part, placement))
                if one is not None:
                    (y, x), _ = placement.windows()
                    one.add(part[:, :, y, x])
        return scores, labels

    def _shares(
        self, pieces: Sequence[Piece], sizes: Sequence[int], sums: Sequence[ConfidenceSums | None]
    ) -> list[Share]:
        """Whose pixels the members are compared on: those of the pieces, or a patch as a whole."""
        shares, start = [], 0
        for piece, size, one in zip(pieces, sizes, sums, strict=True):
            if one is not None:
                whole = self._sees_patches and len(self.bundles) == 1
                here = (slice(start, start + size), ..., *piece.case.placement.windows()[0])
                shares.append(Share(one) if whole else Share(one, here))
            start += size
        return shares

    def _scores(self, members: Sequence[Member], slab: Slab) -> Tensor:
        """Logits of the one network, or the mean of the probabilities of several, less 0.5 where labels overlap."""
        if not self._reading.averaged:
            return members[0](slab)
        overlapping = self._reading.overlapping
        found = (probabilities(member(slab), overlapping=overlapping) for member in members)
        total = mean_probabilities(found, self._agreement if len(members) > 1 else None)
        return (total.sub_(0.5) if overlapping else total).contiguous(memory_format=torch.channels_last)

    def _give(self, scores: Tensor, piece: Piece, sink: ProbabilitySink) -> None:
        """Hand the probabilities of a slab over, as many slices at once as fit ``slab_mib``."""
        placement, start = piece.case.placement, piece.slices.start
        slice_bytes = self._reading.labels * placement.original[0] * placement.original[1]
        slice_bytes *= 2 if self._reading.stored == "uint16" else 1
        for some in torch.split(scores, max(self._config.slab_mib * 2**20 // slice_bytes, 1)):
            sink(start, self._reading.shares_on_case(some, placement).cpu().numpy())
            start += len(some)

    def _member(self, bundle: Bundle, forward: Forward, cases: Sequence[PlacedCase], clock: StageClock) -> Member:
        """What gives one network's logits of slabs of these cases."""
        if bundle.net.patch is None:
            return slice_member(bundle, forward, clock)
        (case,) = cases
        patch = predicted_patch(bundle.net, self._config.patch, case.depth)
        at_once = self.patches_at_once(bundle, case.placement.canvas)
        return patch_member(bundle, forward, case, patch, overlap=self._config.overlap, at_once=at_once, clock=clock)


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
