"""Bundles for those without segray: the network in a format of others, verified, with a description beside it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from segray import storage
from segray.engine.export_card import describe
from segray.engine.export_formats import FORMATS, INPUT, OUTPUT, ExportFormat, Run, Steps
from segray.engine.failure_words import first_words
from segray.errors import SegrayError, UsageError
from segray.nets.bundle import Bundle
from segray.nets.monai_nets import MonaiNet
from segray.nets.unet import SegmentationNet, fold_batch_norm

TOLERANCE = 1e-4
"""Largest difference from the bundle's float32 logits, as a share of the largest of them (or of 1)."""

ONE_SHAPE = frozenset({"swinunetr"})
"""Nets of which no file takes other shapes: torch.export with open sides took 12 minutes for one that then failed."""


@dataclass(frozen=True)
class Exported:
    """What an export has left.

    Attributes:
        files: all files, paths or URIs: that of the format first, the description last.
        difference: the largest difference from the bundle's float32 logits that was seen.
        any_size: False where the file takes one shape of input only.
    """

    files: tuple[str, ...]
    difference: float
    any_size: bool


def export_bundle(bundle: Bundle, destination: str, to: str) -> Exported:
    """Write a bundle's network in another format, and beside it what is needed to use it without segray.

    The network is in float32 with its batch norms folded, and gives logits: no softmax. Before anything lies at the
    destination the file has been run by the format's own runtime, on noise and on tissue in air, of a small size and of
    the bundle's own, and gave the bundle's logits. segray's own nets take every batch and all sides that the network
    takes; so do those of MONAI that can, and the others the bundle's shape alone.

    Args:
        bundle: the bundle.
        destination: a path or URI; the format's ending is added where it lacks. In an existing folder: ``network``.
        to: a name of :data:`FORMATS`: onnx, torchscript, openvino or torch.export.

    Returns:
        The files: those of the format, and ``<file>.json``.

    Raises:
        UsageError: no such format, a package of it is missing, or it cannot express the network.
        SegrayError: the file computes something else than the bundle, and nothing is left; or it cannot be written.
    """
    if to not in FORMATS:
        raise UsageError(f"There is no format {to!r} to export to.", mend=f"There are {', '.join(FORMATS)}.")
    form = FORMATS[to]
    form.check_installed()
    target = _target(destination, form)
    network = bundle.network()
    shape = usual_shape(bundle, network)
    steps: Steps = None if bundle.net.name in ONE_SHAPE else side_steps(network)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / os.path.basename(target)
        try:
            difference = _written(form, network, shape, steps, path)
        except SegrayError:
            if steps is None or not isinstance(network, MonaiNet):
                raise
            # Python in MONAI's forward passes looks at sizes, which exporters then take for constants.
            steps = None
            difference = _written(form, network, shape, steps, path)
        outcome = {
            "format": to,
            "remark": form.remark,
            "names": {"input": INPUT, "output": OUTPUT} if form.has_names else None,
            "verified": {
                "by": f"{form.runtime} {version(form.runtime)}",
                "largest_difference_of_logits": difference,
                "tolerance": f"{TOLERANCE:g} of the largest logit",
            },
        }
        files = _publish(path, target, describe(bundle, steps, shape, outcome))
    return Exported(files, difference, steps is not None)


def side_steps(network: SegmentationNet) -> tuple[int, ...]:
    """What [depth,] height and width of an input must be multiples of."""
    return (*([network.depth_stride] if network.space.axes == 3 else []), network.stride, network.stride)


def usual_shape(bundle: Bundle, network: SegmentationNet) -> tuple[int, ...]:
    """(1, C, H, W) of the bundle's canvas, or (1, C, D, h, w) of its patch."""
    canvas = [math.ceil(side / network.stride) * network.stride for side in bundle.grid.size]
    patch = bundle.net.patch
    if patch is None:
        return (1, network.in_channels, *canvas)
    return (1, network.in_channels, patch[0], *(side or room for side, room in zip(patch[1:], canvas, strict=True)))


def _target(destination: str, form: ExportFormat) -> str:
    root = storage.absolute(destination)
    if not storage.is_remote(root) and os.path.isdir(root):
        root = storage.join(root, "network")
    return root if root.endswith(form.ending) else root + form.ending


def _written(form: ExportFormat, network: SegmentationNet, shape: tuple[int, ...], steps: Steps, path: Path) -> float:
    """Write a network, run the file, and return the largest difference of the logits.

    Raises:
        UsageError: the format cannot express the network.
        SegrayError: the logits are others.
    """
    # Sides that are unlike each other and more than a step, so that none is taken for another, or for 1.
    small = (2, shape[1], *((2 + number) * step for number, step in enumerate(steps))) if steps else shape
    try:
        form.write(fold_batch_norm(network), torch.zeros(small), steps, path)
        run = form.open(path)
    except SegrayError:
        raise
    except Exception as error:  # exporters raise kinds of their own, torch's and plain RuntimeErrors
        raise UsageError(
            f"A {form.ending} file cannot express this network ({first_words(error)}).",
            mend="Export to another format.",
        ) from error
    return max(_difference(run, network, images) for images in example_images(dict.fromkeys((small, shape))))


def _difference(run: Run, network: nn.Module, images: Tensor) -> float:
    """The largest difference of a file's logits from the network's. Raises SegrayError where it is too large."""
    shown = "x".join(map(str, images.shape))
    with torch.no_grad():
        expected = network(images)
        try:
            found = run(images)
        except Exception as error:  # of any runtime, in any way
            raise SegrayError(
                f"The exported network does not run on images of {shown} ({first_words(error)}), and was deleted.",
                mend="Export to another format.",
            ) from error
    difference = float((found - expected).abs().max()) if found.shape == expected.shape else math.inf
    largest = float(expected.abs().max())
    # Written so that not-a-number is a difference too.
    if not difference <= TOLERANCE * max(largest, 1.0):
        raise SegrayError(
            f"On images of {shown} the exported network's logits differ by {difference:.2g} from the bundle's, whose "
            f"largest is {largest:.2g}; it was deleted.",
            mend="Export to another format.",
        )
    return difference


def example_images(shapes: Iterable[tuple[int, ...]]) -> Iterator[Tensor]:
    """For each shape (n, C, [D], H, W) noise, and smooth tissue of -0.3 to 0.6 in air of -1, as a window leaves CT."""
    for number, shape in enumerate(shapes):
        generator = torch.Generator().manual_seed(number)
        yield torch.randn(shape, generator=generator)
        coarse = torch.rand((*shape[:2], *(max(side // 8, 1) for side in shape[2:])), generator=generator)
        tissue = functional.interpolate(coarse, size=shape[2:], mode="bilinear" if len(shape) == 4 else "trilinear")
        y, x = (torch.linspace(-1, 1, side) for side in shape[-2:])
        yield torch.where(y[:, None] ** 2 + x**2 < 0.7, tissue * 0.9 - 0.3, -1.0)


def _publish(path: Path, target: str, description: dict[str, object]) -> tuple[str, ...]:
    """Move what was written to the destination, the description last: who finds it finds all."""
    card, folder = f"{target}.json", os.path.dirname(target)
    storage.delete(card)
    files = [target, *(storage.join(folder, other.name) for other in sorted(path.parent.iterdir()) if other != path)]
    hashes: dict[str, str] = {}
    for file in reversed(files):
        data = (path.parent / os.path.basename(file)).read_bytes()
        storage.write_bytes(file, data)
        hashes[os.path.basename(file)] = hashlib.sha256(data).hexdigest()
    storage.write_text(card, json.dumps({"sha256": hashes, **description}, indent=1))
    return (*files, card)
