from __future__ import annotations

import math

import numpy as np
import pytest

from segray.case import LabelMap
from segray.evaluation.counting import count_pair
from segray.evaluation.metrics import case_rows
from segray.evaluation.patients import patient_means, patient_rows

NAMES = LabelMap({"lung": 1, "lesion": 2})


def _rows(pairs: dict[str, tuple[list[int], list[int]]]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for case_id, (truth, mask) in pairs.items():
        volumes = (np.array(values, np.uint8).reshape(1, 1, -1) for values in (truth, mask))
        rows += case_rows(case_id, count_pair(*volumes, NAMES.channels), NAMES, 0.001, len(truth))
    return rows


def test_the_cases_of_a_patient_are_counted_as_one_volume() -> None:
    pairs = {"p_1": ([1, 1, 1, 0], [1, 1, 0, 0]), "p_2": ([1, 0, 0, 0], [0, 1, 0, 0]), "q_1": ([1, 2], [1, 0])}
    found = patient_rows(_rows(pairs), {"p_1": "p", "p_2": "p", "q_1": "q"})
    table = {(row["patient"], row["structure"]): row for row in found}
    joined = count_pair(
        np.array([[[1, 1, 1, 0, 1, 0, 0, 0]]], np.uint8), np.array([[[1, 1, 0, 0, 0, 1, 0, 0]]], np.uint8), 3
    )
    expected = case_rows("p", joined, NAMES, 0.001, 8)[0]
    assert table["p", "lung"]["dice"] == pytest.approx(expected["dice"])
    assert table["p", "lung"]["recall"] == pytest.approx(expected["recall"])
    assert table["p", "lung"]["cases"] == 2
    assert math.isnan(table["p", "lesion"]["dice"])
    assert table["q", "lesion"]["dice"] == 0.0
    assert patient_means(found) == {"lung": pytest.approx((expected["dice"] + 1.0) / 2), "lesion": 0.0}


def test_no_table_where_every_patient_is_one_case() -> None:
    rows = _rows({"a": ([1], [1]), "b": ([2], [1])})
    assert patient_rows(rows, {"a": "a", "b": "b"}) == []
