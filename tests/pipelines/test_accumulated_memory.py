"""Memory that runs out in the middle of an update of several batches costs none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train_here import train_here

from segray.config import load_config
from segray.engine.trainer import Trainer
from segray.phantoms import make_phantoms
from segray.pipelines.ingest import ingest

SETTINGS = (
    "net.features=[4,8]",
    "net.norm=instance",
    "train.batch_size=4",
    "train.epochs=1",
    "train.trackers=[]",
    "optim.accumulate=4",
    "ingest.split.validation=0.3",
    "ingest.grid.spacing=[9,9]",
    "ingest.structures=[liver,body]",
)


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.usefixtures("embedded_ray")
def test_no_batch_of_an_update_is_lost_where_memory_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_phantoms(str(tmp_path / "scans"), cases=4, broken=False)
    ingest(str(tmp_path / "scans"), str(tmp_path / "shards"), load_config(None, list(SETTINGS)))
    learn, calls = Trainer._learn, []

    def short(self: Trainer, *inputs: Any) -> Any:
        calls.append(1)
        if fails and len(calls) == 3:
            raise torch.OutOfMemoryError
        return learn(self, *inputs)

    monkeypatch.setattr(Trainer, "_learn", short)
    weights = []
    for fails in (False, True):
        calls.clear()
        run = tmp_path / f"run_{fails}"
        train_here(load_config(None, [*SETTINGS, f"train.shards={tmp_path / 'shards'}", f"train.run={run}"]))
        (file,) = (run / "bundle").glob("*.safetensors")
        weights.append(load_file(file))
    assert "Memory ran out" in (tmp_path / "run_True" / "run.log").read_text()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=1e-4)
