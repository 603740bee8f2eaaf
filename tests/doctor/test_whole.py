"""What only all cases together tell."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segray.case import LabelMap
from segray.config import IngestConfig, SplitConfig
from segray.doctor.cost import PART_BYTES, Machine, estimate
from segray.doctor.examine import CaseCost, CaseReport, LabelFacts, broken, examine
from segray.doctor.fingerprint import clusters, fingerprint, near_pairs
from segray.doctor.placement import Fit
from segray.doctor.whole import conclude
from segray.formats import CaseSource
from segray.grid import Grid
from tests.doctor.made_up import ct, write_pair

GRID = Grid("spacing", (48, 48), (1.0, 1.0), -1024.0)
MAP = LabelMap({"organ": 1, "vessel": 2})


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[CaseReport]:
    folder = tmp_path_factory.mktemp("pairs")
    made = []
    for seed in range(6):
        name = f"c{seed}"
        write_pair(folder, name, seed)
        image, labels = (str(folder / kind / f"{name}.nii.gz") for kind in ("images", "labels"))
        made.append(examine(CaseSource(name, image, labels=labels), MAP, GRID, IngestConfig()))
    return made


def codes(reports: list[CaseReport], **settings: float) -> Counter[str]:
    return Counter(one.code for one in conclude(reports, SplitConfig(**settings)).findings)


def with_voxels(report: CaseReport, **voxels: int) -> CaseReport:
    assert report.labels is not None
    return replace(report, labels=replace(report.labels, voxels={**report.labels.voxels, **voxels}))


def test_cases_without_fault_have_no_findings(reports: list[CaseReport]) -> None:
    assert codes(reports) == Counter()


def test_the_same_image_across_the_split_is_told(reports: list[CaseReport]) -> None:
    split = conclude(reports, SplitConfig(validation=0.3)).split
    held = next(report for report in reports if split[report.case_id] == "validation")
    trained = next(report for report in reports if split[report.case_id] == "train")
    copied = [replace(one, fingerprint=held.fingerprint) if one is trained else one for one in reports]
    findings = conclude(copied, SplitConfig(validation=0.3)).findings
    assert [(one.code, one.grade) for one in findings] == [("duplicate-across-split", "warning")]
    assert held.case_id in findings[0].sentence
    assert trained.case_id in findings[0].sentence
    assert codes(copied, validation=0.0) == {"near-duplicate": 1}


def test_a_split_that_the_folder_gives_is_kept(reports: list[CaseReport]) -> None:
    given = [replace(one, split="test" if at == 0 else "train") for at, one in enumerate(reports)]
    assert conclude(given, SplitConfig(validation=0.5)).split == {
        one.case_id: "test" if at == 0 else "train" for at, one in enumerate(reports)
    }


def test_ids_of_the_table_that_are_no_case_are_told(reports: list[CaseReport], tmp_path: Path) -> None:
    table = tmp_path / "split.csv"
    table.write_text("case_id,split\nc0,test\ncut,test\nc1.nii.gz,test\n", encoding="utf-8")
    whole = conclude(reports, SplitConfig(patients=str(table)), ["cut"])
    (finding,) = whole.findings
    assert (finding.code, finding.grade) == ("split-ids", "warning")
    assert "1 case (c1.nii.gz)" in finding.sentence
    assert whole.split["c0"] == "test"


def test_a_table_that_names_no_case_is_a_split_that_ingest_refuses(reports: list[CaseReport], tmp_path: Path) -> None:
    table = tmp_path / "split.csv"
    table.write_text("case_id,split\nc0.nii.gz,test\n", encoding="utf-8")
    (finding,) = conclude(reports, SplitConfig(patients=str(table))).findings
    assert (finding.code, finding.grade) == ("split", "error")
    assert "names none of the cases" in finding.sentence


def test_a_noisy_copy_is_near_and_another_patient_is_not() -> None:
    noise = np.random.default_rng(0).normal(0, 10, ct(0).shape)
    volumes = [ct(0), ct(1), (ct(0) + noise).astype(np.int16)]
    prints = [fingerprint(volume.T) for volume in volumes]
    assert list(near_pairs(prints, [(12, 36, 40)] * 3)) == [(0, 2)]
    assert list(near_pairs(prints, [(12, 36, 40), (12, 36, 40), (99, 36, 40)])) == []
    assert clusters(iter([(0, 2), (2, 5), (3, 4)])) == [[0, 2, 5], [3, 4]]


def test_absent_structures_are_told(reports: list[CaseReport]) -> None:
    assert codes([with_voxels(one, vessel=0) for one in reports]) == {"structure-nowhere": 1}
    some = [with_voxels(one, vessel=0) if at < 2 else one for at, one in enumerate(reports)]
    whole = conclude(some, SplitConfig(validation=0.0))
    assert [one.code for one in whole.findings] == ["structure-absent"]
    row = next(row for row in whole.structures if row.name == "vessel")
    assert (row.cases, row.empty, row.unmasked) == (4, 2, 0)


def test_a_structure_of_held_out_cases_only_is_told(reports: list[CaseReport]) -> None:
    given = [
        replace(one, split="train", labels=replace(one.labels or LabelFacts(), voxels={"organ": 5, "vessel": 0}))
        if at
        else replace(one, split="validation")
        for at, one in enumerate(reports)
    ]
    assert codes(given)["untrained"] == 1


def test_a_missing_mask_file_is_no_empty_mask(reports: list[CaseReport]) -> None:
    first = reports[0]
    assert first.labels is not None
    lacking = replace(first, labels=replace(first.labels, annotated=("organ",)))
    whole = conclude([lacking, *reports[1:]], SplitConfig())
    assert [one.case for one in whole.findings if one.code == "no-mask-file"] == ["c0"]
    assert next(row for row in whole.structures if row.name == "vessel").unmasked == 1


def test_odd_ones_are_told(reports: list[CaseReport]) -> None:
    odd = replace(reports[0], spacing=(9.0, 1.0, 1.0), shape=(120, 36, 40), orientation="RAS")
    assert set(codes([odd, *reports[1:]])) == {"outlier-spacing", "outlier-size", "orientations"}


def test_channels_that_differ_lose_the_case(reports: list[CaseReport]) -> None:
    two = replace(reports[0], intensities=reports[0].intensities * 2, channels=("t1", "t2"))
    (finding,) = [one for one in conclude([two, *reports[1:]], SplitConfig()).findings if one.code == "channels"]
    assert (finding.grade, finding.case) == ("error", "c0")


def test_half_a_voxel_is_believed_of_most_cases_only(reports: list[CaseReport]) -> None:
    def off(report: CaseReport, by: float) -> CaseReport:
        return replace(report, fit=Fit(1.0, 0.5, offset=(0.02, by, float("nan"))))

    assert codes([off(one, 0.5 + 0.02 * at) for at, one in enumerate(reports)]) == {"half-voxel": 1}
    assert codes([off(one, 0.5 if at < 2 else 0.0) for at, one in enumerate(reports)]) == Counter()


def test_a_broken_case_is_an_error(reports: list[CaseReport]) -> None:
    whole = conclude([*reports, broken(CaseSource("x", "x.nii.gz"), "It is cut off.")], SplitConfig())
    assert [(one.code, one.grade, one.case) for one in whole.findings] == [("unreadable", "error", "x")]
    assert "x" not in whole.split


def test_a_split_that_ingest_refuses_is_an_error(reports: list[CaseReport], tmp_path: Path) -> None:
    table = tmp_path / "split.csv"
    table.write_text("case_id,split\nc0,elsewhere\n")
    (finding,) = conclude(reports, SplitConfig(patients=str(table))).findings
    assert (finding.code, finding.grade) == ("split", "error")
    assert "elsewhere" in finding.sentence


def test_the_plan_adds_up(reports: list[CaseReport]) -> None:
    costly = [replace(one, cost=CaseCost(1000, 3.0, 1.0)) for one in reports]
    plan = estimate(costly, GRID.to_dict(), {"train": 6}, Machine(4.0, 2, 1 << 30))
    assert (plan.cases, plan.slices, plan.shard_bytes) == (6, 72, 6 * (1000 + PART_BYTES))
    assert plan.voxel_bytes == 6 * 12 * 36 * 40 * 2
    assert plan.minutes >= 6 * 4.0 / 2 / 60
    assert estimate([], {}, {}, Machine(4.0, 2, 1)).minutes == 0.0
