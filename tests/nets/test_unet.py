"""The U-Net: shapes, options, and folding of batch norms."""

from __future__ import annotations

import itertools

import pytest
import torch

from segray.config import NetConfig
from segray.errors import UsageError
from segray.nets.unet import ConvUnit, UNet, build_net, fold_batch_norm


@pytest.mark.parametrize(
    ("norm", "activation", "upsampling"),
    itertools.product(["batch", "instance", "group"], ["relu", "leaky_relu", "silu"], ["transposed", "bilinear"]),
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


@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
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
