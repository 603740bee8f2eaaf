"""What is refused before anything is predicted: bundles that do not go together, settings that do not go with them."""

from __future__ import annotations

from collections.abc import Sequence

from segray.config import PredictConfig
from segray.engine.mirrors import mirrored_axes
from segray.engine.thresholds import least_probabilities
from segray.errors import UsageError
from segray.nets.bundle import Bundle
from segray.postprocess import Cleaning


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


def check_settings(bundles: Sequence[Bundle], config: PredictConfig) -> None:
    """Raise UsageError where bundles that are alike cannot be predicted with as the settings say.

    They name a structure that is none of theirs, mirrors that change nothing, or windows that do not fit.
    """
    label_map = bundles[0].label_map
    least_probabilities(config.threshold, label_map)
    Cleaning.of(config, label_map)
    if "z" in config.mirror and not any("z" in mirrored_axes("z", bundle.net) for bundle in bundles):
        raise UsageError(
            "predict.mirror names z, and a network of single slices is the same from above and below.",
            mend="Leave z out of predict.mirror.",
        )
    if config.window is not None:
        _check_window(bundles, config.window)


def _check_window(bundles: Sequence[Bundle], window: tuple[int, int]) -> None:
    """Raise UsageError where no network sees slices, or one that does cannot see such windows."""
    halvings = [bundle.net.halvings for bundle in bundles if not bundle.net.patch]
    if not halvings:
        raise UsageError(
            "predict.window is for nets of slices, and the bundle's net sees patches of its own size.",
            mend="Leave it out; predict.overlap says how far patches overlap.",
        )
    stride = 2 ** max(halvings)
    for side in window:
        if side % stride:
            raise UsageError(
                f"predict.window is {list(window)}, and the net halves a side {max(halvings)} times: {side} is no "
                f"multiple of {stride}.",
                mend=f"Write {round(side / stride) * stride or stride} in place of {side}.",
            )
