"""Who computes the forward pass: torch, torch.compile or OpenVINO. The choice is made once and holds for a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from segray.config import Precision
from segray.engine.inference import ForwardPass
from segray.errors import UsageError
from segray.nets.unet import SegmentationNet

Backend = Literal["torch", "openvino", "compile"]


@dataclass(frozen=True)
class BackendChoice:
    """Who computes the forward passes of a run.

    Backends round differently, so that voxels between two labels may differ: all processes of a run get one choice, and
    the run keeps it for when it is taken up again.

    Attributes:
        name: torch, openvino or compile; openvino means CPUs, and a GPU computes with torch beside it.
        precision: the arithmetic; ``auto`` is resolved on each device.
        reason: what was measured and why it was chosen, one sentence for a log; empty where there is nothing to say.
        asked: the setting for which it was chosen, which may name a backend that does not work here; empty: unknown.
    """

    name: Backend = "torch"
    precision: Precision = "auto"
    reason: str = ""
    asked: str = ""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BackendChoice:
        """The inverse of :meth:`to_json`. Raises UsageError for what is no choice."""
        try:
            table = json.loads(text)
            choice = cls(table["name"], table["precision"], str(table["reason"]), str(table.get("asked", "")))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{text[:80]!r} is no choice of a backend ({type(error).__name__}: {error}).") from error
        if choice.name not in get_args(Backend) or choice.precision not in get_args(Precision):
            raise UsageError(f"There is no backend {choice.name!r} of precision {choice.precision!r}.")
        return choice


def forward_pass(
    network: SegmentationNet, device: torch.device, precision: Precision, choice: BackendChoice | None = None
) -> Callable[[Tensor], Tensor]:
    """(n, C, [D], H, W) float32 to logits (n, L, [D], H, W), best in channels_last, by whom ``choice`` names.

    Args:
        network: the network, which is not changed.
        device: where it computes.
        precision: the arithmetic where there is no choice.
        choice: of :func:`segray.engine.backend_contest.choose_forward`; None: torch.

    Raises:
        UsageError: OpenVINO is chosen and is not installed, or cannot compute this network.
    """
    if choice is None or (choice.name == "openvino" and device.type != "cpu"):
        return ForwardPass(network, device, precision)
    if choice.name == "openvino":
        from segray.engine.openvino_pass import OpenVinoPass

        return OpenVinoPass(network, choice.precision)
    if choice.name == "compile":
        from segray.engine.compiled_pass import CompiledPass

        return CompiledPass(network, device, choice.precision)
    return ForwardPass(network, device, choice.precision)
