"""OpenVINO's forward pass against the plain one."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segray.case import LabelMap
from segray.config import NetConfig, PredictConfig
from segray.engine.backends import BackendChoice
from segray.engine.openvino_pass import MODELS, OpenVinoPass, openvino_precision, parts
from segray.engine.predictor import Predictor
from segray.errors import UsageError
from segray.grid import Grid
from segray.nets.bundle import Bundle, load_bundle, save_bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import SegmentationNet, build_net

installed = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")

NETS: dict[str, dict[str, Any]] = {
    "plain": {},
    "instance norm, bilinear": {"norm": "instance", "activation": "silu", "upsampling": "bilinear"},
    "group norm, interpolated": {"norm": "group", "activation": "relu", "upsampling": "interpolated", "dropout": 0.2},
    "residual with gates": {
        "features": [4, 8, 8, 8], "blocks": "residual", "attention": True, "deep_supervision": True,
    },
    "three channels of neighbours": {"neighbours": 1},
    "patches": {"features": [4, 8], "patch": (4, 8, 8), "flat_levels": 1},
    "a net of MONAI": {"name": "dynunet"},
}  # fmt: skip


def _net(**kwargs: Any) -> SegmentationNet:
    torch.manual_seed(0)
    net = build_net(NetConfig(**{"features": [4, 8, 8], **kwargs}), 1, 5)
    with torch.no_grad():
        for _ in range(3):
            net(_images(net, 4))
    return net.eval()


def _images(net: SegmentationNet, count: int, height: int = 16, width: int = 24) -> torch.Tensor:
    return torch.randn(count, net.in_channels, *([4] if net.space.axes == 3 else []), height, width)


@installed
@pytest.mark.parametrize("name", NETS)
def test_float32_equals_the_net(name: str) -> None:
    net = _net(**NETS[name])
    fast = OpenVinoPass(net, "float32")
    with torch.inference_mode():
        for size in ((16, 24), (32, 16)):
            images = _images(net, 1, *size)
            torch.testing.assert_close(fast(images), net(images), atol=1e-4, rtol=1e-4)


@installed
def test_bf16_is_near_and_lies_as_the_predictor_likes_it() -> None:
    net = _net()
    images = _images(net, 2)
    with torch.inference_mode():
        logits = OpenVinoPass(net, "bf16")(images)
        torch.testing.assert_close(logits.float(), net(images), atol=0.1, rtol=0.05)
    assert logits.dtype == torch.bfloat16
    assert logits.is_contiguous(memory_format=torch.channels_last)


@installed
def test_a_batch_is_its_images_in_parts() -> None:
    net = _net(norm="instance")
    images = _images(net, 7)
    fast = OpenVinoPass(net, "float32")
    with torch.inference_mode():
        torch.testing.assert_close(fast(images), net(images), atol=1e-4, rtol=1e-4)


def test_parts_are_powers_of_two_in_order() -> None:
    for count in (1, 2, 13, 16):
        found = list(parts(count))
        assert [number for part in found for number in range(count)[part]] == list(range(count))
        assert len(found) == count.bit_count()


@installed
def test_logits_are_kept_and_come_again() -> None:
    net = _net()
    fast = OpenVinoPass(net, "bf16")
    first, second = _images(net, 2), _images(net, 2)
    with torch.inference_mode():
        kept = fast(first)
        copy = kept.clone()
        fast(second)
        assert torch.equal(kept, copy)
        # More shapes than models are kept for: the first is compiled again.
        for number in range(MODELS):
            fast(_images(net, 1, 16, 16 + 4 * number))
        assert torch.equal(fast(first), copy)


@installed
def test_the_original_net_is_not_changed() -> None:
    net = _net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with torch.inference_mode():
        OpenVinoPass(net, "bf16")(_images(net, 1))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


@installed
def test_nobody_is_told_that_it_is_used(tmp_path: Path) -> None:
    code = (
        "import torch; from segray.engine.export_formats import FORMATS; from segray.engine.openvino_pass import *\n"
        "FORMATS['openvino'].check_installed(); convert_network(torch.nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 4, 4))\n"
        "import sys; assert sys.modules['openvino_telemetry'] is None and 'openvino' in sys.modules"
    )
    # It keeps silent in CI by itself; where it tells, it first leaves its name for this user at home.
    told = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    subprocess.run([sys.executable, "-c", code], check=True, env={**told, "HOME": str(tmp_path)})
    assert not (tmp_path / "intel").exists()


def test_where_it_is_missing_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match="not installed") as error:
        OpenVinoPass(_net(), "auto")
    assert 'pip install "segray[openvino]"' in error.value.mend


def test_fp16_is_refused() -> None:
    with pytest.raises(UsageError, match="fp16"):
        openvino_precision("fp16")


def _bundle(folder: Path, net: NetConfig) -> Bundle:
    torch.manual_seed(1)
    network = build_net(net, 1, 4)
    with torch.no_grad():
        for _ in range(3):
            network(_images(network, 4))
    save_bundle(
        str(folder), network, net=net, label_map=LabelMap.of_names("abc"),
        grid=Grid("native", (24, 32), None, -1024.0), normalisation=Normalisation("window"),
    )  # fmt: skip
    return load_bundle(str(folder))


@installed
@pytest.mark.parametrize("settings", [{}, {"patch": (4, 16, 16)}, {"neighbours": 1}], ids=["slices", "3D", "2.5D"])
def test_masks_of_a_predictor_agree(tmp_path: Path, settings: dict[str, Any]) -> None:
    bundle = _bundle(tmp_path, NetConfig(features=[4, 8], **settings))
    voxels = np.random.default_rng(0).integers(-1000, 1000, (7, 21, 30)).astype(np.int16)
    config = PredictConfig(gpu="no", precision="float32", mirror=["x"])
    expected = Predictor(bundle, config).predict(voxels, (2.0, 1.0, 1.0))
    found = Predictor(bundle, config, backend=BackendChoice("openvino", "float32")).predict(voxels, (2.0, 1.0, 1.0))
    assert len(np.unique(expected)) > 1
    assert (found == expected).mean() > 0.999
