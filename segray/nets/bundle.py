"""Bundles: a trained network with all that predict, evaluate and export need. Two files, no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import safetensors.torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from segray import storage
from segray.case import LabelMap
from segray.config import NetConfig
from segray.errors import NotTextError, SegrayError, UsageError
from segray.grid import Grid
from segray.nets.normalise import Normalisation
from segray.nets.unet import SegmentationNet, build_net

SCHEMA_VERSION = 1
WEIGHTS = "weights.safetensors"
DESCRIPTION = "bundle.json"
FOLDER = "bundle"
"""Where a run folder keeps its bundle."""


@dataclass(frozen=True)
class Bundle:
    """A network and the recipe around it.

    Attributes:
        net: the network's config.
        in_channels: input channels: the channels of a slice.
        label_map: what the output channels mean.
        grid: the in-plane grid of the slices that the network learnt from.
        normalisation: voxel values to network input.
        weights: state of the network, float32 on the CPU.
        plane: the slicing direction.
        metrics: numbers of the training run, such as the mean Dice of the best epoch.
        split: case ids by ``train``, ``validation``, ``test``.
        provenance: where it comes from: shards, seed, seconds; ``mirrored``: axes of the mirror images it learnt from.
        version: the segray that wrote it.
        channels: names of the input channels; () for one without a name.
        bundle_id: short SHA-256 of weights and description; empty before it is saved.
    """

    net: NetConfig
    in_channels: int
    label_map: LabelMap
    grid: Grid
    normalisation: Normalisation
    weights: Mapping[str, Tensor]
    plane: str = "axial"
    metrics: dict[str, Any] = field(default_factory=dict)
    split: dict[str, list[str]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    version: str = ""
    channels: tuple[str, ...] = ()
    bundle_id: str = ""

    def network(self) -> SegmentationNet:
        """The network with its weights, on the CPU, in inference mode. Raises UsageError where they do not fit."""
        net = build_net(self.net, self.in_channels, self.label_map.channels)
        try:
            net.load_state_dict(dict(self.weights))
        except RuntimeError as error:
            raise UsageError(
                f"The weights of the bundle do not fit its network ({str(error).splitlines()[-1].strip()}).",
                mend="Copy the whole bundle folder again.",
            ) from error
        return net.eval()


def save_bundle(
    folder: str,
    network: nn.Module,
    *,
    net: NetConfig,
    label_map: LabelMap,
    grid: Grid,
    normalisation: Normalisation,
    in_channels: int = 1,
    channels: Sequence[str] = (),
    plane: str = "axial",
    metrics: dict[str, Any] | None = None,
    split: Mapping[str, list[str]] | None = None,
    provenance: dict[str, Any] | None = None,
) -> str:
    """Write a bundle to a folder (path or URI) and return its id; a half-written bundle is never accepted.

    The description goes last and names the SHA-256 of the weights, so that a reader takes both files or none.
    """
    data = safetensors.torch.save(plain_weights(network))
    description = {
        "schema_version": SCHEMA_VERSION,
        "segray_version": version("segray"),
        "net": net.model_dump(mode="json"),
        "in_channels": in_channels,
        "channels": list(channels),
        "label_map": dict(label_map.values),
        "overlapping": label_map.overlapping,
        "ignored": label_map.ignored,
        "grid": grid.to_dict(),
        "normalisation": normalisation.to_dict(),
        "plane": plane,
        "metrics": metrics or {},
        "split": dict(split or {}),
        "provenance": provenance or {},
        "weights_sha256": hashlib.sha256(data).hexdigest(),
    }
    text = json.dumps(description, indent=1)
    storage.delete(storage.join(folder, DESCRIPTION))
    storage.write_bytes(storage.join(folder, WEIGHTS), data)
    storage.write_text(storage.join(folder, DESCRIPTION), text)
    return _identity(data, text)


def plain_weights(network: nn.Module) -> dict[str, Tensor]:
    """The state of a network on the CPU, each tensor with memory of its own, as safetensors wants it.

    MONAI's DynUNet has every layer under two names.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in network.state_dict().items():
        plain = tensor.detach().cpu().contiguous()
        found[name] = plain.clone() if plain.data_ptr() in seen else plain
        seen.add(plain.data_ptr())
    return found


def find_bundle(path: str) -> str:
    """The bundle folder at ``path``, which may be a run folder. Raises UsageError where there is none."""
    root = storage.absolute(path)
    for candidate in (root, storage.join(root, FOLDER)):
        if storage.exists(storage.join(candidate, DESCRIPTION)):
            return candidate
    raise UsageError(f"{path} holds no bundle.", mend="Name a run folder of `segray train`, or its bundle/ folder.")


def find_bundles(path: str) -> list[str]:
    """The bundle folders at ``path``: of all folds where it is a cross-validation. Raises UsageError for none."""
    root = storage.absolute(path)
    folds = [storage.join(root, name) for name in storage.names(root) if name.startswith("fold_")]
    found = [fold for fold in sorted(folds) if storage.exists(storage.join(fold, FOLDER, DESCRIPTION))]
    if found and (len(found) < len(folds) or _is_under_way(root)):
        raise UsageError(f"{path} holds a cross-validation that has not ended.", mend=f"segray train --resume {path}")
    return [find_bundle(fold) for fold in found] if found else [find_bundle(path)]


def _is_under_way(root: str) -> bool:
    """Whether a cross-validation says of itself that folds are left: a fold has a bundle from its first epoch on."""
    try:
        history = json.loads(storage.read_text(storage.join(root, "history.json")))
    except (SegrayError, ValueError):
        return False  # bundles that were copied out of their run
    return isinstance(history, dict) and history.get("finished") is False


def load_bundle(folder: str) -> Bundle:
    """Read a bundle from a folder (path or URI). Raises UsageError: no bundle, a damaged one, or a newer schema."""
    text, data = _read_files(folder)
    try:
        table = json.loads(text)
        schema = int(table["schema_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"{DESCRIPTION} is not readable: {error}") from error
    if schema > SCHEMA_VERSION:
        raise UsageError(f"The bundle {folder} was written by a newer segray.", mend="Update segray.")
    if hashlib.sha256(data).hexdigest() != table.get("weights_sha256"):
        raise _damaged(folder, f"{WEIGHTS} is not the file that {DESCRIPTION} names")
    try:
        return Bundle(
            net=NetConfig.model_validate(table["net"]),
            in_channels=int(table["in_channels"]),
            label_map=LabelMap(
                {str(name): int(value) for name, value in table["label_map"].items()},
                overlapping=bool(table.get("overlapping")),
                ignored=int(table.get("ignored", 0)),
            ),
            grid=Grid.from_dict(table["grid"]),
            normalisation=Normalisation.from_dict(table["normalisation"]),
            weights=safetensors.torch.load(data),
            plane=str(table["plane"]),
            metrics=dict(table["metrics"]),
            split={str(name): [str(case) for case in cases] for name, cases in table["split"].items()},
            provenance=dict(table["provenance"]),
            version=str(table["segray_version"]),
            channels=tuple(str(name) for name in table.get("channels", ())),
            bundle_id=_identity(data, text),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError, SafetensorError) as error:
        raise _damaged(folder, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error


def _read_files(folder: str) -> tuple[str, bytes]:
    for name in (DESCRIPTION, WEIGHTS):
        if not storage.exists(storage.join(folder, name)):
            raise UsageError(
                f"{folder} is no bundle: it holds no {name}.",
                mend="Give the folder that training left, such as runs/first/bundle.",
            )
    try:
        text = storage.read_text(storage.join(folder, DESCRIPTION))
        return text, storage.read_bytes(storage.join(folder, WEIGHTS))
    except NotTextError as error:
        raise _damaged(folder, f"{DESCRIPTION} is not text") from error
    except SegrayError as error:
        raise UsageError(error.message, mend=error.mend) from error


def _damaged(folder: str, reason: str) -> UsageError:
    return UsageError(f"The bundle {folder} is damaged ({reason}).", mend="Copy it again, or train again.")


def _identity(data: bytes, text: str) -> str:
    return hashlib.sha256(data + text.encode("utf-8")).hexdigest()[:12]
