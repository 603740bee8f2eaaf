"""Large slices by overlapping windows, in the Predictor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segray.case import LabelMap
from segray.config import NetConfig, PredictConfig
from segray.engine import windows
from segray.engine.predictor import Predictor
from segray.engine.windows import ACTIVATION_BYTES, patch_starts, patch_weights
from segray.errors import UsageError
from segray.grid import Grid
from segray.nets.bundle import Bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net

MM = (2.0, 1.0, 1.0)
SIDES = (64, 96)

Voxels = np.ndarray[Any, Any]


def made(*, seed: int = 0, overlapping: bool = False, features: tuple[int, ...] = (4, 8), **net: Any) -> Bundle:
    torch.manual_seed(seed)
    config = NetConfig(features=list(features), **net)
    names = LabelMap({"a": 1, "b": 2}, overlapping=overlapping)
    network = build_net(config, 1, names.channels)
    torch.nn.init.normal_(network.head.weight)
    grid = Grid("native", SIDES, None, -1000.0)
    return Bundle(config, 1, names, grid, Normalisation("window"), network.state_dict(), bundle_id=str(seed))


def settings(**others: Any) -> PredictConfig:
    return PredictConfig(precision="float32", gpu="no", **others)


def voxels_of(depth: int) -> Voxels:
    return np.random.default_rng(0).integers(-1000, 1000, (depth, *SIDES)).astype(np.int16)


def images_of(bundle: Bundle, voxels: Voxels) -> Tensor:
    """(z, 2 k + 1, y, x): what the network sees of each slice."""
    images = bundle.normalisation.apply(torch.from_numpy(voxels), torch.zeros(len(voxels)), torch.ones(len(voxels)))
    k, last = bundle.net.neighbours, len(images) - 1
    return torch.stack(
        [torch.cat([images[min(max(z + d, 0), last)] for d in range(-k, k + 1)]) for z in range(last + 1)]
    )


def by_windows(bundle: Bundle, voxels: Voxels, window: tuple[int, int], overlap: float) -> Tensor:
    """(z, L, y, x) logits of the raw network, window after window."""
    images, network = images_of(bundle, voxels), bundle.network()
    weights = patch_weights((1, *window))[0]
    total, seen = torch.zeros(len(images), network.out_channels, *SIDES), torch.zeros(SIDES)
    for y, x in product(*(patch_starts(*pair, overlap) for pair in zip(SIDES, window, strict=True))):
        rows, columns = slice(y, y + window[0]), slice(x, x + window[1])
        with torch.inference_mode():
            total[..., rows, columns] += network(images[..., rows, columns]) * weights
        seen[rows, columns] += weights
    return total / seen


@pytest.mark.parametrize("neighbours", [0, 2])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_masks_are_those_of_windows_made_by_hand(neighbours: int, overlap: float) -> None:
    bundle, voxels = made(neighbours=neighbours), voxels_of(5)
    expected = by_windows(bundle, voxels, (32, 32), overlap).argmax(1).numpy()
    for batch_slices in (0, 2):
        config = settings(window=(32, 32), overlap=overlap, batch_slices=batch_slices)
        found = Predictor(bundle, config).predict(voxels, MM)
        assert (found == expected).mean() > 0.9999
    assert len(np.unique(expected)) > 1


def test_masks_by_windows_agree_with_whole_slices_away_from_the_seams() -> None:
    bundle, voxels = made(), voxels_of(4)
    whole = Predictor(bundle, settings()).predict(voxels, MM)
    found = Predictor(bundle, settings(window=(32, 32))).predict(voxels, MM)
    assert 0.98 < (found == whole).mean() < 1.0
    for told in ((0, 0), SIDES, (128, 0)):
        assert np.array_equal(Predictor(bundle, settings(window=told)).predict(voxels, MM), whole)


def test_slices_that_are_too_large_are_seen_by_windows_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, voxels = made(), voxels_of(2)
    told = Predictor(bundle, settings(window=(32, 32))).predict(voxels, MM)
    whole = Predictor(bundle, settings()).predict(voxels, MM)
    monkeypatch.setattr(windows, "OWN_WINDOW", 32)
    monkeypatch.setattr(windows, "WHOLE_SLICE", ACTIVATION_BYTES * 4 * SIDES[0] * SIDES[1])
    assert np.array_equal(Predictor(bundle, settings()).predict(voxels, MM), whole)
    monkeypatch.setattr(windows, "WHOLE_SLICE", windows.WHOLE_SLICE - 1)
    assert np.array_equal(Predictor(bundle, settings()).predict(voxels, MM), told)
    assert not np.array_equal(told, whole)


def test_mirrors_and_bundles_are_averaged_over_windows_too() -> None:
    bundles, voxels = [made(seed=seed, overlapping=True) for seed in (0, 1)], voxels_of(3)
    total = torch.zeros(())
    for bundle in bundles:
        plain = by_windows(bundle, voxels, (32, 32), 0.5)
        turned = by_windows(bundle, np.ascontiguousarray(voxels[..., ::-1]), (32, 32), 0.5).flip(3)
        total = total + (plain.sigmoid() + turned.sigmoid()) / 4
    expected = ((total > 0.5) * torch.tensor([1, 2])[:, None, None]).sum(1).numpy()
    found = Predictor(bundles, settings(window=(32, 32), mirror=["x"])).predict(voxels, MM)
    assert (found == expected).mean() > 0.9999


def test_the_overlap_of_3d_patches_is_the_same_setting() -> None:
    bundle, voxels = made(patch=(4, 16, 32)), voxels_of(9)
    default, same, none = (
        Predictor(bundle, settings(**told)).predict(voxels, MM) for told in ({}, {"overlap": 0.5}, {"overlap": 0.0})
    )
    assert np.array_equal(default, same)
    assert 0.5 < (default == none).mean() < 1.0


def test_windows_that_do_not_fit_the_net_are_told() -> None:
    with pytest.raises(UsageError, match=r"halves a side 1 times: 33 is no multiple of 2\. Write 32 in place of 33"):
        Predictor(made(), settings(window=(32, 33)))
    with pytest.raises(UsageError, match=r"sees patches of its own size.*predict\.overlap"):
        Predictor(made(patch=(4, 16, 32)), settings(window=(32, 32)))
    Predictor([made(patch=(4, 16, 32)), made(seed=1)], settings(window=(32, 32)))


def test_slabs_count_the_activations_of_a_window_only() -> None:
    bundle = made(features=(32, 32))
    whole, parts = (
        Predictor(bundle, settings(slab_mib=8, window=window)).slices_at_once(SIDES) for window in ((0, 0), (16, 16))
    )
    assert whole < parts


CHILD = """
import json, sys
from pathlib import Path
import numpy as np, torch
from segray.case import LabelMap
from segray.config import NetConfig, PredictConfig
from segray.engine.predictor import Predictor
from segray.grid import Grid
from segray.nets.bundle import Bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net

def mib(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024

torch.set_num_threads(1)
side, window = int(sys.argv[1]), json.loads(sys.argv[2])
net = NetConfig(features=[32, 8])
network = build_net(net, 1, 3)
grid = Grid("native", (64, 64), None, -1000.0)
bundle = Bundle(net, 1, LabelMap({"a": 1, "b": 2}), grid, Normalisation("window"), network.state_dict())
predictor = Predictor(bundle, PredictConfig(precision="float32", gpu="no", window=window, overlap=0.0))
predictor.warm_up()
voxels = np.zeros((1, side, side), np.int16)
before = mib("VmRSS")
predictor.predict(voxels, (1.0, 1.0, 1.0))
print(json.dumps({"rise": mib("VmHWM") - before}))
"""


def rise_mib(side: int, window: tuple[int, int] | None) -> float:
    """How far a fresh process rises above what it had when the net was loaded, predicting one slice."""
    command = [sys.executable, "-c", CHILD, str(side), json.dumps(window)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return float(json.loads(done.stdout.splitlines()[-1])["rise"])


def test_windows_bound_the_memory_of_a_large_slice() -> None:
    whole, parts = rise_mib(768, (0, 0)), rise_mib(768, (256, 256))
    assert whole > 0.6 * 2 * ACTIVATION_BYTES * 32 * 768**2 / 2**20, "the activations of a whole slice in float32"
    assert parts < whole / 3
