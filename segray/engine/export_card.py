"""What somebody needs to know to use an exported network without segray: plain types, for the JSON beside the file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from segray.case import LabelMap
from segray.nets.bundle import Bundle
from segray.nets.normalise import Normalisation

ORIENTATION = (
    "LPS: x grows to the patient's left, y to the back, z to the head. An array is (z, y, x), a slice one z of it. "
    "Turn a file's voxels to this by its affine before anything else, and the mask back at the end."
)


BILINEAR = " (bilinear, antialiased, align_corners=False)"


def describe(
    bundle: Bundle, steps: Sequence[int] | None, shape: Sequence[int], outcome: dict[str, Any]
) -> dict[str, Any]:
    """The description of a bundle's network in a file.

    Args:
        bundle: the bundle.
        steps: what [depth,] height and width must be multiples of; None: only ``shape`` goes in.
        shape: (n, C, [D], H, W) of a canvas, or of a patch.
        outcome: what is known of the file: format, names of input and output, how it was verified.

    Returns:
        Plain types for JSON. Sides in pixels, spacing in mm (y, x), values in the unit of the voxels (HU).
    """
    return {
        **outcome,
        "segray_version": version("segray"),
        "bundle_id": bundle.bundle_id,
        "network": {"settings": bundle.net.model_dump(mode="json"), "precision": "float32"},
        "input": _input(bundle, steps, shape),
        "output": _output(bundle.label_map, bundle.net.patch is not None),
        "orientation": {"axes": ORIENTATION, "plane": bundle.plane},
        "grid": {**bundle.grid.to_dict(), "meaning": _grid_words(bundle)},
        "normalisation": {**bundle.normalisation.to_dict(), "meaning": normalisation_words(bundle.normalisation)},
        "metrics": bundle.metrics,
    }


def _input(bundle: Bundle, steps: Sequence[int] | None, shape: Sequence[int]) -> dict[str, Any]:
    axes = ["batch", "channel", *(["z"] if bundle.net.patch else []), "y", "x"]
    sizes: dict[str, Any] = {"any_size": steps is not None}
    if steps is None:
        sizes |= {"shape": list(shape)}
    else:
        sizes |= {"usual_shape": list(shape), "multiples": dict(zip(axes[2:], steps, strict=True))}
    return {
        "type": "float32",
        "axes": axes,
        **sizes,
        "channels_of_a_slice": list(bundle.channels) or bundle.in_channels,
        "neighbours": bundle.net.neighbours,
        "patch": None if bundle.net.patch is None else list(bundle.net.patch),
        "meaning": _input_words(bundle),
    }


def _input_words(bundle: Bundle) -> str:
    if bundle.net.patch is not None:
        return (
            "A 3D patch of the case on the grid, normalised. Let patches overlap by half and average their logits, "
            "those of a patch's middle most. Where the case has fewer slices, repeat its first and last one."
        )
    if bundle.net.neighbours:
        count = bundle.net.neighbours
        return (
            f"A slice on the grid with the {count} below and the {count} above it as channels, normalised: from the "
            "lowest z up, each with all its channels. At the ends of the case repeat its last slice. The logits are "
            "those of the slice in the middle."
        )
    return "A slice on the grid, normalised."


def _output(label_map: LabelMap, deep: bool) -> dict[str, Any]:
    if label_map.overlapping:
        meaning = (
            "Logits, no activation applied. Structures overlap: the probability of each is the sigmoid of its channel, "
            "and it is present where that is above 0.5, so where the logit is above 0."
        )
    else:
        meaning = (
            "Logits, no softmax applied. The label of a pixel is that of the channel with the largest logit; softmax "
            "over the channels gives probabilities."
        )
    names = label_map.names if label_map.overlapping else ("background", *label_map.names)
    labels = [
        {"channel": channel, "name": name, "value": label_map.values.get(name, 0)} for channel, name in enumerate(names)
    ]
    return {
        "type": "float32",
        "axes": ["batch", "label", *(["z"] if deep else []), "y", "x"],
        "overlapping": label_map.overlapping,
        "labels": labels,
        "meaning": f"{meaning} 'value' is what the label has in a mask file.",
    }


def _grid_words(bundle: Bundle) -> str:
    grid = bundle.grid
    height, width = grid.size
    if grid.mode == "size":
        how = f"Resample each slice to {height}x{width} pixels, whatever its spacing{BILINEAR}"
    elif grid.spacing is not None:
        how = f"Resample each slice to a spacing of {grid.spacing[0]:g}x{grid.spacing[1]:g} mm (y, x){BILINEAR}"
    else:
        how = "Leave the pixels as they are"
    return (
        f"{how}; centre it on a canvas of {height}x{width} pixels or, where it is larger, of the next multiples that "
        "the network takes; fill what is outside with the case's lowest voxel, but not below -1024. Nothing is "
        "resampled along z. Bring the logits back to the case's pixels, bilinear too, before taking the maximum."
    )


def normalisation_words(normalisation: Normalisation) -> str:
    """The formula of a normalisation, in voxel values v."""
    if normalisation.mode == "case":
        return (
            "(v - m) / max(s, 1e-6), with mean m and standard deviation s of all voxels of the case before resampling."
        )
    if normalisation.mode == "window":
        return "Clip v to [lo, hi], then (v - (hi + lo) / 2) * 2 / (hi - lo): -1 to 1."
    return "Clip v to [lo, hi], then (v - mean) / max(sd, 1e-8); lists have an entry a channel of a slice."
