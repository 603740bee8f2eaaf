"""Weights that other programs trained, under the names of a segray net.

Two are known by the names in their state dicts: milesial's Pytorch-UNet (``.pth``, with transposed convolutions or
``bilinear=True``) and the UNet of SwanLab's tutorial on medical segmentation (``best_model.pth``).
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segray import storage
from segray.config import NetConfig
from segray.errors import UsageError

Weights = dict[str, Tensor]
MEND = (
    "Known are bundles of segray, and state dicts (torch.save(model.state_dict(), FILE)) of milesial's Pytorch-UNet "
    "and of the SwanLab tutorial's UNet."
)


@dataclass(frozen=True)
class Foreign:
    """A recognised state dict.

    Attributes:
        program: whose it is, for the log.
        net: the segray net that computes the same.
        in_channels: channels of its input.
        outputs: channels of its output; 1: a sigmoid for one structure, without a background.
        weights: its tensors under segray's names.
    """

    program: str
    net: NetConfig
    in_channels: int
    outputs: int
    weights: Weights


def read_foreign(path: str) -> Foreign:
    """Read and recognise a state dict; nothing in the file is run.

    Raises:
        UsageError: no such file, no state dict, more than plain weights in it, or of a net that is not known.
    """
    if not storage.exists(path):
        raise UsageError(f"{path} is not there.", mend="Name a bundle, a run folder or a .pth file.")
    try:
        found = torch.load(io.BytesIO(storage.read_bytes(path)), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} holds no plain weights ({type(error).__name__}).", mend=MEND) from error
    weights = _tensors(found)
    for names, recognise in (("inc.double_conv.", _milesial), ("bottleneck.conv1.", _swanlab)):
        if any(name.startswith(names) for name in weights):
            try:
                return recognise(weights)
            except (KeyError, ValueError, IndexError) as error:
                raise UsageError(f"The weights in {path} are incomplete ({error}).", mend=MEND) from error
    raise UsageError(f"{path} holds no weights of a known net.", mend=MEND)


def _tensors(found: Any) -> Weights:
    """The tensors of a state dict; what else lies in it (milesial's ``mask_values``) is left out."""
    if not isinstance(found, Mapping):
        return {}
    return {str(name).removeprefix("module."): value for name, value in found.items() if isinstance(value, Tensor)}


def _milesial(given: Weights) -> Foreign:
    """``inc``, ``down1`` .. ``downN``, ``up1`` .. ``upN``, ``outc``; convolutions may have a bias (before 2022)."""
    depth = _depth(given, "down{}.maxpool_conv.1.double_conv.0.weight")
    made: Weights = {}
    stages = [("inc", "encoder.0")]
    stages += [(f"down{level}.maxpool_conv.1", f"encoder.{level}") for level in range(1, depth + 1)]
    stages += [(f"up{number + 1}.conv", f"decoder.{number}") for number in range(depth)]
    for theirs, ours in stages:
        for unit, (conv, norm) in enumerate(((0, 1), (3, 4))):
            made |= _unit(given, f"{theirs}.double_conv.{conv}", f"{theirs}.double_conv.{norm}", f"{ours}.{unit}")
    transposed = "up1.up.weight" in given
    for number in range(depth if transposed else 0):
        made |= _renamed(given, f"up{number + 1}.up", f"up.{number}")
    made |= _renamed(given, "outc.conv", "head")
    features = [len(made[f"encoder.{level}.0.conv.weight"]) for level in range(depth + 1)]
    if not transposed:
        features[-1] *= 2
    net = NetConfig(
        features=features, norm="batch", activation="relu", upsampling="transposed" if transposed else "interpolated"
    )
    return Foreign("milesial's Pytorch-UNet", net, *_ends(made), made)


def _swanlab(given: Weights) -> Foreign:
    """``down1`` .. ``downN``, ``bottleneck``, ``up1`` .. ``upN``, ``outc``: no norms, biases instead."""
    depth = _depth(given, "down{}.conv1.weight")
    made: Weights = {}
    stages = [(f"down{level + 1}", f"encoder.{level}") for level in range(depth)]
    stages += [("bottleneck", f"encoder.{depth}")]
    stages += [(f"up{number + 1}", f"decoder.{number}") for number in range(depth)]
    for theirs, ours in stages:
        for unit in (0, 1):
            made |= _renamed(given, f"{theirs}.conv{unit + 1}", f"{ours}.{unit}.conv")
    for number in range(depth):
        made |= _renamed(given, f"up{number + 1}.up", f"up.{number}")
        # It joins the upsampled channels first and the skip second; a segray net the other way round.
        joined = f"decoder.{number}.0.conv.weight"
        upsampled = made[f"up.{number}.weight"].shape[1]
        made[joined] = torch.cat((made[joined][:, upsampled:], made[joined][:, :upsampled]), dim=1)
    made |= _renamed(given, "outc", "head")
    features = [len(made[f"encoder.{level}.0.conv.weight"]) for level in range(depth + 1)]
    net = NetConfig(features=features, norm="none", activation="relu", upsampling="transposed")
    return Foreign("the SwanLab tutorial's UNet", net, *_ends(made), made)


def _depth(given: Weights, pattern: str) -> int:
    return sum(1 for _ in _counted(given, pattern))


def _counted(given: Weights, pattern: str) -> Iterator[int]:
    level = 1
    while pattern.format(level) in given:
        yield level
        level += 1


def _renamed(given: Weights, theirs: str, ours: str) -> Weights:
    return {f"{ours}.{part}": given[f"{theirs}.{part}"] for part in ("weight", "bias")}


def _unit(given: Weights, conv: str, norm: str, ours: str) -> Weights:
    """A convolution and its batch norm; a bias before the norm moves into the mean that the norm takes off."""
    mean = given[f"{norm}.running_mean"]
    bias = given.get(f"{conv}.bias")
    return {
        f"{ours}.conv.weight": given[f"{conv}.weight"],
        f"{ours}.norm.weight": given[f"{norm}.weight"],
        f"{ours}.norm.bias": given[f"{norm}.bias"],
        f"{ours}.norm.running_mean": mean if bias is None else mean - bias,
        f"{ours}.norm.running_var": given[f"{norm}.running_var"],
        f"{ours}.norm.num_batches_tracked": given.get(f"{norm}.num_batches_tracked", torch.tensor(0)),
    }


def _ends(made: Weights) -> tuple[int, int]:
    """Channels of the input and of the output."""
    return int(made["encoder.0.0.conv.weight"].shape[1]), len(made["head.weight"])
