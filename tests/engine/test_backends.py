"""Who computes the forward pass, and how it is chosen."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._inductor.config as inductor
from torch.nn import functional

from segray.case import LabelMap
from segray.config import NetConfig, PredictConfig
from segray.engine.backend_contest import (
    FEW,
    MOST_APART,
    SLICES,
    choose_forward,
    foreground_dice,
    middle_of,
    rival_wins,
)
from segray.engine.backends import BackendChoice, forward_pass
from segray.engine.compiled_pass import CompiledPass, compiler_fault
from segray.engine.inference import ForwardPass
from segray.engine.openvino_pass import OpenVinoPass
from segray.engine.predictor import Predictor
from segray.errors import UsageError
from segray.grid import Grid
from segray.nets.bundle import Bundle, load_bundle, save_bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net

CPU = torch.device("cpu")
EXACT = PredictConfig(gpu="no", precision="float32")
SPACING = (2.0, 1.0, 1.0)

openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler is installed")


def _inductor(**settings: Any) -> AbstractContextManager[None]:
    """Settings of inductor for a while; those of monkeypatch would be deleted afterwards, not restored."""
    patched: AbstractContextManager[None] = inductor.patch(settings)
    return patched


def _bundle(folder: Path, grid: Grid | None = None, **net: Any) -> Bundle:
    torch.manual_seed(1)
    config = NetConfig(**{"features": [4, 8], **net})
    network = build_net(config, 1, 3)
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(2, network.in_channels, *([4] if config.patch else []), 16, 16))
    save_bundle(
        str(folder), network, net=config, label_map=LabelMap.of_names("ab"),
        grid=grid or Grid("native", (24, 32), None, -1024.0), normalisation=Normalisation("window"),
    )  # fmt: skip
    return load_bundle(str(folder))


def _voxels(*shape: int) -> np.ndarray:
    coarse = torch.randn(1, 1, *(max(side // 4, 2) for side in shape), generator=torch.Generator().manual_seed(2))
    return (functional.interpolate(coarse, size=shape, mode="trilinear")[0, 0] * 700).numpy().astype(np.int16)


def test_a_choice_travels_as_json() -> None:
    choice = BackendChoice("openvino", "bf16", "OpenVINO computes: it is faster.")
    assert BackendChoice.from_json(choice.to_json()) == choice


@pytest.mark.parametrize(
    "text",
    [
        "no json", "[]", '{"name": "openvino"}',
        '{"name": "tensorrt", "precision": "bf16", "reason": ""}',
        '{"name": "torch", "precision": "int8", "reason": ""}',
        '{"name": ["torch"], "precision": "bf16", "reason": ""}',
    ],
)  # fmt: skip
def test_what_is_no_choice_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        BackendChoice.from_json(text)


def test_without_a_choice_torch_computes_as_ever() -> None:
    net = build_net(NetConfig(features=[4, 8]), 1, 3).eval()
    images = torch.randn(1, 1, 16, 16)
    with torch.inference_mode():
        for choice in (None, BackendChoice("torch", "bf16")):
            forward = forward_pass(net, CPU, "bf16", choice)
            assert isinstance(forward, ForwardPass)
            assert torch.equal(forward(images), ForwardPass(net, CPU, "bf16")(images))


def test_torch_is_taken_without_a_measurement(tmp_path: Path) -> None:
    bundle, voxels = _bundle(tmp_path), _voxels(5, 24, 32)
    plain = BackendChoice("torch", "float32", "")
    assert choose_forward("torch", bundle, EXACT, voxels, SPACING) == plain
    assert choose_forward("auto", bundle, EXACT, voxels, SPACING, slices=FEW - 1) == plain


def test_where_openvino_is_missing_only_who_asks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    bundle, voxels = _bundle(tmp_path), _voxels(5, 24, 32)
    assert choose_forward("auto", bundle, EXACT, voxels, SPACING) == BackendChoice("torch", "float32", "")
    with pytest.raises(UsageError) as error:
        choose_forward("openvino", bundle, EXACT, voxels, SPACING)
    assert 'pip install "segray[openvino]"' in error.value.mend


@openvino
def test_openvino_is_taken_where_it_is_asked_for(tmp_path: Path) -> None:
    bundle, voxels = _bundle(tmp_path), _voxels(5, 24, 32)
    choice = choose_forward("openvino", bundle, EXACT, voxels, SPACING)
    assert (choice.name, choice.precision) == ("openvino", "float32")
    assert "OpenVINO computes" in choice.reason
    assert "1.00000 and 1.00000" in choice.reason
    found = Predictor(bundle, EXACT, backend=choice).predict(voxels, SPACING)
    assert (found == Predictor(bundle, EXACT).predict(voxels, SPACING)).mean() > 0.999


@openvino
def test_auto_says_what_it_measured(tmp_path: Path) -> None:
    choice = choose_forward("auto", _bundle(tmp_path), EXACT, _voxels(5, 24, 32), SPACING, slices=10**6)
    assert choice.name in ("torch", "openvino")
    assert choice.reason.startswith("OpenVINO computes" if choice.name == "openvino" else "torch computes")


@openvino
def test_compiling_counts_where_each_slice_has_its_own_size(tmp_path: Path) -> None:
    # What takes a tenth of a second to compile is not worth it for a slice of a millisecond.
    choice = choose_forward("auto", _bundle(tmp_path), EXACT, _voxels(5, 24, 32), SPACING, slices=900, canvases=900)
    assert choice.name == "torch"
    assert "Dice with float32 is 1.00000 and 1.00000" in choice.reason


@openvino
def test_the_contest_is_where_something_is(tmp_path: Path) -> None:
    bundle, voxels = _bundle(tmp_path), _voxels(60, 24, 32)
    voxels[:52] = -1000
    seen: list[np.ndarray] = []
    Predictor(bundle, EXACT).predict(voxels, SPACING, probabilities=lambda _, slab: seen.append(slab / 255))
    background, b = np.concatenate(seen)[:, 0], np.concatenate(seen)[:, 2]
    in_air, above = ((b / (b + background))[part].max() for part in (slice(0, 52), slice(52, 60)))  # a is nowhere
    assert above > in_air
    only_above = PredictConfig(gpu="no", precision="float32", threshold={"a": 1.0, "b": (above + in_air) / 2})
    labels = Predictor(bundle, only_above).predict(voxels, SPACING)
    assert np.flatnonzero(labels.any(axis=(1, 2))).min() >= 52
    choice = choose_forward("openvino", bundle, only_above, voxels, SPACING)
    assert "Dice with float32 is 1.00000" in choice.reason


@openvino
def test_a_backend_that_finds_nothing_where_nothing_is_has_to_agree_in_probabilities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = _bundle(tmp_path)
    config = PredictConfig(gpu="no", precision="float32", threshold={"a": 1.0, "b": 1.0})
    voxels = _voxels(5, 24, 32)
    good = choose_forward("openvino", bundle, config, voxels, SPACING)
    assert "their probabilities differ from it by 0.000 and 0.00" in good.reason
    real = OpenVinoPass.__call__
    monkeypatch.setattr(OpenVinoPass, "__call__", lambda self, images: real(self, images) * 0)
    bad = choose_forward("auto", bundle, config, voxels, SPACING, slices=10**6)
    assert bad.name == "torch"
    assert float(bad.reason.split(" and ")[-1].split()[0]) > MOST_APART


def test_who_wins() -> None:
    assert rival_wins((20.0, 10.0), (1.0, 0.9995))
    assert not rival_wins((20.0, 10.0), (1.0, 0.99))
    assert not rival_wins((10.2, 10.0), (1.0, 1.0))
    assert not rival_wins((10.0, 20.0), (1.0, 1.0))
    # torch's own low precision does not agree: who does computes, though it takes longer.
    assert rival_wins((10.0, 20.0), (0.99, 1.0))
    assert not rival_wins((10.0, 20.0), (0.99, 0.99))


def test_the_middle_is_some_slices(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path, Grid("native", (256, 256), None, -1024.0))
    bundles, voxels = middle_of(_voxels(9, 20, 30), SPACING, [bundle], PredictConfig())
    assert bundles == [bundle]
    assert voxels.shape == (SLICES, 20, 30)
    _, voxels = middle_of(_voxels(9, 20, 30), SPACING, [bundle], PredictConfig(batch_slices=5))
    assert voxels.shape == (5, 20, 30)
    for place, start in ((0.0, 0), (0.35, 2), (1.0, 6)):
        _, voxels = middle_of(_voxels(9, 20, 30), SPACING, [bundle], PredictConfig(), place)
        assert (voxels == _voxels(9, 20, 30)[start : start + SLICES]).all()


@pytest.mark.parametrize(
    "grid", [("spacing", (40, 40), (2.0, 1.5)), ("size", (40, 40), None), ("native", (80, 64), None)]
)
def test_the_middle_of_a_case_for_patches_is_one_of_them(tmp_path: Path, grid: tuple[Any, ...]) -> None:
    bundle = _bundle(tmp_path, Grid(*grid, -1024.0), patch=(4, 16, 8))
    bundles, voxels = middle_of(_voxels(9, 70, 60), SPACING, [bundle], PredictConfig())
    assert bundles[0].grid.size == (16, 8)
    assert len(voxels) == 4
    seen: list[torch.Size] = []
    predictor = Predictor(bundles, EXACT)
    forward = predictor._forwards[0]
    predictor._forwards = [lambda images: seen.append(images.shape) or forward(images)]  # type: ignore[func-returns-value]
    assert predictor.predict(voxels, SPACING).shape == voxels.shape
    assert seen == [(1, 1, 4, 16, 8)]


def test_dice_over_all_foreground() -> None:
    first, second = np.array([0, 1, 1, 2, 2, 0]), np.array([0, 1, 2, 2, 2, 0])
    assert foreground_dice(first, second, overlapping=False) == pytest.approx(2 * 3 / 8)
    assert foreground_dice(first, first, overlapping=False) == 1.0
    assert foreground_dice(first * 0, first * 0, overlapping=False) == 1.0
    assert foreground_dice(first * 0, first, overlapping=False) == 0.0
    bits, others = np.array([0b11, 0b01], np.uint8), np.array([0b01, 0b01], np.uint8)
    assert foreground_dice(bits, others, overlapping=True) == pytest.approx(2 * 2 / 5)


@compiler
def test_the_compiled_pass_equals_the_net() -> None:
    net = build_net(NetConfig(features=[4, 8]), 1, 3).eval()
    images = torch.randn(1, 1, 16, 16)
    # Most of the time of the first program goes into headers that only further ones profit of.
    with _inductor(cpp_cache_precompile_headers=False), torch.inference_mode():
        fast = CompiledPass(net, CPU, "float32")
        torch.testing.assert_close(fast(images), net(images), atol=1e-5, rtol=1e-4)
    assert fast.fallback == ""


@pytest.fixture
def no_compiler(tmp_path: Path) -> Iterator[None]:
    with _inductor(**{"cpp.cxx": (str(tmp_path / "no-g++"),)}):
        yield


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_torch_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    choice = choose_forward("compile", _bundle(tmp_path), EXACT, _voxels(5, 24, 32), SPACING)
    assert (choice.name, choice.precision) == ("torch", "float32")
    assert choice.reason == compiler_fault(CPU)
    assert "torch.compile does not work here" in choice.reason

    net = build_net(NetConfig(features=[4, 8]), 1, 3).eval()
    images = torch.randn(1, 1, 16, 16)
    fast = CompiledPass(net, CPU, "float32")
    with torch.inference_mode():
        with pytest.warns(RuntimeWarning, match=r"torch\.compile does not work here"):
            logits = fast(images)
        torch.testing.assert_close(logits, net(images), atol=1e-5, rtol=1e-4)
    assert fast.fallback
