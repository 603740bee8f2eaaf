"""What a training settles before its first step, without Ray."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_shards import tiny_bundle, tiny_config, tiny_shards

from segray.config import Config, dump_config, load_config
from segray.errors import UsageError
from segray.nets.unet import build_net
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


@pytest.mark.parametrize(
    ("norm", "batch", "trains"),
    [
        ("instance", "4", False),
        ("batch", "1", False),
        ("batch", "auto", False),
        ("batch", "2", True),
        ("group", "1", True),
        ("none", "1", True),
    ],
)
def test_a_lowest_level_of_a_single_pixel_that_cannot_be_normalised(
    tmp_path: Path, norm: str, batch: str, trains: bool
) -> None:
    shards = tiny_shards(tmp_path / "shards", cases=2)

    def config(features: str) -> Config:
        told = (f"net.norm={norm}", f"train.batch_size={batch}", f"net.features={features}")
        return tiny_config(shards, None, *told)

    wide = config("[8,8,8,8,8,16]")
    if trains:
        training.check_config(wide)
        net = build_net(wide.net, 1, 3).train()
        assert net(torch.zeros(wide.train.slices_a_step, 1, 32, 32)).shape[-1] == 32
        return
    with pytest.raises(UsageError, match="lowest level of the net is a single pixel") as error:
        training.check_config(wide)
    assert "fewer levels in net.features, or net.norm=group" in str(error.value.mend)
    training.check_config(config("[8,8,8,8,16]"))


def test_the_lowest_level_of_a_patch_has_the_depth_of_the_patch(tmp_path: Path) -> None:
    shards = tiny_shards(tmp_path / "shards", cases=2)
    six = ("net.features=[8,8,8,8,8,16]", "net.norm=instance")
    training.check_config(tiny_config(shards, None, *six, "net.patch=[4,32,32]", "net.flat_levels=4"))
    with pytest.raises(UsageError, match="single pixel"):
        training.check_config(tiny_config(shards, None, *six, "net.patch=[2,32,32]", "net.flat_levels=4"))
