"""The Predictor against a forward pass over whole slices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from segray.case import LabelMap, voxel_statistics
from segray.config import NetConfig, PredictConfig
from segray.engine import scores as scores_module
from segray.engine.placed_case import place_case
from segray.engine.predictor import Predictor, choose_device
from segray.engine.scores import labels_of_scores
from segray.errors import CaseError, UsageError
from segray.grid import Grid, Placement, fill_value, plan_prediction
from segray.nets.bundle import Bundle, load_bundle, save_bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net
from segray.resample import place_slab, scores_to_labels

EXACT = PredictConfig(precision="float32", gpu="no")
SPACING = (2.0, 1.0, 1.0)


def _bundle(folder: Path, grid: Grid, structures: int = 3, mode: str = "window") -> Bundle:
    torch.manual_seed(1)
    net = NetConfig(features=[4, 8, 8])
    network = build_net(net, 1, structures + 1)
    for _ in range(3):
        network(torch.randn(4, 1, 16, 16))
    save_bundle(
        str(folder), network, net=net, label_map=LabelMap.of_names(f"s{n}" for n in range(structures)), grid=grid,
        normalisation=Normalisation(mode),  # type: ignore[arg-type]
    )  # fmt: skip
    return load_bundle(str(folder))


def _native(height: int, width: int) -> Grid:
    return Grid("native", (height, width), None, -1024.0)


def _voxels(*shape: int) -> np.ndarray:
    coarse = torch.randn(1, 1, *(max(side // 4, 2) for side in shape), generator=torch.Generator().manual_seed(2))
    smooth = functional.interpolate(coarse, size=shape, mode="trilinear")[0, 0] * 700
    return smooth.numpy().astype(np.int16)


def _whole(bundle: Bundle, images: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return bundle.network()(images).argmax(1).numpy().astype(np.uint8)


def _agree(first: np.ndarray, second: np.ndarray) -> float:
    return float((first == second).mean())


def test_native_equals_the_plain_forward_pass(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path, _native(16, 24))
    voxels = _voxels(5, 16, 24)
    found = Predictor(bundle, EXACT).predict(voxels, SPACING)
    expected = _whole(bundle, bundle.normalisation.apply(torch.from_numpy(voxels), torch.zeros(5), torch.ones(5)))
    assert found.dtype == np.uint8
    assert len(np.unique(found)) > 1
    assert _agree(found, expected) > 0.999


@pytest.mark.parametrize("size", [(20, 18), (40, 33), (7, 5)])
@pytest.mark.parametrize(
    "grid", [Grid("spacing", (16, 16), (1.5, 1.5), -1024.0), Grid("size", (16, 24), None, -1024.0)]
)
def test_any_size_comes_back_on_its_own_grid(tmp_path: Path, grid: Grid, size: tuple[int, int]) -> None:
    predictor = Predictor(_bundle(tmp_path, grid), EXACT)
    voxels = _voxels(3, *size)
    found = predictor.predict(voxels, (3.0, 0.8, 1.1))
    assert found.shape == voxels.shape
    assert np.array_equal(found, predictor.predict(voxels, (3.0, 0.8, 1.1)))


def test_slab_size_does_not_change_the_labels(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path, Grid("spacing", (16, 16), (2.0, 2.0), -1024.0))
    voxels = _voxels(7, 30, 26)
    results = [
        Predictor(bundle, PredictConfig(precision="float32", gpu="no", batch_slices=n)).predict(voxels, SPACING)
        for n in (1, 3, 7)
    ]
    assert _agree(results[0], results[1]) > 0.999
    assert _agree(results[0], results[2]) > 0.999


def test_bf16_masks_agree(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path, _native(32, 32))
    voxels = _voxels(4, 32, 32)
    low = Predictor(bundle, PredictConfig(gpu="no", precision="bf16")).predict(voxels, SPACING)
    assert _agree(low, Predictor(bundle, EXACT).predict(voxels, SPACING)) > 0.97


def test_case_mode_uses_the_statistics_of_the_whole_case(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path, _native(16, 16), mode="case")
    voxels = _voxels(4, 16, 16)
    predictor = Predictor(bundle, EXACT)
    assert _agree(predictor.predict(voxels, SPACING), predictor.predict(voxels * 2 + 100, SPACING)) > 0.99


def test_a_case_on_its_canvas_is_seen_as_the_case_is(tmp_path: Path) -> None:
    """As a sweep over a bundle's settings has it: the slices of shards have a margin, which is no part of the case."""
    bundle = _bundle(tmp_path, _native(16, 24), mode="case")
    voxels = _voxels(4, 10, 12)
    predictor = Predictor(bundle, EXACT)
    here = torch.device("cpu")
    placed = place_case(voxels, SPACING, bundle, stride=1, statistics=False, device=here)
    canvas = placed.placed(0, 4).numpy()
    (y, x), _ = placed.placement.windows()
    alone = predictor.predict(voxels, SPACING)
    mean, sd = voxel_statistics(voxels)
    assert np.array_equal(predictor.predict(canvas, SPACING, statistics=([mean], [sd]))[:, y, x], alone)
    assert not np.array_equal(predictor.predict(canvas, SPACING)[:, y, x], alone)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.int32, np.float32])
def test_voxel_types_views_and_read_only_arrays(tmp_path: Path, dtype: type) -> None:
    predictor = Predictor(_bundle(tmp_path, _native(16, 16)), EXACT)
    voxels = (_voxels(3, 16, 16) % 200).astype(dtype)
    expected = predictor.predict(voxels.astype(np.float32), SPACING)
    view = np.ascontiguousarray(voxels[::-1].transpose(2, 1, 0)).transpose(2, 1, 0)[::-1]
    view.flags.writeable = False
    assert np.array_equal(predictor.predict(view, SPACING), expected)


def test_many_structures_make_uint16(tmp_path: Path) -> None:
    found = Predictor(_bundle(tmp_path, _native(8, 8), structures=300), EXACT).predict(_voxels(2, 8, 8), SPACING)
    assert found.dtype == np.uint16
    assert found.max() > 255


@pytest.mark.parametrize("channels", [1, 2, 3, 16, 17, 40, 300])
@pytest.mark.parametrize("resampled", [(12, 10), (6, 5)])
@pytest.mark.parametrize("band", [30, 2**16])
def test_labels_of_scores_equal_the_running_maximum(
    channels: int, resampled: tuple[int, int], band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores_module, "BAND_PIXELS", band)
    placement = Placement((12, 10), resampled, (16, 16), (1, 2))
    scores = torch.randn(2, channels, 16, 16).bfloat16().contiguous(memory_format=torch.channels_last)
    assert torch.equal(labels_of_scores(scores, placement), scores_to_labels(scores, placement))


def test_slices_at_once_follow_the_memory_and_the_cache(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path, _native(16, 16))

    def at_once(canvas: tuple[int, int], **settings: Any) -> int:
        return Predictor(bundle, PredictConfig(gpu="no", **settings)).slices_at_once(canvas)

    assert at_once((512, 512)) == 1
    assert at_once((64, 64)) == 16
    assert at_once((64, 64), slab_mib=1) < 16
    assert at_once((512, 512), batch_slices=5) == 5


def test_seconds_and_warm_up(tmp_path: Path) -> None:
    predictor = Predictor(_bundle(tmp_path, Grid("spacing", (16, 16), (2.0, 2.0), -1024.0)), EXACT)
    predictor.warm_up()
    assert predictor.last_seconds["total"] == 0
    predictor.predict(_voxels(2, 20, 20), SPACING)
    seconds = predictor.last_seconds
    assert set(seconds) == {"place", "forward", "labels", "postprocess", "total"}
    assert 0 < seconds["forward"] < seconds["total"]


def test_what_is_no_volume_is_told(tmp_path: Path) -> None:
    predictor = Predictor(_bundle(tmp_path, _native(16, 16)), EXACT)
    for shape in ((16, 16), (0, 16, 16)):
        with pytest.raises(CaseError, match="no volume"):
            predictor.predict(np.zeros(shape, np.int16), SPACING)


def test_a_missing_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no GPU"):
        choose_device("auto", "yes")
    assert choose_device("auto", "auto").type == "cpu"


@pytest.mark.parametrize("structures", [3, 9, 17])
def test_overlapping_structures_come_as_bits_on_the_cases_own_grid(tmp_path: Path, structures: int) -> None:
    torch.manual_seed(1)
    net = NetConfig(features=[4, 8])
    network = build_net(net, 1, structures)
    label_map = LabelMap({f"s{n:02}": n for n in range(1, structures + 1)}, overlapping=True)
    save_bundle(
        str(tmp_path), network, net=net, label_map=label_map, grid=Grid("spacing", (16, 16), (1.5, 1.5), -1024.0),
        normalisation=Normalisation("window"),
    )  # fmt: skip
    bundle = load_bundle(str(tmp_path))
    voxels = _voxels(3, 20, 18)
    found = Predictor(bundle, EXACT).predict(voxels, SPACING)
    assert found.shape == voxels.shape
    assert found.dtype == label_map.dtype
    grid = replace(bundle.grid, fill=float(voxels.min()))
    placement = plan_prediction(voxels.shape, SPACING, grid, 2)
    images = bundle.normalisation.apply(place_slab(voxels, placement, grid), torch.zeros(3), torch.ones(3))
    with torch.inference_mode():
        scores = bundle.network()(images)
    (y, x), _ = placement.windows()
    scores = functional.interpolate(scores[:, :, y, x], size=(20, 18), mode="bilinear", align_corners=False)
    for number in range(structures):
        assert _agree(found >> number & 1, (scores[:, number] > 0).numpy()) > 0.999


def _two_channels(folder: Path, mode: str = "window") -> Bundle:
    torch.manual_seed(3)
    net = NetConfig(features=[4, 8])
    network = build_net(net, 2, 3)
    for _ in range(3):
        network(torch.randn(4, 2, 16, 16))
    save_bundle(
        str(folder), network, net=net, label_map=LabelMap.of_names(["a", "b"]), in_channels=2, channels=["T1", "T2"],
        grid=Grid("spacing", (16, 16), (1.5, 1.5), -1024.0), normalisation=Normalisation(mode),  # type: ignore[arg-type]
    )  # fmt: skip
    return load_bundle(str(folder))


@pytest.mark.parametrize("mode", ["window", "case"])
def test_several_channels_are_placed_and_normalised_each(tmp_path: Path, mode: str) -> None:
    bundle = _two_channels(tmp_path, mode)
    predictor = Predictor(bundle, EXACT)
    predictor.warm_up()
    first = _voxels(3, 20, 18)
    voxels = np.stack([first, np.flip(first, 2) // 2 + 100], axis=1)
    found = predictor.predict(voxels, SPACING)
    assert found.shape == (3, 20, 18)
    inputs, placements = [], []
    for channel in (0, 1):
        volume = np.ascontiguousarray(voxels[:, channel])
        grid = replace(bundle.grid, fill=fill_value(volume))
        placement = plan_prediction((3, 20, 18), SPACING, grid, 2)
        mean, sd = voxel_statistics(volume)
        slab = place_slab(volume, placement, grid)
        inputs.append(bundle.normalisation.apply(slab, torch.full((3,), mean), torch.full((3,), sd)))
        placements.append(placement)
    with torch.inference_mode():
        scores = bundle.network()(torch.cat(inputs, 1))
    assert _agree(found, scores_to_labels(scores, placements[0]).numpy()) > 0.999


def test_other_channels_than_the_networks_are_told(tmp_path: Path) -> None:
    predictor = Predictor(_two_channels(tmp_path), EXACT)
    with pytest.raises(CaseError, match=r"Channels of the case: 1; of the bundle's network: 2 \(T1, T2\)"):
        predictor.predict(_voxels(3, 20, 18), SPACING)
    with pytest.raises(CaseError, match="Channels of the case: 3"):
        predictor.predict(np.zeros((3, 3, 20, 18), np.int16), SPACING)


@pytest.mark.parametrize("mode", ["window", "case"])
@pytest.mark.parametrize("channels", [1, 2])
def test_neighbours_are_those_of_the_case_whatever_the_slab(tmp_path: Path, mode: str, channels: int) -> None:
    torch.manual_seed(1)
    net = NetConfig(features=[4, 8, 8], neighbours=2)
    network = build_net(net, channels, 4)
    limits = ((-700.0, -900.0), (800.0, 600.0)) if channels == 2 and mode == "window" else (-1000.0, 1000.0)
    zeros, ones = ((0.0, 0.0), (1.0, 1.0)) if isinstance(limits[0], tuple) else (0.0, 1.0)
    recipe = Normalisation(mode, limits[0], limits[1], zeros, ones)  # type: ignore[arg-type]
    save_bundle(
        str(tmp_path), network, net=net, label_map=LabelMap.of_names(["a", "b", "c"]), grid=_native(32, 48),
        normalisation=recipe, in_channels=channels,
    )  # fmt: skip
    bundle = load_bundle(str(tmp_path))
    voxels = np.stack([_voxels(7, 32, 48), _voxels(7, 32, 48)[::-1]], axis=1) if channels == 2 else _voxels(7, 32, 48)
    made = [
        Predictor(bundle, PredictConfig(precision="float32", gpu="no", batch_slices=slices)).predict(voxels, SPACING)
        for slices in (1, 3, 7)
    ]
    planes = torch.from_numpy(np.ascontiguousarray(voxels)).view(7, channels, 32, 48)
    moments = torch.tensor([voxel_statistics(planes[:, c].numpy()) for c in range(channels)])
    each = recipe.apply(planes if channels > 1 else planes[:, 0], *moments.T[:, None].expand(2, 7, -1))
    stacked = torch.stack([torch.cat([each[min(max(z + d, 0), 6)] for d in range(-2, 3)]) for z in range(7)])
    for one in made:
        assert _agree(one, _whole(bundle, stacked)) > 0.9999
    assert len(np.unique(made[0])) > 1
    assert len(np.unique(Predictor(bundle, EXACT).predict(voxels[:1], SPACING))) >= 1


@pytest.mark.parametrize("overlapping", [False, True])
def test_several_nets_average_their_probabilities(tmp_path: Path, overlapping: bool) -> None:
    bundles = []
    for number, (neighbours, mode) in enumerate(((0, "window"), (1, "case"), (0, "window"))):
        torch.manual_seed(number)
        net = NetConfig(features=[4, 8, 8][: 3 - number % 2], neighbours=neighbours)
        names = LabelMap({"a": 1, "b": 2, "c": 3}, overlapping=overlapping)
        network = build_net(net, 1, names.channels)
        torch.nn.init.normal_(network.head.weight)
        save_bundle(
            str(tmp_path / str(number)), network, net=net, label_map=names, grid=_native(32, 48),
            normalisation=Normalisation(mode),  # type: ignore[arg-type]
        )  # fmt: skip
        bundles.append(load_bundle(str(tmp_path / str(number))))
    voxels = _voxels(5, 32, 48)
    found = Predictor(bundles, EXACT).predict(voxels, SPACING)
    total = torch.zeros(())
    mean, sd = (torch.full((5,), moment) for moment in voxel_statistics(voxels))
    for bundle in bundles:
        images = bundle.normalisation.apply(torch.from_numpy(voxels), mean, sd)[:, 0]
        k = bundle.net.neighbours
        stack = torch.stack([torch.stack([images[min(max(z + d, 0), 4)] for d in range(-k, k + 1)]) for z in range(5)])
        with torch.inference_mode():
            logits = bundle.network()(stack)
        total = total + (logits.sigmoid() if overlapping else logits.softmax(1)) / 3
    expected = (
        (total > 0.5).long().mul(torch.tensor([1, 2, 4])[:, None, None]).sum(1) if overlapping else total.argmax(1)
    )
    assert _agree(found, expected.numpy()) > 0.9999
    assert len(np.unique(found)) > 1


def test_nets_that_do_not_go_together_are_told(tmp_path: Path) -> None:
    one, two = _bundle(tmp_path / "a", _native(32, 48)), _bundle(tmp_path / "b", _native(32, 32))
    with pytest.raises(UsageError, match="have other grids"):
        Predictor([one, two], EXACT)
    with pytest.raises(UsageError, match="have other structures"):
        Predictor([one, _bundle(tmp_path / "c", _native(32, 48), structures=2)], EXACT)


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("members", [1, 2])
def test_scores_that_overflow_are_no_empty_mask(tmp_path: Path, overlapping: bool, members: int) -> None:
    bundle = _bundle(tmp_path, _native(16, 24))
    # Within float32, beyond fp16's 65504.
    last = "decoder.1.1.norm.weight"
    large = {**bundle.weights, last: 1e7 * bundle.weights[last]}
    label_map = LabelMap.of_names(f"s{n}" for n in range(4 if overlapping else 3))
    bundle = replace(bundle, weights=large, label_map=replace(label_map, overlapping=overlapping))
    cases = [(_voxels(5, 16, 24), SPACING), (_voxels(3, 16, 24), SPACING)]
    for labels in Predictor([bundle] * members, EXACT).predict_many(cases):
        assert labels.any()
    half = Predictor([bundle] * members, PredictConfig(precision="fp16", gpu="no"))
    with pytest.raises(CaseError, match=r"are no finite numbers.*predict\.precision=float32"):
        half.predict(*cases[0])
    with pytest.raises(CaseError, match="are no finite numbers"):
        half.predict_many(cases)
