"""3D U-Nets by config: shapes, strides, flat levels, and that what slices learn is what voxels learn."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from segray.config import LossConfig, NetConfig
from segray.nets.cost import net_cost
from segray.nets.deep_supervision import supervised_loss
from segray.nets.losses import LossParts
from segray.nets.objective import Objective
from segray.nets.unet import build_net, fold_batch_norm


def _net(**settings: object) -> NetConfig:
    return NetConfig.model_validate({"features": [4, 8, 8, 8], "patch": [8, 16, 16]} | settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"blocks": "residual", "features": [4, 8, 8]},
        {"attention": True, "norm": "instance"},
        {"upsampling": "bilinear", "dropout": 0.2},
        {"upsampling": "interpolated", "norm": "none"},
        {"flat_levels": 2, "norm": "group"},
        {"flat_levels": 3, "patch": [1, 16, 16]},
    ],
)
def test_every_kind_of_net_keeps_the_shape(settings: dict[str, object]) -> None:
    config = _net(**settings)
    net = build_net(config, 2, 3).eval()
    assert config.patch is not None
    images = torch.randn(1, 2, config.patch[0], 16, 32)
    logits = net(images)
    assert logits.shape == (1, 3, config.patch[0], 16, 32)
    torch.testing.assert_close(fold_batch_norm(net)(images), logits, atol=1e-5, rtol=1e-4)


def test_flat_levels_see_and_halve_in_plane_only() -> None:
    net = build_net(_net(flat_levels=2), 1, 2)
    assert (net.stride, net.depth_stride) == (8, 2)
    kernels = [stage[0].conv.kernel_size for stage in net.encoder]
    assert kernels == [(1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)]


def test_a_net_of_flat_levels_alone_is_the_2d_net() -> None:
    flat = build_net(_net(flat_levels=3, features=[4, 8, 8, 8], patch=[2, 16, 16]), 1, 2).eval()
    deep = flat.encoder[-1]
    for unit in deep:
        unit.conv.weight.data[:, :, [0, 2]] = 0.0
    plain = build_net(NetConfig(features=[4, 8, 8, 8]), 1, 2).eval()
    middle = {
        name: (value[:, :, value.shape[2] // 2] if value.ndim == 5 else value)
        for name, value in flat.state_dict().items()
    }
    plain.load_state_dict(middle)
    images = torch.randn(1, 1, 5, 16, 16)
    torch.testing.assert_close(flat(images)[0].transpose(0, 1), plain(images[0].transpose(0, 1)))


def test_the_loss_of_a_patch_is_that_of_its_voxels() -> None:
    loss = Objective(LossConfig(lovasz=0.5))
    logits = torch.randn(2, 3, 4, 6, 5, requires_grad=True)
    labels = torch.randint(0, 3, (2, 4, 6, 5))
    found = supervised_loss(loss, (logits,), labels)
    rows = logits.transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(found.total, loss(rows, labels.flatten(0, 1)).total)


def test_lower_heads_see_every_second_voxel_along_the_axes_that_were_halved() -> None:
    net = build_net(_net(deep_supervision=True, flat_levels=1), 1, 2).train()
    outputs = net(torch.randn(1, 1, 8, 16, 16))
    assert [tuple(one.shape[2:]) for one in outputs] == [(8, 16, 16), (8, 8, 8)]
    labels = torch.zeros(1, 8, 16, 16, dtype=torch.long)
    labels[:, :, ::2, ::2] = 1
    seen = []

    def loss(logits: torch.Tensor, truth: torch.Tensor) -> LossParts:
        seen.append(truth.float().mean().item())
        return Objective(LossConfig())(logits, truth)

    supervised_loss(loss, outputs, labels)
    assert seen == [0.25, 1.0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"patch": [6, 16, 16]}, "6 is no multiple of 8"),
        ({"patch": [8, 20, 16]}, "20 is no multiple of 8"),
        ({"neighbours": 1}, "leave one of them out"),
        ({"flat_levels": 4}, "features has 4 levels"),
        ({"patch": None, "flat_levels": 1}, "flat_levels is for 3D"),
    ],
)
def test_patches_that_do_not_fit_are_told(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        _net(**settings)


def test_the_cost_counts_a_slice_of_the_patch() -> None:
    net = build_net(_net(features=[4, 8]), 1, 2)
    cost = net_cost(net, 1, (8, 16, 16), batch=2)
    assert (cost.depth, cost.height, cost.width) == (8, 16, 16)
    assert "in patches of 8" in str(cost)
    assert cost.flops_per_slice == net_cost(net, 1, (16, 16, 16), batch=2).flops_per_slice
