"""Names to weights, and what is said of a name that does not fit."""

from __future__ import annotations

import pytest

from segray.errors import UsageError
from segray.nets.class_weights import weights_of_labels

NAMES = ("liver", "lesion")


def test_nothing_told_is_no_weights() -> None:
    assert weights_of_labels({}, NAMES, overlapping=False) == ()


def test_a_name_that_is_not_told_weighs_one() -> None:
    assert weights_of_labels({"lesion": 5}, NAMES, overlapping=False) == (1.0, 1.0, 5.0)
    assert weights_of_labels({"background": 0.5}, NAMES, overlapping=False) == (0.5, 1.0, 1.0)
    assert weights_of_labels({"lesion": 5}, NAMES, overlapping=True) == (1.0, 5.0)


def test_an_unknown_name_shows_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"names lesions, which is no structure.*Did you mean lesion\?"):
        weights_of_labels({"lesions": 5}, NAMES, overlapping=False)


def test_a_name_like_no_other_shows_all() -> None:
    with pytest.raises(UsageError, match="Known are background, liver, lesion"):
        weights_of_labels({"qqq": 5}, NAMES, overlapping=False)


def test_overlapping_structures_have_no_background() -> None:
    with pytest.raises(UsageError, match="structures that overlap have none"):
        weights_of_labels({"background": 1}, NAMES, overlapping=True)


def test_not_all_weights_are_zero() -> None:
    with pytest.raises(UsageError, match="are 0"):
        weights_of_labels({"liver": 0, "lesion": 0}, NAMES, overlapping=True)
