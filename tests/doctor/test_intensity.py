"""What the values of an image mean, and histograms that can be added up."""

import numpy as np
import pytest

from segray.doctor.intensity import (
    Intensity,
    air_is_odd,
    bin_edges,
    bin_of,
    meaning,
    measure_intensity,
    merged,
    rebinned,
    usual_range,
)

RNG = np.random.default_rng(0)


def ct(air: float = -1000.0) -> np.ndarray:
    volume = RNG.normal(40, 30, (12, 40, 40))
    volume[:, :12] = air + RNG.normal(0, 5, (12, 12, 40))
    return np.rint(volume).astype(np.int16)


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        (ct(), "HU"),
        (ct() + 1024 + np.where(np.arange(40) > 38, 400, 0), "HU + 1024"),
        (RNG.integers(0, 256, (4, 20, 20)).astype(np.int16), "0..255"),
        (RNG.random((4, 20, 20)).astype(np.float32), "0..1"),
        (RNG.gamma(2, 200, (4, 20, 20)).astype(np.float32), "other"),
        (np.full((4, 20, 20), 7, np.int16), "constant"),
    ],
)
def test_the_meaning_of_values(volume: np.ndarray, expected: str) -> None:
    volume = volume.astype(np.float32 if volume.dtype.kind == "f" else np.int16)
    assert meaning(measure_intensity(volume)) == expected


@pytest.mark.parametrize(("air", "odd"), [(-1000.0, False), (-800.0, False), (-1300.0, True), (-420.0, True)])
def test_air_must_lie_at_minus_1000(air: float, odd: bool) -> None:
    assert air_is_odd(measure_intensity(ct(air))) is odd


def test_padding_outside_of_the_scanner_is_no_air() -> None:
    volume = ct()
    volume[:, :, :10] = -3024
    found = measure_intensity(volume)
    assert meaning(found) == "HU"
    assert not air_is_odd(found)


def test_a_value_lies_in_its_bin() -> None:
    values = np.array([-3024, -1000, -1, -0.3, 0, 0.02, 1, 15, 255, 1024, 3071.5, 65535], np.float32)
    for value, number in zip(values.tolist(), bin_of(values).tolist(), strict=True):
        low, high = bin_edges(number)
        assert low <= value <= high


def test_integers_and_floats_are_counted_alike() -> None:
    volume = ct()
    exact, rough = measure_intensity(volume), measure_intensity(volume.astype(np.float32))
    assert exact.bins == rough.bins
    assert exact.percentiles == pytest.approx(np.percentile(volume, (0.5, 5, 25, 50, 75, 95, 99.5)), abs=1)
    assert rough.percentiles == pytest.approx(exact.percentiles, abs=1)
    assert rough.integer


def test_histograms_add_up_and_are_drawn_without_loss() -> None:
    one, two = ct(), ct(-900.0)
    total = merged([measure_intensity(one).bins, measure_intensity(two).bins])
    assert total == dict(measure_intensity(np.concatenate([one, two])).bins)
    assert rebinned(total, -4096, 4096, 64).sum() == pytest.approx(one.size + two.size)


def test_a_histogram_is_drawn_where_most_values_are() -> None:
    low, high = usual_range(measure_intensity(ct()).bins)
    assert -1200 < low < -1000
    assert 100 < high < 300


def test_a_few_cases_with_huge_values_do_not_hide_the_others() -> None:
    usual, huge = RNG.gamma(2, 200, (2, 9, 20, 20)).astype(np.float32)
    bins = [measure_intensity(values).bins for values in (usual, huge[:1] * 1000)]
    _, high = usual_range(merged(bins))
    assert 1000 < high < 20000


def test_a_picture_that_is_nearly_black_is_drawn_whole() -> None:
    black = np.zeros((1, 100, 100), np.int16)
    black[0, :10, :10] = np.arange(100).reshape(10, 10) * 2
    assert usual_range(measure_intensity(black).bins)[1] >= 190
    assert usual_range(measure_intensity(black * 0 + 7).bins)[1] >= 7


def test_json_and_back() -> None:
    found = measure_intensity(ct())
    assert Intensity.from_dict(found.to_dict()) == found
