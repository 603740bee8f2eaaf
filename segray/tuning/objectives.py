"""Which objectives a sweep of trainings may have, seen before its first trial."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

from segray.errors import UsageError
from segray.tuning.records import LOWER_IS_BETTER

OF_STRUCTURE = "val_dice_"
"""An objective is this and the name of a structure: the Dice of that structure."""


def check_objectives(objectives: Sequence[str], structures: Sequence[str], *, validated: bool) -> None:
    """Whether trainings will have a value of each objective: else each would train to its end, and fail then.

    Args:
        objectives: names of a config.
        structures: of the shards.
        validated: whether the shards have validation cases.

    Raises:
        UsageError: an unknown name (with the nearest known one), or Dice without validation cases.
    """
    dice = ["val_dice", *(f"val_dice_{name}" for name in structures)]
    known = [*dice, *LOWER_IS_BETTER]
    for name in objectives:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise UsageError(
                f"The objective {name} is not one of a training.",
                mend=f"Did you mean {near}? Known are {', '.join(known)}.",
            )
        if name in dice and not validated:
            raise UsageError(
                f"The shards have no validation cases, and so no trial would have the objective {name}.",
                mend="Ingest with ingest.split.validation, or sweep for train_loss.",
            )


def refuse_unshown(objectives: Sequence[str], shown: Collection[str]) -> None:
    """Raise UsageError where no validation case shows a structure whose Dice is an objective.

    Args:
        objectives: names of a config.
        shown: the structures that validation cases show.
    """
    for name in objectives:
        structure = name.removeprefix(OF_STRUCTURE)
        if name.startswith(OF_STRUCTURE) and structure not in shown:
            raise UsageError(
                f"No validation case shows {structure}, and so no trial would have the objective {name}.",
                mend="Ingest with another ingest.split, so that one does, or leave the objective out.",
            )
