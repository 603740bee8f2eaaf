"""Which masks of a prediction folder a second run keeps, with a made-up prediction in place of Ray's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from made_bundle import make_bundle
from PIL import Image

from segray import formats, ledger_parts, storage
from segray.config import load_config
from segray.errors import SegrayError, UsageError
from segray.evaluation.tables import read_table
from segray.pipelines import predict as stage
from segray.pipelines.case_outputs import further_place
from segray.pipelines.claims import Claim, FolderTakenError
from segray.pipelines.ledger import Ledger, to_line

OVERWRITE = "predict.overwrite=true"
STRUCTURES = ("/liver.nii.gz", "/spleen.nii.gz")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle and two scans."""
    make_bundle(tmp_path / "bundle", "liver", "spleen")
    (tmp_path / "scans").mkdir()
    for name in ("a", "b"):
        image = nibabel.Nifti1Image(np.zeros((16, 16, 2), np.int16), np.eye(4))
        nibabel.save(image, tmp_path / "scans" / f"{name}.nii.gz")
    return tmp_path


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every case has a mask at once; ``predict.slab_mib=1`` is a machine that dies after the first."""

    def run(cases: Any, ensemble: Any, folder: str, config: Any, say: Any) -> Iterator[str]:
        for case in cases:
            mask = formats.mask_place(config.predict.output, case)
            row = {"case_id": case.case_id, "status": "ok", "reason": "", "mask": mask}
            for place in (mask, *(further_place(kind, case.case_id) for kind in config.predict.further)):
                for file in STRUCTURES if formats.is_folder(place) else ("",):
                    storage.write_text(f"{folder}/{place}{file}", "")
            row["further"] = ",".join([*config.predict.further, *(["confidence"] if config.predict.confidence else [])])
            yield to_line(row | {"fingerprint": case.image_only.fingerprint(), "source": case.to_json()})
            if config.predict.slab_mib == 1:
                raise RuntimeError("the machine died")

    monkeypatch.setattr(stage, "_run", run)
    monkeypatch.setattr(stage, "ray_session", lambda config: nullcontext())


def again(folder: Path, *settings: str, said: list[str] | None = None) -> int:
    """Masks that a run makes."""
    config = load_config(None, ["predict.review=0", *settings])
    say = None if said is None else said.append
    return stage.predict(str(folder / "bundle"), str(folder / "scans"), str(folder / "out"), config, say=say).new


@pytest.mark.parametrize("setting", [
    "mirror=[x]", "threshold={liver: 0.7}", "largest_component=liver", "smallest_ml={all: 1}", "fill_holes=all",
])  # fmt: skip
def test_masks_of_other_settings_are_not_taken_for_those_asked_for(folder: Path, setting: str) -> None:
    assert again(folder) == 2
    name = setting.partition("=")[0]
    with pytest.raises(UsageError, match=rf"made with another predict\.{name}\. Name another folder.*overwrite"):
        again(folder, f"predict.{setting}")
    assert again(folder) == 0, "what was refused changed nothing"
    assert again(folder, f"predict.{setting}", OVERWRITE) == 2
    assert again(folder, f"predict.{setting}") == 0
    with pytest.raises(UsageError, match=rf"made with another predict\.{name}"):
        again(folder)


NEEDS = {
    "png": "is of pictures", "dicom-seg": "refers to a DICOM series", "rtstruct": "refers to a DICOM series",
}  # fmt: skip


def test_masks_in_another_format_are_not_taken_for_those_asked_for(folder: Path) -> None:
    assert again(folder, "predict.output=nifti") == 2
    assert again(folder) == 0, "auto is NIfTI here"
    for output, needs in NEEDS.items():
        with pytest.raises(UsageError, match=f"predict.output={output} {needs}, and none of the cases is one"):
            again(folder, f"predict.output={output}")
    for name in "ab":
        (folder / "scans" / f"{name}.nii.gz").unlink()
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(folder / "scans" / f"{name}.png")
    assert again(folder, OVERWRITE) == 2
    assert again(folder, "predict.output=png") == 0, "auto is PNG here"
    with pytest.raises(UsageError, match=r"made with another predict\.output"):
        again(folder, "predict.output=nifti")


def test_masks_may_be_a_file_a_structure_alone(folder: Path) -> None:
    output, said = "predict.output=structures", []
    assert again(folder, output) == 2
    assert again(folder, output) == 0
    assert not (folder / "out" / "masks").exists()
    (folder / "out" / "structures" / "a" / "liver.nii.gz").unlink()
    assert again(folder, output, said=said) == 1
    assert said[0] == "1 case (a) has lost the mask: done again."
    with pytest.raises(UsageError, match=r"made with another predict\.output"):
        again(folder)
    with pytest.raises(UsageError, match=r"made with another predict\.output"):
        again(folder, "predict.further=structures")
    assert again(folder, "predict.further=structures", OVERWRITE) == 2
    assert sorted(path.name for path in (folder / "out" / "masks").iterdir()) == ["a.nii.gz", "b.nii.gz"]
    assert again(folder, output, OVERWRITE) == 2
    assert list((folder / "out" / "masks").iterdir()) == [], "a case has one mask"
    assert again(folder, output) == 0


def test_files_that_are_the_masks_are_not_asked_for_besides(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"which predict\.output=structures writes already\. Leave structures out"):
        again(folder, "predict.output=structures", "predict.further=[preview,structures]")
    assert not (folder / "out").exists()
    assert again(folder, "predict.output=structures", "predict.further=[nifti]") == 2
    assert again(folder, "predict.output=structures", "predict.further=[nifti]") == 0


@pytest.mark.parametrize(
    ("setting", "same"), [("backend=torch", "backend=openvino"), ("precision=float32", "precision=bf16")]
)
def test_another_backend_or_precision_is_told_and_overwriting_asks_anew(folder: Path, setting: str, same: str) -> None:
    assert again(folder) == 2
    path = folder / "out" / "prediction.json"
    chosen = {"name": "openvino", "precision": "bf16", "reason": "faster"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"backend": chosen}))
    assert again(folder, f"predict.{same}") == 0
    assert again(folder) == 0
    name = setting.partition("=")[0]
    with pytest.raises(UsageError, match=rf"made with another predict\.{name}"):
        again(folder, f"predict.{setting}")
    assert json.loads(path.read_text())["backend"] == chosen
    assert again(folder, f"predict.{setting}", OVERWRITE) == 2
    assert json.loads(path.read_text())["backend"] is None


def test_masks_that_a_cut_off_overwriting_has_not_reached_are_of_the_backend_of_the_others(folder: Path) -> None:
    assert again(folder) == 2
    path = folder / "out" / "prediction.json"
    chosen = {"name": "openvino", "precision": "bf16", "reason": "faster"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"backend": chosen}))
    with pytest.raises(RuntimeError):
        again(folder, OVERWRITE, "predict.slab_mib=1")
    assert json.loads(path.read_text())["backend"] == chosen, "or auto could choose another for the first case alone"
    assert again(folder) == 0


def test_settings_that_make_no_other_mask_go_on(folder: Path) -> None:
    assert again(folder, "predict.mirror=[y, x]", "predict.fill_holes=[spleen, liver]") == 2
    assert again(folder, "predict.mirror=[x, y]", "predict.fill_holes=[liver, spleen]", "predict.batch_slices=1") == 0


def test_what_changes_nothing_is_said_and_refuses_nothing(folder: Path) -> None:
    said: list[str] = []
    whole = "predict.window=[0,0]"
    assert again(folder, whole) == 2
    assert again(folder, whole, "predict.overlap=0.25", said=said) == 0
    assert said == ["predict.overlap changes nothing: predict.window=[0,0] lets whole slices be seen."]
    with pytest.raises(UsageError, match=r"made with another predict\.window"):
        again(folder, "predict.overlap=0.25")


def test_a_folder_from_before_the_settings_has_their_defaults(folder: Path) -> None:
    assert again(folder) == 2
    path = folder / "out" / "prediction.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"predict": {"precision": "auto"}}))
    assert again(folder) == 0
    with pytest.raises(UsageError, match=r"predict\.mirror, predict\.fill_holes"):
        again(folder, "predict.mirror=x", "predict.fill_holes=all")


def test_an_overwriting_run_that_was_cut_off_leaves_no_old_mask_to_be_kept(folder: Path) -> None:
    assert again(folder) == 2
    with pytest.raises(RuntimeError):
        again(folder, "predict.mirror=x", OVERWRITE, "predict.slab_mib=1")
    assert again(folder, "predict.mirror=x") == 1
    assert again(folder, "predict.mirror=x") == 0


def test_settings_that_do_not_fit_the_bundle_are_told_before_anything_is_written(folder: Path) -> None:
    for setting, said in (
        ("largest_component=livr", r"predict\.largest_component names livr.*Did you mean liver\?"),
        ("threshold={spleeen: 0.5}", r"predict\.threshold names spleeen.*Did you mean spleen\?"),
        ("mirror=z", "single slices"),
        ("turn={z: 5, x: 5}", r"predict\.turn names x, .*Leave x out"),
        ("patch=[8,0,0]", r"predict\.patch is for 3D nets"),
    ):
        with pytest.raises(UsageError, match=said):
            again(folder, f"predict.{setting}")
    assert not (folder / "out").exists()


def test_changed_inputs_and_lost_masks_are_told_and_done_again(folder: Path) -> None:
    for name in "cdefg":
        (folder / "scans" / f"{name}.nii.gz").write_bytes((folder / "scans" / "a.nii.gz").read_bytes())
    said: list[str] = []
    assert again(folder, said=said) == 7
    assert said == []
    for name in "bcde":
        (folder / "scans" / f"{name}.nii.gz").write_bytes(b"other" + name.encode())
    (folder / "out" / "masks" / "g.nii.gz").unlink()
    assert again(folder, said=said) == 5
    assert said == [
        "4 cases (b, c, d, ...) have changed since: done again.",
        "1 case (g) has lost the mask: done again.",
    ]
    said.clear()
    assert again(folder, said=said) == 0
    assert said == []


def test_corrected_labels_are_no_other_input(folder: Path) -> None:
    for name in "ab":
        (folder / "scans" / name / "segmentations").mkdir(parents=True)
        (folder / "scans" / f"{name}.nii.gz").rename(folder / "scans" / name / "ct.nii.gz")
        (folder / "scans" / name / "segmentations" / "liver.nii.gz").write_bytes(b"1")
    assert again(folder) == 2
    (folder / "scans" / "a" / "segmentations" / "liver.nii.gz").write_bytes(b"corrected")
    assert again(folder) == 0
    (folder / "scans" / "b" / "ct.nii.gz").write_bytes(b"another")
    assert again(folder) == 1


def failing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every case fail that holds the word bad."""
    made, before = stage._run, b"of an earlier run"

    def run(cases: Any, ensemble: Any, out: str, config: Any, say: Any) -> Iterator[str]:
        for line in made(cases, ensemble, out, config, say):
            row = json.loads(line)
            scan = folder / "scans" / f"{row['case_id']}.nii.gz"
            if scan.read_bytes() == b"bad":
                (Path(out) / row.pop("mask")).write_bytes(before)
                row |= {"status": "failed", "reason": "it is bad"}
            yield to_line(row)

    monkeypatch.setattr(stage, "_run", run)


def test_failed_cases_are_left_until_they_are_asked_for_or_mended(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(folder, monkeypatch)
    scan = folder / "scans" / "b.nii.gz"
    good = scan.read_bytes()
    scan.write_bytes(b"bad")
    said: list[str] = []
    assert again(folder) == 1
    assert again(folder, said=said) == 0
    assert said == ["1 case (b) has failed before: --retry-failed tries again."]
    seen: list[str] = []
    config = load_config(None, ["predict.retry_failed=true", "predict.review=0"])
    summary = stage.predict(
        str(folder / "bundle"), str(folder / "scans"), str(folder / "out"), config,
        watcher=lambda row, done, total: seen.append(row["case_id"]),
    )  # fmt: skip
    assert seen == ["b"]
    assert (summary.cases, summary.done, summary.new, summary.failed) == (2, 1, 0, [("b", "it is bad")])
    scan.write_bytes(good)
    assert again(folder) == 1, "a mended file is another file"


def test_what_was_no_case_is_done_without_being_asked_for_when_it_has_become_one(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / "scans" / name / "segmentations").mkdir(parents=True)
        (folder / "scans" / name / "segmentations" / "liver.nii.gz").write_bytes(b"1")
        (folder / "scans" / f"{name}.nii.gz").rename(folder / "scans" / name / "ct.nii.gz")
    scan = folder / "scans" / "b" / "ct.nii.gz"
    scan.rename(scan.with_name("scan.nii.gz"))
    said: list[str] = []
    assert again(folder) == 1
    assert again(folder, said=said) == 0
    assert {row["case_id"]: row["status"] for row in Ledger(str(folder / "out")).rows} == {"a": "ok", "b": "failed"}
    scan.with_name("scan.nii.gz").rename(scan)
    assert again(folder, said=said) == 1
    assert said == ["1 case (b) has changed since: done again."]


def test_a_case_that_is_no_longer_what_it_was_leaves_no_mask_when_it_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(folder, monkeypatch)
    assert again(folder) == 2
    structures = folder / "out" / "structures" / "a"
    structures.mkdir(parents=True)
    (folder / "scans" / "b.nii.gz").write_bytes(b"bad")
    assert again(folder) == 0
    assert [path.name for path in (folder / "out" / "masks").iterdir()] == ["a.nii.gz"]
    assert structures.exists(), "of a case that was not done again"
    assert again(folder, OVERWRITE) == 1
    assert not structures.exists()


def test_everything_is_done_again_where_that_is_asked_for(folder: Path) -> None:
    assert again(folder) == 2
    said: list[str] = []
    assert again(folder, OVERWRITE, said=said) == 2
    assert said == []
    assert len(Ledger(str(folder / "out")).rows) == 2


def test_a_folder_with_a_ledger_of_lines_is_gone_on_with(folder: Path) -> None:
    assert again(folder) == 2
    out = folder / "out"
    rows = Ledger(str(out)).rows
    ledger_parts.clear(str(out))
    (out / "ledger.jsonl").write_text("".join(to_line(row) + "\n" for row in rows[:1]))
    assert again(folder) == 1
    assert [row["case_id"] for row in read_table(str(out / "cases.parquet"))] == ["a", "b"]


def test_a_scan_beside_another_of_its_name_fails_no_case(folder: Path) -> None:
    (folder / "scans" / "a.nii").write_bytes(b"")
    said: list[str] = []
    assert again(folder, said=said) == 2
    assert said == ["a: a.nii lies beside a.nii.gz; it is left out."]
    assert again(folder) == 0


def test_a_run_on_a_finished_folder_writes_no_row_and_no_table(folder: Path) -> None:
    (folder / "scans" / "c.nii.gz").mkdir()
    assert again(folder) == 2

    def files() -> dict[str, bytes]:
        out = folder / "out"
        return {str(path): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    before = files()
    assert [row["status"] for row in Ledger(str(folder / "out")).rows] == ["ok", "ok", "failed"]
    assert again(folder) == 0
    assert files() == before


def test_a_folder_of_failures_alone_is_finished_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(folder, monkeypatch)
    for name in "ab":
        (folder / "scans" / f"{name}.nii.gz").write_bytes(b"bad")
    assert again(folder, "predict.review=1") == 0
    page = folder / "out" / "review.html"
    assert "it is bad" in page.read_text()
    page.write_text("as it was")
    assert again(folder, "predict.review=1") == 0
    assert page.read_text() == "as it was"


@pytest.mark.parametrize("damage", [b"", b'{"bundle_id": "5f', b"\xff\xfe", b"[]", b"\0" * 64])
def test_a_folder_that_does_not_tell_whose_masks_it_holds_is_told_and_begun_anew(folder: Path, damage: bytes) -> None:
    assert again(folder) == 2
    facts = folder / "out" / "prediction.json"
    facts.write_bytes(damage)
    with pytest.raises(SegrayError, match=r"prediction\.json is damaged .*begin this one anew by --overwrite"):
        again(folder)
    assert facts.read_bytes() == damage
    assert len(Ledger(str(folder / "out")).entries) == 2, "what was refused changed nothing"
    with pytest.raises(RuntimeError):
        again(folder, OVERWRITE, "predict.slab_mib=1")
    assert again(folder) == 1, "what the cut off run had not reached counts for nobody's"
    assert again(folder) == 0


def test_a_second_run_on_the_folder_is_refused_and_changes_nothing(folder: Path) -> None:
    assert again(folder) == 2
    facts = (folder / "out" / "prediction.json").read_bytes()
    with (
        Claim(str(folder / "out"), "predict"),
        pytest.raises(FolderTakenError, match="Another segray predict works on"),
    ):
        again(folder, "predict.mirror=x", OVERWRITE)
    assert (folder / "out" / "prediction.json").read_bytes() == facts
    assert len(Ledger(str(folder / "out")).entries) == 2


def test_a_run_that_was_taken_for_dead_ends_and_its_rows_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(claim: Claim) -> None:
        raise FolderTakenError("taken over")

    monkeypatch.setattr(Claim, "check", lost)
    with pytest.raises(FolderTakenError, match="taken over"):
        again(folder)
    monkeypatch.undo()
    assert list(Ledger(str(folder / "out")).entries) == ["a"]


def test_two_runs_that_work_at_once_leave_one_row_a_case(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a machine sleeps, another run takes over, and the machine wakes and goes on for a while."""
    made = stage._run

    def with_another(cases: Any, ensemble: Any, out: str, config: Any, say: Any) -> Iterator[str]:
        lines = made(cases, ensemble, out, config, say)
        yield next(lines)
        monkeypatch.setattr(stage, "_run", made)
        for claim in (Path(out) / "ledger").glob("claim-*"):
            claim.unlink()
        assert again(folder) == 1
        yield from lines

    monkeypatch.setattr(stage, "_run", with_another)
    assert again(folder) == 2
    rows = Ledger(str(folder / "out")).rows
    assert [row["case_id"] for row in rows] == ["a", "b"]
    assert len({row["run"] for row in rows}) == 2
    assert len(read_table(str(folder / "out" / "cases.parquet"))) == 2
    assert again(folder) == 0


def test_files_that_are_asked_for_later_are_written(folder: Path) -> None:
    said: list[str] = []
    assert again(folder) == 2
    assert again(folder, "predict.further=preview", said=said) == 2
    assert said == ["2 cases (a, b) lack files that predict.further asks for: done again."]
    assert again(folder, "predict.further=preview") == 0
    assert again(folder) == 0, "what is there already does no harm"
    assert again(folder, "predict.further=[preview, structures]") == 2
    assert again(folder, "predict.further=probabilities") == 2
    with pytest.raises(UsageError, match=r"made with another predict\.probabilities"):
        again(folder, "predict.further=probabilities", "predict.probabilities=uint16")


def test_files_that_went_are_written_again(folder: Path) -> None:
    said: list[str] = []
    assert again(folder, "predict.further=[preview, structures]") == 2
    storage.delete(str(folder / "out" / "previews" / "a.png"))
    assert again(folder) == 0, "who does not ask for previews lacks none"
    assert again(folder, "predict.further=preview", said=said) == 1
    assert said == ["1 case (a) lacks files that predict.further asks for: done again."]
    assert again(folder, "predict.further=preview") == 0
    ledger = Ledger(str(folder / "out"))
    storage.delete(str(folder / "out" / "previews" / "b.png"))
    with ledger:
        (row,) = (row for row in ledger.rows if row["case_id"] == "b")
        ledger.add(to_line(row | {"absent": "preview"}))
    assert again(folder, "predict.further=preview") == 0, "what a case cannot have is not missed"


def test_confidence_that_is_asked_for_later_is_measured(folder: Path) -> None:
    said: list[str] = []
    assert again(folder) == 2
    assert again(folder, "predict.confidence=true", said=said) == 2
    assert said == ["2 cases (a, b) lack what predict.confidence measures: done again."]
    assert again(folder, "predict.confidence=true") == 0
    assert again(folder) == 0, "what is there already does no harm"


def test_rows_that_have_confidences_and_do_not_say_so_are_kept(folder: Path) -> None:
    assert again(folder) == 2
    with Ledger(str(folder / "out")) as ledger:
        row = next(row for row in ledger.rows if row["case_id"] == "a")
        ledger.add(to_line(row | {"structures": {"structure": ["liver"], "confidence_margin": [0.5]}}))
    assert again(folder, "predict.confidence=true") == 1


def test_masks_of_another_rule_of_thresholds_are_not_mixed_in(folder: Path) -> None:
    assert again(folder, "predict.threshold={liver: 0.7}") == 2
    path = folder / "out" / "prediction.json"
    facts = json.loads(path.read_text())
    facts.pop("thresholds")
    path.write_text(json.dumps(facts))
    with pytest.raises(UsageError, match=r"made with another rule of predict\.threshold"):
        again(folder, "predict.threshold={liver: 0.7}")
    assert again(folder, "predict.threshold={liver: 0.7}", OVERWRITE) == 2
    assert again(folder, "predict.threshold={liver: 0.7}") == 0


def test_files_of_a_series_are_refused_where_there_is_none(folder: Path) -> None:
    with pytest.raises(UsageError, match="rtstruct, which refers to a DICOM series, and none of the cases is one"):
        again(folder, "predict.further=rtstruct")
    assert not (folder / "out").exists()
