"""The forward pass by torch.compile: on a GPU kernels in a CUDA graph, on a CPU C++ that inductor writes."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from segray.config import Precision
from segray.engine.failure_words import first_words
from segray.engine.inference import ForwardPass
from segray.nets.unet import SegmentationNet


class CompiledPass:
    """(n, C, [D], H, W) float32 to logits (n, L, [D], H, W), by code compiled for each shape, which takes its time.

    Where compiling fails, for lack of a C++ compiler or of Triton, :class:`ForwardPass` goes on in its place and
    :attr:`fallback` says so, as a warning does once.

    Attributes:
        fallback: why nothing is compiled, one sentence; empty where it is.
    """

    def __init__(self, network: SegmentationNet, device: torch.device, precision: Precision) -> None:
        self._plain = ForwardPass(network, device, precision)
        self._compiled = ForwardPass(network, device, precision, fuse=False)
        compiled: Any = torch.compile(self._compiled.network, dynamic=False, **_how(device))
        self._compiled.network = compiled
        # A CUDA graph writes into the same memory at every call, and callers keep logits.
        self._copies = device.type == "cuda"
        self.fallback = ""

    def __call__(self, images: Tensor) -> Tensor:
        """The logits of a batch of normalised slices or patches; the first of each shape waits for the compiler."""
        if self.fallback:
            return self._plain(images)
        try:
            logits = self._compiled(images)
        except RuntimeError as error:
            if not _of_the_compiler(error):
                raise
            self.fallback = _words(error)
            warnings.warn(self.fallback, RuntimeWarning, stacklevel=2)
            return self._plain(images)
        return logits.clone() if self._copies else logits


def compiler_fault(device: torch.device) -> str:
    """Why torch.compile does not work on this machine, one sentence, found by compiling an addition; or nothing."""
    try:
        torch.compile(_addition, dynamic=False)(torch.ones(8, device=device))
    except RuntimeError as error:
        if not _of_the_compiler(error):
            raise
        return _words(error)
    return ""


def _addition(numbers: Tensor) -> Tensor:
    return numbers + 1


def _how(device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":
        return {"mode": "reduce-overhead"}
    # Weights become constants, which oneDNN may keep in the order of its kernels; else each call would turn them.
    return {"options": {"freezing": True}}


def _of_the_compiler(error: RuntimeError) -> bool:
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)


def _words(error: BaseException) -> str:
    while (under := error.__cause__ or getattr(error, "inner_exception", None)) is not None:
        error = under
    return f"torch.compile does not work here ({first_words(error)}), so torch computes without it."
