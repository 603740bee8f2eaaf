"""Parameters, FLOPs and memory against numbers counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segray.config import NetConfig
from segray.nets.cost import net_cost
from segray.nets.unet import build_net


def test_one_convolution_is_counted_by_hand() -> None:
    conv = nn.Conv2d(2, 5, 3, padding=1)
    cost = net_cost(conv, 2, (8, 16), batch=4)
    assert cost.parameters == 5 * 2 * 9 + 5
    assert cost.flops_per_slice == 2 * (8 * 16) * (5 * 2 * 9)
    # Weights, gradients and two momenta; the input that the weights' gradient needs; three times the logits.
    assert cost.training_bytes == 4 * cost.parameters * 4 + 4 * (4 * 2 * 8 * 16) + 3 * 4 * (4 * 5 * 8 * 16)


def test_activations_that_share_memory_count_once_and_bf16_halves_them() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1, bias=False))
    wide, low = (net_cost(net, 1, (4, 4), batch=1, bf16=bf16).training_bytes for bf16 in (False, True))
    assert wide - low == 4 * (1 + 3) * 16 // 2


@pytest.mark.parametrize("options", [{}, {"blocks": "residual", "attention": True, "deep_supervision": True}])
def test_a_net_is_left_as_it_is_and_memory_grows_with_the_batch(options: dict[str, object]) -> None:
    net = build_net(NetConfig.model_validate({"features": [4, 8, 8, 8]} | options), 1, 3).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    one, four = (net_cost(net, 1, (16, 16), batch=batch) for batch in (1, 4))
    assert four.training_bytes > one.training_bytes
    assert four.flops_per_slice == one.flops_per_slice
    assert not net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert "16 x 16" in str(one)


def test_what_is_computed_again_counts_of_one_stage_at_a_time() -> None:
    """Two levels of one channel on 4 x 4, counted by hand: floats of 16 pixels take 64 bytes."""
    options = {"features": [1, 1], "norm": "none", "activation": "relu", "upsampling": "bilinear"}
    net = build_net(NetConfig.model_validate(options), 1, 2)
    apart = []
    for net.checkpointing in (False, True):
        cost = net_cost(net, 1, (4, 4), batch=1)
        apart.append(cost.training_bytes - 16 * cost.parameters - 3 * 4 * 2 * 16)
    # The image, where the pool found what, its output, the output of the lower stage, both channels that are joined.
    always = 64 + 32 + 16 + 16 + 128
    ends, first_outputs, below = 64 + 64, 64 + 64, 16
    assert apart == [always + ends + first_outputs + below, always + ends + (64 + 64)]
    assert net.checkpointing
