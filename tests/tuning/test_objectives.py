from __future__ import annotations

import pytest

from segray.errors import UsageError
from segray.tuning.objectives import check_objectives

STRUCTURES = ("liver", "left lung")


def test_what_a_training_measures_may_be_an_objective() -> None:
    names = ["val_dice", "val_dice_left lung", "train_loss", "parameters", "gflops", "latency", "seconds"]
    check_objectives(names, STRUCTURES, validated=True)
    check_objectives(["train_loss", "seconds"], STRUCTURES, validated=False)


@pytest.mark.parametrize(
    ("name", "near"),
    [("val_dise", "val_dice"), ("val_dice_livr", "val_dice_liver"), ("train_dice_loss", "train_loss")],
)
def test_what_none_measures_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is not one of a training") as error:
        check_objectives(["val_dice", name], STRUCTURES, validated=True)
    assert error.value.mend is not None
    assert f"Did you mean {near}?" in error.value.mend


@pytest.mark.parametrize("name", ["val_dice", "val_dice_liver"])
def test_dice_needs_validation_cases(name: str) -> None:
    with pytest.raises(UsageError, match="no validation cases"):
        check_objectives(["seconds", name], STRUCTURES, validated=False)
