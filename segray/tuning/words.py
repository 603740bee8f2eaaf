"""Objectives, settings and times of a sweep in words, for the terminal and the page alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from segray.tuning.records import Objective

_WORDS = {
    "val_dice": "validation Dice",
    "train_loss": "training loss",
    "parameters": "parameters (millions)",
    "gflops": "GFLOPs of a slice",
    "latency": "latency of a slice (ms)",
    "seconds": "training time (s)",
}
_OF_STRUCTURE = "val_dice_"


def objective_words(objective: Objective) -> str:
    """What an objective measures, with its unit."""
    if objective.name in _WORDS:
        return _WORDS[objective.name]
    if objective.name.startswith(_OF_STRUCTURE):
        return f"validation Dice of {objective.name.removeprefix(_OF_STRUCTURE)}"
    return objective.name


def value_text(value: float, objective: Objective) -> str:
    """A value of an objective: four decimals of a Dice, four digits of anything else."""
    return f"{value:.4f}" if objective.maximise and abs(value) < 1000 else number_text(value)


def number_text(value: float) -> str:
    """Four digits; no exponent where the number is short without one."""
    short = f"{value:.4g}"
    return (
        f"{value:.0f}"
        if "e" in short and 1 <= abs(value) < 1e7
        else short.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    )


def setting_text(value: Any) -> str:
    """A drawn value on one line, as one would write it into a config."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return number_text(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(setting_text(one) for one in value)}]"
    return " ".join(str(value).split()) or "''"


def shortened(text: str, most: int) -> str:
    """``text`` on one line, with dots in place of its middle where it has more than ``most`` letters."""
    # half a surrogate pair, as names of files may hold, can neither be drawn nor be written
    text = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    if len(text) <= most:
        return text
    tail = (most - 1) // 2
    return f"{text[: most - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - tail :]}"


def duration_text(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads well."""
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 90:
        return counted(round(seconds), "second")
    if seconds < 90 * 60:
        return counted(round(seconds / 60), "minute")
    return f"{seconds / 3600:.1f} hours"


def counted(count: int, thing: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def listed(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)
