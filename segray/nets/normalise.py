"""How voxel values become the network's input, on the device."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from segray.config import IntensityConfig
from segray.errors import UsageError

CASE_SPAN = 6.0
"""The input range of mode case: plus and minus three standard deviations."""


@dataclass(frozen=True)
class Normalisation:
    """Voxel values to network input.

    Attributes:
        mode: ``window``: [lo, hi] to [-1, 1], clipped. ``foreground``: clipped to [lo, hi], then z-scored by mean and
            sd of the foreground of the training cases (nnU-Net's scheme for CT). ``case``: z-scored by mean and sd of
            the case itself.
        lo: lowest value that is kept, in the unit of the voxels (HU).
        hi: highest value that is kept.
        mean: mean of the foreground, in mode foreground.
        sd: standard deviation of the foreground, in mode foreground.
    """

    mode: Literal["window", "foreground", "case"]
    lo: float = -1000.0
    hi: float = 1000.0
    mean: float = 0.0
    sd: float = 1.0

    @classmethod
    def from_config(
        cls, config: IntensityConfig, *, lo: float = 0.0, hi: float = 1.0, mean: float = 0.0, sd: float = 1.0
    ) -> Normalisation:
        """The normalisation of a config; the keywords are the foreground statistics that ingest left.

        Args:
            config: mode and window.
            lo: 0.5 percentile of the foreground.
            hi: 99.5 percentile of the foreground.
            mean: mean of the foreground.
            sd: standard deviation of the foreground.
        """
        if config.mode == "window":
            return cls("window", *config.window)
        if config.mode == "case":
            return cls("case")
        if hi <= lo:
            raise UsageError(
                f"The foreground of the shards has no spread of values ({lo:g} to {hi:g}).",
                mend="Use intensity.mode=window, or case.",
            )
        return cls("foreground", lo, hi, mean, sd)

    @property
    def span(self) -> float:
        """The width of the input range, which augmentation strengths are shares of."""
        if self.mode == "window":
            return 2.0
        return (self.hi - self.lo) / max(self.sd, 1e-8) if self.mode == "foreground" else CASE_SPAN

    def apply(self, images: Tensor, case_mean: Tensor, case_sd: Tensor) -> Tensor:
        """Normalise slices.

        Args:
            images: (n, H, W), int16 or float32.
            case_mean: (n) float32, mean of the slice's case; used in mode case.
            case_sd: (n) float32, standard deviation of the slice's case; used in mode case.

        Returns:
            (n, 1, H, W) float32, a new tensor.
        """
        values = images[:, None].to(torch.float32, copy=True)
        if self.mode == "case":
            scale = 1.0 / case_sd.float().clamp(min=1e-6)
            return values.sub_(case_mean.float()[:, None, None, None]).mul_(scale[:, None, None, None])
        values.clamp_(self.lo, self.hi)
        if self.mode == "window":
            return values.sub_((self.hi + self.lo) / 2.0).mul_(2.0 / (self.hi - self.lo))
        return values.sub_(self.mean).mul_(1.0 / max(self.sd, 1e-8))

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for bundle.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Normalisation:
        """The inverse of :meth:`to_dict`. Raises UsageError on missing or unknown entries."""
        try:
            found = cls(table["mode"], *(float(table[key]) for key in ("lo", "hi", "mean", "sd")))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"The normalisation {table!r} is incomplete ({error}).") from error
        if found.mode not in ("window", "foreground", "case"):
            raise UsageError(f"The normalisation mode {found.mode!r} is none of window, foreground, case.")
        return found
