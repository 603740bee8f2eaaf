from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import ConfusionMatrixMetric, DiceMetric, MeanIoU
from torch.nn.functional import one_hot

from segray.case import LabelMap
from segray.evaluation import metrics
from segray.evaluation.counting import Counts, count_pair

CHANNELS = 5


def hot(labels: Any) -> Any:
    return one_hot(torch.from_numpy(labels.astype(np.int64)), CHANNELS).movedim(-1, 0)[None].float()


@pytest.fixture(params=range(3))
def pair(request: pytest.FixtureRequest) -> Any:
    rng = np.random.default_rng(request.param)
    truth = rng.integers(0, CHANNELS, (6, 9, 7), dtype=np.uint8)
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, CHANNELS, truth.shape)).astype(np.uint8)
    predicted[predicted == request.param + 1] = 0
    return truth, predicted


def test_dice_and_iou_equal_monai(pair: Any) -> None:
    truth, predicted = pair
    counts = count_pair(truth, predicted, CHANNELS).structures()
    for metric, ours in (
        (DiceMetric(include_background=False), metrics.dice),
        (MeanIoU(include_background=False), metrics.iou),
    ):
        theirs = metric(hot(predicted), hot(truth))[0].numpy()
        np.testing.assert_allclose(ours(counts), theirs, rtol=1e-6)


@pytest.mark.parametrize("name", ["precision", "recall"])
def test_precision_and_recall_equal_monai(pair: Any, name: str) -> None:
    truth, predicted = pair
    counts = count_pair(truth, predicted, CHANNELS).structures()
    metric = ConfusionMatrixMetric(include_background=False, metric_name=name)
    metric(hot(predicted), hot(truth))
    tp, fp, _, fn = metric.get_buffer()[0].numpy().T
    whole = tp + (fp if name == "precision" else fn)
    theirs = np.where(whole > 0, tp / np.maximum(whole, 1), 0.0)
    np.testing.assert_allclose(getattr(metrics, name)(counts), theirs, rtol=1e-6)


def test_both_empty_is_nan_and_one_empty_is_zero() -> None:
    counts = Counts(tp=np.array([0, 0, 0]), truth=np.array([0, 4, 0]), predicted=np.array([0, 0, 4]))
    for metric in (metrics.dice, metrics.iou, metrics.precision, metrics.recall):
        values = metric(counts)
        assert math.isnan(values[0])
        assert values[1:].tolist() == [0.0, 0.0]


def test_volumes_in_ml() -> None:
    counts = Counts(tp=np.array([0, 2, 0]), truth=np.array([0, 4, 0]), predicted=np.array([0, 3, 5]))
    assert metrics.volume_ml(counts, 0.5).tolist() == [0.0, 1.5, 2.5]
    assert metrics.truth_ml(counts, 0.5).tolist() == [0.0, 2.0, 0.0]
    error = metrics.volume_error_ml(counts, 0.5)
    assert math.isnan(error[0])
    assert error[1:].tolist() == [-0.5, 2.5]
    relative = metrics.relative_volume_error(counts)
    assert relative[1] == -0.25
    assert math.isnan(relative[2])


def test_leading_axes_are_kept(pair: Any) -> None:
    counts = count_pair(*pair, CHANNELS)
    stacked = Counts(*(np.stack([part, part]) for part in (counts.tp, counts.truth, counts.predicted)))
    assert metrics.dice(stacked).shape == (2, CHANNELS)
    np.testing.assert_array_equal(metrics.dice(stacked)[1], metrics.dice(counts))


def test_case_rows_are_plain_numbers_in_a_stable_order() -> None:
    labels = LabelMap({"liver": 3, "spleen": 7})
    counts = Counts(tp=np.array([5, 2, 0]), truth=np.array([6, 2, 0]), predicted=np.array([6, 2, 0]))
    rows = metrics.case_rows("a", counts, labels, 0.001, 8)
    assert [row["structure"] for row in rows] == ["liver", "spleen"]
    assert tuple(rows[0])[2:] == (*metrics.METRICS, *metrics.COUNTED)
    assert rows[0]["dice"] == 1.0
    assert math.isnan(rows[1]["dice"])
    assert all(type(value) in (str, float, int) for value in rows[0].values())


def test_an_empty_mask_of_a_small_structure_is_accurate() -> None:
    truth, mask = np.zeros((2, 1, 100), np.uint8), np.zeros((2, 1, 100), np.uint8)
    truth[0, 0, :6] = mask[0, 0, 3:6] = mask[1, 0, :1] = 1
    labels = LabelMap({"tumour": 1})
    rows = []
    for case, (true, found) in enumerate(zip(truth, mask, strict=True)):
        rows += metrics.case_rows(str(case), count_pair(true, found, 2), labels, 0.001, true.size)
    assert [row["accuracy"] for row in rows] == pytest.approx([0.97, 0.99])
    assert np.mean(truth == mask) == pytest.approx(metrics.pooled_accuracy(rows)["tumour"]["accuracy"])
    assert metrics.pooled_accuracy(rows)["tumour"]["accuracy_of_empty_masks"] == pytest.approx(0.97)


def test_voxels_that_nobody_judged_have_no_accuracy() -> None:
    labels, nothing = LabelMap({"tumour": 1}), np.zeros(2, np.int64)
    rows = metrics.case_rows("a", Counts(nothing, nothing, nothing), labels, 0.001, 0)
    assert metrics.pooled_accuracy(rows) == {}
    rows += metrics.case_rows("b", Counts(nothing, nothing, nothing), labels, 0.001, 8)
    assert metrics.pooled_accuracy(rows)["tumour"]["accuracy"] == 1.0
