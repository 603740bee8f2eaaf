"""MONAI's nets by name: the same calls, bundles and inference as segray's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from segray.case import LabelMap
from segray.config import NetConfig, parse_config
from segray.engine.inference import ForwardPass
from segray.engine.trainer import Batch, Trainer
from segray.errors import UsageError
from segray.grid import Grid
from segray.nets.bundle import load_bundle, save_bundle
from segray.nets.cost import net_cost
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net

FLAT = {
    "dynunet": {"features": [4, 8, 8], "norm": "instance", "dropout": 0.1},
    "segresnet": {"features": [8, 16, 32], "norm": "group"},
    "swinunetr": {"features": [12, 24]},
    "mednext": {"features": [4, 8, 16]},
}


@pytest.mark.parametrize("name", FLAT)
def test_they_keep_the_shape_and_go_through_a_bundle(tmp_path: Path, name: str) -> None:
    config = NetConfig.model_validate({"name": name, **FLAT[name]})
    torch.manual_seed(0)
    net = build_net(config, 1, 3)
    side = 2 * net.stride
    images = torch.randn(2, 1, side, side)
    assert net.train()(images).shape == (2, 3, side, side)
    grid = Grid(mode="native", size=(side, side), spacing=None, fill=-1000.0)
    save_bundle(
        str(tmp_path), net, net=config, label_map=LabelMap({"a": 1, "b": 2}), grid=grid,
        normalisation=Normalisation("window"),
    )  # fmt: skip
    again = load_bundle(str(tmp_path)).network()
    forward = ForwardPass(again, torch.device("cpu"), "float32")
    with torch.inference_mode():
        torch.testing.assert_close(forward(images), net.eval()(images), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["dynunet", "segresnet", "mednext"])
def test_they_take_patches(name: str) -> None:
    config = NetConfig.model_validate({"name": name, "patch": [8, 16, 16], **FLAT[name]})
    assert build_net(config, 2, 3).eval()(torch.randn(1, 2, 8, 16, 16)).shape == (1, 3, 8, 16, 16)


def test_mednext_is_the_published_one() -> None:
    from monai.networks.nets.mednext import create_mednext

    ours = build_net(NetConfig(name="mednext", features=[32, 64, 128, 256, 512]), 1, 3)
    published = create_mednext("S", spatial_dims=2, in_channels=1, out_channels=3)
    shapes = {name: tensor.shape for name, tensor in published.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.network.state_dict().items()} == shapes
    ours.network.load_state_dict(published.state_dict())
    images = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(ours.eval()(images), published.eval()(images))


def test_swinunetr_halves_five_times() -> None:
    with pytest.raises(ValidationError, match="no multiple of 32"):
        NetConfig.model_validate({"name": "swinunetr", "features": [12, 24], "patch": [16, 64, 64]})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "dynunet", "attention": True}, "attention is a setting of the unet"),
        ({"name": "mednext", "norm": "instance"}, "mednext has no norm"),
        ({"name": "segresnet", "norm": "none"}, "segresnet has no norm"),
    ],
)
def test_settings_that_they_do_not_have_are_told(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        NetConfig.model_validate(settings)


def test_what_monai_refuses_is_told_in_words() -> None:
    with pytest.raises(UsageError, match=r"MONAI refuses the settings of net\.name=swinunetr"):
        build_net(NetConfig(name="swinunetr", features=[10, 20]), 1, 2)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", FLAT)
def test_they_learn_and_go_on_where_they_were(name: str, precision: str) -> None:
    """Three steps in a row, or two, a checkpoint and one: the same weights."""
    config = parse_config({"net": {"name": name, **FLAT[name]}, "train": {"precision": precision}})
    side = 2 * 2**config.net.halvings
    rng = np.random.default_rng(0)
    images = rng.integers(-500, 500, (2, side, side)).astype(np.int16)
    ones = np.ones(2, np.float32)
    batch = Batch.from_arrays(images, (images > 0).astype(np.uint8), ones, ones, ["a", "b"])

    def fresh() -> Trainer:
        torch.manual_seed(0)
        return Trainer(config, build_net(config.net, 1, 2), Normalisation("window"), device="cpu")

    def learn(trainer: Trainer, steps: range) -> list[float]:
        return [trainer.step(batch, epoch=1, step=step, progress=0.0).loss for step in steps]

    whole, first, second = fresh(), fresh(), fresh()
    losses = learn(whole, range(3))
    learn(first, range(2))
    second.load_state_dict(first.state_dict())
    assert learn(second, range(2, 3)) == losses[2:]
    assert all(np.isfinite(losses))
    assert len(set(losses)) == 3
    for key, tensor in whole.network.state_dict().items():
        torch.testing.assert_close(second.network.state_dict()[key], tensor, msg=key)


@pytest.mark.parametrize("name", FLAT)
def test_what_they_cost_is_known(name: str) -> None:
    config = NetConfig.model_validate({"name": name, **FLAT[name]})
    net = build_net(config, 1, 3)
    cost = net_cost(net, 1, (2 * net.stride, 2 * net.stride), batch=2)
    assert cost.parameters == sum(parameter.numel() for parameter in net.parameters())
    assert cost.flops_per_slice > (2 * net.stride) ** 2 * config.features[0]
    assert cost.training_bytes > 4 * 4 * cost.parameters
