"""Counting per case and structure on the device, for the Dice of whole held-out cases."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from segray.config import Precision
from segray.engine.precision import autocast, resolve_precision
from segray.engine.trainer import Batch
from segray.engine.windows import volume_logits
from segray.nets.normalise import Normalisation
from segray.nets.sigmoid_loss import bits_of

Patch = tuple[int, int, int]


def count_batch(logits: Tensor, labels: Tensor, case_index: Tensor, counts: Tensor) -> None:
    """Add a batch to the counts, in one pass of bincount over the pixels and without a transfer to the host.

    Args:
        logits: (n, L, H, W) scores.
        labels: (n, H, W) channel indices below L; pixels from L on are ignored: background in truth and prediction.
        case_index: (n) int64, the row of ``counts`` that a slice belongs to.
        counts: (cases, L, 3) int64: pixels in the overlap, of the truth, of the prediction; changed in place.
    """
    cases, channels = counts.shape[:2]
    judged = labels < channels
    predicted = logits.argmax(1) * judged
    truth = labels.long() * judged
    base = case_index[:, None, None] * channels
    size = cases * channels
    hit = torch.where(predicted == truth, base + truth, size)
    counts[..., 0] += torch.bincount(hit.flatten(), minlength=size + 1)[:size].view(cases, channels)
    counts[..., 1] += torch.bincount((base + truth).flatten(), minlength=size).view(cases, channels)
    counts[..., 2] += torch.bincount((base + predicted).flatten(), minlength=size).view(cases, channels)


def count_overlapping_batch(logits: Tensor, labels: Tensor, case_index: Tensor, counts: Tensor) -> None:
    """As :func:`count_batch` for structures that may overlap; the first row of a case, the background, stays as it is.

    Args:
        logits: (n, L, H, W) scores; a structure is where its score is above 0.
        labels: (n, H, W) bit fields.
        case_index: (n) int64, the row of ``counts`` that a slice belongs to.
        counts: (cases, L + 1, 3) int64; changed in place.
    """
    predicted = logits > 0
    truth = bits_of(labels, logits.shape[1], 1).bool()
    of_slices = torch.stack([area.sum((2, 3)) for area in (predicted & truth, truth, predicted)], dim=-1)
    counts[:, 1:].index_add_(0, case_index, of_slices)


def dice_of_counts(counts: Tensor) -> Tensor:
    """(cases, L, 3) counts to (cases, L) float64 Dice, 2 overlap / (truth + predicted); NaN where both are empty."""
    overlap, truth, predicted = counts.double().unbind(-1)
    return 2.0 * overlap / (truth + predicted)


class Validator:
    """Forward passes without gradient that add to counts."""

    def __init__(
        self,
        network: nn.Module,
        normalisation: Normalisation,
        device: torch.device | str,
        precision: Precision = "auto",
        *,
        overlapping: bool = False,
    ) -> None:
        """``overlapping``: labels are bit fields, and :func:`count_overlapping_batch` counts."""
        self._network, self._normalisation = network, normalisation
        self._count = count_overlapping_batch if overlapping else count_batch
        self._device, self._precision = torch.device(device), resolve_precision(precision, device)

    @torch.inference_mode()
    def add(self, batch: Batch, case_index: Tensor, counts: Tensor) -> None:
        """Predict the slices of a batch and add them to ``counts`` as :func:`count_batch` does."""
        self._count(self._logits(batch), batch.labels, case_index.to(self._device), counts)

    @torch.inference_mode()
    def masks(self, batch: Batch) -> Tensor:
        """(n, H, W) int64: the predicted channel index of every pixel, or the bit field of the structures there."""
        return self._masks_of(self._logits(batch))

    def _masks_of(self, logits: Tensor) -> Tensor:
        if self._count is count_batch:
            return logits.argmax(1)
        weights = 2 ** torch.arange(logits.shape[1], device=logits.device)
        return ((logits > 0) * weights[:, None, None]).sum(1)

    @torch.inference_mode()
    def add_case(self, batch: Batch, patch: Patch, number: int, counts: Tensor) -> None:
        """Predict all slices of one case, in their order, by overlapping patches, and add them to row ``number``."""
        start = 0
        for logits in self._volume_logits(batch, patch):
            labels = batch.labels[start : start + len(logits)]
            which = torch.full((len(logits),), number, device=self._device)
            self._count(logits, labels, which, counts)
            start += len(logits)

    @torch.inference_mode()
    def case_masks(self, batch: Batch, patch: Patch) -> Tensor:
        """As :meth:`masks`, of neighbouring slices of one case by a 3D net."""
        return torch.cat([self._masks_of(logits) for logits in self._volume_logits(batch, patch)])

    def _volume_logits(self, batch: Batch, patch: Patch) -> Iterator[Tensor]:
        self._network.eval()

        def read(start: int, stop: int) -> Tensor:
            here = slice(start, stop)
            return self._normalisation.apply(batch.images[here], batch.mean[here], batch.sd[here]).transpose(0, 1)

        def forward(patches: Tensor) -> Tensor:
            with autocast(self._device, self._precision):
                logits: Tensor = self._network(patches.contiguous(memory_format=torch.channels_last_3d))
            return logits

        depth, height, width = batch.labels.shape
        return volume_logits(forward, read, (depth, height, width), patch)

    def _logits(self, batch: Batch) -> Tensor:
        self._network.eval()
        images = self._normalisation.apply(batch.images, batch.mean, batch.sd)
        with autocast(self._device, self._precision):
            logits: Tensor = self._network(images.contiguous(memory_format=torch.channels_last))
        return logits
