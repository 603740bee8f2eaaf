"""Turned and zoomed prediction against scipy's turns of the whole image, and nets that see no difference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from segray.case import LabelMap
from segray.config import NetConfig, PredictConfig
from segray.engine.moves import MovedForward, moves_of
from segray.engine.predictor import Predictor
from segray.errors import UsageError
from segray.grid import Grid
from segray.nets.bundle import Bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net

FLAT = NetConfig(features=[4, 8])
DEEP = NetConfig(features=[4, 8], patch=(8, 8, 8))
MM = (2.0, 1.0, 1.0)


def smooth(*size: int) -> Tensor:
    """(1, 1, ...) of bumps some pixels wide: interpolation changes little of them."""
    noise = np.random.default_rng(0).normal(size=size)
    return torch.from_numpy(ndimage.gaussian_filter(noise, 3.0) * 20)[None, None].float()


def two_labels(images: Tensor) -> Tensor:
    return torch.cat((images, -images), 1)


def seen_by(images: Tensor, moves: list[Tensor]) -> list[Tensor]:
    """What a net is given, one after the other."""
    seen: list[Tensor] = []

    def forward(given: Tensor) -> Tensor:
        seen.append(given.clone())
        return two_labels(given)

    MovedForward(forward, moves, overlapping=False)(images)
    return seen


def middle(images: Tensor, cut: int = 8) -> Tensor:
    return images[(..., *[slice(cut, -cut)] * (images.ndim - 2))]


@pytest.mark.parametrize("net", [FLAT, DEEP])
@pytest.mark.parametrize("overlapping", [False, True])
def test_a_net_of_single_pixels_finds_what_it_finds_without_moves(net: NetConfig, overlapping: bool) -> None:
    images = smooth(24, 32, 40) if net.patch else smooth(32, 40)
    moves = moves_of({"z": 9, "x": 6, "y": 7}, 0.1, net)
    assert len(moves) == (8 if net.patch else 4)
    found = MovedForward(two_labels, moves, overlapping=overlapping)(images)
    plain = two_labels(images)
    if overlapping:
        found, plain = found.sigmoid(), plain.sigmoid()
    else:
        found, plain = found.softmax(1), plain.softmax(1)
    # At the edges interpolation mixes in what lies outside.
    assert middle(found - plain, 3).abs().max() < 0.05
    assert plain.std() > 0.1


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_turns_are_those_of_scipy_about_the_axis_both_ways(axis: str) -> None:
    images = smooth(28, 32, 40)
    planes = {"x": (0, 1), "y": (0, 2), "z": (1, 2)}
    still, *turned = seen_by(images, moves_of({axis: 10}, 0.0, DEEP))
    assert torch.equal(still, images)
    lowest = float(images.min())
    expected = [
        ndimage.rotate(images[0, 0].numpy(), angle, planes[axis], reshape=False, order=1, cval=lowest)
        for angle in (10, -10)
    ]
    apart = [
        min(float(middle(one[None, None] - other).abs().max()) for one in map(torch.from_numpy, expected))
        for other in turned
    ]
    assert max(apart) < 1e-3
    assert (middle(turned[0] - turned[1])).abs().max() > 0.1, "each way is another image"


def test_zooms_enlarge_by_the_share_and_make_smaller_by_as_much() -> None:
    ramp = torch.arange(33.0).sub(16).repeat(33, 1)[None, None]
    still, larger, smaller = seen_by(ramp, moves_of({}, 0.25, FLAT))
    for seen, factor in ((still, 1.0), (larger, 1 / 1.25), (smaller, 1.25)):
        assert torch.allclose(seen[0, 0, 16, 8:-8], ramp[0, 0, 16, 8:-8] * factor, atol=1e-4)


def test_pixels_that_moved_out_count_as_they_were_found_without_moving() -> None:
    calls: list[float] = []

    def forward(images: Tensor) -> Tensor:
        calls.append(2.0 if not calls else -2.0)
        return two_labels(torch.full_like(images, calls[-1]))

    found = MovedForward(forward, moves_of({"z": 45}, 0.0, FLAT), overlapping=False)(torch.zeros(1, 1, 33, 33))
    shares = found.softmax(1)[0, 0]
    one, other = torch.tensor([2.0, -2.0]).sub(torch.tensor([-2.0, 2.0])).sigmoid().tolist()
    # Both turns bring a corner out of the image, and none the middle.
    assert math.isclose(float(shares[0, 0]), one, abs_tol=1e-5)
    assert math.isclose(float(shares[16, 16]), (one + 2 * other) / 3, abs_tol=1e-5)


def made(net: NetConfig, *, seed: int = 0, overlapping: bool = False) -> Bundle:
    torch.manual_seed(seed)
    names = LabelMap({"a": 1, "b": 2}, overlapping=overlapping)
    network = build_net(net, 1, names.channels)
    torch.nn.init.normal_(network.head.weight)
    grid = Grid("native", (32, 48), None, -1000.0)
    return Bundle(net, 1, names, grid, Normalisation("window"), network.state_dict(), bundle_id=str(seed))


def settings(**others: Any) -> PredictConfig:
    return PredictConfig(precision="float32", gpu="no", **others)


def voxels_of(depth: int) -> np.ndarray[Any, Any]:
    return (ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(depth, 32, 48)), 1.5) * 4000).astype(np.int16)


def images_of(bundle: Bundle, voxels: np.ndarray[Any, Any]) -> Tensor:
    """(z, 1, y, x)."""
    return bundle.normalisation.apply(torch.from_numpy(voxels), torch.zeros(len(voxels)), torch.ones(len(voxels)))


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_predictor_averages_over_moves_mirrors_and_bundles(overlapping: bool) -> None:
    flat, deep = (
        made(net, seed=seed, overlapping=overlapping)
        for seed, net in enumerate((FLAT, NetConfig(features=[4, 8], patch=(8, 0, 0))))
    )
    turn, voxels = {"z": 10.0, "x": 8.0}, voxels_of(8)

    def probabilities(logits: Tensor) -> Tensor:
        return logits.sigmoid() if overlapping else logits.softmax(1)

    def moved(bundle: Bundle, images: Tensor) -> Tensor:
        found = MovedForward(bundle.network(), moves_of(turn, 0.1, bundle.net), overlapping=overlapping)(images)
        return probabilities(found)

    expected = []
    with torch.inference_mode():
        for bundle in (flat, deep):
            images = images_of(bundle, voxels)
            if bundle.net.patch:
                images = images.transpose(0, 1)[None]
            mean = (moved(bundle, images) + moved(bundle, images.flip(-1)).flip(-1)) / 2
            expected.append(mean[0].transpose(0, 1) if bundle.net.patch else mean)
    mean = torch.stack(expected).mean(0)
    labels = (mean > 0.5).mul(torch.tensor([1, 2])[:, None, None]).sum(1) if overlapping else mean.argmax(1)
    found = Predictor([flat, deep], settings(turn=turn, zoom=0.1, mirror=["x"])).predict(voxels, MM)
    assert (found == labels.numpy()).mean() > 0.9995
    without = Predictor([flat, deep], settings(mirror=["x"])).predict(voxels, MM)
    assert (without == labels.numpy()).mean() < 0.999, "the moves change something"


def test_disagreement_is_that_of_the_moves() -> None:
    bundle, voxels = made(FLAT), voxels_of(4)
    predictor = Predictor(bundle, settings(turn={"z": 10.0}, confidence=True))
    found = predictor.predict(voxels, MM)
    assert predictor.last_confidence is not None
    images, members = images_of(bundle, voxels), []
    with torch.inference_mode():
        network = bundle.network()
        for moves in ([], *[[move] for move in moves_of({"z": 10.0}, 0.0, FLAT)]):
            mean = MovedForward(network, moves, overlapping=False)(images).softmax(1)
            # The mean of a move and what is not moved: the move alone is twice that, less what is not.
            members.append(2 * mean - members[0] if moves else mean)
    for number in (1, 2):
        own, all_ = [(one.argmax(1) == number) for one in members], torch.from_numpy(found == number)
        apart = [1 - 2 * float((one & all_).sum()) / float(one.sum() + all_.sum()) for one in own]
        assert abs(np.mean(apart) - predictor.last_confidence.disagreement[number - 1]) < 1e-3
        assert np.mean(apart) > 0.001


def test_a_net_of_slices_turns_about_z_only() -> None:
    deep = made(NetConfig(features=[4, 8], patch=(8, 0, 0)), seed=1)
    with pytest.raises(UsageError, match=r"predict\.turn names x and y, and a network of slices turns about z only"):
        Predictor(made(FLAT), settings(turn={"x": 5.0, "y": 5.0, "z": 5.0}))
    Predictor([made(FLAT), deep], settings(turn={"x": 5.0}))
