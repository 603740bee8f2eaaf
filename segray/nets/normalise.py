"""How voxel values become the network's input, on the device."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from segray.config import IntensityConfig
from segray.errors import UsageError

Number = float | tuple[float, ...]

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

    In mode foreground lo, hi, mean and sd are tuples where the images have several channels, an entry a channel.
    """

    mode: Literal["window", "foreground", "case"]
    lo: Number = -1000.0
    hi: Number = 1000.0
    mean: Number = 0.0
    sd: Number = 1.0

    @classmethod
    def from_config(
        cls, config: IntensityConfig, *, lo: Number = 0.0, hi: Number = 1.0, mean: Number = 0.0, sd: Number = 1.0
    ) -> Normalisation:
        """The normalisation of a config; the keywords are the foreground statistics that ingest left (a channel).

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
        for low, high in zip(_each(lo), _each(hi), strict=True):
            if high <= low:
                raise UsageError(
                    f"The foreground of the shards has no spread of values ({low:g} to {high:g}).",
                    mend="Use intensity.mode=window, or case.",
                )
        return cls("foreground", lo, hi, mean, sd)

    @property
    def span(self) -> float:
        """The width of the input range, which augmentation strengths are shares of; the mean over channels."""
        if self.mode == "window":
            return 2.0
        if self.mode == "case":
            return CASE_SPAN
        spans = [
            (hi - lo) / max(sd, 1e-8) for lo, hi, sd in zip(_each(self.lo), _each(self.hi), _each(self.sd), strict=True)
        ]
        return sum(spans) / len(spans)

    @property
    def words(self) -> str:
        """What it does, for a log."""
        if self.mode == "case":
            return "values by each case's own mean and sd"
        limits = ", ".join(f"{lo:g} to {hi:g}" for lo, hi in zip(_each(self.lo), _each(self.hi), strict=True))
        if self.mode == "window":
            return f"the window {limits}"
        pairs = ", ".join(f"{mean:g} and {sd:g}" for mean, sd in zip(_each(self.mean), _each(self.sd), strict=True))
        return f"values of {limits} by the foreground's mean and sd, {pairs}"

    def apply(self, images: Tensor, case_mean: Tensor, case_sd: Tensor) -> Tensor:
        """Normalise slices.

        Args:
            images: (n, H, W) or (n, c, H, W), int16 or float32; or (n, s * c, H, W): s slices, one after the other.
            case_mean: (n) or (n, c) float32, mean of the slice's case; used in mode case.
            case_sd: (n) or (n, c) float32, standard deviation of the slice's case; used in mode case.

        Returns:
            (n, s * c, H, W) float32, a new tensor; s and c are 1 for (n, H, W).
        """
        values = (images[:, None] if images.ndim == 3 else images).to(torch.float32, copy=True)
        if self.mode == "case":
            mean, scale = (_of_all_slices(one.float(), values) for one in (case_mean, 1.0 / case_sd.clamp(min=1e-6)))
            return values.sub_(mean).mul_(scale)
        channels = values.unbind(1) if isinstance(self.lo, tuple) else [values]
        numbers = list(zip(*(_each(number) for number in (self.lo, self.hi, self.mean, self.sd)), strict=True))
        for channel, (lo, hi, mean, sd) in zip(channels, numbers * (len(channels) // len(numbers)), strict=True):
            channel.clamp_(lo, hi)
            if self.mode == "window":
                channel.sub_((hi + lo) / 2.0).mul_(2.0 / (hi - lo))
            else:
                channel.sub_(mean).mul_(1.0 / max(sd, 1e-8))
        return values

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for bundle.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Normalisation:
        """The inverse of :meth:`to_dict`. Raises UsageError on missing or unknown entries."""
        try:
            found = cls(table["mode"], *(_number(table[key]) for key in ("lo", "hi", "mean", "sd")))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"The normalisation {table!r} is incomplete ({error}).") from error
        if found.mode not in ("window", "foreground", "case"):
            raise UsageError(f"The normalisation mode {found.mode!r} is none of window, foreground, case.")
        return found


def _of_all_slices(moments: Tensor, values: Tensor) -> Tensor:
    """(n) or (n, c) moments for (n, s * c, H, W) values."""
    table = moments.view(len(values), -1)
    if table.shape[1] > 1:
        table = table.repeat(1, values.shape[1] // table.shape[1])
    return table[:, :, None, None]


def _each(number: Number) -> tuple[float, ...]:
    return number if isinstance(number, tuple) else (number,)


def _number(value: Any) -> Number:
    return tuple(float(item) for item in value) if isinstance(value, list) else float(value)
