"""An archive of DICOM series with DICOM SEG, the whole way: ingest, train, predict as DICOM SEG, evaluate."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from train_here import train_here

from segray.config import Config, load_config
from segray.pipelines.evaluate import evaluate
from segray.pipelines.ingest import ingest
from segray.pipelines.predict import predict
from segray.pipelines.verify import verify_on_ray
from tests.formats.made_dicoms import SPACING, START, save_seg, save_series

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]

SHAPE = (8, 32, 40)
"""(slice, row, column)."""

GRID = hd.Volume.from_components(
    np.zeros(SHAPE),
    spacing=(2.5, *SPACING),
    coordinate_system="PATIENT",
    position=START,
    direction=np.eye(3)[:, ::-1],
)
"""That of the series, as highdicom has it."""

CASES = 4
SETTINGS = (
    "net.features=[8,16]",
    "intensity.window=[-160,240]",
    "ingest.split.validation=0.3",
    "train.epochs=4",
    "train.batch_size=4",
    "train.cpus_per_worker=1.5",
    "predict.cpus_per_predictor=1",
    "predict.output=dicom-seg",
    "evaluate.split=all",
    "optim.lr=0.01",
)


def organ(number: int) -> Any:
    """(slice, row, column), at a place of the case's own, in all slices but the first and the last."""
    inside = np.zeros(SHAPE, bool)
    inside[1:-1, 8 + number : 18 + number, 10 + 2 * number : 24 + 2 * number] = True
    return inside


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(None, list(SETTINGS))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patients with a series each, and the segments of their organ."""
    folder = tmp_path_factory.mktemp("dicom") / "archive"
    for number in range(CASES):
        place, uids = folder / f"p{number}", {"series": f"1.2.{number}.5", "frame": f"1.2.{number}.6"}
        noise = np.random.default_rng(number).integers(-20, 20, SHAPE)
        stored = (1000 + noise + np.where(organ(number), 200, -50)).astype(np.int16)

        def change(_: int, made: Any, patient: str = f"P{number}") -> None:
            made.PatientID = patient

        save_series(place, stored, change=change, **uids)
        save_seg(place / "seg", {"organ": organ(number)}, **uids)
    return folder


@pytest.fixture(scope="module")
def predictions(archive: Path, config: Config, embedded_ray: None) -> Path:
    shards, run, folder = (str(archive.parent / name) for name in ("shards", "run", "predictions"))
    assert ingest(str(archive), shards, config).failed == []
    train_here(config.model_copy(update={"train": config.train.model_copy(update={"shards": shards, "run": run})}))
    summary = predict(run, str(archive), folder, config)
    assert (summary.done, summary.failed) == (CASES, [])
    return Path(folder)


def test_masks_are_segments_of_their_series_where_its_slices_are(predictions: Path, archive: Path) -> None:
    for number in range(CASES):
        mask = pydicom.dcmread(predictions / "masks" / f"p{number}.dcm")
        slices = [pydicom.dcmread(path) for path in (archive / f"p{number}").iterdir() if path.name != "seg"]
        assert mask.Modality == "SEG"
        assert mask.PatientID == f"P{number}"
        assert mask.ReferencedSeriesSequence[0].SeriesInstanceUID == f"1.2.{number}.5"
        assert [segment.SegmentLabel for segment in mask.SegmentSequence] == ["organ"]
        drawn = {
            tuple(frame.PlanePositionSequence[0].ImagePositionPatient)
            for frame in mask.PerFrameFunctionalGroupsSequence
        }
        assert drawn
        assert drawn <= {tuple(one.ImagePositionPatient) for one in slices}


def test_evaluation_measures_the_segments_as_another_reader_sees_them(
    predictions: Path, archive: Path, config: Config
) -> None:
    """highdicom reads the prediction, and the truth is what was drawn: segray's reader is on neither side."""
    summary = evaluate(str(predictions), str(archive), config)
    assert (summary.cases, summary.failed) == (CASES, [])
    assert summary.mean_dice is not None
    assert summary.mean_dice > 0.5
    rows = {row["case_id"]: row for row in csv.DictReader((predictions / "metrics.csv").open())}
    for number in range(CASES):
        drawn = hd.seg.segread(predictions / "masks" / f"p{number}.dcm").get_volume(combine_segments=True)
        found = drawn.match_geometry(GRID).array > 0
        both = np.count_nonzero(found & organ(number))
        dice = 2 * both / (np.count_nonzero(found) + np.count_nonzero(organ(number)))
        assert float(rows[f"p{number}"]["dice"]) == pytest.approx(dice, abs=1e-4)


def test_contours_alone_are_the_same_masks(predictions: Path, archive: Path) -> None:
    """What is measured on the RTSTRUCT, and shown of it, is what is measured on the DICOM SEG."""
    run, folder = str(archive.parent / "run"), archive.parent / "contours"
    config = load_config(None, [*SETTINGS, "predict.output=rtstruct"])
    assert predict(run, str(archive), str(folder), config).new == CASES
    assert {path.name for path in (folder / "rtstruct").iterdir()} == {f"p{number}.dcm" for number in range(CASES)}
    assert not (folder / "masks").exists()
    assert verify_on_ray(str(folder), str(archive), config).clean
    assert predict(run, str(archive), str(folder), config).new == 0
    evaluate(str(predictions), str(archive), config)
    evaluate(str(folder), str(archive), config)
    for name in ("metrics.csv", "structures.csv"):
        assert (folder / name).read_bytes() == (predictions / name).read_bytes()
    assert len(list((folder / "previews").glob("*.png"))) == CASES
    (folder / "rtstruct" / "p1.dcm").write_bytes((folder / "rtstruct" / "p1.dcm").read_bytes()[:-900])
    found = verify_on_ray(str(folder), str(archive), config).findings
    assert [(one.kind, one.name) for one in found] == [("damaged", "p1"), ("absent", "p1")]
    assert predict(run, str(archive), str(folder), config).new == 1
