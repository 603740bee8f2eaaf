"""The doctor on a folder with one fault of each kind, on an embedded Ray, from Python and from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import segray
from segray import cli
from segray.config import load_config
from segray.errors import UsageError
from segray.phantoms import make_phantoms
from segray.pipelines.ingest import ingest
from tests.doctor.made_up import AFFINE, ct, organ, save, write_pair

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]


@pytest.fixture(scope="module")
def ill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six right cases, and one with each fault."""
    folder = tmp_path_factory.mktemp("ill")
    for seed in range(6):
        write_pair(folder, f"right{seed}", seed)
    write_pair(folder, "cut", 10)
    path = folder / "images" / "cut.nii.gz"
    path.write_bytes(path.read_bytes()[:700])
    save(folder / "images" / "alone.nii.gz", ct(11))
    save(folder / "labels" / "orphan.nii.gz", organ(12))
    write_pair(folder, "unknown", 13)
    save(folder / "labels" / "unknown.nii.gz", np.where(organ(13) == 2, 7, organ(13)).astype(np.uint8))
    write_pair(folder, "shifted", 14)
    save(folder / "labels" / "shifted.nii.gz", organ(14), AFFINE + np.eye(4, k=3) * 0.5)
    write_pair(folder, "again", 0)
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "organ": 1, "vessel": 2}}))
    return folder


def test_each_fault_is_a_finding_and_the_rest_is_unharmed(ill: Path, tmp_path: Path) -> None:
    diagnosis = segray.doctor(str(ill), out=str(tmp_path / "out"), sheet=4)
    found = {(one.code, one.grade, one.case) for one in diagnosis.findings}
    assert found >= {
        ("unreadable", "error", "cut"),
        ("image-without-labels", "error", "alone"),
        ("labels-without-image", "error", "orphan"),
        ("values-outside", "error", "unknown"),
        ("label-grid", "error", "shifted"),
    }
    assert {one.case for one in diagnosis.findings if one.code.endswith(("duplicate", "split"))} == {"again"}
    assert not any(one.case.startswith("right") for one in diagnosis.findings)
    assert diagnosis.exit_code == 1
    assert diagnosis.plan.cases == 7


def test_what_it_says_of_ingest_is_what_ingest_does(ill: Path, tmp_path: Path) -> None:
    plan = segray.doctor(str(ill)).plan
    summary = ingest(str(ill), str(tmp_path / "shards"))
    assert (summary.cases, summary.slices, summary.split) == (plan.cases, plan.slices, plan.split)
    assert len(summary.failed) == 5
    parts = sum(path.stat().st_size for path in (tmp_path / "shards").glob("part-*"))
    assert plan.shard_bytes == pytest.approx(parts, rel=0.2)
    grid = json.loads((tmp_path / "shards" / "manifest.json").read_text())["grid"]
    assert {key: plan.grid[key] for key in grid} == grid


def test_the_files_stand_alone(ill: Path, tmp_path: Path) -> None:
    files = segray.doctor(str(ill), out=str(tmp_path), sheet=3).files
    page = Path(files["report"]).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 2
    assert 'src="plots' not in page
    assert "half a voxel" in page
    told = json.loads(Path(files["json"]).read_text(encoding="utf-8"))
    assert told["counts"]["error"] == 5
    assert told["exit_code"] == 1
    assert {case["case_id"] for case in told["cases"]} >= {"cut", "right0"}
    assert Path(files["sheet"]).read_bytes().startswith(b"\x89PNG")


def test_phantoms_overlap_and_lose_nothing(tmp_path: Path) -> None:
    make_phantoms(str(tmp_path / "scans"), cases=3, seed=1, broken=False)
    for overlap in ("smallest", "keep"):
        diagnosis = segray.doctor(str(tmp_path / "scans"), load_config(None, [f"ingest.overlap={overlap}"]))
        assert diagnosis.exit_code == 0, diagnosis.findings
        assert {report.meaning for report in diagnosis.reports} == {"HU"}
        assert not {one.code for one in diagnosis.findings} & {"flipped", "misplaced", "half-voxel", "odd-air"}
    facts = diagnosis.reports[0].labels
    assert facts is not None
    assert facts.overlap > 0


def test_a_lone_image_is_no_error(tmp_path: Path) -> None:
    save(tmp_path / "scan.nii.gz", ct(0))
    diagnosis = segray.doctor(str(tmp_path))
    assert diagnosis.exit_code == 0
    assert [one.code for one in diagnosis.findings] == ["no-labels"]


def test_sizes_that_native_slices_cannot_share_are_an_error(ill: Path, tmp_path: Path) -> None:
    write_pair(tmp_path, "a", 0)
    save(tmp_path / "images" / "b.nii.gz", ct(1)[:-4])
    save(tmp_path / "labels" / "b.nii.gz", organ(1)[:-4])
    diagnosis = segray.doctor(str(tmp_path), load_config(None, ["ingest.grid.mode=native"]))
    assert [(one.code, one.grade) for one in diagnosis.findings] == [("grid", "error")]


def test_ids_of_the_split_that_are_no_case_are_told_and_a_csv_of_none_is_refused(tmp_path: Path) -> None:
    for seed in range(3):
        write_pair(tmp_path / "scans", f"a{seed}", seed)
    table, shards = tmp_path / "split.csv", str(tmp_path / "shards")
    config = load_config(None, [f"ingest.split.patients={table}"])
    table.write_text("case_id,split\na0.nii.gz,test\na1.nii.gz,train\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"such as a0; its ids are such as a0\.nii\.gz"):
        ingest(str(tmp_path / "scans"), shards, config)
    assert not Path(shards).exists()
    table.write_text("case_id,split\na0,test\na1.nii.gz,test\n", encoding="utf-8")
    told = ingest(str(tmp_path / "scans"), shards, config)
    assert told.split["test"] == 1
    (note,) = [one for one in told.notes if "1 case (a1.nii.gz) that is not here" in one]
    assert note in (Path(shards) / "run.log").read_text(encoding="utf-8")
    findings = segray.doctor(str(tmp_path / "scans"), config).findings
    assert [(one.grade, one.sentence) for one in findings if one.code == "split-ids"] == [("warning", note)]


def test_the_command_ends_with_1_where_data_would_be_lost(ill: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(cli.app, ["doctor", str(ill), "--out", str(tmp_path / "out"), "--sheet", "2"])
    assert done.exit_code == 1, done.output
    words = " ".join(done.output.split())
    assert "Ingest would lose data" in words
    assert "index.html" in words
    write_pair(tmp_path / "well", "a", 3)
    well = runner.invoke(cli.app, ["doctor", str(tmp_path / "well"), "--out", "", "--format", "pairs"])
    assert well.exit_code == 0, well.output
    assert "Nothing is wrong" in well.output


def test_the_format_can_be_named_in_short(tmp_path: Path) -> None:
    write_pair(tmp_path / "pairs", "a", 0)
    for command in (["doctor", str(tmp_path / "pairs")], ["ingest", str(tmp_path / "pairs"), str(tmp_path / "x")]):
        done = CliRunner().invoke(cli.app, [*command, "--format", "totalseg"])
        assert done.exit_code != 0
        assert "totalseg" in str(done.exception)


def test_the_doctor_loads_no_torch() -> None:
    program = (
        "import sys, segray.doctor.whole, segray.doctor.tile, segray.report.doctor_page\n"
        "assert not {'torch', 'ray'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.realdata
def test_files_without_partner_in_real_data_are_findings(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "hippocampus_mr"
    cases = sorted(path.name for path in (source / "images").glob("*.nii.gz"))[:6]
    for kind, names in (("images", cases[1:]), ("labels", cases[:-1])):
        (tmp_path / kind).mkdir()
        for name in names:
            (tmp_path / kind / name).symlink_to(source / kind / name)
    diagnosis = segray.doctor(str(tmp_path))
    errors = {(one.code, one.case) for one in diagnosis.findings if one.grade == "error"}
    assert errors == {
        ("labels-without-image", cases[0].removesuffix(".nii.gz")),
        ("image-without-labels", cases[-1].removesuffix(".nii.gz")),
    }


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["totalseg", "sts"])
def test_real_ct_is_hu_and_its_labels_lie_on_it(shared_data: Path, name: str) -> None:
    diagnosis = segray.doctor(str(shared_data / name))
    assert diagnosis.exit_code == 0
    assert {report.meaning for report in diagnosis.reports} == {"HU"}
    assert not {one.code for one in diagnosis.findings} & {"flipped", "misplaced", "half-voxel", "shifted", "odd-air"}
