"""The loss over several resolutions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional

from segray.config import LossConfig
from segray.nets.deep_supervision import level_weights, supervised_loss
from segray.nets.objective import Objective


def test_weights_halve_and_sum_to_one() -> None:
    assert level_weights(3) == pytest.approx([4 / 7, 2 / 7, 1 / 7])


@pytest.mark.parametrize("overlapping", [False, True])
def test_it_is_the_weighted_sum_against_labels_of_nearest_neighbours(overlapping: bool) -> None:
    loss = Objective(LossConfig(focal=0.5), overlapping=overlapping)
    torch.manual_seed(1)
    labels = torch.randint(0, 3, (2, 8, 12), dtype=torch.uint8)
    outputs = [torch.randn(2, 3, 8 >> k, 12 >> k, requires_grad=True) for k in range(3)]
    parts = supervised_loss(loss, outputs, labels)
    expected = 0.0
    for k, logits in enumerate(outputs):
        small = functional.interpolate(labels[:, None].float(), scale_factor=0.5**k, mode="nearest")[:, 0].to(
            torch.uint8
        )
        expected += (4 / 7) * 0.5**k * float(loss(logits, small).total)
    assert parts.total.item() == pytest.approx(expected, rel=1e-5)
    assert parts.total.item() == pytest.approx(
        float(parts.dice + parts.cross_entropy + 0.5 * parts.more["focal"]), rel=1e-5
    )
    parts.total.backward()
    assert all(logits.grad is not None and logits.grad.abs().sum() > 0 for logits in outputs)
