"""Ignored pixels and structures that nobody drew: in no term of the loss, in no gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segray.config import LossConfig
from segray.nets.counted_pixels import hide_unknown, leave_out
from segray.nets.losses import LossParts
from segray.nets.objective import Objective

KINDS = pytest.mark.parametrize("overlapping", [False, True])
TERMS = ("dice", "cross_entropy", "bce", "focal", "tversky", "lovasz")
EACH = pytest.mark.parametrize("name", TERMS)


def _batch(overlapping: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(4, 3 if overlapping else 4, 6, 5, generator=generator, dtype=torch.float64) * 2
    labels = torch.randint(0, 8 if overlapping else 4, (4, 6, 5), generator=generator, dtype=torch.uint8)
    return logits, labels


def _only(name: str, *, overlapping: bool) -> Objective:
    weights = {"class_weights": {"a": 3.0}} if name == "bce" else {}
    config = LossConfig(**{"dice": 0.0, "cross_entropy": 0.0, name: 1.0, **weights})
    return Objective(config, ("a", "b", "c"), overlapping=overlapping)


def _slope(parts: LossParts, logits: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(parts.total, logits)
    return slope


@KINDS
@EACH
def test_ignored_slices_are_as_if_they_were_not_there(name: str, overlapping: bool) -> None:
    logits, labels = _batch(overlapping)
    logits.requires_grad_()
    objective = _only(name, overlapping=overlapping)
    labels[1] = 255
    with_ignored, without = objective(logits, labels, ignored=255), objective(logits[[0, 2, 3]], labels[[0, 2, 3]])
    torch.testing.assert_close(with_ignored.total, without.total)
    slope = _slope(with_ignored, logits)
    torch.testing.assert_close(slope, _slope(without, logits))
    assert not slope[1].any()


@KINDS
@EACH
def test_what_the_net_says_of_an_ignored_pixel_is_all_the_same(name: str, overlapping: bool) -> None:
    logits, labels = _batch(overlapping)
    objective = _only(name, overlapping=overlapping)
    labels[:, 2, 3] = 255
    before = objective(logits, labels, ignored=255).total
    logits[:, :, 2, 3] += torch.randn(4, logits.shape[1], dtype=torch.float64)
    assert torch.equal(objective(logits, labels, ignored=255).total, before)


@KINDS
@EACH
def test_a_batch_of_ignored_pixels_teaches_nothing(name: str, overlapping: bool) -> None:
    logits, labels = _batch(overlapping)
    logits.requires_grad_()
    parts = _only(name, overlapping=overlapping)(logits, torch.full_like(labels, 255), ignored=255)
    assert parts.total == 0
    assert not _slope(parts, logits).any()


def test_the_pixels_that_are_left_keep_their_order() -> None:
    logits, labels = _batch(overlapping=False)
    labels[0] = 255
    kept, left = leave_out(logits, labels, 255)
    assert kept.shape == (1, 4, 90, 1)
    assert torch.equal(left.flatten(), labels[1:].flatten())
    assert torch.equal(kept[0, :, :, 0], logits[1:].transpose(0, 1).flatten(1))


@KINDS
@EACH
def test_all_structures_known_is_no_change(name: str, overlapping: bool) -> None:
    logits, labels = _batch(overlapping)
    objective = _only(name, overlapping=overlapping)
    known = torch.ones(logits.shape[:2], dtype=torch.bool)
    assert torch.equal(objective(logits, labels, known=known).total, objective(logits, labels).total)


@EACH
def test_an_unknown_structure_is_merged_into_the_background(name: str) -> None:
    logits, labels = _batch(overlapping=False)
    labels[labels == 3] = 0
    known = torch.ones(4, 4, dtype=torch.bool)
    known[:, 3] = False
    objective = _only(name, overlapping=False)
    found = objective(logits, labels, known=known).total
    merged = torch.stack(
        (torch.logaddexp(logits[:, 0], logits[:, 3]), logits[:, 1], logits[:, 2]), dim=1
    )  # a net that never knew the structure
    weights = {"class_weights": {"a": 3.0}} if name == "bce" else {}
    smaller = Objective(LossConfig(**{"dice": 0.0, "cross_entropy": 0.0, name: 1.0, **weights}), ("a", "b"))
    expected = smaller(merged, labels).total
    # The mean over labels counts the unknown one, whose loss is 0: weights (1, 3, 1, 1) against (1, 3, 1).
    torch.testing.assert_close(found, expected * (5 / 6 if name == "bce" else 1))


@EACH
def test_an_unknown_structure_that_overlaps_is_masked(name: str) -> None:
    logits, labels = _batch(overlapping=True)
    labels &= 3
    known = torch.tensor([True, True, False]).expand(4, 3)
    objective = _only(name, overlapping=True)
    logits.requires_grad_()
    parts = objective(logits, labels, known=known)
    slope = _slope(parts, logits)
    assert not slope[:, 2].any()
    assert slope[:, :2].any()
    smaller = (
        _only(name, overlapping=True)
        if name != "bce"
        else Objective(LossConfig(dice=0, cross_entropy=0, bce=1, class_weights={"a": 3}), ("a", "b"), overlapping=True)
    )
    share = {"cross_entropy": 2 / 3, "focal": 2 / 3, "bce": 4 / 5}.get(name, 1.0)
    torch.testing.assert_close(parts.total, smaller(logits[:, :2], labels).total * share)


def test_a_structure_counts_in_the_dice_of_the_slices_that_know_it() -> None:
    logits, labels = _batch(overlapping=False)
    labels[:2][labels[:2] == 3] = 0
    known = torch.ones(4, 4, dtype=torch.bool)
    known[:2, 3] = False
    objective = Objective(LossConfig(cross_entropy=0))
    first = objective(logits, labels, known=known).total
    logits[:2, 0], logits[:2, 3] = logits[:2, 3].clone(), logits[:2, 0].clone()
    torch.testing.assert_close(objective(logits, labels, known=known).total, first)


@KINDS
def test_gradient_of_what_is_known_equals_finite_differences(overlapping: bool) -> None:
    logits, labels = _batch(overlapping)
    known = torch.ones(logits.shape[:2], dtype=torch.bool)
    known[1:3, 2] = False
    labels[1:3] = labels[1:3] & 3 if overlapping else labels[1:3] * (labels[1:3] != 2)
    config = LossConfig(dice=0.5, cross_entropy=0.4, bce=0.3, focal=0.7, focal_gamma=0.5, tversky=0.6, lovasz=0.2)
    objective = Objective(config, overlapping=overlapping)
    inputs = logits[:3, :, :3, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: objective(x, labels[:3, :3, :3], known=known[:3]).total, (inputs,))


@pytest.mark.parametrize(("overlapping", "ignores"), [(False, False), (False, True), (True, False)])
def test_what_files_show_of_an_unknown_structure_counts_as_background(overlapping: bool, ignores: bool) -> None:
    """Else the loss is infinite: the truth would have the probability 0."""
    logits, labels = _batch(overlapping)
    known = torch.ones(logits.shape[:2], dtype=torch.bool)
    known[1:3, 2] = False
    cleared = labels.clone()
    cleared[1:3] = cleared[1:3] & ~4 if overlapping else cleared[1:3] * (cleared[1:3] != 2)
    if ignores:
        labels[:, :2], cleared[:, :2] = logits.shape[1], logits.shape[1]
    assert not torch.equal(cleared, labels)
    objective = Objective(LossConfig(bce=0.3, lovasz=0.2), overlapping=overlapping)
    ignored = logits.shape[1] if ignores else None
    found, expected = (objective(logits, one, known=known, ignored=ignored).total for one in (labels, cleared))
    assert torch.isfinite(found)
    torch.testing.assert_close(found, expected)


def test_hidden_bf16_logits_become_float32() -> None:
    logits = torch.randn(2, 3, 4, 4).to(torch.bfloat16)
    known = torch.tensor([[True, True, False], [True, True, True]])
    shown = hide_unknown(logits, known, overlapping=False)
    assert shown.dtype == torch.float32
    assert torch.equal(shown[1], logits[1].float())
    torch.testing.assert_close(shown[0, 0], torch.logaddexp(logits[0, 0].float(), logits[0, 2].float()))
