"""Thresholds in the Predictor against numpy on the probabilities of all labels at full size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from segray.case import LabelMap
from segray.config import NetConfig, PredictConfig
from segray.engine.predictor import Predictor
from segray.engine.scores import labels_of_scores
from segray.engine.thresholds import least_probabilities, score_cuts
from segray.errors import UsageError
from segray.grid import Grid, Placement, fill_value, plan_prediction
from segray.nets.bundle import Bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net
from segray.resample import place_slab, scores_to_labels

MM = (2.0, 1.0, 1.0)
NAMES = ("a", "b", "c", "d", "e")
TOLD = {"a": 0.5, "c": 0.9, "e": 0.25}
GRIDS = [Grid("native", (32, 32), None, -1000.0), Grid("spacing", (32, 32), (1.3, 1.3), -1000.0)]


def made(grid: Grid, *, overlapping: bool = False, seed: int = 0) -> Bundle:
    torch.manual_seed(seed)
    net = NetConfig(features=[4, 8], norm="instance")
    names = LabelMap({name: number for number, name in enumerate(NAMES, start=1)}, overlapping=overlapping)
    network = build_net(net, 1, names.channels)
    torch.nn.init.normal_(network.head.weight)
    return Bundle(net, 1, names, grid, Normalisation("window"), network.state_dict(), bundle_id=str(seed))


def voxels_of() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(-1000, 1000, (4, 32, 30)).astype(np.int16)


def scores_of(bundle: Bundle, voxels: np.ndarray[Any, Any]) -> tuple[Tensor, Placement]:
    """Logits on the canvas."""
    grid = replace(bundle.grid, fill=fill_value(voxels))
    placement = plan_prediction(voxels.shape, MM, grid, 2)
    images = bundle.normalisation.apply(place_slab(voxels, placement, grid), torch.zeros(4), torch.ones(4))
    with torch.inference_mode():
        return bundle.network()(images), placement


def on_the_case(scores: Tensor, placement: Placement) -> np.ndarray[Any, Any]:
    """(n, L, Y, X): all planes at the size of the case."""
    (y, x), _ = placement.windows()
    inside = scores[:, :, y, x]
    if placement.resamples:
        inside = functional.interpolate(inside, size=placement.original, mode="bilinear", align_corners=False)
    return inside.numpy()


def brute_force(probabilities: np.ndarray[Any, Any], told: dict[str, float]) -> np.ndarray[Any, Any]:
    """Voxel by voxel: from the most probable label down, the first that may take it."""
    least = [0.0, *(told.get(name, 0.0) for name in NAMES)]
    planes = np.moveaxis(probabilities, 1, -1)
    out = np.zeros(planes.shape[:-1], int)
    for place in np.ndindex(out.shape):
        falling = np.argsort(-planes[place], kind="stable")
        out[place] = next(label for label in falling if label == 0 or planes[place][label] >= least[label])
    return out


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("count", [1, 2])
def test_the_most_probable_label_that_reaches_its_threshold(grid: Grid, count: int) -> None:
    bundles, voxels = [made(grid, seed=seed) for seed in range(count)], voxels_of()
    pairs = [scores_of(one, voxels) for one in bundles]
    mean = torch.stack([scores.softmax(1) for scores, _ in pairs]).mean(0)
    expected = brute_force(on_the_case(mean, pairs[0][1]), TOLD)
    for batch_slices in (0, 3):
        config = PredictConfig(precision="float32", gpu="no", threshold=TOLD, batch_slices=batch_slices)
        assert (Predictor(bundles, config).predict(voxels, MM) == expected).mean() > 0.9995
    plain = Predictor(bundles, PredictConfig(precision="float32", gpu="no")).predict(voxels, MM)
    assert (plain != expected).mean() > 0.05, "the thresholds change something"
    changed = expected[(plain != expected) & (expected > 0)]
    assert len(changed), "a structure that is less probable takes some voxels"


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("count", [1, 2])
def test_overlapping_structures_have_their_own_in_place_of_a_half(grid: Grid, count: int) -> None:
    bundles, voxels = [made(grid, overlapping=True, seed=seed) for seed in range(count)], voxels_of()
    pairs = [scores_of(one, voxels) for one in bundles]
    placement = pairs[0][1]
    if count == 1:
        probabilities = 1 / (1 + np.exp(-on_the_case(pairs[0][0], placement)))
    else:
        probabilities = on_the_case(torch.stack([scores.sigmoid() for scores, _ in pairs]).mean(0), placement)
    config = PredictConfig(precision="float32", gpu="no", threshold=TOLD | {"b": 0.0, "d": 1.0})
    found = Predictor(bundles, config).predict(voxels, MM)
    for number, share in enumerate((0.5, 0.0, 0.9, 1.0, 0.25)):
        assert ((found >> number & 1) == (probabilities[:, number] >= share)).mean() > 0.9995


def test_thresholds_and_mirrors_go_together() -> None:
    bundle, voxels = made(GRIDS[0]), voxels_of()
    scores = [scores_of(bundle, np.ascontiguousarray(one)) for one in (voxels, voxels[..., ::-1])]
    (first, placement), (second, _) = scores
    mean = (on_the_case(first.softmax(1), placement) + on_the_case(second.softmax(1), placement)[..., ::-1]) / 2
    config = PredictConfig(precision="float32", gpu="no", threshold=TOLD, mirror=["x"])
    assert (Predictor(bundle, config).predict(voxels, MM) == brute_force(mean, TOLD)).mean() > 0.9995


@pytest.mark.parametrize("resampled", [(12, 10), (6, 5)])
@pytest.mark.parametrize("at_once", [1, 4])
def test_the_running_maximum_and_the_fast_way_agree(resampled: tuple[int, int], at_once: int) -> None:
    placement = Placement((12, 10), resampled, (16, 16), (1, 2))
    scores = torch.randn(2, 6, 16, 16).mul(2).softmax(1).contiguous(memory_format=torch.channels_last)
    least = (None, 0.5, None, 0.9, None, 0.25)
    expected = brute_force(on_the_case(scores, placement), TOLD)
    assert np.array_equal(labels_of_scores(scores, placement, least=least).numpy(), expected)
    assert np.array_equal(scores_to_labels(scores, placement, at_once=at_once, least=least).numpy(), expected)


def test_entries_follow_the_outputs_of_the_net() -> None:
    names = {"liver": 7, "tumour": 2}
    assert least_probabilities({}, LabelMap(names)) == ()
    assert least_probabilities({"liver": 0.7}, LabelMap(names)) == (None, None, 0.7)
    assert least_probabilities({"liver": 0.7}, LabelMap(names, overlapping=True)) == (None, 0.7)
    assert score_cuts((None, 0.5, 0.0, 1.0), averaged=False) == (None, 0.0, -np.inf, np.inf)
    assert score_cuts((None, 0.5, 0.0, 1.0), averaged=True) == (None, 0.0, -0.5, 0.5)


@pytest.mark.parametrize("name", ["tumor", "background"])
def test_what_is_no_structure_is_told(name: str) -> None:
    words = {"tumor": r"Did you mean tumour\?", "background": "takes what no structure may"}
    with pytest.raises(UsageError, match=words[name]):
        least_probabilities({name: 0.5}, LabelMap.of_names(["liver", "tumour"]))
    config = PredictConfig(threshold={name: 0.5}, gpu="no")
    with pytest.raises(UsageError, match=words[name] if name == "background" else "predict.threshold names tumor"):
        Predictor(made(GRIDS[0]), config)
