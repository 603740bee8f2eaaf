"""The fast forward pass against the plain one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from segray.config import NetConfig
from segray.engine.inference import ForwardPass
from segray.nets.unet import UNet, build_net, fold_batch_norm

CPU = torch.device("cpu")


def _net(**kwargs: Any) -> UNet:
    torch.manual_seed(0)
    net = build_net(NetConfig(features=[8, 16, 16], **kwargs), 1, 5)
    for _ in range(5):
        net(torch.randn(4, 1, 16, 16))
    return net.eval()


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "silu"])
def test_float32_equals_the_net(norm: str, activation: str) -> None:
    net = _net(norm=norm, activation=activation)
    x = torch.randn(2, 1, 16, 24)
    with torch.inference_mode():
        torch.testing.assert_close(ForwardPass(net, CPU, "float32")(x), net(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_float32_equals_the_residual_net_with_gates(norm: str) -> None:
    net = _net(norm=norm, blocks="residual", attention=True)
    x = torch.randn(2, 1, 16, 24)
    with torch.inference_mode():
        fast = ForwardPass(net, CPU, "float32")
        assert fast.fused == (norm == "batch")
        torch.testing.assert_close(fast(x), net(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_bf16_is_near(norm: str) -> None:
    net = _net(norm=norm)
    x = torch.randn(2, 1, 16, 24)
    with torch.inference_mode():
        logits = ForwardPass(net, CPU, "bf16")(x)
        assert logits.dtype == torch.bfloat16
        torch.testing.assert_close(logits.float(), net(x), atol=0.1, rtol=0.05)


def test_bf16_weights_of_a_folded_net_equal_autocast() -> None:
    folded = fold_batch_norm(_net()).to(memory_format=torch.channels_last)
    low = copy.deepcopy(folded).to(torch.bfloat16)
    x = torch.randn(2, 1, 16, 24).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected = folded(x)
        assert torch.equal(low(x.to(torch.bfloat16)), expected)


def test_the_original_net_is_not_changed() -> None:
    net = _net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    ForwardPass(net, CPU, "bf16")
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())
