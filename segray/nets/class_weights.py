"""Weights of labels by the names of their structures."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from segray.errors import UsageError

BACKGROUND = "background"


def weights_of_labels(told: Mapping[str, float], structures: Sequence[str], *, overlapping: bool) -> tuple[float, ...]:
    """The weight of every output of a net: background, then the structures; structures alone where they overlap.

    Args:
        told: ``loss.class_weights``; a name that is not there weighs 1.
        structures: names in the order of the label map.
        overlapping: the structures may overlap, and there is no background.

    Returns:
        One weight an output; () where nothing is told.

    Raises:
        UsageError: a name that no structure has, or weights that are all 0.
    """
    if not told:
        return ()
    if overlapping and BACKGROUND in told:
        raise UsageError(
            "loss.class_weights names the background, and structures that overlap have none.",
            mend="Leave it out of loss.class_weights.",
        )
    names = tuple(structures) if overlapping else (BACKGROUND, *structures)
    for name in told:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(names)}."
            raise UsageError(f"loss.class_weights names {name}, which is no structure of the labels.", mend=hint)
    weights = tuple(float(told.get(name, 1.0)) for name in names)
    if not any(weights):
        raise UsageError("All weights of loss.class_weights are 0.", mend="Give a structure a weight above 0.")
    return weights
