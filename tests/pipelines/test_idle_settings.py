"""Settings that are taken and change nothing are said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segray.case import LabelMap
from segray.config import load_config
from segray.grid import Grid
from segray.pipelines.idle_settings import idle_settings
from segray.shards.manifest import Manifest, pool_intensity

MANIFEST = Manifest(LabelMap({"a": 1}), Grid("native", (4, 4), None, 0.0), [pool_intensity([])], [])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["train.patience=3"], "train.patience changes nothing: the shards have no validation cases"),
        (["optim.schedule=plateau"], "optim.schedule=plateau changes nothing"),
        (["net.name=dynunet", "train.checkpointing=true"], "train.checkpointing changes nothing"),
        (["net.name=mednext", "net.dropout=0.1"], "net.dropout changes nothing"),
        (["augment.flip_z=0.5"], "augment.flip_z changes nothing"),
        (["augment.space=true"], "augment.space changes nothing"),
        (["augment.mixup=0.5", "train.batch_size=1"], "augment.mixup changes nothing"),
        (["optim.schedule=one_cycle", "optim.warmup_steps=9"], "optim.warmup_steps changes nothing"),
        (["train.histograms_every=5", "train.trackers=[]"], "train.histograms_every changes nothing"),
        (["loss.class_weights={a: 2}", "loss.cross_entropy=0"], "loss.class_weights changes nothing"),
    ],
)
def test_a_setting_without_effect_is_said(settings: list[str], words: str) -> None:
    (said,) = idle_settings(load_config(None, settings), MANIFEST)
    assert said.startswith(words)


def test_overlapping_structures_have_no_background() -> None:
    manifest = replace(MANIFEST, label_map=LabelMap({"a": 1, "b": 2}, overlapping=True))
    (said,) = idle_settings(load_config(None, ["loss.dice_background=true"]), manifest)
    assert said.startswith("loss.dice_background changes nothing")


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["train.patience=3", "train.metric=train_loss"],
        ["train.checkpointing=true"],
        ["augment.flip_z=0.5", "augment.space=true", "net.patch=[16,0,0]"],
        ["augment.mixup=0.5"],
        ["augment.mixup=0.5", "augment.enabled=false", "train.batch_size=1"],
        ["optim.schedule=one_cycle", "train.trackers=[]"],
        ["train.histograms_every=5"],
        ["loss.dice_background=true"],
        ["loss.class_weights={a: 2}", "loss.cross_entropy=0", "loss.focal=1"],
    ],
)
def test_others_are_not(settings: list[str]) -> None:
    assert idle_settings(load_config(None, settings), MANIFEST) == []
