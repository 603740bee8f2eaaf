"""The forward pass by OpenVINO, which is faster than torch's on many CPUs: https://docs.openvino.ai."""

from __future__ import annotations

import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from segray.config import Precision
from segray.engine.failure_words import first_words
from segray.engine.precision import Resolved, resolve_precision
from segray.errors import UsageError
from segray.nets.unet import SegmentationNet, UNet, fold_batch_norm

MODELS = 8
"""Shapes for which a pass keeps a compiled model; each holds the network's weights in its own order."""

_TYPES: dict[Resolved, tuple[str, str, torch.dtype]] = {
    "bf16": ("bf16", "bf16", torch.bfloat16),
    "float32": ("f32", "f32", torch.float32),
}
"""By precision: OpenVINO's hint, its element type and torch's."""

_LAYOUTS = {2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}
"""By number of axes: the network's own layout, and the one in memory."""

CPU = torch.device("cpu")


def import_openvino() -> Any:
    """The module ``openvino``, which from here on tells nobody that it is used. Raises UsageError where it is missing.

    As installed, it reports imports and conversions to Intel by Google Analytics, for which it needs a package of its
    own; where that cannot be imported it goes on without. Hospitals do not want to be asked for this by a firewall.
    """
    sys.modules.setdefault("openvino_telemetry", cast(Any, None))
    try:
        import openvino
    except ImportError as error:
        raise UsageError(
            f"OpenVINO is not installed here ({error}).", mend='pip install "segray[openvino]", or use torch.'
        ) from error
    return openvino


def openvino_precision(precision: Precision) -> Resolved:
    """The arithmetic of an OpenVINO pass: as torch would have on this CPU. Raises UsageError for fp16."""
    resolved = resolve_precision(precision, CPU)
    if resolved not in _TYPES:
        raise UsageError(
            f"OpenVINO computes in bf16 or float32 here, and predict.precision is {precision}.",
            mend="Set predict.precision=auto, or predict.backend=torch.",
        )
    return resolved


class OpenVinoPass:
    """(n, C, [D], H, W) float32 to logits (n, L, [D], H, W) in channels_last, computed by OpenVINO on the CPU.

    Images and logits lie in torch's memory, a pixel's channels beside each other: that is OpenVINO's own order for
    convolutions, so that nothing is copied or turned on the way out. Logits have the type of the precision, as those of
    :class:`segray.engine.inference.ForwardPass`.

    A model is compiled for each shape (0.1 to 0.3 s). So that batches of every length need few of them, a batch is
    computed in parts of 1, 2, 4, 8... images; which parts depends on its length alone, so that the same batch has the
    same logits whatever was computed before it.

    Attributes:
        precision: bf16 or float32.
    """

    def __init__(self, network: SegmentationNet, precision: Precision) -> None:
        """Convert a network, which is not changed; torch's number of threads becomes OpenVINO's.

        Raises:
            UsageError: OpenVINO is not installed, cannot compute this network, or the precision is fp16.
        """
        self._openvino = import_openvino()
        self.precision = openvino_precision(precision)
        self._network = fold_batch_norm(network)
        axes = network.space.axes
        self._last, self._first = (0, *range(2, axes + 2), 1), (0, axes + 1, *range(1, axes + 1))
        # MONAI's forward passes ask for sizes, which a trace keeps as constants: each shape needs a trace of its own.
        self._of_any_shape = self._converted(example_images(network)) if isinstance(network, UNet) else None
        self._requests: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def __call__(self, images: Tensor) -> Tensor:
        """The logits of a batch of normalised slices or patches; fresh memory at each call."""
        stored = images.float().permute(self._last).contiguous()
        _, _, dtype = _TYPES[self.precision]
        out = torch.empty((*stored.shape[:-1], self._network.out_channels), dtype=dtype)
        for part in parts(len(stored)):
            request = self._request(tuple(images[part].shape))
            request.set_input_tensor(self._openvino.Tensor(stored[part].numpy(), shared_memory=True))
            request.set_output_tensor(self._shared(out[part]))
            request.infer()
        return out.permute(self._first)

    def _shared(self, memory: Tensor) -> Any:
        """OpenVINO's view of a contiguous tensor; numpy has no bf16, and so it goes as integers of the same size."""
        if memory.dtype == torch.float32:
            return self._openvino.Tensor(memory.numpy(), shared_memory=True)
        return self._openvino.Tensor(memory.view(torch.int16).numpy(), list(memory.shape), self._openvino.Type.bf16)

    def _request(self, shape: tuple[int, ...]) -> Any:
        """What runs the model of a shape (n, C, [D], H, W); those used last are kept. Raises UsageError."""
        if shape not in self._requests:
            while len(self._requests) >= MODELS:
                self._requests.popitem(last=False)
            model = self._converted(torch.zeros(shape)) if self._of_any_shape is None else self._of_any_shape.clone()
            try:
                model.reshape([shape[axis] for axis in self._last])
                self._requests[shape] = _core().compile_model(model, "CPU", self._settings()).create_infer_request()
            except RuntimeError as error:
                raise _cannot("compute", error) from error
        self._requests.move_to_end(shape)
        return self._requests[shape]

    def _settings(self) -> dict[str, Any]:
        hint, _, _ = _TYPES[self.precision]
        return {
            "INFERENCE_PRECISION_HINT": hint,
            # One image at a time by all threads, as torch does; several at once would fall out of the cache.
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # Ray's workers on a machine know nothing of each other: pinned, they would all pin themselves to core 0.
            "ENABLE_CPU_PINNING": False,
        }

    def _converted(self, example: Tensor) -> Any:
        """The network as an OpenVINO model; images and logits in channels_last, the logits in the precision's type."""
        model = convert_network(self._network, example)
        _, kind, _ = _TYPES[self.precision]
        inside, outside = (self._openvino.Layout(layout) for layout in _LAYOUTS[example.ndim - 2])
        ends = self._openvino.preprocess.PrePostProcessor(model)
        for end in (ends.input(), ends.output()):
            end.tensor().set_layout(outside)
            end.model().set_layout(inside)
        ends.output().tensor().set_element_type(getattr(self._openvino.Type, kind))
        return ends.build()


def convert_network(network: nn.Module, example: Tensor) -> Any:
    """An OpenVINO model of a network as it computes ``example`` (n, C, [D], H, W), for any n and sides.

    Raises:
        UsageError: OpenVINO is not installed, or has no operator for something in the network.
    """
    openvino = import_openvino()
    shape = openvino.PartialShape([-1, example.shape[1], *[-1] * (example.ndim - 2)])
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # A norm's own checks look at sizes; what depends on them would show when the result is compared.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            return openvino.convert_model(network, example_input=example, input=[shape])
    except Exception as error:  # what it raises depends on the operator: RuntimeError, its own kinds, torch's
        raise _cannot("express", error) from error


def example_images(network: SegmentationNet, count: int = 1) -> Tensor:
    """Empty images (n, C, [D], H, W) of the least sides at which every norm has something to average."""
    sides = [2 * network.stride] * 2
    deep = [2 * network.depth_stride] if network.space.axes == 3 else []
    return torch.zeros(count, network.in_channels, *deep, *sides)


def parts(count: int) -> Iterator[slice]:
    """A batch in parts whose lengths are the powers of two that sum to it, from the largest down."""
    done = 0
    for bit in reversed(range(count.bit_length())):
        if count >> bit & 1:
            yield slice(done, done + 2**bit)
            done += 2**bit


def _cannot(what: str, error: Exception) -> UsageError:
    return UsageError(f"OpenVINO cannot {what} this network ({first_words(error)}).", mend="Use torch for it.")


@lru_cache(maxsize=1)
def _core() -> Any:
    """OpenVINO's devices and threads, which all passes of a process share."""
    return import_openvino().Core()
