"""Confidence against its formulas on whole cases, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segray.case import LabelMap
from segray.config import NetConfig, PredictConfig
from segray.engine.confidence import Confidence
from segray.engine.predictor import Predictor
from segray.grid import Grid
from segray.nets.bundle import Bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net

MM = (2.0, 1.0, 1.0)
NAMES = ("a", "b", "c")

Voxels = np.ndarray[Any, Any]


def made(*, seed: int = 0, overlapping: bool = False, **net: Any) -> Bundle:
    torch.manual_seed(seed)
    config = NetConfig(features=[4, 8], **net)
    names = LabelMap({"a": 1, "b": 2, "c": 3}, overlapping=overlapping)
    network = build_net(config, 1, names.channels)
    torch.nn.init.normal_(network.head.weight)
    grid = Grid("native", (16, 32), None, -1000.0)
    return Bundle(config, 1, names, grid, Normalisation("window"), network.state_dict(), bundle_id=str(seed))


def settings(**others: Any) -> PredictConfig:
    return PredictConfig(precision="float32", gpu="no", **{"confidence": True, **others})


def voxels_of(depth: int = 5) -> Voxels:
    """Slices that need no padding."""
    return np.random.default_rng(0).integers(-1000, 1000, (depth, 16, 32)).astype(np.int16)


def probabilities_of(bundle: Bundle, voxels: Voxels, flipped: tuple[int, ...] = ()) -> Tensor:
    """(z, L, y, x) of the raw network."""
    images = bundle.normalisation.apply(torch.from_numpy(voxels), torch.zeros(len(voxels)), torch.ones(len(voxels)))
    with torch.inference_mode():
        if bundle.net.patch:
            logits = bundle.network()(images.transpose(0, 1)[None])[0].transpose(0, 1)
        else:
            logits = bundle.network()(images.flip(flipped)).flip(flipped)
    return logits.sigmoid() if bundle.label_map.overlapping else logits.softmax(1)


def areas(found: Tensor, least: dict[str, float], *, overlapping: bool) -> Tensor:
    """(structures, z, y, x) bool of (z, L, y, x) probabilities."""
    if overlapping:
        return torch.stack([found[:, n] >= least[name] if name in least else found[:, n] > 0.5
                            for n, name in enumerate(NAMES)])  # fmt: skip
    weighed = found.clone()
    for number, name in enumerate(NAMES, 1):
        share = least.get(name, 0.5)
        weighed[:, number] *= (1 - share) / share
    return torch.stack([weighed.argmax(1) == number for number in (1, 2, 3)])


def expected(members: list[Tensor], least: dict[str, float], *, overlapping: bool) -> dict[str, list[float]]:
    """The three numbers of each structure, in the words of the docstring."""
    mean = torch.stack(members).mean(0)
    final = areas(mean, least, overlapping=overlapping)
    table: dict[str, list[float]] = {"margin": [], "entropy": [], "disagreement": []}
    for number, inside in enumerate(final):
        if overlapping:
            p = mean[:, number][inside].double()
            margin = (2 * p - 1).abs()
            entropy = -(p * p.log() + (1 - p) * (1 - p).log()) / np.log(2)
        else:
            p = mean.movedim(1, -1)[inside].double()
            first, second = p.sort(1, descending=True).values[:, :2].T
            margin, entropy = first - second, -(p * p.log()).sum(1) / np.log(p.shape[1])
        table["margin"].append(float(margin.mean()))
        table["entropy"].append(float(entropy.mean()))
        apart = []
        for member in members if len(members) > 1 else []:
            mine = areas(member, least, overlapping=overlapping)[number]
            if (total := int(mine.sum() + inside.sum())) > 0:
                apart.append(1 - 2 * int((mine & inside).sum()) / total)
        table["disagreement"].append(float(np.mean(apart)) if apart else np.nan)
    return table


def check(found: Confidence | None, wanted: dict[str, list[float]]) -> None:
    assert found is not None
    for name, values in wanted.items():
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("least", [{}, {"a": 0.55, "c": 0.2}])
@pytest.mark.parametrize("kind", ["one", "mirrors", "bundles"])
def test_the_numbers_are_those_of_the_formulas(kind: str, least: dict[str, float], overlapping: bool) -> None:
    bundles = [made(seed=seed, overlapping=overlapping) for seed in range(3 if kind == "bundles" else 1)]
    voxels, mirror = voxels_of(), ["x", "y"] if kind == "mirrors" else []
    flips: list[tuple[int, ...]] = [(), (3,), (2,), (2, 3)] if mirror else [()]
    members = [probabilities_of(bundle, voxels, flip) for bundle in bundles for flip in flips]
    wanted = expected(members, least, overlapping=overlapping)
    for batch_slices in (1, 3):
        predictor = Predictor(bundles, settings(mirror=mirror, threshold=least, batch_slices=batch_slices))
        predictor.predict(voxels, MM)
        check(predictor.last_confidence, wanted)
    assert len(set(wanted["margin"])) == 3
    assert np.isnan(wanted["disagreement"]).all() == (kind == "one")


def test_bundles_with_mirrors_are_the_members_themselves() -> None:
    bundles, voxels = [made(seed=seed) for seed in (0, 1)], voxels_of()
    members = [(probabilities_of(one, voxels) + probabilities_of(one, voxels, (3,))) / 2 for one in bundles]
    predictor = Predictor(bundles, settings(mirror=["x"]))
    predictor.predict(voxels, MM)
    check(predictor.last_confidence, expected(members, {}, overlapping=False))


def test_a_3d_net_and_a_2d_net_are_compared_on_the_case() -> None:
    bundles, voxels = [made(patch=(4, 0, 0)), made(seed=1)], voxels_of(4)
    predictor = Predictor(bundles, settings())
    predictor.predict(voxels, MM)
    check(
        predictor.last_confidence, expected([probabilities_of(one, voxels) for one in bundles], {}, overlapping=False)
    )


def test_mirrors_of_a_3d_net_are_compared_in_each_patch() -> None:
    bundle, voxels = made(patch=(4, 0, 0)), voxels_of(4)
    turned = np.ascontiguousarray(voxels[..., ::-1])
    members = [probabilities_of(bundle, voxels), probabilities_of(bundle, turned).flip(3)]
    wanted = expected(members, {}, overlapping=False)
    predictor = Predictor(bundle, settings(mirror=["x"]))
    predictor.predict(voxels, MM)
    check(predictor.last_confidence, wanted)
    predictor.predict(np.concatenate((voxels, voxels)), MM)
    assert predictor.last_confidence is not None
    assert np.all((predictor.last_confidence.disagreement > 0) & (predictor.last_confidence.disagreement < 1))


@pytest.mark.parametrize("config", [{}, {"mirror": ["x"]}, {"threshold": {"a": 0.6}}, {"window": (8, 16)}])
def test_it_changes_no_mask_and_padding_counts_nowhere(config: dict[str, Any]) -> None:
    bundles = [made(), made(seed=1, patch=(4, 16, 16))]
    voxels = voxels_of()[:, 2:13, 3:30]
    for chosen in (bundles[:1], bundles):
        quiet = Predictor(chosen, settings(confidence=False, **config))
        telling = Predictor(chosen, settings(**config))
        mask = telling.predict(voxels, MM)
        assert np.array_equal(quiet.predict(voxels, MM), mask)
        assert quiet.last_confidence is None
        assert telling.last_confidence is not None
        counts = np.bincount(mask.ravel(), minlength=4)[1:]
        assert telling.last_confidence.voxels.tolist() == counts.tolist()


def test_rows_say_nothing_where_there_is_nothing() -> None:
    names = LabelMap.of_names(["liver", "spleen"])
    nan = float("nan")
    found = Confidence(
        np.array([4, 0]), np.array([0.5, nan]), np.array([0.25, nan]), np.array([nan, 1.0])
    )  # fmt: skip
    assert found.as_rows(names) == [
        {"structure": "liver", "margin": 0.5, "entropy": 0.25, "disagreement": None},
        {"structure": "spleen", "margin": None, "entropy": None, "disagreement": 1.0},
    ]


def test_a_structure_that_only_a_member_sees_is_disagreed_on() -> None:
    """One bundle is sure of the structure, two are surer of the background: the average has none of it."""
    bundles = []
    for seed, scores in enumerate(((0.0, 1.0, -9.0, -9.0), (3.0, 0.0, -9.0, -9.0), (3.0, 0.0, -9.0, -9.0))):
        bundle = made(seed=seed)
        weights = dict(bundle.weights) | {
            "head.weight": torch.zeros_like(bundle.weights["head.weight"]), "head.bias": torch.tensor(scores)
        }  # fmt: skip
        bundles.append(Bundle(bundle.net, 1, bundle.label_map, bundle.grid, bundle.normalisation, weights))
    predictor = Predictor(bundles, settings())
    assert predictor.predict(voxels_of(), MM).max() == 0
    assert predictor.last_confidence is not None
    row, other, _ = predictor.last_confidence.as_rows(bundles[0].label_map)
    assert row == {"structure": "a", "margin": None, "entropy": None, "disagreement": 1.0}
    assert other["disagreement"] is None


def test_a_slab_that_did_not_fit_is_counted_once() -> None:
    """A device whose memory holds two slices of a net with mirrors."""
    bundle, voxels = made(), voxels_of(7)
    config = settings(mirror=["x"], batch_slices=6)
    whole, narrow = Predictor(bundle, config), Predictor(bundle, config)
    mask = whole.predict(voxels, MM)
    inner, calls = narrow._forwards[0]._forward, []  # type: ignore[attr-defined]

    def forward(images: Tensor) -> Tensor:
        calls.append(len(images))
        if len(images) > 2 and len(calls) % 2 == 0:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        found: Tensor = inner(images)
        return found

    narrow._forwards[0]._forward = forward  # type: ignore[attr-defined]
    assert np.array_equal(narrow.predict(voxels, MM), mask)
    assert calls[:4] == [6, 6, 3, 3], "the second mirror of six and of three slices found no room"
    assert whole.last_confidence is not None
    assert narrow.last_confidence is not None
    for name in ("voxels", "margin", "entropy", "disagreement"):
        np.testing.assert_allclose(
            getattr(narrow.last_confidence, name), getattr(whole.last_confidence, name), rtol=1e-6
        )
