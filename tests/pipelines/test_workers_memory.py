"""Memory that runs out for one of several workers: all begin again with less, and that is no failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from segray.config import load_config
from segray.phantoms import make_phantoms
from segray.pipelines import train as training
from segray.pipelines.ingest import ingest

SETTINGS = (
    "net.features=[4,8]",
    "net.norm=instance",
    "train.batch_size=4",
    "train.epochs=1",
    "train.workers=2",
    "train.cpus_per_worker=1",
    "train.max_failures=0",
    "train.trackers=[]",
    "ingest.split.validation=0.3",
    "ingest.grid.spacing=[9,9]",
    "ingest.structures=[liver]",
)


def short_of_memory() -> Any:
    """The train function of workers whose device holds only half a batch, and no activations."""

    def work(loop: dict[str, Any]) -> None:
        import torch

        from segray.engine.trainer import Trainer
        from segray.pipelines.train_worker import train_worker

        learn = Trainer._learn

        def short(self: Trainer, *inputs: Any) -> Any:
            if self.spared != {"checkpointing": True, "pieces": 2}:
                raise torch.OutOfMemoryError
            return learn(self, *inputs)

        Trainer._learn = short  # type: ignore[method-assign]
        train_worker(loop)

    return work


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.usefixtures("embedded_ray")
def test_workers_begin_again_with_less_memory_as_often_as_it_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_phantoms(str(tmp_path / "scans"), cases=3, seed=3, broken=False)
    ingest(str(tmp_path / "scans"), str(tmp_path / "shards"), load_config(None, list(SETTINGS)))
    monkeypatch.setattr(training, "train_worker", short_of_memory())
    run = tmp_path / "run"
    training.train(load_config(None, [*SETTINGS, f"train.shards={tmp_path / 'shards'}", f"train.run={run}"]))
    history = json.loads((run / "history.json").read_text())
    assert history["state"] == "finished"
    assert history["spared"] == {"checkpointing": True, "pieces": 2}
    log = (run / "run.log").read_text()
    assert "activations are computed again" in log
    assert "every batch is learnt in 2 pieces" in log
    assert log.count("begin again from the last checkpoint, with less memory") == 2
