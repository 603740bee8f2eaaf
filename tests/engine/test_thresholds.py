"""Thresholds in the Predictor against numpy on the probabilities of all labels at full size."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from segray.case import LabelMap
from segray.config import NetConfig, Precision, PredictConfig
from segray.engine.backends import BackendChoice
from segray.engine.predictor import Predictor
from segray.engine.scores import labels_of_scores
from segray.engine.thresholds import least_probabilities, score_cuts, weighing
from segray.errors import UsageError
from segray.grid import Grid, Placement, fill_value, plan_prediction
from segray.nets.bundle import Bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net
from segray.resample import Weighing, place_slab, scores_to_labels

MM = (2.0, 1.0, 1.0)
NAMES = ("a", "b", "c", "d", "e")
TOLD = {"a": 0.5, "c": 0.9, "e": 0.25}
GRIDS = [Grid("native", (32, 32), None, -1000.0), Grid("spacing", (32, 32), (1.3, 1.3), -1000.0)]


def made(grid: Grid, *, overlapping: bool = False, seed: int = 0, names: tuple[str, ...] = NAMES) -> Bundle:
    torch.manual_seed(seed)
    net = NetConfig(features=[4, 8], norm="instance")
    known = LabelMap({name: number for number, name in enumerate(names, start=1)}, overlapping=overlapping)
    network = build_net(net, 1, known.channels)
    torch.nn.init.normal_(network.head.weight)
    return Bundle(net, 1, known, grid, Normalisation("window"), network.state_dict(), bundle_id=str(seed))


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


def reference(probabilities: np.ndarray[Any, Any], told: dict[str, float]) -> np.ndarray[Any, Any]:
    """(n, L, Y, X) to labels: the largest of the probabilities times the odds against the thresholds."""
    shares = np.array([0.5, *(told.get(name, 0.5) for name in NAMES[: probabilities.shape[1] - 1])])
    return np.asarray((np.moveaxis(probabilities.astype(float), 1, -1) * ((1 - shares) / shares)).argmax(-1))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("count", [1, 2])
def test_the_largest_probability_weighed_by_the_thresholds(grid: Grid, count: int) -> None:
    bundles, voxels = [made(grid, seed=seed) for seed in range(count)], voxels_of()
    pairs = [scores_of(one, voxels) for one in bundles]
    mean = torch.stack([scores.softmax(1) for scores, _ in pairs]).mean(0)
    if count == 1:  # of one network logits are interpolated, as without thresholds
        expected = reference(torch.from_numpy(on_the_case(*pairs[0])).softmax(1).numpy(), TOLD)
    else:
        expected = reference(on_the_case(mean, pairs[0][1]), TOLD)
    for batch_slices in (0, 3):
        config = PredictConfig(precision="float32", gpu="no", threshold=TOLD, batch_slices=batch_slices)
        assert (Predictor(bundles, config).predict(voxels, MM) == expected).mean() > 0.9995
    plain = Predictor(bundles, PredictConfig(precision="float32", gpu="no")).predict(voxels, MM)
    assert (plain != expected).mean() > 0.05, "the thresholds change something"
    assert ((plain == 3) & (expected != 3)).any(), "a high threshold takes voxels away"
    assert ((plain != 5) & (expected == 5)).any(), "a low one takes voxels of labels that are more probable"


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 0.95])
def test_one_structure_is_where_its_probability_reaches_the_threshold(grid: Grid, count: int, share: float) -> None:
    bundles, voxels = [made(grid, seed=seed, names=("a",)) for seed in range(count)], voxels_of()
    pairs = [scores_of(one, voxels) for one in bundles]
    if count == 1:
        found = torch.from_numpy(on_the_case(*pairs[0])).softmax(1).numpy()
    else:
        found = on_the_case(torch.stack([scores.softmax(1) for scores, _ in pairs]).mean(0), pairs[0][1])
    config = PredictConfig(precision="float32", gpu="no", threshold={"a": share})
    labels = Predictor(bundles, config).predict(voxels, MM)
    assert (labels == (found[:, 1] >= share)).mean() > 0.9995
    assert (labels != (found[:, 1] > 0.5)).any(), "the threshold changes something"


@pytest.mark.parametrize("kind", [{}, {"mirror": ["x"]}, {"window": (16, 16)}])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("count", [1, 2])
def test_at_a_half_masks_are_those_without_thresholds(kind: dict[str, Any], precision: Precision, count: int) -> None:
    bundles, voxels = [made(GRIDS[1], seed=seed) for seed in range(count)], voxels_of()
    plain, halves = (
        Predictor(bundles, PredictConfig(precision=precision, gpu="no", threshold=told, **kind)).predict(voxels, MM)
        for told in ({}, dict.fromkeys(NAMES, 0.5))
    )
    assert np.array_equal(plain, halves)


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_thresholds_of_an_openvino_pass() -> None:
    bundle, voxels = made(GRIDS[0]), voxels_of()
    config = PredictConfig(precision="float32", gpu="no", threshold=TOLD)
    by_torch = Predictor(bundle, config).predict(voxels, MM)
    by_openvino = Predictor(bundle, config, backend=BackendChoice("openvino", "float32", "")).predict(voxels, MM)
    assert (by_torch == by_openvino).mean() > 0.999


@pytest.mark.parametrize("logits", [False, True])
def test_a_tie_goes_to_the_structure(logits: bool) -> None:
    shares = torch.tensor([0.75, 0.25]).view(1, 2, 1, 1)
    scores = shares.log() if logits else shares
    of_three = Weighing((1.0, 3.0), logits)
    placement = Placement((1, 1), (1, 1), (1, 1), (0, 0))
    if logits:  # 3 has no logarithm in float32
        assert of_three.plane(1, scores[:, 1]).item() == pytest.approx(scores[0, 0].item())
    else:
        assert labels_of_scores(scores, placement, weighing=of_three).item() == 1
        assert scores_to_labels(scores, placement, weighing=of_three).item() == 1


@pytest.mark.parametrize("logits", [False, True])
def test_a_structure_with_a_threshold_of_one_is_nowhere(logits: bool) -> None:
    shares = torch.rand(2, 3, 8, 8).softmax(1)
    scores, placement = shares.log() if logits else shares, Placement((8, 8), (8, 8), (8, 8), (0, 0))
    of_one = Weighing((1.0, 0.0, 1.0), logits)
    expected = torch.where(shares[:, 2] >= shares[:, 0], 2, 0)
    assert torch.equal(labels_of_scores(scores, placement, weighing=of_one).long(), expected)
    assert torch.equal(scores_to_labels(scores, placement, weighing=of_one).long(), expected)


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
    assert (Predictor(bundle, config).predict(voxels, MM) == reference(mean, TOLD)).mean() > 0.9995


@pytest.mark.parametrize("resampled", [(12, 10), (6, 5)])
@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("logits", [False, True])
def test_the_running_maximum_and_the_fast_way_agree(resampled: tuple[int, int], at_once: int, logits: bool) -> None:
    placement = Placement((12, 10), resampled, (16, 16), (1, 2))
    scores = torch.randn(2, 6, 16, 16).mul(2).contiguous(memory_format=torch.channels_last)
    scores = scores if logits else scores.softmax(1)
    planes = torch.from_numpy(on_the_case(scores, placement))
    expected = reference((planes.softmax(1) if logits else planes).numpy(), TOLD)
    told = weighing((None, 0.5, None, 0.9, None, 0.25), logits=logits)
    assert np.array_equal(labels_of_scores(scores, placement, weighing=told).numpy(), expected)
    assert np.array_equal(scores_to_labels(scores, placement, at_once=at_once, weighing=told).numpy(), expected)


def test_entries_follow_the_outputs_of_the_net() -> None:
    names = {"liver": 7, "tumour": 2}
    assert least_probabilities({}, LabelMap(names)) == ()
    assert least_probabilities({"liver": 0.7}, LabelMap(names)) == (None, None, 0.7)
    assert least_probabilities({"liver": 0.7}, LabelMap(names, overlapping=True)) == (None, 0.7)
    assert score_cuts((None, 0.5, 0.0, 1.0), averaged=False) == (None, 0.0, -np.inf, np.inf)
    assert score_cuts((None, 0.5, 0.0, 1.0), averaged=True) == (None, 0.0, -0.5, 0.5)
    assert weighing((None, 0.5, 0.25, 1.0), logits=False) == Weighing((1.0, 1.0, 3.0, 0.0), logits=False)
    assert weighing((), logits=True) is weighing((None, 0.5), logits=True) is None


def test_zero_would_give_everything_to_one_label() -> None:
    names = LabelMap.of_names(["liver", "tumour"])
    with pytest.raises(UsageError, match="0 for liver, which would get every voxel"):
        least_probabilities({"liver": 0.0}, names)
    assert least_probabilities({"liver": 0.0}, replace(names, overlapping=True)) == (0.0, None)


@pytest.mark.parametrize("name", ["tumor", "background"])
def test_what_is_no_structure_is_told(name: str) -> None:
    words = {"tumor": r"Did you mean tumour\?", "background": "takes what no structure may"}
    with pytest.raises(UsageError, match=words[name]):
        least_probabilities({name: 0.5}, LabelMap.of_names(["liver", "tumour"]))
    config = PredictConfig(threshold={name: 0.5}, gpu="no")
    with pytest.raises(UsageError, match=words[name] if name == "background" else "predict.threshold names tumor"):
        Predictor(made(GRIDS[0]), config)
