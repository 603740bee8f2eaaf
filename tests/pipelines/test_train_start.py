"""What a training settles before its first step, without Ray."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from tiny_shards import tiny_bundle, tiny_shards

from segray.config import Config, dump_config, load_config
from segray.pipelines import train as training
from segray.pipelines.folds import fold_config
from segray.pipelines.run_folder import CONFIG, RunFolder
from segray.pipelines.train_start import with_net_of_start


class _KilledError(Exception):
    """In place of the death of the command."""


def test_an_interrupted_cross_validation_goes_on_with_the_net_of_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = tiny_shards(tmp_path / "shards")
    bundle = tiny_bundle(tmp_path / "bundle", shards)

    def begun(config: Config, run: RunFolder, *_: Any) -> None:
        run.begin(dump_config(config))
        raise _KilledError

    monkeypatch.setattr(training, "ray_session", lambda *_: nullcontext())
    monkeypatch.setattr(training, "preflight_notes", lambda *_, **__: [])
    monkeypatch.setattr(training, "shape_of", lambda *_: None)
    monkeypatch.setattr(training, "train_folds", begun)
    run = RunFolder(str(tmp_path / "run"))
    more = [f"train.start_from={bundle}", "train.folds=2", "net.dropout=0.25"]
    with pytest.raises(_KilledError):
        training.train(load_config(None, [*more, f"train.shards={shards}", f"train.run={run.path}"]))
    net = with_net_of_start(fold_config(load_config(run.file(CONFIG)), run, 1))[0].net
    assert (net.features, net.activation, net.dropout) == ([4, 8], "relu", 0.25)
