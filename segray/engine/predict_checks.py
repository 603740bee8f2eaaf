"""What is refused before anything is predicted: bundles that do not go together, settings that do not go with them."""

from __future__ import annotations

from collections.abc import Sequence

from segray.config import PredictConfig
from segray.engine.mirrors import mirrored_axes
from segray.engine.moves import turned_axes
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

    They name a structure that is none of theirs, mirrors or turns that change nothing, or windows or patches that do
    not fit.
    """
    label_map = bundles[0].label_map
    least_probabilities(config.threshold, label_map)
    Cleaning.of(config, label_map)
    if "z" in config.mirror and not any("z" in mirrored_axes("z", bundle.net) for bundle in bundles):
        raise UsageError(
            "predict.mirror names z, and a network of single slices is the same from above and below.",
            mend="Leave z out of predict.mirror.",
        )
    if tilted := sorted(set(config.turn) - {axis for one in bundles for axis in turned_axes(config.turn, one.net)}):
        raise UsageError(
            f"predict.turn names {' and '.join(tilted)}, and a network of slices turns about z only.",
            mend=f"Leave {' and '.join(tilted)} out of predict.turn.",
        )
    if config.window is not None:
        _check_window(bundles, config.window)
    if config.patch is not None:
        _check_patch(bundles, config.patch)


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


def _check_patch(bundles: Sequence[Bundle], patch: tuple[int, int, int]) -> None:
    """Raise UsageError where no network sees patches, or one that does cannot see such ones."""
    strides = [bundle.net.strides for bundle in bundles if bundle.net.patch]
    if not strides:
        raise UsageError(
            "predict.patch is for 3D nets, and the bundle's net sees slices.",
            mend="Leave it out; predict.window says in which windows slices are seen.",
        )
    for side, steps in zip(patch, zip(*strides, strict=True), strict=True):
        step = max(steps)
        if side % step:
            raise UsageError(
                f"predict.patch is {list(patch)}, and the net halves that side {step.bit_length() - 1} times: {side} "
                f"is no multiple of {step}.",
                mend=f"Write {round(side / step) * step or step} in place of {side}.",
            )
