"""Several cases at once: the masks of one after the other, in fewer passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segray.case import LabelMap
from segray.config import NetConfig, PredictConfig
from segray.engine.placed_case import PlacedCase, pieces_from
from segray.engine.predictor import CaseVoxels, Predictor
from segray.errors import CaseError
from segray.grid import Grid, plan_prediction
from segray.nets.bundle import Bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net

KINDS: dict[str, dict[str, Any]] = {"2D": {}, "2.5D": {"neighbours": 2}, "3D": {"patch": (4, 16, 0)}}


def made(kind: str, *, seed: int = 0, overlapping: bool = False, mode: str = "window", channels: int = 1) -> Bundle:
    torch.manual_seed(seed)
    net = NetConfig(features=[4, 8], norm="instance", **KINDS[kind])
    names = LabelMap({"a": 1, "b": 2}, overlapping=overlapping)
    network = build_net(net, channels, names.channels)
    torch.nn.init.normal_(network.head.weight)
    grid = Grid("spacing", (16, 32), (1.5, 1.5), -1000.0)
    recipe = Normalisation(mode)  # type: ignore[arg-type]
    return Bundle(net, channels, names, grid, recipe, network.state_dict(), bundle_id=str(seed))


def settings(**others: Any) -> PredictConfig:
    return PredictConfig(precision="float32", gpu="no", **others)


def cases_of(channels: int = 1) -> list[CaseVoxels]:
    """Of other sizes and spacings, one of one slice, one (the fourth) on a larger canvas."""
    rng = np.random.default_rng(0)
    sizes = [(3, 20, 40), (1, 24, 48), (7, 12, 30), (2, 60, 60), (5, 16, 40)]
    shapes = [(z, *((channels,) if channels > 1 else ()), y, x) for z, y, x in sizes]
    voxels = [(rng.integers(-1000, 1000, shape) + 150 * n).astype(np.int16) for n, shape in enumerate(shapes)]
    return [(one, (2.0, 0.9 + n / 10, 1.0)) for n, one in enumerate(voxels)]


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize(
    ("kinds", "config"),
    [(("2D",), {}), (("2.5D",), {}), (("3D",), {}), (("2D", "2.5D"), {"mirror": ["x", "z"]}), (("2D", "3D"), {}),
     (("2.5D",), {"window": (8, 16)}), (("2D",), {"threshold": {"a": 0.6}, "largest_component": ["b"]})],
)  # fmt: skip
def test_masks_and_confidence_are_those_of_one_case_after_the_other(
    kinds: tuple[str, ...], config: dict[str, Any], overlapping: bool
) -> None:
    bundles = [
        made(kind, seed=seed, overlapping=overlapping, mode=("case", "window")[seed]) for seed, kind in enumerate(kinds)
    ]
    predictor = Predictor(bundles, settings(confidence=True, batch_slices=4, **config))
    alone, told = [], []
    for case in cases_of():
        alone.append(predictor.predict(*case))
        told.append(predictor.last_confidence)
    together = predictor.predict_many(cases_of())
    assert len(together) == len(alone)
    for one, other in zip(together, alone, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
        assert len(np.unique(one)) > 1
    for mine, theirs in zip(predictor.last_confidences, told, strict=True):
        assert theirs is not None
        for name in ("voxels", "margin", "entropy", "disagreement"):
            np.testing.assert_allclose(getattr(mine, name), getattr(theirs, name), rtol=1e-5)


def test_volumes_are_those_of_the_voxels_that_are_told() -> None:
    """A limit that no component reaches in voxels of the spacing, and every one in those that are told."""
    predictor = Predictor(made("2D"), settings(smallest_ml={"all": 1000.0}))
    cases = cases_of()[:2]
    assert not any(one.any() for one in predictor.predict_many(cases))
    told = predictor.predict_many(cases, [1000.0, 0.001])
    assert [bool(one.any()) for one in told] == [True, False]
    assert not predictor.predict(*cases[0]).any()
    assert np.array_equal(predictor.predict(*cases[0], voxel_ml=1000.0), told[0])


def test_slices_of_several_cases_fill_a_pass() -> None:
    predictor, seen = Predictor(made("2.5D", channels=2), settings(batch_slices=4)), []
    inner = predictor._forwards[0]

    def forward(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        return inner(images)

    predictor._forwards[0] = forward
    many = predictor.predict_many(cases_of(channels=2))
    assert [shape[0] for shape in seen] == [4, 4, 4, 4, 2], "16 slices on one canvas, and 2 on another"
    assert {shape[1] for shape in seen} == {5 * 2}
    assert len({shape[2:] for shape in seen}) == 2
    seen.clear()
    alone = [predictor.predict(*case) for case in cases_of(channels=2)]
    assert all(np.array_equal(*pair) for pair in zip(many, alone, strict=True))
    assert len(seen) == 1 + 1 + 2 + 1 + 2


def test_a_case_that_cannot_be_predicted_is_told_before_any_is() -> None:
    predictor = Predictor(made("2D"), settings())
    cases = cases_of()
    cases[2] = (np.zeros((3, 2, 20, 20), np.int16), (1.0, 1.0, 1.0))
    with pytest.raises(CaseError, match="Channels of the case: 2"):
        predictor.predict_many(cases)
    assert predictor.last_seconds["total"] == 0
    assert predictor.predict_many([]) == []


@pytest.mark.parametrize("most", [1, 2, 3, 5, 100])
def test_pieces_are_all_slices_in_order(most: int) -> None:
    bundle, moment = made("2D"), torch.zeros(1, 1)
    depths = [3, 1, 1, 7, 2]
    placement = plan_prediction((1, 4, 4), (1.0, 1.0, 1.0), bundle.grid, 2)
    cases = [PlacedCase([np.zeros((z, 4, 4))], [bundle.grid], placement, moment, moment) for z in depths]
    number = start = 0
    slabs = []
    while number < len(cases):
        slabs.append(pieces_from(cases, number, start, most))
        last = slabs[-1][-1]
        number, start = (last.number, last.slices.stop) if last.slices.stop < last.case.depth else (last.number + 1, 0)
    found = [(piece.number, z) for slab in slabs for piece in slab for z in piece.slices]
    assert found == [(number, z) for number, depth in enumerate(depths) for z in range(depth)]
    sizes = [sum(len(piece.slices) for piece in slab) for slab in slabs]
    assert all(size == min(most, 14) for size in sizes[:-1])
