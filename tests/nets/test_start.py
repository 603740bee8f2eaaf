"""What a training takes over from other weights, by names, and what it says of the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from segray.case import LabelMap
from segray.config import NetConfig
from segray.errors import UsageError
from segray.nets.start import Start, _outer_layers, net_of_start, outputs_of, started_net
from segray.nets.unet import build_net

NET = NetConfig(features=[4, 8, 8, 8], norm="instance")
OLD = LabelMap({"liver": 1, "spleen": 2, "colon": 3})


def start(channels: tuple[str, ...] = ("T1", "T2"), label_map: LabelMap = OLD) -> Start:
    torch.manual_seed(1)
    names = outputs_of(label_map)
    net = build_net(NET, 2, len(names))
    torch.nn.init.normal_(net.head.bias)
    return Start("old weights", NET, net.state_dict(), 2, channels, names, len(names))


def logits(start: Start, names: LabelMap, channels: tuple[str, ...], x: torch.Tensor) -> torch.Tensor:
    net, _ = started_net(start, NET, x.shape[1], channels, names)
    with torch.no_grad():
        return net.eval()(x)  # type: ignore[no-any-return]


def test_structures_and_channels_are_found_by_name_in_any_order() -> None:
    old = start()
    x = torch.randn(1, 2, 16, 16)
    before = logits(old, OLD, ("T1", "T2"), x)
    turned = LabelMap({"spleen": 1, "liver": 2})
    after = logits(old, turned, ("T2", "T1"), x.flip(1))
    torch.testing.assert_close(after, before[:, [0, 2, 1]])


def test_overlapping_structures_take_over_those_of_a_softmax() -> None:
    old = start()
    x = torch.randn(1, 2, 16, 16)
    both = LabelMap({"colon": 1, "liver": 2}, overlapping=True)
    torch.testing.assert_close(logits(old, both, ("T1", "T2"), x), logits(old, OLD, ("T1", "T2"), x)[:, [3, 1]])


def test_what_starts_anew_is_said() -> None:
    net = NET.model_copy(update={"deep_supervision": True})
    made, said = started_net(start(), net, 3, ("T1", "CT", "T2"), LabelMap({"liver": 1, "tumour": 2}))
    assert said == [
        "Outputs that start anew: tumour.",
        "Input channels that start anew: CT.",
        "Layers that start anew: lower_heads.",
    ]
    assert made.head.weight.shape[0] == 3


MONAI = {
    "dynunet": {"features": [4, 8, 8], "norm": "instance"},
    "segresnet": {"features": [8, 16, 32]},
    "swinunetr": {"features": [12, 24]},
    "mednext": {"features": [4, 8, 16]},
}


@pytest.mark.parametrize("name", MONAI)
def test_so_they_are_in_the_nets_of_monai(name: str) -> None:
    torch.manual_seed(1)
    config = NetConfig.model_validate({"name": name, **MONAI[name]})
    net = build_net(config, 2, 4).eval()
    names = outputs_of(OLD)
    old = Start("old weights", config, net.state_dict(), 2, ("T1", "T2"), names, len(names))
    turned = LabelMap({"spleen": 1, "kidney": 2, "liver": 3, "bone": 4})
    made, said = started_net(old, config, 3, ("T2", "CT", "T1"), turned)
    assert said == ["Outputs that start anew: kidney, bone.", "Input channels that start anew: CT."]
    x = torch.randn(1, 2, 2 * net.stride, 2 * net.stride)
    with torch.no_grad():
        for layer, tensor in made.named_parameters():
            if layer in _outer_layers(config)[0]:
                tensor[:, 1] = 0.0
        after = made.eval()(torch.stack((x[:, 1], x[:, 0], x[:, 0]), 1))
        torch.testing.assert_close(after[:, [0, 1, 3]], net(x)[:, [0, 2, 1]], atol=1e-4, rtol=1e-4)


def test_without_names_as_many_outputs_go_by_their_number() -> None:
    old = replace(start(), outputs=(), channels=())
    x = torch.randn(1, 2, 16, 16)
    others = LabelMap({"a": 1, "b": 2, "c": 3})
    torch.testing.assert_close(logits(old, others, ("x", "y"), x), logits(start(), OLD, ("T1", "T2"), x))
    _, said = started_net(old, NET, 1, (), LabelMap({"a": 1}))
    assert said == ["Outputs that start anew: background, a.", "Input channels that start anew: 1."]


def test_settings_that_are_not_named_are_those_of_the_weights() -> None:
    net = net_of_start(start(), NetConfig(dropout=0.2))
    assert net == NET.model_copy(update={"dropout": 0.2})


def test_a_net_that_the_weights_do_not_fit_is_refused_in_words() -> None:
    with pytest.raises(UsageError, match=r"net.norm is batch.*weights of a net with instance.*Leave the net out"):
        net_of_start(start(), NetConfig(norm="batch"))


def test_weights_of_another_shape_are_refused_in_words() -> None:
    old = start()
    wrong = dict(old.weights) | {"encoder.1.0.conv.weight": torch.zeros(8, 5, 3, 3)}
    with pytest.raises(UsageError, match=r"encoder.1.0.conv.weight has the shape \(8, 5, 3, 3\) in old weights"):
        started_net(replace(old, weights=wrong), NET, 2, ("T1", "T2"), OLD)
