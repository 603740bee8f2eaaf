"""Processes that would wait for ever: for room on a node, or for others that find none beside them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_bundle import make_bundle

from segray.config import load_config
from segray.errors import UsageError
from segray.pipelines import crew, node_room, sweep
from segray.pipelines.crew import usual_predictors
from segray.pipelines.node_room import check_places, idle_gpus, shape_of, trainings_at_once, worker_shape
from segray.pipelines.predict import predict
from segray.pipelines.runtime import Node, WorkerShape
from segray.pipelines.sweep import room_of

Nodes = list[tuple[float, float]]


def living(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of nodes with so many CPUs and GPUs each."""
    found = [Node(f"node{number}", cpus, gpus, 2**38) for number, (cpus, gpus) in enumerate(nodes)]
    for module in (node_room, crew, sweep):
        monkeypatch.setattr(module, "nodes", lambda: found)


@pytest.mark.parametrize(
    ("nodes", "shape", "workers", "trainings"),
    [
        ([(1, 0)], WorkerShape(0.5, 0.0), [1, 1], 1),
        ([(2, 0)], WorkerShape(1.0, 0.0), [1, 1], 1),
        ([(2, 0)], WorkerShape(0.75, 0.0), [1, 1], 2),
        ([(4, 0)], WorkerShape(1.0, 0.0), [1, 1], 3),
        ([(4, 0)], WorkerShape(1.0, 0.0), [2, 2], 1),
        ([(4, 0), (4, 0)], WorkerShape(3.5, 0.0), [1, 1], 2),
        ([(1, 0)], WorkerShape(0.9, 0.0), [4, 4], 1),
        ([(8, 4)], WorkerShape(1.0, 1.0), [1, 1], 4),
        ([(4, 4)], WorkerShape(1.0, 1.0), [1, 1], 3),
        ([(4, 0)], WorkerShape(1.0, 0.0), [1, 2], 1),
        ([(8, 4)], WorkerShape(1.0, 1.0), [1, 4], 4),
    ],
)
def test_trainings_side_by_side_leave_cpus_to_read_with(
    nodes: Nodes, shape: WorkerShape, workers: list[int], trainings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    living(nodes, monkeypatch)
    assert trainings_at_once(shape, *workers) == trainings


@pytest.mark.parametrize("settings", [["train.cpus_per_worker=4"], ["train.workers=[1,8]", "train.cpus_per_worker=1"]])
def test_workers_leave_cpus_to_read_with(settings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    living([(4, 0)], monkeypatch)
    with pytest.raises(UsageError, match="none to read") as caught:
        shape_of(load_config(None, settings).train)
    assert "train.cpus_per_worker" in str(caught.value.mend)


def test_what_leaves_enough_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    living([(4, 0)], monkeypatch)
    assert shape_of(load_config(None, ["train.cpus_per_worker=3.5"]).train).cpus == 3.5
    # A trial of one worker reads its slices itself.
    assert room_of(load_config(None, ["train.cpus_per_worker=4"])).trials() == 1


def test_what_finds_room_on_no_node_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    living([(4, 0), (2, 0)], monkeypatch)
    config = load_config(None, ["train.cpus_per_worker=6"])
    for kind, asked in (("worker", lambda: shape_of(config.train)), ("trial", lambda: room_of(config))):
        with pytest.raises(UsageError) as caught:
            asked()
        assert caught.value.message == f"A {kind} of 6 CPUs finds no room: the nodes have 4 at most."
        assert caught.value.mend == "Lower train.cpus_per_worker, or leave it at 0."


@pytest.mark.parametrize(
    ("gpus", "count", "gpu", "said"),
    [(2, 4, "auto", "2 GPUs stand idle"), (1, 2, "auto", "1 GPU stands idle"), (2, 2, "auto", ""), (0, 2, "auto", ""),
     (2, 4, "no", "")],
)  # fmt: skip
def test_gpus_that_nobody_uses_are_told(
    gpus: int, count: int, gpu: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    living([(4, gpus), (4, 0)], monkeypatch)
    told = " ".join(idle_gpus(count, gpu, "worker", "train.workers"))
    assert told.startswith(said)
    assert told.endswith(f"Set train.workers={gpus}.") == bool(said)
    # What is said holds: all have a GPU, or none.
    assert (worker_shape(count, 0.0, gpu).gpus == 0) == (bool(said) or gpus == 0 or gpu == "no")


@pytest.mark.parametrize(
    ("nodes", "gpu", "cases", "cpus", "predictors"),
    [
        ([(2, 0)], "auto", 100, 0, 1),
        ([(15, 0)], "auto", 100, 0, 1),
        ([(64, 0)], "auto", 100, 0, 8),
        ([(64, 0)], "auto", 3, 0, 3),
        ([(64, 0), (64, 0)], "auto", 5, 0, 6),
        ([(64, 0), (16, 0)], "auto", 100, 0, 4),
        ([(64, 2)], "auto", 100, 0, 2),
        ([(64, 2)], "no", 100, 0, 8),
        ([(64, 0), (64, 0)], "auto", 1, 0, 2),
        ([(16, 0)], "auto", 100, 8, 1),
        ([(64, 0)], "auto", 100, 30, 1),
        ([(64, 0)], "auto", 100, 2, 8),
        ([(1, 2)], "auto", 1, 0, 2),
    ],
)
def test_large_nodes_have_several_predictors_that_all_find_room(
    nodes: Nodes, gpu: str, cases: int, cpus: float, predictors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    living(nodes, monkeypatch)
    assert usual_predictors(gpu, cases, cpus, 2**30) == predictors
    shape = worker_shape(predictors, cpus, gpu)
    check_places(shape, predictors, "Predictor", "predict.cpus_per_predictor")
    assert sum(node_room.places(node, shape) for node in node_room.nodes()) >= predictors


def test_predictors_that_hold_much_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    living([(64, 0)], monkeypatch)  # and 256 GiB
    held = [usual_predictors("auto", 100, 0.0, gib * 2**30) for gib in (1, 16, 24, 60, 200)]
    assert held == [8, 8, 5, 2, 1]


@pytest.mark.parametrize(
    ("nodes", "shape", "count", "raises"),
    [
        ([(4, 0)], WorkerShape(0.8, 0.0), 5, True),
        ([(4, 0)], WorkerShape(0.8, 0.0), 4, False),
        ([(4, 0), (4, 0)], WorkerShape(3.8, 0.0), 2, True),
        ([(4, 0), (4, 0)], WorkerShape(3.75, 0.0), 2, False),
        ([(4, 0), (4, 0)], WorkerShape(3.8, 0.0), 1, False),
    ],
)
def test_a_task_that_reads_needs_its_share_on_one_node(
    nodes: Nodes, shape: WorkerShape, count: int, raises: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    living(nodes, monkeypatch)
    with pytest.raises(UsageError, match="none to read") if raises else nullcontext():
        check_places(shape, count, "worker", "train.cpus_per_worker")


def test_the_largest_node_is_named_among_those_that_have_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    living([(4, 4), (64, 0)], monkeypatch)
    with pytest.raises(UsageError, match="the nodes have 4 at most"):
        check_places(WorkerShape(8.0, 1.0), 1, "worker", "train.cpus_per_worker")


@pytest.mark.ray
@pytest.mark.usefixtures("embedded_ray")
@pytest.mark.parametrize(("cpus", "told"), [(4, "A Predictor of 4 CPUs leaves none"), (8, "finds no room")])
def test_predictors_that_leave_no_cpu_are_told_and_the_folder_is_gone_on_with(
    cpus: int, told: str, tmp_path: Path
) -> None:
    make_bundle(tmp_path / "bundle", "liver")
    (tmp_path / "scans").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((16, 16, 4), np.int16), np.eye(4)), tmp_path / "scans" / "a.nii.gz")
    places = [str(tmp_path / name) for name in ("bundle", "scans", "out")]
    with pytest.raises(UsageError, match=told):
        predict(*places, load_config(None, ["predict.review=0", f"predict.cpus_per_predictor={cpus}"]))
    assert predict(*places, load_config(None, ["predict.review=0", "predict.cpus_per_predictor=1"])).done == 1
