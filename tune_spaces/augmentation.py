"""Which augmentations a training gets, how often and how strong.

For few or monotonous cases, with net, loss and optimiser settled. Augmentations that are off draw no strength. Mirrors
are left to the config, since left and right may be different labels; so is augment.window, which only goes with
intensity.mode=window.

Cost: a trial trains the config's own net, and each step takes as much longer as its augmentations need. Strong ones pay
late: give the trials many epochs, or weak ones look better than they are.

Found here: on hippocampi (benchmarks/quality/sweep_hippocampus.py, 30 trials of ten epochs, TPE and ASHA, a 2D net of
widths 8 to 64) nothing beat the defaults: validation Dice 0.8435, the next best 0.8402, with rotations off and cases
shifted often; 12 trials were pruned after two epochs and 15 after six. Three that finished are too few to rate the
settings. How long a training is decides too: a 3D net without any augmentation was the better one after five minutes
of a core, and the worse one after fifteen (benchmarks/quality/hippocampus.py).
"""

from __future__ import annotations

from typing import Any

from optuna.trial import BaseTrial


def space(trial: BaseTrial) -> dict[str, Any]:
    """Settings of a trial."""
    return {
        "augment.enabled": True,
        **_moved(trial),
        **_elastic(trial),
        **_values(trial),
        **_blurred(trial),
        **_cutout(trial),
        **_mixup(trial),
    }


def _moved(trial: BaseTrial) -> dict[str, Any]:
    settings: dict[str, Any] = {
        f"augment.{name}": trial.suggest_float(f"augment.{name}", 0.0, 1.0, step=0.1)
        for name in ("rotate", "scale", "shift")
    }
    if settings["augment.rotate"] > 0:
        settings["augment.rotate_degrees"] = trial.suggest_float("augment.rotate_degrees", 5.0, 45.0)
    if settings["augment.scale"] > 0:
        smallest = trial.suggest_float("augment.scale_factor.0 (smallest)", 0.6, 1.0)
        largest = trial.suggest_float("augment.scale_factor.1 (largest)", 1.0, 1.6)
        settings["augment.scale_factor"] = [smallest, largest]
    if settings["augment.shift"] > 0:
        settings["augment.shift_share"] = trial.suggest_float("augment.shift_share", 0.01, 0.2)
    return settings


def _elastic(trial: BaseTrial) -> dict[str, Any]:
    probability = trial.suggest_float("augment.elastic", 0.0, 0.5, step=0.1)
    if probability == 0:
        return {"augment.elastic": 0.0}
    spacing = trial.suggest_float("augment.elastic_spacing", 16.0, 64.0)
    # A share of the spacing: from 0.48 of it on a slice would fold over itself, which segray refuses.
    share = trial.suggest_float("elastic shift (of the spacing)", 0.05, 0.45, step=0.05)
    return {
        "augment.elastic": probability,
        "augment.elastic_spacing": spacing,
        "augment.elastic_shift": share * spacing,
    }


STRENGTHS = {
    "brightness": ("brightness_share", 0.02, 0.3),
    "contrast": ("contrast_change", 0.05, 0.5),
    "gamma": ("gamma_change", 0.05, 0.5),
    "noise": ("noise_sd", 0.01, 0.15),
}
"""The setting of each change of values, its weakest and its strongest."""


def _values(trial: BaseTrial) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, (strength, weakest, strongest) in STRENGTHS.items():
        probability = trial.suggest_float(f"augment.{name}", 0.0, 1.0, step=0.1)
        settings[f"augment.{name}"] = probability
        if probability > 0:
            settings[f"augment.{strength}"] = trial.suggest_float(f"augment.{strength}", weakest, strongest)
    return settings


def _blurred(trial: BaseTrial) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    settings["augment.blur"] = trial.suggest_float("augment.blur", 0.0, 0.5, step=0.1)
    if settings["augment.blur"] > 0:
        settings["augment.blur_sd"] = [0.5, trial.suggest_float("augment.blur_sd.1 (highest)", 0.5, 2.0)]
    settings["augment.low_resolution"] = trial.suggest_float("augment.low_resolution", 0.0, 0.5, step=0.1)
    if settings["augment.low_resolution"] > 0:
        most = trial.suggest_float("augment.low_resolution_factor.1 (highest)", 1.0, 4.0)
        settings["augment.low_resolution_factor"] = [1.0, most]
    return settings


def _cutout(trial: BaseTrial) -> dict[str, Any]:
    probability = trial.suggest_float("augment.cutout", 0.0, 0.5, step=0.1)
    if probability == 0:
        return {"augment.cutout": 0.0}
    return {
        "augment.cutout": probability,
        "augment.cutout_count": trial.suggest_int("augment.cutout_count", 1, 4),
        "augment.cutout_size": [0.1, trial.suggest_float("augment.cutout_size.1 (largest)", 0.1, 0.4)],
    }


def _mixup(trial: BaseTrial) -> dict[str, Any]:
    probability = trial.suggest_float("augment.mixup", 0.0, 0.5, step=0.1)
    if probability == 0:
        return {"augment.mixup": 0.0}
    return {
        "augment.mixup": probability,
        "augment.mixup_alpha": trial.suggest_float("augment.mixup_alpha", 0.1, 1.0, log=True),
    }
