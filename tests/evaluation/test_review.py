from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest

from segray.evaluation.review import LEAST_CASES, WEIGHTS, review

Row = dict[str, Any]


def run_of(count: int, structures: tuple[str, ...] = ("liver", "spleen")) -> tuple[list[Row], list[Row]]:
    """Cases in which nothing is conspicuous: volumes, HU and confidences within a few percent of each other."""
    rng = np.random.default_rng(0)
    cases = [{"case_id": f"case_{number:03d}", "status": "ok", "reason": ""} for number in range(count)]
    rows: list[Row] = []
    for case in cases:
        for place, name in enumerate(structures):
            volume = float((1500, 200)[place % 2] * rng.uniform(0.9, 1.1))
            rows.append(
                {
                    "case_id": case["case_id"],
                    "structure": name,
                    "voxels": round(volume * 1000),
                    "volume_ml": volume,
                    "mean_hu": float(rng.uniform(90, 110)),
                    "border_voxels": 0,
                    "confidence_margin": float(rng.uniform(0.93, 0.97)),
                }
            )
    return cases, rows


def of(rows: list[Row], case: int, structure: str) -> Row:
    """The row of a case and a structure, to be changed."""
    return next(row for row in rows if row["case_id"] == f"case_{case:03d}" and row["structure"] == structure)


EMPTY = {"voxels": 0, "volume_ml": 0.0, "mean_hu": None, "confidence_margin": None}


def test_a_run_without_findings_is_ranked_all_the_same() -> None:
    found = review(*run_of(20))
    assert [row["rank"] for row in found] == list(range(1, 21))
    assert {row["case_id"] for row in found} == {f"case_{number:03d}" for number in range(20)}
    assert {(row["score"], row["structure"], row["findings"], row["reasons"]) for row in found} == {(0.0, None, 0, "")}


def test_cases_without_findings_follow_by_their_confidence() -> None:
    cases, rows = run_of(20)
    of(rows, 7, "liver")["confidence_margin"] = of(rows, 7, "spleen")["confidence_margin"] = 0.925
    found = review(cases, rows)
    assert found[0]["case_id"] == "case_007"
    assert found[0]["score"] == 0


def test_a_structure_too_small_for_the_digits_of_its_volume_is_not_empty() -> None:
    cases, rows = run_of(20)
    of(rows, 7, "liver").update(voxels=3, volume_ml=0.0)
    found = {row["case_id"]: row["reasons"] for row in review(cases, rows)}
    assert "empty" not in found["case_007"]


def test_each_kind_of_finding_has_its_words() -> None:
    cases, rows = run_of(40)
    cases.append({"case_id": "broken", "status": "failed", "reason": "The file is empty."})
    of(rows, 1, "liver")["volume_ml"] = 312.4
    of(rows, 2, "spleen").update(EMPTY)
    of(rows, 3, "liver")["mean_hu"] = -40.0
    of(rows, 4, "spleen")["confidence_margin"] = 0.71
    of(rows, 5, "liver").update(border_voxels=9000, border_inferior_voxels=0, border_superior_voxels=9000)
    by_case = {row["case_id"]: row for row in review(cases, rows)}
    assert by_case["broken"]["reasons"] == "failed: The file is empty."
    assert by_case["broken"]["rank"] == 41, "there is no mask to look at"
    assert by_case["broken"]["score"] == 1.0
    assert by_case["case_001"]["reasons"].startswith("liver: 312 ml where half of the run's cases lie between 1,4")
    assert by_case["case_001"]["reasons"].endswith(" ml")
    assert by_case["case_002"]["reasons"] == "spleen is empty; 97 % of the cases have one"
    assert by_case["case_003"]["reasons"].startswith(
        "liver: mean of -40 HU where half of the run's cases lie between 9"
    )
    assert by_case["case_004"]["reasons"].startswith(
        "spleen: confidence 0.71 where half of the run's cases lie between"
    )
    assert by_case["case_004"]["reasons"].endswith("0.96, the lowest of the run")
    assert by_case["case_005"]["reasons"] == "liver reaches the border of the volume towards the head: cut"
    assert [by_case[f"case_{number:03d}"]["structure"] for number in range(1, 6)] == [
        "liver",
        "spleen",
        "liver",
        "spleen",
        "liver",
    ]
    assert {row["rank"] for row in by_case.values() if row["score"] > 0} == {*range(1, 6), 41}


def test_failures_do_not_hide_the_doubtful_cases() -> None:
    cases, rows = run_of(20)
    cases += [{"case_id": f"broken_{at:03d}", "status": "failed", "reason": "no"} for at in range(150)]
    of(rows, 7, "liver")["volume_ml"] = 300.0
    found = review(cases, rows)
    assert found[0]["case_id"] == "case_007"
    assert [row["status"] for row in found] == ["ok"] * 20 + ["failed"] * 150
    assert [row["rank"] for row in found] == list(range(1, 171))


def test_a_wholly_empty_mask_is_a_finding_also_where_nothing_is_usual() -> None:
    cases, rows = run_of(3)
    for name in ("liver", "spleen"):
        of(rows, 1, name).update(EMPTY)
    found = review(cases, rows)
    assert (found[0]["case_id"], found[0]["reasons"], found[0]["structure"]) == (
        "case_001", "nothing was found at all", None,
    )  # fmt: skip
    assert found[0]["score"] == pytest.approx(WEIGHTS["nothing"])
    assert [row["findings"] for row in found] == [1, 0, 0]
    of(rows, 1, "liver").update(voxels=1, volume_ml=0.0)
    assert {row["findings"] for row in review(cases, rows)} == {0}


def test_what_says_that_a_structure_is_empty_needs_not_say_it_twice() -> None:
    cases, rows = run_of(20, ("liver",))
    of(rows, 1, "liver").update(EMPTY)
    assert review(cases, rows)[0]["reasons"] == "liver is empty; 95 % of the cases have one"


def test_the_larger_outlier_is_first_and_kinds_add_up() -> None:
    cases, rows = run_of(40)
    of(rows, 1, "liver")["volume_ml"] = 900.0
    of(rows, 2, "liver")["volume_ml"] = 300.0
    of(rows, 3, "liver").update(volume_ml=300.0, mean_hu=-100.0)
    found = review(cases, rows)
    assert [row["case_id"] for row in found[:3]] == ["case_003", "case_002", "case_001"]
    assert [row["findings"] for row in found[:4]] == [2, 1, 1, 0]
    only_hu = review(cases, [row | {"volume_ml": 1500.0} for row in rows])[0]["score"]
    both = 1 - (1 - found[1]["score"]) * (1 - only_hu)
    assert found[0]["score"] == pytest.approx(both, abs=0.02)
    assert found[0]["score"] < 1 - (1 - WEIGHTS["volume"]) * (1 - WEIGHTS["hu"])


def test_many_structures_of_one_kind_are_no_more_than_the_worst() -> None:
    names = tuple(f"rib_{number}" for number in range(20))
    cases, rows = run_of(40, names)
    for name in names:
        of(rows, 1, name)["volume_ml"] *= 0.5
    of(rows, 2, "rib_0")["volume_ml"] *= 0.2
    first, second = review(cases, rows)[:2]
    assert (first["case_id"], second["case_id"]) == ("case_002", "case_001")
    assert second["findings"] == 20
    assert second["reasons"].count(" ml where ") == 5
    assert second["reasons"].endswith("; and 15 more")


def test_too_few_cases_are_not_judged_by_each_other() -> None:
    for count, conspicuous in ((LEAST_CASES - 1, False), (LEAST_CASES, True)):
        cases, rows = run_of(count)
        of(rows, 1, "liver").update(volume_ml=3.0, mean_hu=-900.0, confidence_margin=0.1)
        assert (review(cases, rows)[0]["findings"] > 0) == conspicuous
    cases, rows = run_of(3)
    of(rows, 1, "liver")["border_voxels"] = 5000
    assert review(cases, rows)[0]["reasons"] == "liver reaches the border of the volume: cut"


def test_what_half_of_the_cases_lack_is_no_finding() -> None:
    cases, rows = run_of(40)
    for number in range(0, 40, 2):
        of(rows, number, "spleen").update(EMPTY)
    assert {row["findings"] for row in review(cases, rows)} == {0}


def test_a_cut_structure_is_not_called_small_too() -> None:
    cases, rows = run_of(40)
    of(rows, 1, "liver").update(volume_ml=300.0, border_voxels=4000)
    of(rows, 2, "liver").update(volume_ml=9000.0, border_voxels=4000)
    by_case = {row["case_id"]: row for row in review(cases, rows)}
    assert by_case["case_001"]["findings"] == 1
    assert by_case["case_002"]["findings"] == 2
    assert by_case["case_002"]["reasons"].startswith("liver: 9,000 ml")


def test_what_nearly_all_scans_cut_is_no_finding() -> None:
    cases, rows = run_of(40)
    for row in rows:
        row["border_voxels"] = 9000 if row["structure"] == "liver" and row["case_id"] != "case_000" else 0
    of(rows, 3, "spleen")["border_voxels"] = 400
    found = review(cases, rows)
    assert found[0]["case_id"] == "case_003"
    assert found[0]["structure"] == "spleen"
    assert {row["findings"] for row in found[1:]} == {0}


def test_entropy_and_disagreement_are_bad_where_they_are_high() -> None:
    cases, rows = run_of(40)
    for row in rows:
        row |= {"confidence_entropy": 0.05, "confidence_disagreement": 0.1}
    of(rows, 1, "liver")["confidence_entropy"] = 0.4
    of(rows, 2, "spleen")["confidence_disagreement"] = 0.6
    of(rows, 3, "spleen")["confidence_disagreement"] = 0.0
    found = review(cases, rows)
    assert found[0]["reasons"] == (
        "spleen: disagreement 0.60 where half of the run's cases lie between 0.10 and 0.10, the highest of the run"
    )
    assert found[1]["reasons"].startswith("liver: entropy 0.40 where")
    assert found[2]["findings"] == 0


def test_gaps_are_not_judged() -> None:
    cases, rows = run_of(20)
    of(rows, 1, "liver").update(volume_ml=math.nan, mean_hu=math.nan, border_voxels=None, confidence_margin=None)
    rows.remove(of(rows, 2, "spleen"))
    del cases[3]["reason"]
    rows.append({"case_id": "not_in_cases", "structure": "liver", "volume_ml": "1.5", "mean_hu": ""})
    found = review(cases, rows)
    assert found[0]["case_id"] == "not_in_cases"
    assert found[0]["findings"] == 1
    assert {row["findings"] for row in found[1:]} == {0}
    without = [{name: row[name] for name in ("case_id", "structure", "volume_ml")} for row in rows]
    assert len(review(cases, without)) == 21
    assert review([], []) == []
    assert review(cases, [])[0]["score"] == 0


def test_columns_are_as_good_as_rows() -> None:
    cases, rows = run_of(20)
    of(rows, 1, "liver")["volume_ml"] = 100.0
    tables = [{name: [row[name] for row in table] for name in table[0]} for table in (cases, rows)]
    assert review(tables[0], tables[1]) == review(cases, rows)


def test_thousands_of_cases_take_seconds() -> None:
    cases, structures = 2_000, 117
    rng = np.random.default_rng(1)
    volumes = rng.lognormal(3, 0.5, cases * structures) * (rng.random(cases * structures) < 0.98)
    table = {
        "case_id": np.repeat([f"case_{number}" for number in range(cases)], structures),
        "structure": np.tile([f"structure_{number}" for number in range(structures)], cases),
        "voxels": volumes * 1000,
        "volume_ml": volumes,
        "mean_hu": rng.normal(50, 10, volumes.size),
        "border_voxels": rng.integers(0, 50, volumes.size),
        "confidence_margin": rng.random(volumes.size),
    }
    begin = time.process_time()
    found = review({"case_id": [f"case_{number}" for number in range(cases)]}, table)
    assert time.process_time() - begin < 10
    assert len(found) == cases
    assert found[0]["score"] >= found[99]["score"] >= found[-1]["score"]
