"""What a sweep is told before anything is written and before Ray is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_sweep import sweep_config
from tiny_shards import tiny_bundle, tiny_config, tiny_shards

from segray.config import Config
from segray.errors import UsageError
from segray.pipelines.tune import dry_run, tune


def test_an_objective_that_no_training_has(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gpu_memory_mib is not one of a training"):
        tune(sweep_config(tmp_path, "tune.objectives=[val_dice,gpu_memory_mib]"))
    with pytest.raises(UsageError, match="no validation cases"):
        tune(sweep_config(tmp_path, splits=("train",)))
    assert not (tmp_path / "sweep").exists()


def _space_on(shards: Path, drawn: str, *more: str) -> Config:
    space = shards.parent / "space.py"
    rate = '"optim.lr": trial.suggest_float("optim.lr", 1e-4, 1e-2)'
    space.write_text(f"def space(trial):\n    return {{{rate}, {drawn}}}\n")
    return tiny_config(shards, None, f"tune.space={space}", f"tune.run={shards.parent / 'sweep'}", *more)


@pytest.mark.parametrize(
    ("drawn", "words"),
    [
        ('"net.activation": trial.suggest_categorical("net.activation", ["relu", "silu"])', "net.activation is silu"),
        ('"net.norm": trial.suggest_categorical("net.norm", ["group", "batch"])', "net.norm is batch"),
        ('"net.features": [4, trial.suggest_int("width", 8, 16)]', r"net.features is \[4, \d+\]"),
    ],
)
def test_a_space_that_draws_another_net_than_that_of_the_start(tmp_path: Path, drawn: str, words: str) -> None:
    shards = tiny_shards(tmp_path / "shards")
    start = f"train.start_from={tiny_bundle(tmp_path / 'bundle', shards)}"
    with pytest.raises(UsageError, match=words) as error:
        dry_run(_space_on(shards, drawn, start, "net.activation=relu"), 1)
    assert "draw nothing of the net but net.dropout" in str(error.value.mend)


def test_a_space_may_draw_what_is_free_beside_the_weights(tmp_path: Path) -> None:
    """The config names no net: it is that of the weights, in a dry run too."""
    shards = tiny_shards(tmp_path / "shards")
    start = f"train.start_from={tiny_bundle(tmp_path / 'bundle', shards)}"
    config = _space_on(shards, '"net.dropout": trial.suggest_float("net.dropout", 0.0, 0.5)', start)
    named = {"net": config.net.model_construct(_fields_set=set())}
    assert len(dry_run(config.model_copy(update=named), 2)) == 2


def test_an_objective_of_a_structure_that_no_validation_case_shows(tmp_path: Path) -> None:
    drawn = '"optim.weight_decay": 0.01'
    unshown = tiny_shards(tmp_path / "unshown" / "shards", without_lesion=["c0"])
    with pytest.raises(UsageError, match="No validation case shows lesion"):
        dry_run(_space_on(unshown, drawn, "tune.objectives=[val_dice,val_dice_lesion]"), 1)
    assert dry_run(_space_on(unshown, drawn, "tune.objectives=[val_dice_liver]"), 1)
    bundle = tiny_bundle(tmp_path / "bundle", unshown)
    with pytest.raises(UsageError, match="No validation case shows lesion"):
        dry_run(_space_on(unshown, drawn, "tune.objectives=[val_dice_lesion]", f"tune.bundle={bundle}"), 1)
    shown = tiny_shards(tmp_path / "shown" / "shards")
    assert dry_run(_space_on(shown, drawn, "tune.objectives=[val_dice_lesion]"), 1)


def test_a_batch_size_that_each_trial_would_have_to_find(tmp_path: Path) -> None:
    shards = tiny_shards(tmp_path / "shards")
    drawn = '"train.batch_size": trial.suggest_categorical("train.batch_size", [4, "auto"])'
    for own in ("8", "auto"):
        with pytest.raises(UsageError, match=r"may not draw train.batch_size=auto"):
            dry_run(_space_on(shards, drawn, f"train.batch_size={own}"), 1)
    assert dry_run(_space_on(shards, '"optim.weight_decay": 0.01', "train.batch_size=auto"), 1)
