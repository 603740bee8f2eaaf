"""Exported networks, run by the format's own runtime with nothing of segray."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segray.case import LabelMap
from segray.config import NetConfig
from segray.engine import export
from segray.engine.export import export_bundle
from segray.engine.export_card import normalisation_words
from segray.errors import SegrayError, UsageError
from segray.grid import Grid
from segray.nets.bundle import Bundle, load_bundle, save_bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net, fold_batch_norm

ENDINGS = {"onnx": ".onnx", "torchscript": ".pt", "openvino": ".xml", "torch.export": ".pt2"}
MODULES = {"onnx": "onnxruntime", "openvino": "openvino"}

FORMATS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name in MODULES and find_spec(MODULES[name]) is None, reason=f"{MODULES.get(name)} is not installed"
        ),
    )
    for name in ENDINGS
]

NETS: dict[str, dict[str, Any]] = {
    "residual with gates": {"blocks": "residual", "attention": True},
    "deep supervision": {"features": [4, 4, 4, 4], "deep_supervision": True},
    "2.5D with instance norm": {"neighbours": 1, "norm": "instance", "upsampling": "bilinear"},
    "3D": {"patch": (4, 16, 8), "flat_levels": 1},
}  # fmt: skip


def _bundle(folder: Path, label_map: LabelMap | None = None, **net: Any) -> Bundle:
    torch.manual_seed(1)
    config = NetConfig(**{"features": [4, 8], **net})
    label_map = label_map or LabelMap({"liver": 3, "spleen": 7})
    network = build_net(config, 1, label_map.channels)
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(2, network.in_channels, *([4] if config.patch else []), 32, 32))
    save_bundle(
        str(folder), network, net=config, label_map=label_map, normalisation=Normalisation("window", -160.0, 240.0),
        grid=Grid("spacing", (32, 24), (1.5, 1.25), -1024.0),
    )  # fmt: skip
    return load_bundle(str(folder))


def _opened(to: str, path: str) -> Callable[[Tensor], Tensor]:
    """What a user without segray writes."""
    if to == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    if to == "openvino":
        import openvino

        model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda images: torch.from_numpy(model({"images": images.numpy()})["logits"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(path) if to == "torchscript" else torch.export.load(path).module()  # type: ignore[no-any-return, no-untyped-call]


def _images(net: Any, count: int, *sides: int) -> Tensor:
    return torch.randn(count, net.in_channels, *([8] if net.space.axes == 3 else []), *sides)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("to", FORMATS)
def test_the_file_computes_what_the_bundle_does(tmp_path: Path, to: str, net: str) -> None:
    bundle = _bundle(tmp_path / "bundle", **NETS[net])
    done = export_bundle(bundle, str(tmp_path / "out" / "organs"), to)
    assert done.any_size
    assert done.files[0] == str(tmp_path / "out" / f"organs{ENDINGS[to]}")
    run, network = _opened(to, done.files[0]), bundle.network()
    with torch.no_grad():
        # Neither the batch nor the sides are those with which it was written and verified.
        for images in (_images(network, 3, 40, 16), _images(network, 1, 48, 64)):
            torch.testing.assert_close(run(images), network(images), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("to", [one for one in FORMATS if one.values[0] in ("openvino", "torchscript")])
def test_the_description_tells_what_is_needed(tmp_path: Path, to: str) -> None:
    bundle = _bundle(tmp_path / "bundle", neighbours=1)
    done = export_bundle(bundle, str(tmp_path / f"organs{ENDINGS[to]}"), to)
    card = json.loads(Path(done.files[-1]).read_text())
    assert done.files[-1] == done.files[0] + ".json"
    for file in done.files[:-1]:
        assert card["sha256"][Path(file).name] == hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert (card["format"], card["bundle_id"]) == (to, bundle.bundle_id)
    assert card["verified"]["largest_difference_of_logits"] == done.difference
    assert card["input"]["axes"] == ["batch", "channel", "y", "x"]
    assert card["input"]["usual_shape"] == [1, 3, 32, 24]
    assert card["input"]["multiples"] == {"y": 2, "x": 2}
    assert (card["input"]["neighbours"], card["input"]["patch"]) == (1, None)
    assert card["output"]["labels"] == [
        {"channel": 0, "name": "background", "value": 0},
        {"channel": 1, "name": "liver", "value": 3},
        {"channel": 2, "name": "spleen", "value": 7},
    ]
    assert card["grid"]["spacing"] == [1.5, 1.25]
    assert (card["normalisation"]["lo"], card["normalisation"]["hi"]) == (-160.0, 240.0)
    assert card["orientation"]["axes"].startswith("LPS")


def test_labels_that_overlap_have_no_background(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path / "bundle", LabelMap({"lung": 1, "lobe": 2}, overlapping=True))
    done = export_bundle(bundle, str(tmp_path / "lungs"), "torchscript")
    output = json.loads(Path(done.files[-1]).read_text())["output"]
    assert [label["name"] for label in output["labels"]] == ["lung", "lobe"]
    assert output["overlapping"]
    assert "sigmoid" in output["meaning"]


def test_a_patch_is_described(tmp_path: Path) -> None:
    done = export_bundle(_bundle(tmp_path / "bundle", patch=(4, 16, 0)), str(tmp_path), "torchscript")
    assert done.files[0] == str(tmp_path / "network.pt")
    card = json.loads(Path(done.files[-1]).read_text())
    assert card["input"]["axes"] == ["batch", "channel", "z", "y", "x"]
    assert card["input"]["usual_shape"] == [1, 1, 4, 16, 24]


@pytest.mark.parametrize(
    ("normalisation", "value", "expected"),
    [
        (Normalisation("window", -100.0, 300.0), 200.0, (200 - (300 + -100) / 2) * 2 / (300 - -100)),
        (Normalisation("foreground", -50.0, 50.0, 10.0, 5.0), 70.0, (50.0 - 10.0) / 5.0),
        (Normalisation("case"), 20.0, (20.0 - 10.0) / 4.0),
    ],
)
def test_the_formula_in_words_is_the_formula(normalisation: Normalisation, value: float, expected: float) -> None:
    applied = normalisation.apply(torch.full((1, 1, 1), value), torch.tensor([10.0]), torch.tensor([4.0]))
    assert applied.item() == pytest.approx(expected)
    formulas = {"window": "(v - (hi + lo) / 2) * 2 / (hi - lo)", "foreground": "(v - mean) / max(sd, 1e-8)"}
    assert formulas.get(normalisation.mode, "(v - m) / max(s, 1e-6)") in normalisation_words(normalisation)


@pytest.mark.parametrize("to", [one for one in FORMATS if one.values[0] in ("onnx", "torchscript")])
def test_a_net_of_monai(tmp_path: Path, to: str) -> None:
    bundle = _bundle(tmp_path / "bundle", name="dynunet", features=[4, 4, 4])
    done = export_bundle(bundle, str(tmp_path / "dynunet"), to)
    assert done.any_size
    run, network = _opened(to, done.files[0]), bundle.network()
    images = _images(network, 3, 16, 40)
    with torch.no_grad():
        torch.testing.assert_close(run(images), network(images), atol=1e-3, rtol=1e-3)


def test_a_net_whose_python_looks_at_sizes_takes_one_shape(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path / "bundle", name="swinunetr", features=[12, 12])
    done = export_bundle(bundle, str(tmp_path / "swin"), "torchscript")
    assert not done.any_size
    card = json.loads(Path(done.files[-1]).read_text())
    assert card["input"]["shape"] == [1, 1, 32, 32]
    assert "multiples" not in card["input"]


def test_a_file_that_computes_something_else_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = _bundle(tmp_path / "bundle")
    (tmp_path / "out").mkdir()

    def disturbed(network: Any) -> nn.Module:
        other = copy.deepcopy(fold_batch_norm(network))
        other.head.bias.data[0] += 0.01
        return other

    monkeypatch.setattr(export, "fold_batch_norm", disturbed)
    with pytest.raises(SegrayError, match=r"logits differ by 0\.01"):
        export_bundle(bundle, str(tmp_path / "out" / "organs"), "torchscript")
    assert not list((tmp_path / "out").iterdir())


def test_logits_that_are_no_numbers_are_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disturbed(network: Any) -> nn.Module:
        other = copy.deepcopy(fold_batch_norm(network))
        other.head.bias.data[0] = torch.nan
        return other

    monkeypatch.setattr(export, "fold_batch_norm", disturbed)
    with pytest.raises(SegrayError, match="logits differ by nan"):
        export_bundle(_bundle(tmp_path / "bundle"), str(tmp_path / "organs"), "torchscript")


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = _bundle(tmp_path / "bundle")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    for to, extra in (("onnx", "onnx"), ("openvino", "openvino")):
        with pytest.raises(UsageError) as error:
            export_bundle(bundle, str(tmp_path / "organs"), to)
        assert f"segray[{extra}]" in error.value.mend


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tflite") as error:
        export_bundle(_bundle(tmp_path / "bundle"), str(tmp_path / "organs"), "tflite")
    assert "onnx" in error.value.mend
