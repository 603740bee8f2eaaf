"""Weights to start a training from: a bundle of segray, whatever its label map, or a foreign state dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segray import storage
from segray.case import LabelMap
from segray.config import NetConfig
from segray.errors import UsageError
from segray.nets.bundle import find_bundle, load_bundle
from segray.nets.foreign import read_foreign
from segray.nets.normalise import Normalisation
from segray.nets.unet import SegmentationNet, build_net, build_shapes

FREE = ("dropout", "deep_supervision", "neighbours")
"""Settings of a net in which it may differ from the weights that it starts from."""

BACKGROUND = "background"


@dataclass(frozen=True)
class Start:
    """Weights and what is known of them.

    Attributes:
        words: what they are, for the log.
        net: the net that they belong to.
        weights: its tensors.
        in_channels: channels of its input.
        channels: their names; () where they have none.
        outputs: the structure of each output, the background by its name; () where that is not known.
        count: number of outputs.
        normalisation: the input that they learnt on, None where that is not known.
        spacing: mm of a pixel (y, x) that they learnt on, None where that is not known.
    """

    words: str
    net: NetConfig
    weights: Mapping[str, Tensor]
    in_channels: int
    channels: tuple[str, ...]
    outputs: tuple[str, ...]
    count: int
    normalisation: Normalisation | None = None
    spacing: tuple[float, float] | None = None


def load_start(path: str) -> Start:
    """The weights of a bundle, of the run folder that holds one, or of a ``.pth`` or ``.pt`` file.

    Raises:
        UsageError: nothing of the kind, or damaged.
    """
    if path.endswith((".pth", ".pt")):
        found = read_foreign(storage.absolute(path))
        return Start(
            f"{found.program} in {path}", found.net, found.weights, found.in_channels, (), (), found.outputs
        )  # fmt: skip
    folder = find_bundle(path)
    bundle = load_bundle(folder)
    outputs = outputs_of(bundle.label_map)
    return Start(
        f"the bundle {bundle.bundle_id} in {folder}",
        bundle.net,
        bundle.weights,
        bundle.in_channels,
        bundle.channels,
        outputs,
        len(outputs),
        bundle.normalisation,
        bundle.grid.spacing,
    )


def outputs_of(label_map: LabelMap) -> tuple[str, ...]:
    """The name of each output of a net: the background and the structures, or where these overlap they alone."""
    return tuple(label_map.names) if label_map.overlapping else (BACKGROUND, *label_map.names)


def net_of_start(start: Start, wanted: NetConfig) -> NetConfig:
    """The net to train: the settings that a config names, and for the others those of the weights.

    Raises:
        UsageError: a setting is named for which the weights were not made.
    """
    net = start.net.model_copy(update={name: getattr(wanted, name) for name in wanted.model_fields_set})
    for name in NetConfig.model_fields:
        if name not in FREE and getattr(net, name) != getattr(start.net, name):
            raise UsageError(
                f"net.{name} is {getattr(net, name)}, and train.start_from has weights of a net with "
                f"{getattr(start.net, name)}.",
                mend="Leave the net out of the config: it is then that of the weights.",
            )
    return NetConfig.model_validate(net.model_dump())


def started_net(
    start: Start, net: NetConfig, in_channels: int, channels: Sequence[str], label_map: LabelMap
) -> tuple[SegmentationNet, list[str]]:
    """A net that starts from the weights, and a sentence for all that could not be taken over.

    Outputs are taken over by the names of their structures, inputs by the names of their channels. Where the weights
    know no names, both go by their number, and one output for one structure (a sigmoid) becomes that structure beside a
    background of zeros, which computes the same probability. Everything else is drawn anew.

    Args:
        start: the weights.
        net: what :func:`net_of_start` gave.
        in_channels: channels of the input.
        channels: their names; () where they have none.
        label_map: the structures to train.
    """
    made = build_net(net, in_channels, len(outputs_of(label_map)))
    fresh = made.state_dict()
    outputs = _outputs_taken(start, label_map)
    inputs = _taken(start.channels, start.in_channels, tuple(channels), in_channels)
    first, last = _outer_layers(net)
    for name, tensor in fresh.items():
        if name not in start.weights:
            continue
        given = start.weights[name].to(tensor.dtype)
        if name in first:
            _take_inputs(tensor, given, inputs, net.neighbours, start.net.neighbours)
        elif name in last:
            mine, others = tensor.movedim(last[name], 0), given.movedim(last[name], 0)
            for ours, theirs in outputs.items():
                mine[ours] = others[theirs] if theirs >= 0 else torch.zeros_like(mine[ours])
        elif tensor.shape == given.shape:
            tensor.copy_(given)
        else:
            raise UsageError(
                f"{name} has the shape {tuple(given.shape)} in {start.words}, and {tuple(tensor.shape)} in its net."
            )
    made.load_state_dict(fresh)
    return made, _left(fresh, start, inputs, in_channels, channels, outputs, label_map)


def _outer_layers(net: NetConfig) -> tuple[dict[str, int], dict[str, int]]:
    """Names of the tensors with a place for each input channel, and for each output: and on which axis."""
    least, wider, longer = (build_shapes(net, *sides).state_dict() for sides in ((1, 2), (2, 2), (1, 3)))

    def grown(other: Mapping[str, Tensor]) -> dict[str, int]:
        pairs = {name: (least[name].shape, tensor.shape) for name, tensor in other.items()}
        return {
            name: next(axis for axis, (few, many) in enumerate(zip(*shapes, strict=True)) if few != many)
            for name, shapes in pairs.items()
            if shapes[0] != shapes[1]
        }

    return grown(wider), grown(longer)


def _take_inputs(ours: Tensor, theirs: Tensor, inputs: Mapping[int, int], beside: int, before: int) -> None:
    """Weights of the first convolution by channel and slice; slices that are new are not looked at in the beginning."""
    mine, given = (
        table.view(len(table), 2 * k + 1, -1, *table.shape[2:]) for table, k in ((ours, beside), (theirs, before))
    )
    for here, there in inputs.items():
        mine[:, :, here] = 0.0
        for step in range(-min(beside, before), min(beside, before) + 1):
            mine[:, beside + step, here] = given[:, before + step, there]


def _outputs_taken(start: Start, label_map: LabelMap) -> dict[int, int]:
    """Our output to theirs; -1: zeros."""
    ours = outputs_of(label_map)
    if not start.outputs and start.count == 1 and len(label_map.names) == 1:
        return {0: 0} if label_map.overlapping else {0: -1, 1: 0}
    return _taken(start.outputs, start.count, ours, len(ours))


def _taken(theirs: tuple[str, ...], count: int, ours: tuple[str, ...], wanted: int) -> dict[int, int]:
    """Our number to theirs: by name where both have names, else by number where there are as many."""
    if theirs and ours:
        return {number: theirs.index(name) for number, name in enumerate(ours) if name in theirs}
    return {number: number for number in range(wanted)} if count == wanted else {}


def _left(
    fresh: Mapping[str, Tensor],
    start: Start,
    inputs: Mapping[int, int],
    in_channels: int,
    channels: Sequence[str],
    outputs: Mapping[int, int],
    label_map: LabelMap,
) -> list[str]:
    ours = outputs_of(label_map)
    anew = [name for number, name in enumerate(ours) if number not in outputs]
    said = []
    if anew:
        said.append(f"Outputs that start anew: {', '.join(anew)}.")
    unread = [str(number + 1) if not channels else channels[number] for number in range(in_channels)]
    unread = [name for number, name in enumerate(unread) if number not in inputs]
    if unread:
        said.append(f"Input channels that start anew: {', '.join(unread)}.")
    layers = sorted({name.split(".")[0] for name in fresh if name not in start.weights})
    if layers:
        said.append(f"Layers that start anew: {', '.join(layers)}.")
    return said
