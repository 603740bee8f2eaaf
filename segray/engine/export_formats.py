"""The formats of others that a network can be written in, and how a file of each is run again."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segray.engine.openvino_pass import convert_network, import_openvino
from segray.errors import UsageError

INPUT, OUTPUT = "images", "logits"
"""Names of the input and the output, where a format has names."""

Steps = tuple[int, ...] | None
"""What the sides of an input, [depth,] height and width, must be multiples of; None: a file for one shape only."""

Write = Callable[[nn.Module, Tensor, Steps, Path], None]
"""Network, example images (n, C, [D], H, W), their steps, and the file to write."""

Run = Callable[[Tensor], Tensor]
"""Images to logits."""


@dataclass(frozen=True)
class ExportFormat:
    """A format.

    Attributes:
        ending: of its files.
        needs: the modules that writing and running take, but OpenVINO, which ``import_openvino`` alone imports.
        extra: the extra of segray that installs them.
        runtime: the module that runs a file.
        remark: what a user should know of it.
        has_names: whether input and output have names.
        write: a network to a file.
        open: a file to what runs it; nothing of segray is in that.
    """

    ending: str
    needs: tuple[str, ...]
    extra: str
    runtime: str
    remark: str
    has_names: bool
    write: Write
    open: Callable[[Path], Run]

    def check_installed(self) -> None:
        """Raise UsageError where a module is missing."""
        for name in self.needs:
            try:
                import_module(name)
            except ImportError as error:
                raise UsageError(
                    f"Exporting to {self.ending} needs {name}, which is not installed here ({error}).",
                    mend=f'pip install "segray[{self.extra}]"',
                ) from error


def _write_onnx(network: nn.Module, example: Tensor, steps: Steps, path: Path) -> None:
    with _hushed("torch.onnx._internal.exporter._registration"):
        torch.onnx.export(
            network, (example,), path, dynamo=True, external_data=False, verbose=False,
            input_names=[INPUT], output_names=[OUTPUT], dynamic_shapes=_dynamic(steps),
        )  # fmt: skip


def _open_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    return run


def _write_torchscript(network: nn.Module, example: Tensor, steps: Steps, path: Path) -> None:
    del steps  # a trace takes any sides, unless the network's Python looked at them
    with _hushed(), torch.no_grad():
        torch.jit.trace(network, example, check_trace=False).save(str(path))  # type: ignore[no-untyped-call]


def _open_torchscript(path: Path) -> Run:
    with _hushed():
        loaded: Run = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    return loaded


def _write_torch_export(network: nn.Module, example: Tensor, steps: Steps, path: Path) -> None:
    with _hushed():
        torch.export.save(torch.export.export(network, (example,), dynamic_shapes=_dynamic(steps)), path)


def _open_torch_export(path: Path) -> Run:
    with _hushed():
        loaded: Run = torch.export.load(path).module()
    return loaded


def _write_openvino(network: nn.Module, example: Tensor, steps: Steps, path: Path) -> None:
    model = convert_network(network, example)
    if steps is None:
        model.reshape(list(example.shape))
    for end, name in ((model.input(), INPUT), (model.output(), OUTPUT)):
        end.get_tensor().set_names({name})
    import_openvino().save_model(model, path, compress_to_fp16=False)


def _open_openvino(path: Path) -> Run:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = import_openvino().Core().compile_model(path, "CPU", settings)

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(compiled({INPUT: images.numpy()})[OUTPUT])

    return run


FORMATS: dict[str, ExportFormat] = {
    "onnx": ExportFormat(
        ".onnx", ("onnx", "onnxscript", "onnxruntime"), "onnx", "onnxruntime",
        "One file, weights included.", True, _write_onnx, _open_onnx,
    ),
    "torchscript": ExportFormat(
        ".pt", (), "", "torch",
        "For torch.jit.load, also from C++; PyTorch has deprecated TorchScript in favour of torch.export.",
        False, _write_torchscript, _open_torchscript,
    ),
    "openvino": ExportFormat(
        ".xml", (), "openvino", "openvino",
        "The weights lie in the .bin beside it, in float32; a CPU with bf16 computes in bf16 unless it is told "
        "INFERENCE_PRECISION_HINT=f32.",
        True, _write_openvino, _open_openvino,
    ),
    "torch.export": ExportFormat(
        ".pt2", (), "", "torch", "For torch.export.load and AOTInductor.",
        False, _write_torch_export, _open_torch_export,
    ),
}  # fmt: skip
"""By the name that ``export_bundle`` takes."""


def _dynamic(steps: Steps) -> Any:
    """The shapes that torch.export is to allow: any batch, and sides that are multiples of the steps."""
    if steps is None:
        return None
    names = ("d", "h", "w")[-len(steps) :]
    dims = [torch.export.Dim(name) for name in names]
    sides = [step * dim if step > 1 else dim for step, dim in zip(steps, dims, strict=True)]
    return ({0: torch.export.Dim("batch"), **dict(enumerate(sides, start=2))},)


@contextmanager
def _hushed(*loggers: str) -> Iterator[None]:
    """No warnings of what the exporters do inside; of ``loggers`` errors only."""
    before = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
