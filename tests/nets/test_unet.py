"""The U-Net: shapes, options, and folding of batch norms."""

from __future__ import annotations

import itertools

import pytest
import torch

from segray.config import NetConfig
from segray.errors import UsageError
from segray.nets.unet import AttentionGate, ConvUnit, UNet, build_net, fold_batch_norm


@pytest.mark.parametrize(
    ("norm", "activation", "upsampling"),
    itertools.product(
        ["batch", "instance", "group", "none"],
        ["relu", "leaky_relu", "silu"],
        ["transposed", "bilinear", "interpolated"],
    ),
)
def test_every_option_gives_logits_and_gradients(norm: str, activation: str, upsampling: str) -> None:
    config = NetConfig(features=[4, 8, 12], norm=norm, activation=activation, upsampling=upsampling, dropout=0.2)
    net = build_net(config, 1, 5)
    logits = net(torch.randn(2, 1, 8, 20))
    assert logits.shape == (2, 5, 8, 20)
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_strided_downsampling_keeps_the_shape() -> None:
    net = UNet(3, 2, features=[4, 8], down="strided")
    assert net(torch.randn(1, 3, 6, 10)).shape == (1, 2, 6, 10)


def test_stride_is_the_granule_of_an_input() -> None:
    net = build_net(NetConfig(features=[4, 4, 4, 4]), 1, 2).eval()
    assert net.stride == 8
    net(torch.randn(1, 1, net.stride, 3 * net.stride))
    with pytest.raises(RuntimeError):
        net(torch.randn(1, 1, net.stride + 2, net.stride))


def test_dropout_sits_at_the_two_lowest_levels() -> None:
    net = UNet(1, 2, features=[4, 4, 4, 4], dropout=0.3)
    dropped = [any(isinstance(m, torch.nn.Dropout2d) for m in stage.modules()) for stage in net.encoder]
    assert dropped == [False, False, True, True]


def test_one_level_is_refused_in_words() -> None:
    with pytest.raises(UsageError, match="two levels"):
        UNet(1, 2, features=[8])


@pytest.mark.parametrize("upsampling", ["transposed", "bilinear", "interpolated"])
def test_folded_net_equals_the_net(upsampling: str) -> None:
    torch.manual_seed(0)
    net = build_net(NetConfig(features=[4, 8, 8], upsampling=upsampling), 1, 3)
    for _ in range(3):
        net(torch.randn(4, 1, 16, 16) * 3 + 1)
    net.eval()
    folded = fold_batch_norm(net)
    x = torch.randn(2, 1, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), net(x), atol=1e-5, rtol=1e-5)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())


def test_folding_leaves_other_norms() -> None:
    folded = fold_batch_norm(UNet(1, 2, features=[4, 8], norm="instance"))
    units = [m for m in folded.modules() if isinstance(m, ConvUnit)]
    assert units
    assert all(isinstance(unit.norm, torch.nn.InstanceNorm2d) for unit in units)


def test_channels_last_goes_through() -> None:
    net = UNet(1, 3, features=[4, 8]).to(memory_format=torch.channels_last)
    logits = net(torch.randn(2, 1, 8, 8))
    assert logits.is_contiguous(memory_format=torch.channels_last)


VARIANTS = [
    {"blocks": "residual"},
    {"attention": True},
    {"deep_supervision": True},
    {"blocks": "residual", "attention": True, "deep_supervision": True, "dropout": 0.2},
    {"attention": True, "deep_supervision": True, "upsampling": "interpolated"},
]


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
def test_variants_learn_in_every_parameter_and_fold_exactly(options: dict[str, object], norm: str) -> None:
    torch.manual_seed(0)
    net = build_net(NetConfig.model_validate({"features": [4, 8, 8, 12], "norm": norm} | options), 2, 3)
    for _ in range(2):
        outputs = net(torch.randn(2, 2, 16, 32) * 3 + 1)
    levels = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(level.square().mean() for level in levels).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    net.eval()
    folded = fold_batch_norm(net)
    x = torch.randn(2, 2, 24, 16)
    with torch.no_grad():
        assert net(x).shape == (2, 3, 24, 16)
        torch.testing.assert_close(folded(x), net(x), atol=1e-5, rtol=1e-5)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())


def test_deep_supervision_has_a_head_on_all_levels_but_the_lowest_and_only_in_training() -> None:
    net = build_net(NetConfig(features=[4, 4, 8, 8, 8], deep_supervision=True), 1, 3)
    x = torch.randn(2, 1, 32, 16)
    assert [tuple(level.shape) for level in net(x)] == [(2, 3, 32, 16), (2, 3, 16, 8), (2, 3, 8, 4)]
    assert net.eval()(x).shape == (2, 3, 32, 16)


def test_deep_supervision_of_three_levels_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="four levels"):
        NetConfig(features=[4, 8, 8], deep_supervision=True)


def test_an_attention_gate_only_ever_weakens_a_skip() -> None:
    gate = AttentionGate(4, 6, "instance")
    skip = torch.randn(2, 4, 8, 8)
    gated = gate(skip, torch.randn(2, 6, 8, 8))
    share = gated / skip
    assert float(share.min()) > 0
    assert float(share.max()) < 1
    torch.testing.assert_close(share, share[:, :1].expand_as(share))


def test_the_plain_net_has_no_weights_of_the_variants() -> None:
    net = UNet(1, 2, features=[4, 8])
    assert len(net.state_dict()) == 40
    assert not any(name.startswith(("gates", "lower_heads")) for name in net.state_dict())
