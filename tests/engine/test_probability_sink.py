"""Probabilities handed out slab by slab, against interpolating everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from segray.case import LabelMap
from segray.config import NetConfig, PredictConfig
from segray.engine.predictor import Predictor
from segray.grid import Grid, plan_prediction
from segray.nets.bundle import Bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net
from segray.resample import place_slab

MM = (2.0, 1.0, 1.0)
NATIVE, COARSE = Grid("native", (24, 32), None, -1000.0), Grid("spacing", (16, 16), (2.0, 2.0), -1000.0)

Voxels = np.ndarray[Any, Any]


def made(grid: Grid, *, seed: int = 0, overlapping: bool = False) -> Bundle:
    torch.manual_seed(seed)
    net = NetConfig(features=[4, 8])
    names = LabelMap({f"s{n}": n for n in range(1, 7)}, overlapping=overlapping)
    network = build_net(net, 1, names.channels)
    torch.nn.init.normal_(network.head.weight)
    return Bundle(net, 1, names, grid, Normalisation("window"), network.state_dict(), bundle_id=str(seed))


def voxels_of() -> Voxels:
    return np.random.default_rng(0).integers(-1000, 1000, (5, 22, 30)).astype(np.int16)


def on_case(bundle: Bundle, voxels: Voxels, *, averaged: bool) -> Tensor:
    """(z, L, y, x) probabilities: of interpolated logits, or interpolated themselves."""
    placement = plan_prediction(voxels.shape, MM, bundle.grid, 2)
    images = place_slab(voxels, placement, bundle.grid)
    with torch.inference_mode():
        scores = bundle.network()(bundle.normalisation.apply(images, torch.zeros(5), torch.ones(5)))

    def probabilities(logits: Tensor) -> Tensor:
        return logits.sigmoid() if bundle.label_map.overlapping else logits.softmax(1)

    (y, x), _ = placement.windows()
    scores = (probabilities(scores) if averaged else scores)[:, :, y, x]
    if placement.resamples:
        scores = functional.interpolate(scores, size=voxels.shape[1:], mode="bilinear", align_corners=False)
    return scores if averaged else probabilities(scores)


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("grid", [NATIVE, COARSE])
@pytest.mark.parametrize("members", [1, 2])
def test_they_are_those_of_the_labels(grid: Grid, overlapping: bool, members: int) -> None:
    bundles = [made(grid, seed=seed, overlapping=overlapping) for seed in range(members)]
    voxels = voxels_of()
    given: list[tuple[int, Voxels]] = []
    predictor = Predictor(bundles, PredictConfig(precision="float32", gpu="no", batch_slices=2))
    mask = predictor.predict(voxels, MM, probabilities=lambda start, some: given.append((start, some)))
    assert [(start, len(some)) for start, some in given] == [(0, 2), (2, 2), (4, 1)]
    found = np.concatenate([some for _, some in given])
    assert found.dtype == np.uint8
    assert found.shape == (5, bundles[0].label_map.channels, 22, 30)
    wanted = sum(on_case(one, voxels, averaged=members > 1).double() for one in bundles) / members
    assert np.abs(found - 255 * wanted.numpy()).max() < 0.51
    assert np.array_equal(mask, predictor.predict(voxels, MM))
    if overlapping:
        bits = sum((found[:, n] > 127.5).astype(int) << n for n in range(6))
        assert (bits == mask).mean() > 0.99
    else:
        assert np.abs(found.sum(1, dtype=int) - 255).max() <= 4
        of_label = np.take_along_axis(found, mask[:, None].astype(int), axis=1)[:, 0]
        assert (of_label >= found.max(1) - 1).all(), "the label's is the largest, but for rounding"


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("grid", [NATIVE, COARSE])
def test_two_bytes_are_finer(grid: Grid, overlapping: bool) -> None:
    bundle, given = made(grid, overlapping=overlapping), []
    config = PredictConfig(precision="float32", gpu="no", probabilities="uint16")
    Predictor(bundle, config).predict(voxels_of(), MM, probabilities=lambda _, some: given.append(some))
    found = np.concatenate(given)
    assert found.dtype == np.uint16
    assert np.abs(found - 65535 * on_case(bundle, voxels_of(), averaged=False).double().numpy()).max() < 2


def test_no_more_slices_at_once_than_fit() -> None:
    """A slice of the case has 7 x 400 x 400 bytes of probabilities, many times those of the canvas."""
    bundle = made(COARSE)
    voxels = np.zeros((4, 400, 400), np.int16)
    sizes: list[int] = []
    predictor = Predictor(bundle, PredictConfig(precision="float32", gpu="no", batch_slices=4, slab_mib=3))
    predictor.predict(voxels, (1.0, 0.08, 0.08), probabilities=lambda _, some: sizes.append(len(some)))
    assert sizes == [2, 2]


def test_thresholds_and_cleaning_leave_them_as_they_are() -> None:
    bundle, voxels = made(NATIVE), voxels_of()
    tables = []
    for told in ({}, {"threshold": {"s1": 0.9}, "largest_component": ["s2"]}):
        some: list[Voxels] = []
        config = PredictConfig(precision="float32", gpu="no", **told)
        Predictor(bundle, config).predict(voxels, MM, probabilities=lambda _, found: some.append(found))  # noqa: B023
        tables.append(np.concatenate(some).astype(int))
    assert np.abs(tables[0] - tables[1]).max() <= 1
