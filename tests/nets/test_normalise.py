"""Normalisation: three modes against numpy, and the round trip through plain types."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from segray.config import IntensityConfig
from segray.errors import UsageError
from segray.nets.normalise import Normalisation

IMAGES = np.array([[[-1024, -200], [40, 3000]], [[0, 1], [2, 3]]], dtype=np.int16)
MEAN, SD = torch.tensor([10.0, 1.5]), torch.tensor([200.0, 0.5])


def _apply(normalisation: Normalisation, images: np.ndarray = IMAGES) -> np.ndarray:
    return normalisation.apply(torch.from_numpy(images), MEAN, SD).numpy()


def test_window_goes_to_minus_one_and_one() -> None:
    found = _apply(Normalisation.from_config(IntensityConfig(window=(-200.0, 200.0))))
    assert found.shape == (2, 1, 2, 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], np.clip(IMAGES, -200, 200) / 200.0)


def test_foreground_clips_then_scores() -> None:
    normalisation = Normalisation.from_config(IntensityConfig(mode="foreground"), lo=-150, hi=250, mean=50, sd=80)
    np.testing.assert_allclose(_apply(normalisation)[:, 0], (np.clip(IMAGES, -150, 250) - 50) / 80, rtol=1e-6)
    assert normalisation.span == pytest.approx(5.0)


def test_case_scores_each_slice_by_its_case() -> None:
    found = _apply(Normalisation.from_config(IntensityConfig(mode="case")))
    np.testing.assert_allclose(found[0, 0], (IMAGES[0] - 10) / 200, rtol=1e-5)
    np.testing.assert_allclose(found[1, 0], (IMAGES[1] - 1.5) / 0.5, rtol=1e-5)


def test_float_input_is_not_changed() -> None:
    images = IMAGES.astype(np.float32)
    before = images.copy()
    _apply(Normalisation("window"), images)
    np.testing.assert_array_equal(images, before)


def test_dictionary_round_trip() -> None:
    normalisation = Normalisation("foreground", -1.0, 2.0, 0.5, 0.25)
    assert Normalisation.from_dict(normalisation.to_dict()) == normalisation


@pytest.mark.parametrize("table", [{}, {"mode": "window"}, {"mode": "other", "lo": 0, "hi": 1, "mean": 0, "sd": 1}])
def test_bad_dictionary_is_told(table: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="normalisation"):
        Normalisation.from_dict(table)


def test_flat_foreground_is_refused() -> None:
    with pytest.raises(UsageError, match="spread"):
        Normalisation.from_config(IntensityConfig(mode="foreground"), lo=3, hi=3, mean=3, sd=0)


def test_each_channel_has_numbers_of_its_own() -> None:
    images = torch.randn(2, 3, 4, 5) * 100
    recipe = Normalisation("foreground", (-50.0, -60.0, 0.0), (50.0, 80.0, 90.0), (1.0, 2.0, 3.0), (4.0, 5.0, 0.5))
    found = recipe.apply(images, torch.zeros(2, 3), torch.ones(2, 3))
    for channel in range(3):
        alone = Normalisation(
            "foreground", recipe.lo[channel], recipe.hi[channel], recipe.mean[channel], recipe.sd[channel]
        )  # type: ignore[index]
        expected = alone.apply(images[:, channel], torch.zeros(2), torch.ones(2))
        torch.testing.assert_close(found[:, channel : channel + 1], expected)
    assert Normalisation.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert recipe.span == pytest.approx((100 / 4 + 140 / 5 + 90 / 0.5) / 3)


def test_case_mode_takes_mean_and_sd_of_each_channel_and_one_window_serves_all() -> None:
    images = torch.randn(2, 3, 4, 5) * 100
    mean, sd = torch.randn(2, 3), torch.rand(2, 3) + 0.5
    found = Normalisation("case").apply(images, mean, sd)
    torch.testing.assert_close(found, (images - mean[..., None, None]) / sd[..., None, None])
    window = Normalisation("window", -100.0, 100.0).apply(images, mean, sd)
    torch.testing.assert_close(window, images.clamp(-100, 100) / 100)


def test_a_channel_without_spread_is_refused() -> None:
    config = IntensityConfig(mode="foreground")
    with pytest.raises(UsageError, match="no spread"):
        Normalisation.from_config(config, lo=(0.0, 1.0), hi=(2.0, 1.0), mean=(0.0, 0.0), sd=(1.0, 1.0))
