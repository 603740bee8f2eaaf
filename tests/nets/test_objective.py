"""Every term against a loop over pixels in float64, finite differences and MONAI, for both kinds of labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.losses import DiceFocalLoss, FocalLoss, TverskyLoss
from torch import Tensor

from segray.config import LossConfig
from segray.errors import UsageError
from segray.nets.losses import SMOOTH, segmentation_loss, weighted_parts
from segray.nets.objective import Objective
from segray.nets.sigmoid_loss import bits_of, overlapping_loss

NAMES = ("liver", "lesion", "vein")
WEIGHTS = {"lesion": 5.0, "vein": 0.5}
KINDS = pytest.mark.parametrize("overlapping", [False, True])
TERMS = pytest.mark.parametrize("name", ["bce", "focal", "tversky", "lovasz"])


def _batch(overlapping: bool, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (3, L, 6, 5) in float64 and labels (3, 6, 5), every structure present."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 3 if overlapping else 4, 6, 5, generator=generator, dtype=torch.float64) * 2
    labels = torch.randint(0, 8 if overlapping else 4, (3, 6, 5), generator=generator, dtype=torch.uint8)
    return logits, labels


def _only(name: str, **more: Any) -> LossConfig:
    return LossConfig(**{"dice": 0.0, "cross_entropy": 0.0, name: 1.0, **more})


def _rows(logits: Tensor, labels: Tensor, overlapping: bool) -> tuple[list[list[float]], list[list[int]]]:
    """Probability and truth of every pixel and label, by the definition."""
    chances, truths = [], []
    for n in range(len(labels)):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                scores = logits[n, :, y, x].tolist()
                label = int(labels[n, y, x])
                if overlapping:
                    chances.append([1 / (1 + math.exp(-score)) for score in scores])
                    truths.append([label >> k & 1 for k in range(len(scores))])
                else:
                    total = sum(math.exp(score) for score in scores)
                    chances.append([math.exp(score) / total for score in scores])
                    truths.append([int(label == k) for k in range(len(scores))])
    return chances, truths


def _weights(overlapping: bool) -> list[float]:
    return ([] if overlapping else [1.0]) + [WEIGHTS.get(name, 1.0) for name in NAMES]


def _naive_focal(p: list[list[float]], t: list[list[int]], overlapping: bool, gamma: float) -> float:
    weights, top, bottom = _weights(overlapping), 0.0, 0.0
    for chances, truths in zip(p, t, strict=True):
        for chance, truth, weight in zip(chances, truths, weights, strict=True):
            if overlapping or truth:
                right = chance if truth else 1 - chance
                top -= weight * (1 - right) ** gamma * math.log(right)
                bottom += weight
    return top / bottom


def _naive_entropy(p: list[list[float]], t: list[list[int]], overlapping: bool) -> float:
    return _naive_focal(p, t, overlapping, 0.0)


def _naive_bce(p: list[list[float]], t: list[list[int]], overlapping: bool) -> float:
    weights = _weights(overlapping)
    top = sum(
        -weight * math.log(chance if truth else 1 - chance)
        for chances, truths in zip(p, t, strict=True)
        for chance, truth, weight in zip(chances, truths, weights, strict=True)
    )
    return top / (len(p) * sum(weights))


def _columns(rows: list[list[Any]], overlapping: bool) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)][0 if overlapping else 1 :]


def _naive_tversky(p: list[list[float]], t: list[list[int]], overlapping: bool, alpha: float, beta: float) -> float:
    losses = []
    for chances, truths in zip(_columns(p, overlapping), _columns(t, overlapping), strict=True):
        if any(truths):
            pairs = list(zip(chances, truths, strict=True))
            hit = sum(chance * truth for chance, truth in pairs)
            wrong = sum(chance * (1 - truth) for chance, truth in pairs)
            missed = sum((1 - chance) * truth for chance, truth in pairs)
            losses.append(1 - (hit + SMOOTH) / (hit + alpha * wrong + beta * missed + SMOOTH))
    return sum(losses) / len(losses)


def _naive_lovasz(p: list[list[float]], t: list[list[int]], overlapping: bool) -> float:
    """The Jaccard loss of the set of the worst k pixels, for every k, times how much worse pixel k is than the next."""
    losses = []
    for chances, truths in zip(_columns(p, overlapping), _columns(t, overlapping), strict=True):
        if any(truths):
            errors = [abs(truth - chance) for chance, truth in zip(chances, truths, strict=True)]
            order = sorted(range(len(errors)), key=lambda i: -errors[i])
            loss = 0.0
            for k in range(1, len(order) + 1):
                wrong = set(order[:k])
                true = {i for i, truth in enumerate(truths) if truth}
                jaccard = 1 - len(true - wrong) / len(true | wrong)
                after = errors[order[k]] if k < len(order) else 0.0
                loss += (errors[order[k - 1]] - after) * jaccard
            losses.append(loss)
    return sum(losses) / len(losses)


NAIVE: dict[str, tuple[dict[str, Any], Callable[..., float]]] = {
    "cross_entropy": ({"class_weights": WEIGHTS}, _naive_entropy),
    "bce": ({"class_weights": WEIGHTS}, _naive_bce),
    "focal": ({"class_weights": WEIGHTS, "focal_gamma": 1.5}, lambda *of: _naive_focal(*of, 1.5)),
    "tversky": ({"tversky_alpha": 0.2, "tversky_beta": 0.9}, lambda *of: _naive_tversky(*of, 0.2, 0.9)),
    "lovasz": ({}, _naive_lovasz),
}


@KINDS
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("name", sorted(NAIVE))
def test_equals_a_loop_over_pixels(name: str, overlapping: bool, absent: bool) -> None:
    logits, labels = _batch(overlapping)
    if absent:
        labels = labels & 5 if overlapping else labels * (labels != 2)
    settings, naive = NAIVE[name]
    found = Objective(_only(name, **settings), NAMES, overlapping=overlapping)(logits, labels)
    expected = naive(*_rows(logits, labels, overlapping), overlapping)
    assert found.total.item() == pytest.approx(expected, rel=1e-12)
    assert (found.cross_entropy if name == "cross_entropy" else found.more[name]).item() == found.total.item()


@KINDS
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_gradients_equal_finite_differences(overlapping: bool, gamma: float) -> None:
    logits, labels = _batch(overlapping, seed=1)
    config = LossConfig(
        dice=0.3, cross_entropy=0.7, bce=0.4, focal=1.3, focal_gamma=gamma, tversky=0.8, lovasz=0.6,
        class_weights=WEIGHTS,
    )  # fmt: skip
    objective = Objective(config, NAMES, overlapping=overlapping)
    inputs = logits[:2, :, :3, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: objective(x, labels[:2, :3, :3]).total, (inputs,))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_equals_monai(gamma: float) -> None:
    """MONAI computes in float32 whatever the logits are, and divides a sum over pixels by the labels as well."""
    logits, labels = _batch(overlapping=False)
    softmax = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=gamma)
    found = Objective(_only("focal", focal_gamma=gamma))(logits, labels)
    torch.testing.assert_close(found.total.float(), 4 * softmax(logits, labels[:, None].long()))
    logits, labels = _batch(overlapping=True)
    found = Objective(_only("focal", focal_gamma=gamma), overlapping=True)(logits, labels)
    torch.testing.assert_close(found.total.float(), FocalLoss(gamma=gamma)(logits, bits_of(labels, 3, 1).double()))


@pytest.mark.parametrize("background", [False, True])
def test_tversky_equals_monai(background: bool) -> None:
    logits, labels = _batch(overlapping=False)
    settings: dict[str, Any] = {"alpha": 0.3, "beta": 0.7, "batch": True, "smooth_nr": SMOOTH, "smooth_dr": SMOOTH}
    oracle = TverskyLoss(include_background=background, to_onehot_y=True, softmax=True, **settings)
    found = Objective(_only("tversky", dice_background=background))(logits, labels)
    torch.testing.assert_close(found.total, oracle(logits, labels[:, None].long()))
    logits, labels = _batch(overlapping=True)
    found = Objective(_only("tversky"), overlapping=True)(logits, labels)
    torch.testing.assert_close(found.total, TverskyLoss(sigmoid=True, **settings)(logits, bits_of(labels, 3, 1)))


def test_dice_and_focal_equal_monai() -> None:
    logits, labels = _batch(overlapping=True)
    oracle = DiceFocalLoss(
        sigmoid=True, batch=True, smooth_nr=SMOOTH, smooth_dr=SMOOTH, gamma=2.0, lambda_dice=0.6, lambda_focal=0.4
    )
    config = LossConfig(dice=0.6, cross_entropy=0.0, focal=0.4)
    found = Objective(config, overlapping=True)(logits, labels)
    torch.testing.assert_close(found.total, oracle(logits, bits_of(labels, 3, 1).double()))


def test_weighted_cross_entropy_equals_torch() -> None:
    logits, labels = _batch(overlapping=False)
    found = Objective(_only("cross_entropy", class_weights=WEIGHTS), NAMES)(logits, labels)
    weight = torch.tensor([1.0, 1.0, 5.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(found.total, torch.nn.functional.cross_entropy(logits, labels.long(), weight))


@KINDS
def test_dice_and_cross_entropy_alone_are_the_fast_function_bit_for_bit(overlapping: bool) -> None:
    logits, labels = _batch(overlapping)
    fast = overlapping_loss if overlapping else segmentation_loss
    config = LossConfig(dice=0.6, cross_entropy=0.4)
    first, second = (logits.float().requires_grad_() for _ in range(2))
    fast(first, labels, config).total.backward()  # type: ignore[no-untyped-call]
    Objective(config, NAMES, overlapping=overlapping)(second, labels).total.backward()  # type: ignore[no-untyped-call]
    assert first.grad is not None
    assert second.grad is not None
    assert torch.equal(first.grad, second.grad)


@KINDS
def test_weights_of_one_change_nothing(overlapping: bool) -> None:
    logits, labels = _batch(overlapping)
    plain = Objective(LossConfig(bce=1, focal=1), NAMES, overlapping=overlapping)(logits, labels)
    config = LossConfig(bce=1, focal=1, class_weights={"liver": 1.0})
    weighted = Objective(config, NAMES, overlapping=overlapping)(logits, labels)
    torch.testing.assert_close(weighted.total, plain.total)
    torch.testing.assert_close(weighted.dice, plain.dice)
    torch.testing.assert_close(weighted.cross_entropy, plain.cross_entropy)


@KINDS
@TERMS
def test_certain_pixels_have_finite_losses_and_gradients(name: str, overlapping: bool) -> None:
    logits, labels = _batch(overlapping)
    hopeless = (logits.float() * 1000).requires_grad_()
    for gamma in (0.0, 0.5, 2.0):
        config = _only(name, focal_gamma=gamma)
        found = Objective(config, overlapping=overlapping)(hopeless, labels)
        (slope,) = torch.autograd.grad(found.total, hopeless)
        assert found.total.isfinite()
        assert slope.isfinite().all()


def test_entropy_against_the_rest_of_a_hopeless_pixel_is_exact() -> None:
    logits = torch.tensor([500.0, 0.0, -1000.0]).view(1, 3, 1, 1)
    labels = torch.ones(1, 1, 1, dtype=torch.uint8)
    # Background is 500 nats wrong, label 1 too, label 2 is right.
    assert Objective(_only("bce"))(logits, labels).total.item() == pytest.approx(1000 / 3)


@KINDS
@TERMS
def test_bf16_logits_in_channels_last(name: str, overlapping: bool) -> None:
    logits, labels = _batch(overlapping)
    low = logits.to(torch.bfloat16).contiguous(memory_format=torch.channels_last).requires_grad_()
    objective = Objective(_only(name), overlapping=overlapping)
    found = objective(low, labels)
    found.total.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found.total, objective(low.detach().float(), labels).total)
    assert low.grad is not None
    assert low.grad.dtype == torch.bfloat16


@KINDS
def test_nothing_present_leaves_a_finite_gradient(overlapping: bool) -> None:
    logits, labels = _batch(overlapping)
    logits.requires_grad_()
    config = LossConfig(bce=1, focal=1, tversky=1, lovasz=1)
    found = Objective(config, overlapping=overlapping)(logits, torch.zeros_like(labels))
    found.total.backward()  # type: ignore[no-untyped-call]
    assert found.more["tversky"] == 0
    assert found.more["lovasz"] == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Did you mean lesion\?"):
        Objective(LossConfig(class_weights={"lesoin": 2}), NAMES)


def test_pixels_without_a_judgement_have_every_term() -> None:
    """A level of deep supervision, or a piece of a batch, may hold ignored pixels alone."""
    objective = Objective(LossConfig(tversky=1.0, focal=0.5, class_weights={"a": 2.0}), ("a",))
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    none = objective(logits, torch.full((1, 4, 4), 9), ignored=9)
    some = objective(logits, torch.ones(1, 4, 4, dtype=torch.long), ignored=9)
    both = weighted_parts([(0.5, none), (0.5, some)])
    assert set(both.more) == {"tversky", "focal"}
    assert float(both.total.detach()) == pytest.approx(float(some.total.detach()) / 2)
