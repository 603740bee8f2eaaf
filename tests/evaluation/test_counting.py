from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segray.case import LabelMap
from segray.errors import CaseError
from segray.evaluation import counting
from segray.evaluation.counting import Counts, count_case, count_overlapping, count_pair


def naive(truth: Any, predicted: Any, channels: int) -> Any:
    tp, true, guess = ([0] * channels for _ in range(3))
    for a, b in zip(truth.ravel(), predicted.ravel(), strict=True):
        true[a] += 1
        guess[b] += 1
        tp[a] += int(a == b)
    return tp, true, guess


def assert_counts(counts: Counts, expected: Any) -> None:
    assert counts.tp.tolist() == expected[0]
    assert counts.truth.tolist() == expected[1]
    assert counts.predicted.tolist() == expected[2]


pairs = st.tuples(hnp.array_shapes(min_dims=3, max_dims=3, max_side=6), st.integers(2, 6)).flatmap(
    lambda drawn: st.tuples(
        hnp.arrays(
            st.sampled_from([np.uint8, np.uint16, np.int16, np.int64]), drawn[0], elements=st.integers(0, drawn[1] - 1)
        ),
        hnp.arrays(st.sampled_from([np.uint8, np.int32, np.uint64]), drawn[0], elements=st.integers(0, drawn[1] - 1)),
        st.just(drawn[1]),
    )
)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_count_pair_equals_a_naive_loop(pair: Any) -> None:
    truth, predicted, channels = pair
    assert_counts(count_pair(truth, predicted, channels), naive(truth, predicted, channels))


@pytest.mark.parametrize("channels", [61, 256, 300])
@pytest.mark.parametrize("smooth", [True, False])
def test_count_pair_over_many_chunks_and_strides(monkeypatch: pytest.MonkeyPatch, channels: int, smooth: bool) -> None:
    monkeypatch.setattr(counting, "CHUNK", 97)
    rng = np.random.default_rng(channels)
    small = rng.integers(0, channels, (3, 4, 2))
    truth = np.repeat(small, 9, axis=2) if smooth else rng.integers(0, channels, (3, 4, 18))
    truth = truth.astype(np.uint16)
    predicted = np.roll(truth, 1, axis=2)
    expected = naive(truth, predicted, channels)
    assert_counts(count_pair(truth, predicted, channels), expected)
    turned = [np.asfortranarray(volume)[::-1, :, ::-1] for volume in (truth, predicted)]
    assert_counts(count_pair(turned[0], turned[1], channels), expected)
    assert_counts(count_pair(truth, np.asfortranarray(predicted), channels), expected)


def test_empty_volumes_count_nothing() -> None:
    counts = count_pair(np.zeros((0, 3, 3), np.uint8), np.zeros((0, 3, 3), np.uint8), 3)
    assert counts.tp.tolist() == counts.truth.tolist() == [0, 0, 0]
    strided = np.zeros((4, 3, 3), np.uint8)[::2, :0]
    assert count_pair(strided, strided, 3).tp.tolist() == [0, 0, 0]


def test_counts_of_two_cases_add_up() -> None:
    truth = np.array([[[0, 1, 2]]], np.uint8)
    once = count_pair(truth, truth, 3)
    twice = once + once
    assert twice.tp.tolist() == [2, 2, 2]
    assert once.structures().tp.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("truth", "predicted", "words"),
    [
        (np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 3), np.uint8), "shape"),
        (np.zeros((2, 2, 2), np.float32), np.zeros((2, 2, 2), np.uint8), "not integers"),
        (np.full((2, 2, 2), 3, np.uint8), np.zeros((2, 2, 2), np.uint8), "truth holds the channel index 3"),
        (np.zeros((2, 2, 2), np.uint8), np.full((2, 2, 2), -1, np.int16), "prediction holds the channel index -1"),
    ],
)
def test_bad_pairs_are_refused_in_words(truth: Any, predicted: Any, words: str) -> None:
    with pytest.raises(CaseError, match=words):
        count_pair(truth, predicted, 3)


@pytest.mark.parametrize("structures", [1, 3, 8, 9, 16, 17, 32])
@pytest.mark.parametrize("smooth", [True, False])
def test_overlapping_structures_are_counted_each_by_itself(
    monkeypatch: pytest.MonkeyPatch, structures: int, smooth: bool
) -> None:
    monkeypatch.setattr(counting, "CHUNK", 97)
    rng = np.random.default_rng(structures)
    truth, predicted = (rng.integers(0, 1 << structures, (3, 4, 2), dtype=np.uint32) for _ in range(2))
    if smooth:
        truth, predicted = (np.repeat(volume, 9, axis=2) for volume in (truth, predicted))
    truth[0], predicted[:, 0] = 0, 0
    label_map = LabelMap({f"s{n}": n for n in range(1, structures + 1)}, overlapping=True)
    counts = count_case(truth, np.asfortranarray(predicted)[::-1][::-1], label_map)
    assert (counts.truth[0], counts.predicted[0]) == ((truth == 0).sum(), (predicted == 0).sum())
    assert counts.tp[0] == ((truth == 0) & (predicted == 0)).sum()
    for number in range(structures):
        true, guess = (volume >> np.uint32(number) & 1 > 0 for volume in (truth, predicted))
        assert counts.truth[number + 1] == true.sum()
        assert counts.predicted[number + 1] == guess.sum()
        assert counts.tp[number + 1] == (true & guess).sum()


def test_bits_without_a_structure_and_other_shapes_are_refused() -> None:
    fields = np.full((2, 2, 2), 4, np.uint8)
    with pytest.raises(CaseError, match="prediction holds"):
        count_overlapping(fields & 1, fields, 2)
    with pytest.raises(CaseError, match="shape"):
        count_overlapping(fields, fields[:1], 3)
