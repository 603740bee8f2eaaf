"""Mirrored prediction against flips of the whole case made by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segray.case import LabelMap
from segray.config import NetConfig, PredictConfig
from segray.engine.mirrors import MirroredForward, mirrored_axes
from segray.engine.predictor import Predictor
from segray.engine.windows import volume_logits
from segray.errors import UsageError
from segray.grid import Grid
from segray.nets.bundle import Bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net

Voxels = np.ndarray[Any, Any]

MM = (2.0, 1.0, 1.0)
DEPTH = 8

KINDS: dict[str, dict[str, Any]] = {"2D": {}, "2.5D": {"neighbours": 2}, "3D": {"patch": (DEPTH, 0, 0)}}


def made(kind: str, *, overlapping: bool = False, seed: int = 0, channels: int = 1) -> Bundle:
    """A bundle of random weights that tells three structures apart."""
    torch.manual_seed(seed)
    net = NetConfig(features=[4, 8, 8], norm="instance", **KINDS[kind])
    names = LabelMap({"a": 1, "b": 2, "c": 3}, overlapping=overlapping)
    network = build_net(net, channels, names.channels)
    torch.nn.init.normal_(network.head.weight)
    grid = Grid("native", (32, 48), None, -1000.0)
    return Bundle(net, channels, names, grid, Normalisation("window"), network.state_dict(), bundle_id=str(seed))


def settings(*axes: str, **others: Any) -> PredictConfig:
    return PredictConfig(precision="float32", gpu="no", mirror=list(axes), **others)


def voxels_of(depth: int = DEPTH, *, channels: int = 1) -> Voxels:
    shape = (depth, 32, 48) if channels == 1 else (depth, channels, 32, 48)
    return np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)


def logits_of(bundle: Bundle, voxels: Voxels) -> Tensor:
    """(z, L, y, x) of the raw network, of a whole case."""
    voxels = np.ascontiguousarray(voxels)
    images = bundle.normalisation.apply(torch.from_numpy(voxels), torch.zeros(len(voxels)), torch.ones(len(voxels)))
    k = bundle.net.neighbours
    with torch.inference_mode():
        if bundle.net.patch:
            return bundle.network()(images.transpose(0, 1)[None])[0].transpose(0, 1)
        last = len(images) - 1
        stacked = [torch.cat([images[min(max(z + d, 0), last)] for d in range(-k, k + 1)]) for z in range(last + 1)]
        return bundle.network()(torch.stack(stacked))


def probabilities_of(bundle: Bundle, voxels: Voxels, axes: tuple[str, ...]) -> Tensor:
    """(z, L, y, x): the mean over flips of the whole case in all combinations of the axes."""
    found = []
    in_voxels = {"z": 0, "y": -2, "x": -1}
    in_logits = {"z": 0, "y": 2, "x": 3}
    for chosen in chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1)):
        turned = np.flip(voxels, [in_voxels[axis] for axis in chosen])
        logits = logits_of(bundle, turned).flip([in_logits[axis] for axis in chosen])
        found.append(logits.sigmoid() if bundle.label_map.overlapping else logits.softmax(1))
    assert len(found) == 2 ** len(axes)
    return torch.stack(found).mean(0)


def labels_of(probabilities: Tensor, *, overlapping: bool) -> Voxels:
    if not overlapping:
        return probabilities.argmax(1).numpy()
    return (probabilities > 0.5).mul(torch.tensor([1, 2, 4])[:, None, None]).sum(1).numpy()


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize(("kind", "axes"), [
    ("2D", ("x",)), ("2D", ("x", "y")), ("2.5D", ("z",)), ("2.5D", ("x", "y", "z")), ("3D", ("z",)),
    ("3D", ("x", "y", "z")),
])  # fmt: skip
def test_the_mean_over_all_flips(kind: str, axes: tuple[str, ...], overlapping: bool) -> None:
    bundle, voxels = made(kind, overlapping=overlapping), voxels_of()
    expected = labels_of(probabilities_of(bundle, voxels, axes), overlapping=overlapping)
    for batch_slices in (0, 3):
        found = Predictor(bundle, settings(*axes, batch_slices=batch_slices)).predict(voxels, MM)
        assert (found == expected).mean() > 0.9999
    plain = Predictor(bundle, settings()).predict(voxels, MM)
    assert (plain == expected).mean() < 0.99, "the flips change something"


@pytest.mark.parametrize("overlapping", [False, True])
def test_an_ensemble_averages_over_members_and_mirrors(overlapping: bool) -> None:
    bundles = [made(kind, overlapping=overlapping, seed=seed) for seed, kind in enumerate(KINDS)]
    voxels, axes = voxels_of(), ("x", "z")
    # A net of single slices sees no z: its mean over x is that over x and z.
    parts = [probabilities_of(one, voxels, ("x",) if kind == "2D" else axes)
             for one, kind in zip(bundles, KINDS, strict=True)]  # fmt: skip
    expected = labels_of(torch.stack(parts).mean(0), overlapping=overlapping)
    found = Predictor(bundles, settings(*axes)).predict(voxels, MM)
    assert (found == expected).mean() > 0.9999


def test_neighbours_of_several_channels_change_places_and_channels_do_not() -> None:
    bundle, voxels = made("2.5D", channels=2), voxels_of(channels=2)
    expected = labels_of(probabilities_of(bundle, voxels, ("z",)), overlapping=False)
    assert (Predictor(bundle, settings("z")).predict(voxels, MM) == expected).mean() > 0.9999


@pytest.mark.parametrize("patch", [(4, 16, 32), (8, 0, 0)])
def test_the_mirrored_case_has_the_mirrored_mask_over_many_patches(patch: tuple[int, int, int]) -> None:
    bundle = made("3D")
    bundle = replace(bundle, net=bundle.net.model_copy(update={"patch": patch}))
    voxels = voxels_of(patch[0] * 3 // 2)
    whole, part = Predictor(bundle, settings("x", "y", "z")), Predictor(bundle, settings("x", "y"))
    for axis in (0, 1, 2):
        turned = np.ascontiguousarray(np.flip(voxels, axis))
        alike = [
            bool((one.predict(voxels, MM) == np.flip(one.predict(turned, MM), axis)).mean() > 0.9999)
            for one in (whole, part)
        ]
        assert alike == [True, axis > 0]


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_net_that_is_the_same_from_all_sides_keeps_its_logits(overlapping: bool) -> None:
    """Through the average over patches too; logits of exclusive labels up to what softmax forgets."""
    net = NetConfig(features=[4, 8], patch=(4, 4, 4))
    volume = torch.randn(1, 11, 10, 12)

    def forward(images: Tensor) -> Tensor:
        return torch.cat((images, 1 - images, images * 2), 1)

    mirrored = MirroredForward(forward, net, ("x", "y", "z"), overlapping=overlapping)
    pair: list[Tensor] = []
    for one in (forward, mirrored):
        pieces = volume_logits(one, lambda a, b: volume[:, a:b], (11, 10, 12), (4, 4, 4))
        pair.append(torch.cat(list(pieces)))
    plain, found = pair if overlapping else [logits.log_softmax(1) for logits in pair]
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("overlapping", [False, True])
def test_certain_logits_stay_finite(overlapping: bool) -> None:
    def forward(images: Tensor) -> Tensor:
        return torch.cat((images * 1e4, -images * 1e4), 1)

    found = MirroredForward(forward, NetConfig(), ("x",), overlapping=overlapping)(torch.ones(1, 1, 2, 2))
    assert found.isfinite().all()
    assert (found[:, 0] > 10).all() if overlapping else (found.softmax(1)[:, 0] == 1).all()


def test_each_axis_doubles_the_forward_passes_and_none_adds_nothing() -> None:
    calls: list[int] = []

    def counted(images: Tensor) -> Tensor:
        calls.append(1)
        return images

    for axes in ((), ("x",), ("x", "y"), ("x", "y", "z")):
        calls.clear()
        MirroredForward(counted, NetConfig(neighbours=1), axes, overlapping=True)(torch.zeros(1, 3, 2, 2))
        assert len(calls) == 2 ** len(axes)


def test_z_is_refused_where_no_net_sees_it() -> None:
    flat = made("2D")
    assert mirrored_axes(("x", "z"), flat.net) == ("x",)
    with pytest.raises(UsageError, match=r"single slices.*Leave z out of predict\.mirror"):
        Predictor(flat, settings("x", "z"))
    Predictor([flat, made("3D", seed=1)], settings("z"))


def test_slabs_shrink_for_the_probabilities() -> None:
    bundle = made("2D")

    def slices(config: PredictConfig) -> int:
        return Predictor(bundle, config).slices_at_once((64, 64))

    plain = slices(settings(slab_mib=1))
    assert slices(settings("x", slab_mib=1)) < plain
    assert slices(settings(threshold={"a": 0.4}, slab_mib=1)) < plain
    assert slices(settings(threshold={"a": 0.5}, slab_mib=1)) == plain


class Heard:
    """A listener that keeps what each mean was of."""

    def __init__(self) -> None:
        self.means: list[int] = []
        self.forget()

    def member(self, found: torch.Tensor) -> None:
        self._members += 1

    def mean(self, found: torch.Tensor) -> None:
        self.means.append(self._members)
        self._members = 0

    def forget(self) -> None:
        self._members = 0


def test_mirrors_before_the_memory_ran_out_are_no_members_of_the_mean_that_comes_after() -> None:
    heard, passes = Heard(), iter([None, torch.OutOfMemoryError("CUDA out of memory."), None, None])

    def forward(images: torch.Tensor) -> torch.Tensor:
        if (error := next(passes)) is not None:
            raise error
        return images

    net = NetConfig(features=[4, 8], patch=(8, 8, 8))
    mirrored = MirroredForward(forward, net, ("x",), overlapping=False, listener=heard)
    images = torch.zeros(2, 3, 8, 8, 8)
    with pytest.raises(torch.OutOfMemoryError):
        mirrored(images)
    mirrored(images[:1])
    assert heard.means == [2]
