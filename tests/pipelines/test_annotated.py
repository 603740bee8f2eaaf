"""Label volumes of which some cases tell less than others: what a net learns from them, and what is measured."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from train_here import train_here

import segray
from segray.config import Config, load_config
from segray.errors import UsageError
from segray.pipelines.evaluate import evaluate
from segray.pipelines.ingest import ingest
from segray.pipelines.predict import predict
from segray.shards.manifest import load_manifest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]

CASES = {"c0": "liver", "c1": "liver", "c2": "liver", "c3": "liver;spleen", "c4": "liver;spleen", "c5": "liver"}
"""What was looked for in each; c4 and c5 are held out."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cubes, one brighter than the other, in all images; the brighter one in the labels where it was looked for."""
    folder, rng = tmp_path_factory.mktemp("annotated"), np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    for case_id, looked_for in CASES.items():
        labels = np.zeros((24, 24, 10), np.uint8)
        labels[3:11, 4:12, 2:8] = 1
        labels[13:21, 4:12, 2:8] = 2
        image = (400.0 * labels + rng.normal(0, 20, labels.shape)).astype(np.int16)
        if "spleen" not in looked_for and case_id != "c2":  # whose label is there, and is not to be believed
            labels[labels == 2] = 0
        nibabel.Nifti1Image(image, np.eye(4)).to_filename(folder / "imagesTr" / f"{case_id}_0000.nii.gz")
        nibabel.Nifti1Image(labels, np.eye(4)).to_filename(folder / "labelsTr" / f"{case_id}.nii.gz")
    table = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 2}}
    (folder / "dataset.json").write_text(json.dumps(table))
    return folder


def _tables(folder: Path, cases: dict[str, str] = CASES) -> list[str]:
    """The settings that name what was looked for, and the split."""
    annotated, split = folder / "annotated.csv", folder / "split.csv"
    annotated.write_text("case_id,structures\n" + "".join(f"{case},{told}\n" for case, told in cases.items()))
    sides = {case: "validation" if case in ("c4", "c5") else "train" for case in CASES}
    split.write_text("case_id,split\n" + "".join(f"{case},{side}\n" for case, side in sides.items()))
    return [f"ingest.annotated={annotated}", f"ingest.split.patients={split}"]


def _config(folder: Path) -> Config:
    settings = [
        "net.features=[8,16]",
        "train.epochs=12",
        "train.batch_size=4",
        "optim.warmup_steps=5",
        "loss.dice=0",
        "optim.lr=0.01",
        "intensity.window=[-100,900]",
        f"train.shards={folder / 'shards'}",
        f"train.run={folder / 'run'}",
    ]
    return load_config(None, [*settings, *_tables(folder)])


def test_a_structure_is_learnt_from_the_cases_in_which_it_was_looked_for(data: Path, tmp_path: Path) -> None:
    config, shards, masks = _config(tmp_path), str(tmp_path / "shards"), str(tmp_path / "masks")
    ingest(str(data), shards, config)
    lacking = {part.case_id: part.unannotated for part in load_manifest(shards).parts}
    assert lacking == {case: [] if "spleen" in told else ["spleen"] for case, told in CASES.items()}
    train_here(config)
    predict(str(tmp_path / "run"), str(data), masks, config)
    summary = evaluate(masks, str(data), config)
    rows = list(csv.DictReader((tmp_path / "masks" / "metrics.csv").open()))
    measured = {(row["case_id"], row["structure"]): float(row["dice"]) for row in rows}
    assert measured.keys() == {("c4", "liver"), ("c4", "spleen"), ("c5", "liver")}
    # Three of the four cases that were trained call it background: by the cross entropy, the net would not find it.
    assert min(measured.values()) > 0.9
    assert any("nobody looked for them: 1 (c5)" in note for note in summary.notes)
    last = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))[-1]
    assert float(last["val_dice_spleen"]) > 0.9


def test_a_wrong_table_ends_before_anything_is_read(data: Path, tmp_path: Path) -> None:
    settings = _tables(tmp_path, {"c0": "liver;splen"})
    with pytest.raises(UsageError, match="names splen") as told:
        ingest(str(data), str(tmp_path / "shards"), load_config(None, settings))
    assert told.value.mend == "Did you mean spleen?"
    assert not (tmp_path / "shards" / "manifest.json").exists()
    (finding,) = [one for one in segray.doctor(str(data), load_config(None, settings)).findings if one.grade == "error"]
    assert (finding.code, finding.mend) == ("annotated", "Did you mean spleen?")


def test_the_doctor_counts_the_cases_in_which_nobody_looked(data: Path, tmp_path: Path) -> None:
    config = load_config(None, _tables(tmp_path, CASES | {"gone": "liver"}))
    diagnosis = segray.doctor(str(data), config)
    rows = {row.name: row.to_dict() for row in diagnosis.structures}
    assert rows["spleen"]["cases"] == 2
    assert rows["spleen"]["unmasked"] == 4
    codes = {one.code for one in diagnosis.findings}
    assert "annotated-ids" in codes
    assert "no-mask-file" not in codes
