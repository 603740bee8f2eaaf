"""A 3D net in the Predictor: patches, ensembles with 2D nets, channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from segray.case import LabelMap
from segray.config import NetConfig, PredictConfig
from segray.engine.predictor import Predictor
from segray.engine.windows import ACTIVATION_BYTES, predicted_patch
from segray.errors import UsageError
from segray.grid import Grid
from segray.nets.bundle import Bundle, load_bundle, save_bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net

EXACT = PredictConfig(precision="float32", gpu="no")
SPACING = (2.0, 1.0, 1.0)


def _bundle(folder: Path, patch: tuple[int, int, int] | None, *, seed: int = 0, channels: int = 1) -> Bundle:
    torch.manual_seed(seed)
    net = NetConfig(features=[4, 8, 8], patch=patch)
    names = LabelMap({"a": 1, "b": 2})
    network = build_net(net, channels, names.channels)
    torch.nn.init.normal_(network.head.weight)
    grid = Grid(mode="native", size=(32, 48), spacing=None, fill=-1000.0)
    save_bundle(
        str(folder), network, net=net, label_map=names, grid=grid, normalisation=Normalisation("window"),
        in_channels=channels, channels=["t1", "t2"][: channels if channels > 1 else 0],
    )  # fmt: skip
    return load_bundle(str(folder))


def _voxels(*shape: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(0).integers(-1000, 1000, size=shape).astype(np.int16)


def _logits(bundle: Bundle, voxels: np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
    """(z, L, y, x) of a case that one patch holds."""
    images = bundle.normalisation.apply(torch.from_numpy(voxels), torch.zeros(len(voxels)), torch.ones(len(voxels)))
    with torch.inference_mode():
        return bundle.network()(images.transpose(0, 1)[None])[0].transpose(0, 1)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_case_in_one_patch_is_one_forward_pass(tmp_path: Path, channels: int) -> None:
    bundle = _bundle(tmp_path / "b", (8, 0, 0), channels=channels)
    voxels = _voxels(8, *([2] if channels == 2 else []), 32, 48)
    for batch_slices in (0, 1, 3):
        found = Predictor(bundle, EXACT.model_copy(update={"batch_slices": batch_slices})).predict(voxels, SPACING)
        assert np.array_equal(found, _logits(bundle, voxels).argmax(1).numpy())
    assert len(np.unique(found)) > 1


@pytest.mark.parametrize(("depth", "patch"), [(3, (8, 0, 0)), (21, (8, 0, 0)), (13, (4, 16, 16))])
def test_all_slices_of_any_case_are_predicted(tmp_path: Path, depth: int, patch: tuple[int, int, int]) -> None:
    bundle = _bundle(tmp_path / "b", patch)
    voxels = _voxels(depth, 30, 40)
    whole, slab = (
        Predictor(bundle, EXACT.model_copy(update={"batch_slices": size})).predict(voxels, SPACING) for size in (0, 2)
    )
    assert whole.shape == voxels.shape
    assert np.array_equal(whole, slab)
    assert len(np.unique(whole)) > 1


def test_a_3d_and_a_2d_net_average_their_probabilities(tmp_path: Path) -> None:
    deep, flat = _bundle(tmp_path / "deep", (8, 0, 0)), _bundle(tmp_path / "flat", None, seed=1)
    voxels = _voxels(8, 32, 48)
    found = Predictor([deep, flat], EXACT).predict(voxels, SPACING)
    images = flat.normalisation.apply(torch.from_numpy(voxels), torch.zeros(8), torch.ones(8))
    with torch.inference_mode():
        expected = (_logits(deep, voxels).softmax(1) + flat.network()(images).softmax(1)).argmax(1)
    assert (found == expected.numpy()).mean() > 0.9999


def test_the_same_case_has_the_same_mask_again(tmp_path: Path) -> None:
    predictor = Predictor(_bundle(tmp_path / "b", (4, 16, 16)), EXACT)
    predictor.warm_up()
    voxels = _voxels(9, 32, 48)
    assert np.array_equal(predictor.predict(voxels, SPACING), predictor.predict(voxels, SPACING))


def test_patches_at_once_are_whole_ones(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path / "b", (4, 16, 0))
    assert Predictor(bundle, EXACT).patches_at_once(bundle, (32, 48)) == 1, "a CPU gains nothing"
    for slices, patches in ((1, 1), (4, 1), (13, 3)):
        predictor = Predictor(bundle, EXACT.model_copy(update={"batch_slices": slices}))
        assert predictor.patches_at_once(bundle, (32, 48)) == patches
    predictor.device = torch.device("cuda")
    predictor._config = EXACT.model_copy(update={"slab_mib": 1})
    assert predictor.patches_at_once(bundle, (32, 48)) == 2**20 // (ACTIVATION_BYTES * 4 * 4 * 16 * 48)


def test_a_larger_patch_than_the_trained_one_sees_the_case_at_once(tmp_path: Path) -> None:
    bundle, voxels = _bundle(tmp_path / "b", (4, 16, 16)), _voxels(12, 32, 48)
    expected = _logits(bundle, voxels).argmax(1).numpy()
    assert not np.array_equal(Predictor(bundle, EXACT).predict(voxels, SPACING), expected)
    for patch in ((12, 0, 0), (64, 64, 64)):
        found = Predictor(bundle, EXACT.model_copy(update={"patch": patch})).predict(voxels, SPACING)
        assert np.array_equal(found, expected)


def test_a_told_patch_is_as_deep_as_the_case_needs_and_no_shallower_than_trained() -> None:
    net = NetConfig(features=[4, 8, 8], patch=(8, 16, 16))
    for slices, deep in ((None, 32), (40, 32), (30, 32), (21, 24), (3, 8)):
        assert predicted_patch(net, (32, 0, 16), slices) == (deep, 0, 16)
    assert predicted_patch(net, None, 3) == (8, 16, 16)
    # Shallower than trained, where it is asked for.
    assert predicted_patch(net, (4, 0, 0), 30) == (4, 0, 0)


def test_a_patch_that_the_net_cannot_halve_is_told(tmp_path: Path) -> None:
    deep, flat = _bundle(tmp_path / "deep", (8, 16, 16)), _bundle(tmp_path / "flat", None)
    with pytest.raises(UsageError, match=r"predict\.patch is \[8, 18, 16\].*18 is no multiple of 4.*Write 16 in place"):
        Predictor(deep, EXACT.model_copy(update={"patch": (8, 18, 16)}))
    with pytest.raises(UsageError, match=r"predict\.patch is for 3D nets"):
        Predictor(flat, EXACT.model_copy(update={"patch": (8, 16, 16)}))
    Predictor([flat, deep], EXACT.model_copy(update={"patch": (8, 16, 16)}))
