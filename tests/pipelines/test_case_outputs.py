"""What is written of a predicted case: the stages of a prediction in this process, without Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from segray import formats, storage
from segray.case import LabelMap
from segray.config import Config, NetConfig, PredictConfig, load_config
from segray.engine.backends import BackendChoice
from segray.errors import UsageError
from segray.evaluation.tables import read_csv_rows
from segray.formats.probability_files import read_probabilities
from segray.formats.source import CaseSource
from segray.formats.structure_files import read_structures
from segray.grid import Grid
from segray.nets.bundle import save_bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net
from segray.pipelines.backend_choice import choose_backend, kept_choice, never_measured, unlike_choice
from segray.pipelines.case_outputs import check_further, check_output, why_no_output
from segray.pipelines.headers import Planned
from segray.pipelines.ledger import Ledger
from segray.pipelines.predict_stages import WriteStage, read_stage
from segray.pipelines.predictor_stage import PredictStage
from segray.pipelines.review_list import preview_bytes, write_review_list
from segray.pipelines.runtime import MIB, WorkerShape
from segray.pipelines.verify import verify

LABELS = LabelMap.of_names(["liver", "spleen"])
NAMES = ("a", "b", "c")
SEED = 0
ALL = ("nifti", "overlays", "preview", "probabilities", "structures")


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    """A net that has learnt nothing, and finds all labels in noise."""
    torch.manual_seed(SEED)
    net = NetConfig(features=[4, 8])
    path = str(tmp_path / "bundle")
    save_bundle(
        path, build_net(net, 1, 3), net=net, label_map=LABELS, grid=Grid("native", (16, 16), None, -1024.0),
        normalisation=Normalisation("window"),
    )  # fmt: skip
    return path


@pytest.fixture
def scans(tmp_path: Path) -> list[str]:
    """Sources of three scans of noise, as JSON."""
    found = []
    for number, name in enumerate(NAMES):
        path = tmp_path / f"{name}.nii.gz"
        voxels = np.random.default_rng(number).integers(-200, 300, (16, 16, 2 + number)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-2.0, -1.0, 3.0, 1.0])), path)
        found.append(formats.lone_image(str(path)).to_json())
    return found


def read(sources: list[str]) -> pa.Table:
    """The cases as the stage of prediction gets them."""
    return pa.concat_tables(read_stage(pa.table({"source": [source]})) for source in sources)


def written(bundle: str, scans: list[str], folder: Path, *settings: str) -> dict[str, dict[str, Any]]:
    """Rows of the ledger by case, after all stages."""
    config = settings_of(*settings)
    table = PredictStage([bundle], config, 1)(read(scans))
    stage = WriteStage(str(folder), LABELS.to_json(), config.output, tuple(config.further))
    rows = [json.loads(stage(table.slice(n, 1)).column("row")[0].as_py()) for n in range(table.num_rows)]
    return {row["case_id"]: row for row in rows}


def settings_of(*settings: str) -> PredictConfig:
    """The section of a prediction in float32."""
    return load_config(None, ["predict.precision=float32", *settings]).predict


def test_all_files_of_a_case_say_the_same(bundle: str, scans: list[str], tmp_path: Path) -> None:
    rows = written(bundle, scans, tmp_path / "out", f"predict.further=[{','.join(ALL)}]", "predict.confidence=true")
    assert {row["status"] for row in rows.values()} == {"ok"}, [row["reason"] for row in rows.values()]
    assert {row["further"] for row in rows.values()} == {",".join([*ALL, "confidence"])}
    for name in NAMES:
        labels, geometry = formats.read_mask(str(tmp_path / "out" / rows[name]["mask"]))
        assert set(np.unique(labels)) == {0, 1, 2}, "noise with all labels in it"
        again, _ = formats.read_mask(str(tmp_path / "out" / "nifti" / f"{name}.nii.gz"))
        apart, _ = read_structures(str(tmp_path / "out" / "structures" / name), LABELS, geometry)
        assert (again == labels).all()
        assert (apart == labels).all()
        found = read_probabilities(str(tmp_path / "out" / "probabilities" / f"{name}.nii.gz"))
        liver, spleen = found.whole("liver"), found.whole("spleen")
        assert (liver[labels == 1] >= spleen[labels == 1]).all()
        assert (spleen[labels == 2] >= liver[labels == 2]).all()
        assert liver[labels == 1].min() > 0.33
        assert (tmp_path / "out" / "previews" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert len(list((tmp_path / "out" / "overlays" / name).glob("0*.png"))) == len(labels)
        columns = rows[name]["structures"]
        assert columns["structure"] == ["liver", "spleen"]
        assert columns["voxels"] == [int((labels == value).sum()) for value in (1, 2)]
        assert all(0 < margin < 1 for margin in columns["confidence_margin"])


def test_the_mask_may_be_a_file_a_structure_alone(bundle: str, scans: list[str], tmp_path: Path) -> None:
    rows = written(bundle, scans, tmp_path / "out", "predict.output=structures", "predict.further=preview")
    usual = written(bundle, scans, tmp_path / "usual")
    assert {name: row["mask"] for name, row in rows.items()} == {name: f"structures/{name}" for name in NAMES}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"structures", "previews"}
    for name in NAMES:
        labels, geometry = formats.read_mask(str(tmp_path / "usual" / usual[name]["mask"]))
        apart, own = formats.read_mask(str(tmp_path / "out" / rows[name]["mask"]), geometry, LABELS)
        assert (apart == labels).all()
        assert (own.affine == geometry.affine).all()
        assert rows[name]["volume_ml_liver"] == usual[name]["volume_ml_liver"]


def test_a_mask_that_cannot_be_written_leaves_no_part_of_it(
    bundle: str, scans: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def no_space(old: str, new: str) -> None:
        if "spleen" in new:
            raise OSError(28, "No space left on device")
        real(old, new)

    monkeypatch.setattr(os, "replace", no_space)
    row = written(bundle, scans[:1], tmp_path / "out", "predict.output=structures")["a"]
    assert row["status"] == "failed"
    assert "No space left on device" in row["reason"]
    assert list((tmp_path / "out" / "structures").iterdir()) == []


def test_probabilities_may_have_two_bytes(bundle: str, scans: list[str], tmp_path: Path) -> None:
    found = []
    for stored in ("uint8", "uint16"):
        out = tmp_path / stored
        written(bundle, scans[:1], out, "predict.further=probabilities", f"predict.probabilities={stored}")
        found.append(read_probabilities(str(out / "probabilities" / "a.nii.gz")))
    coarse, fine = found
    assert (coarse.crop.dtype, fine.crop.dtype) == (np.uint8, np.uint16)
    assert np.abs(coarse.whole("liver") - fine.whole("liver")).max() < 0.5 / 255 + 1e-4
    assert (fine.crop % 257 != 0).any(), "no bytes that were widened"


def test_small_cases_together_are_what_they_are_alone(bundle: str, scans: list[str]) -> None:
    stage = PredictStage([bundle], settings_of("predict.confidence=true"), 1)
    together = stage(read(scans))
    for number, source in enumerate(scans):
        alone = stage(read([source]))
        for name in ("labels", "confidence"):
            assert together.column(name)[number].as_py() == alone.column(name)[0].as_py()


def test_a_bad_case_among_others_is_a_reason_and_they_have_masks(bundle: str, scans: list[str], tmp_path: Path) -> None:
    colour = tmp_path / "d_0000.nii.gz"
    for number in range(2):
        image = nibabel.Nifti1Image(np.zeros((16, 16, 2), np.int16), np.eye(4))
        nibabel.save(image, tmp_path / f"d_000{number}.nii.gz")
    cut = tmp_path / "e.nii.gz"
    cut.write_bytes((tmp_path / "a.nii.gz").read_bytes()[:200])
    several = formats.lone_image(str(colour))
    several = type(several)("d", str(colour), parts=(str(tmp_path / "d_0001.nii.gz"),), kind="nifti")
    sources = [scans[0], several.to_json(), formats.lone_image(str(cut)).to_json(), scans[1]]
    rows = written(bundle, sources, tmp_path / "out")
    assert {name: row["status"] for name, row in rows.items()} == {"a": "ok", "b": "ok", "d": "failed", "e": "failed"}
    assert "Channels of the case: 2" in rows["d"]["reason"]
    assert all(row["fingerprint"] for row in rows.values()), "a mended file is another one"
    assert not (tmp_path / "out" / "masks" / "d.nii.gz").exists()


def test_the_long_table_and_the_review_come_from_the_ledger(bundle: str, scans: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = written(bundle, scans, out, "predict.further=preview")
    storage.write_text(f"{out}/label_map.json", LABELS.to_json())
    with Ledger(str(out)) as ledger:
        for name in reversed(NAMES):
            ledger.add(json.dumps(rows[name]))
        ledger.add(json.dumps({"case_id": "z", "status": "failed", "reason": "it is cut", "image": ""}))
        assert ledger.write_tables()
    assert write_review_list(str(out), Config()) == []
    table = pq.read_table(out / "structures.parquet").to_pylist()
    assert [(row["case_id"], row["structure"]) for row in table] == [
        (name, structure) for name in NAMES for structure in LABELS.names
    ]
    assert {row["case_id"]: row["volume_ml"] for row in table if row["structure"] == "liver"} == {
        name: pytest.approx(rows[name]["volume_ml_liver"]) for name in NAMES
    }
    assert len(read_csv_rows(str(out / "structures.csv"))) == len(table)
    ranked = read_csv_rows(str(out / "review.csv"))
    assert len(ranked) == 4
    assert (ranked[-1]["case_id"], ranked[-1]["status"]) == ("z", "failed")
    page = (out / "review.html").read_text()
    assert "it is cut" in page
    assert 'src="previews/' in page
    assert "structures" not in read_csv_rows(str(out / "cases.csv"))[0], "the long table has them"


def test_a_file_that_a_case_cannot_have_is_a_note_and_the_mask_counts(
    bundle: str, scans: list[str], tmp_path: Path
) -> None:
    table = PredictStage([bundle], settings_of(), 1)(read(scans[:1]))
    series = json.dumps(json.loads(scans[0]) | {"kind": "dicom"})
    table = table.set_column(table.schema.get_field_index("source"), "source", pa.array([series]))
    stage = WriteStage(str(tmp_path / "out"), LABELS.to_json(), "auto", ("rtstruct", "nifti"))
    row = json.loads(stage(table).column("row")[0].as_py())
    assert (row["status"], row["reason"]) == ("ok", "")
    assert "No rtstruct: " in row["notes"]
    assert (row["further"], row["absent"]) == ("rtstruct,nifti", "rtstruct")
    assert (tmp_path / "out" / "nifti" / "a.nii.gz").exists()


def test_what_an_empty_mask_or_a_volume_has_not_is_not_missed(bundle: str, scans: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = written(bundle, scans[:1], out, "predict.further=[overlays,png]", "predict.threshold={liver: 1, spleen: 1}")
    assert rows["a"]["absent"] == "overlays,png"
    assert "No overlays: Nothing was found" in rows["a"]["notes"]
    assert "No png: a is no picture" in rows["a"]["notes"]
    storage.write_text(f"{out}/label_map.json", LABELS.to_json())
    with Ledger(str(out)) as ledger:
        ledger.add(json.dumps(rows["a"]))
    assert verify(str(out)).clean
    with pytest.raises(UsageError, match="png, which is of pictures, and none of the cases is one"):
        check_further(["png"], [CaseSource.from_json(scans[0])], LABELS)


def test_what_a_case_among_others_cannot_have_is_told_with_what_works(scans: list[str]) -> None:
    told = why_no_output("dicom-seg", CaseSource.from_json(scans[0]))
    assert "a is no DICOM series, which dicom-seg needs." in told
    assert "another folder with predict.further=dicom-seg in place of predict.output=dicom-seg" in told


@pytest.mark.ray
@pytest.mark.usefixtures("embedded_ray")
def test_a_preview_that_cannot_be_drawn_is_told(bundle: str, scans: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = written(bundle, scans, out)
    storage.write_text(f"{out}/label_map.json", LABELS.to_json())
    with Ledger(str(out)) as ledger:
        for name in ("a", "b"):
            ledger.add(json.dumps(rows[name]))
    (tmp_path / "b.nii.gz").unlink()
    items = [{name: rows[case_id][name] for name in ("case_id", "mask", "source")} for case_id in ("a", "b")]
    # A case of a few voxels, and one whose size nobody knows any more.
    assert {case_id: needed // MIB for case_id, needed in preview_bytes(items).items()} == {"a": 256, "b": 1024}
    (note,) = write_review_list(str(out), Config())
    assert note.startswith("No preview of b: ")
    assert [path.name for path in (out / "previews").iterdir()] == ["a.png"]


def test_what_is_missing_of_the_tables_and_the_review_is_made_up_for(
    bundle: str, scans: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    rows = written(bundle, scans, out, "predict.further=preview")
    storage.write_text(f"{out}/label_map.json", LABELS.to_json())

    def tables(most: int, *cases: str) -> set[str]:
        """The tables and pages that are written."""
        for path in out.glob("*.*"):
            os.utime(path, (1, 1))
        with Ledger(str(out)) as ledger:
            for name in cases:
                ledger.add(rows[name])
            ledger.write_tables()
        write_review_list(str(out), load_config(None, [f"predict.review={most}"]))
        return {path.name for path in out.glob("*.*") if path.stat().st_mtime > 1}

    structures = {"structures.csv", "structures.parquet"}
    review = {"review.csv", "review.parquet", "review.html"}
    assert tables(0, "a", "b") == {"cases.csv", "cases.parquet"} | structures
    assert tables(100) >= review, "wanted now, of the rows of before"
    assert tables(100) == set()
    assert tables(1) >= review, "for another number of cases"
    (out / "ledger" / "review.json").write_bytes(b"\0")
    assert tables(1) >= review, "what a crash left"
    (out / "review.csv").unlink()
    assert tables(1) >= review, "a run that was killed before it"
    assert tables(0) == set()
    assert tables(0, "c") >= structures
    assert tables(0) == set()
    assert not (out / "review.html").exists(), "a list of other rows would look like the present one"


def test_no_review_where_none_is_wanted(bundle: str, scans: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = written(bundle, scans, out)
    with Ledger(str(out)) as ledger:
        ledger.add(json.dumps(rows["a"]))
    write_review_list(str(out), load_config(None, ["predict.review=0"]))
    assert (out / "structures.csv").exists()
    assert not (out / "review.csv").exists()


def test_structures_that_would_share_a_file_are_refused_before_the_run(scans: list[str]) -> None:
    with pytest.raises(UsageError, match="would both be written"):
        check_further(["structures"], [], LabelMap.of_names(["Liver", "liver"]))
    with pytest.raises(UsageError, match="would both be written"):
        check_output("structures", [], [], LabelMap.of_names(["Liver", "liver"]))


def test_a_choice_is_kept_and_few_slices_are_not_worth_one(bundle: str, scans: list[str]) -> None:
    case = Planned(formats.lone_image("a.nii.gz"), (2, 16, 16), (3.0, 1.0, 2.0), MIB)
    shape = WorkerShape(1.0, 0.0)
    assert choose_backend([case], [bundle], PredictConfig(), shape, "").name == "torch"
    kept = kept_choice({"backend": {"name": "openvino", "precision": "bf16", "reason": "faster"}})
    assert choose_backend([case], [bundle], PredictConfig(), shape, kept).name == "openvino"
    asked = settings_of("predict.backend=torch")
    assert choose_backend([case], [bundle], asked, shape, kept).name == "torch"
    assert kept_choice({"backend": None}) == ""


def test_a_folder_that_began_too_small_to_measure_says_so_when_it_grows(
    bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segray.pipelines.backend_choice.find_spec", lambda name: name)
    shape, auto = WorkerShape(1.0, 0.0), PredictConfig()
    few = [Planned(formats.lone_image("a.nii.gz"), (2, 16, 16), (3.0, 1.0, 2.0), MIB)]
    many = [Planned(formats.lone_image("a.nii.gz"), (1000, 512, 512), (3.0, 1.0, 1.0), MIB)]
    kept = choose_backend(few, [bundle], auto, shape, "").to_json()
    assert choose_backend(many, [bundle], auto, shape, kept).name == "torch"
    assert never_measured(few, [bundle], auto, shape, kept) == ""
    assert "new folder" in never_measured(many, [bundle], auto, shape, kept)
    assert never_measured(many, [bundle], auto, WorkerShape(1.0, 1.0), kept) == "", "torch computes on a GPU"
    assert never_measured(many, [bundle], settings_of("predict.backend=torch"), shape, kept) == ""
    measured = BackendChoice("torch", "auto", "OpenVINO is not faster.", asked="auto").to_json()
    assert never_measured(many, [bundle], auto, shape, measured) == ""
    monkeypatch.setattr("segray.pipelines.backend_choice.find_spec", lambda name: None)
    assert never_measured(many, [bundle], auto, shape, kept) == "", "nothing to measure it with"


def test_a_backend_that_does_not_work_is_answered_alike_when_the_command_is_given_again(
    bundle: str, scans: list[str]
) -> None:
    asked = settings_of("predict.backend=compile")
    fault = BackendChoice("torch", asked.precision, "torch.compile does not work here.", asked="compile")
    kept = kept_choice({"backend": json.loads(fault.to_json())})
    assert unlike_choice(asked, kept) == []
    assert choose_backend([], [bundle], asked, WorkerShape(1.0, 0.0), kept) == fault
    assert unlike_choice(settings_of("predict.backend=openvino"), kept) == ["backend"]
    assert choose_backend([], [bundle], asked, WorkerShape(1.0, 0.0), "").asked == "compile"


def test_what_reads_and_writes_loads_no_torch() -> None:
    """Each core of a node has such a process, and torch takes it seconds and hundreds of MiB."""
    program = (
        "import sys, segray.pipelines.predict_stages, segray.pipelines.case_batches, segray.privacy\n"
        "import segray.pipelines.ingest, segray.pipelines.doctor, segray.pipelines.evaluate\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
