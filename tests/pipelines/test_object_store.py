"""From a table on s3:// to shards, a run and masks on s3://, through pyarrow's own S3 client and a real server.

The commands run in a process with a Ray of its own: the workers of the session's Ray know neither the address nor the
credentials of the server.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from segray import formats, storage
from segray.case import LabelMap
from segray.config import IngestConfig, load_config
from segray.errors import SegrayError, StoreError
from segray.phantoms import make_phantoms
from segray.pipelines import train_worker
from segray.pipelines.run_folder import RunFolder
from segray.pipelines.verify import verify
from segray.shards.manifest import load_manifest

pytestmark = [pytest.mark.long, pytest.mark.ray]

STRUCTURES = ("liver", "spleen")

SETTINGS = (
    "net.features=[4,8]",
    "train.epochs=1",
    "train.batch_size=8",
    "train.cpus_per_worker=1",
    "predict.cpus_per_predictor=1",
    "ingest.grid.spacing=[8,8]",
)


PROGRAM = """
import json, sys
from segray import cli
from segray.config import RayConfig
from segray.pipelines.runtime import ray_session

with ray_session(RayConfig(cpus=4, object_store_mib=200)):
    for command in json.load(sys.stdin):
        sys.argv = ["segray", *command]
        try:
            print("ended", cli._guarded(cli.app))
        except SystemExit as end:
            print("ended", end.code)
"""
"""Commands one after the other on one embedded Ray: its start takes longer than they do."""


def segray(*commands: list[str]) -> list[int]:
    """The exit codes of commands, run in a process of their own."""
    settings = [part for one in SETTINGS for part in ("--set", one)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([[*command, *settings] for command in commands]),
        env=os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("ended ")]


@pytest.fixture(scope="module")
def home(s3_server: dict[str, str], new_bucket: Callable[[], str]) -> Iterator[str]:
    """The URI of a bucket, which this process and those that it starts reach."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.items():
            patch.setenv(name, value)
        yield new_bucket()


@pytest.fixture(scope="module")
def scans(home: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Phantoms on s3:// in a folder whose name holds a space, the last of them cut, and a table that names one more."""
    folder = tmp_path_factory.mktemp("scans")
    make_phantoms(str(folder), cases=3, seed=3)
    table = [["case_id", "image", *(f"mask_{name}" for name in STRUCTURES)]]
    for case in sorted(folder.iterdir()):
        for file in case.rglob("*.nii.gz"):
            storage.write_bytes(f"{home}/all scans/{case.name}/{file.relative_to(case)}", file.read_bytes())
        masks = [f"segmentations/{name}.nii.gz" for name in STRUCTURES]
        cells = [f"{case.name}/{name}" if (case / name).exists() else "" for name in ("ct.nii.gz", *masks)]
        table.append([case.name, *cells])
    table.append(["gone", "none.nii.gz", *table[1][2:]])
    text = io.StringIO()
    csv.writer(text).writerows(table)
    storage.write_text(f"{home}/all scans/cases.csv", text.getvalue())
    return f"{home}/all scans"


@pytest.fixture(scope="module")
def way(home: str, scans: str) -> str:
    """The bucket after ingest, a training and a prediction."""
    table, shards, run = f"{scans}/cases.csv", f"{home}/shards", f"{home}/run"
    ended = segray(
        ["ingest", table, shards],
        ["train", "--shards", shards, "--run", run],
        ["predict", run, table, f"{home}/predictions"],
        ["predict", run, table, f"{home}/apart", "--set", "predict.output=structures"],
    )
    # 3: finished, but the case that is cut and the one that is not there have failed.
    assert ended == [3, 0, 3, 3]
    return home


def test_a_folder_on_s3_is_listed(scans: str) -> None:
    found = formats.discover(scans, IngestConfig(structures=list(STRUCTURES)))
    assert found.format == "totalseg"
    assert [case.case_id for case in found.cases] == [f"s000{number}" for number in range(1, 4)]
    case = formats.read_case(found.cases[0], found.label_map)
    assert case.labels is not None
    assert set(np.unique(case.labels)) == {0, 1, 2}


def test_a_table_on_s3_becomes_shards_there_and_bad_rows_have_a_reason(way: str) -> None:
    shards = f"{way}/shards"
    assert [part.case_id for part in load_manifest(shards).parts] == ["s0001", "s0002"]
    rows = csv.DictReader(io.StringIO(storage.read_text(f"{shards}/failures.csv")))
    failed = {row["case_id"]: row["reason"] for row in rows}
    assert sorted(failed) == ["gone", "s0003"]
    assert "none.nii.gz' is not there" in failed["gone"]
    assert "s0003/ct.nii.gz" in failed["s0003"]


def test_a_training_on_s3_leaves_a_run_folder_there(way: str) -> None:
    run = f"{way}/run"
    history = json.loads(storage.read_text(f"{run}/history.json"))
    assert history["finished"] is True
    assert len(storage.read_text(f"{run}/metrics.csv").splitlines()) == 2
    assert any(name.startswith("checkpoint_") for name in storage.names(f"{run}/checkpoints"))


def test_masks_on_s3_lie_on_their_scans(way: str, scans: str) -> None:
    masks = storage.names(f"{way}/predictions/masks")
    assert masks == ["s0001.nii.gz", "s0002.nii.gz"]
    for name in masks:
        image = formats.lone_image(f"{scans}/{name.removesuffix('.nii.gz')}/ct.nii.gz")
        geometry = formats.read_header(image).geometry
        labels, own = formats.read_mask(f"{way}/predictions/masks/{name}", geometry)
        assert labels.shape == geometry.size
        assert np.allclose(own.affine, geometry.affine)


def test_a_file_a_structure_on_s3_is_the_same_mask(way: str) -> None:
    assert storage.names(f"{way}/apart/structures") == ["s0001", "s0002"]
    assert storage.names(f"{way}/apart/masks") == []
    label_map = LabelMap.from_json(storage.read_text(f"{way}/apart/label_map.json"))
    for case_id in ("s0001", "s0002"):
        together, geometry = formats.read_mask(f"{way}/predictions/masks/{case_id}.nii.gz")
        apart, _ = formats.read_mask(f"{way}/apart/structures/{case_id}", geometry, label_map)
        assert np.array_equal(apart, together)
    assert verify(f"{way}/apart").clean


@pytest.mark.parametrize(("error", "fatal"), [(StoreError, False), (SegrayError, True)])
def test_a_store_that_does_not_answer_is_asked_again(
    error: type[SegrayError], fatal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray replays a worker from its last checkpoint unless the run says that its error would come again."""

    def gone() -> None:
        raise error("s3://bucket/x cannot be read (NETWORK_CONNECTION).")

    monkeypatch.setattr(train_worker, "GroupSeat", gone)
    config = load_config(None, ["train.shards=s3://bucket/shards", f"train.run={tmp_path}"])
    with pytest.raises(error):
        train_worker.train_worker({"config": config.model_dump(), "threads": torch.get_num_threads(), "stop_after": 0})
    assert bool(RunFolder(str(tmp_path)).history().get("fatal")) is fatal
