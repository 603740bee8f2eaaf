"""segray's own 2D U-Net from end to end: width, depth and layers, loss, sampling of slices, optimiser and schedule.

For a data set of its own kind, where nobody knows yet what matters. Some twenty settings, most of them words or under a
condition: take the sampler tpe or random, and many trials. Blocks, attention, augmentation and batch size stay as the
config has them; the net halves its input four times at most, as canvases made by `segray ingest` allow.

Cost: trials differ much. The work of a step grows with the square of the width, and losses and upsamplings differ too;
the widest nets need the most memory. Widths are multiples of 16, since others are several times slower in bf16 on CPUs.

Found here: on hippocampi at 2 mm (benchmarks/quality/sweep_hippocampus.py --spacing 2, trials of six epochs, TPE and
ASHA; ended by hand after 20 of 30 trials) the best has Dice 0.8466 on 36 cases that took no part in the search, where
the defaults with widths 16 to 128 have 0.8235 (95 % of the difference 0.0178 to 0.0290). It has three levels, [48, 96,
192], instance norm, silu, interpolated upsampling, all slices, AdamW at 0.0094, cosine, and 0.6 million parameters
where the defaults have 0.5. All six above 0.85 on validation average their weights (optim.average=0.99); one of them
has [32, 64, 128] and half of the defaults' parameters. A comparison by epochs, not by time: the best took 4.6 minutes,
that one 1.5, the defaults 0.8. Nine finished trials are too few to rate the settings, and in six epochs high rates
pay: longer trainings were not searched, so the defaults stay.
"""

from __future__ import annotations

from typing import Any

from optuna.trial import BaseTrial

MOST_CHANNELS = 512
"""Channels beyond which deeper levels grow no wider, as in nnU-Net's 2D nets."""

LOSSES = {
    "dice_ce": {"dice": 1.0, "cross_entropy": 1.0},
    "dice_bce": {"dice": 0.6, "bce": 0.4},
    "dice_focal": {"dice": 1.0, "focal": 1.0},
    "tversky": {"tversky": 1.0},
    "lovasz_ce": {"lovasz": 1.0, "cross_entropy": 1.0},
}
"""Terms and their weights; all other terms weigh 0."""

TERMS = ("dice", "cross_entropy", "bce", "focal", "tversky", "lovasz")

RATES = {"adamw": (1e-4, 1e-2), "sgd": (1e-3, 1e-1), "rmsprop": (1e-5, 1e-3)}
"""Lowest and highest peak rate. RMSprop's steps grow by its momentum, up to a hundredfold."""

DECAYS = {"adamw": (1e-4, 1e-1), "sgd": (1e-6, 1e-3), "rmsprop": (1e-6, 1e-3)}
"""Lowest and highest weight decay. AdamW multiplies it by the rate; the others add it to the gradient."""


def space(trial: BaseTrial) -> dict[str, Any]:
    """Settings of a trial."""
    return {**_net(trial), **_loss(trial), **_sampling(trial), **_optimiser(trial), **_schedule(trial)}


def _net(trial: BaseTrial) -> dict[str, Any]:
    width = trial.suggest_int("width", 16, 48, step=16)
    levels = trial.suggest_int("levels", 3, 5)
    deep = trial.suggest_categorical("net.deep_supervision", [False, True]) if levels >= 4 else False
    return {
        "net.name": "unet",
        "net.features": [min(width * 2**level, MOST_CHANNELS) for level in range(levels)],
        "net.norm": trial.suggest_categorical("net.norm", ["batch", "instance", "group"]),
        "net.activation": trial.suggest_categorical("net.activation", ["relu", "leaky_relu", "silu"]),
        "net.upsampling": trial.suggest_categorical("net.upsampling", ["transposed", "bilinear", "interpolated"]),
        "net.dropout": trial.suggest_float("net.dropout", 0.0, 0.5, step=0.1),
        "net.deep_supervision": deep,
    }


def _loss(trial: BaseTrial) -> dict[str, Any]:
    chosen = trial.suggest_categorical("loss", list(LOSSES))
    settings: dict[str, Any] = {f"loss.{term}": LOSSES[chosen].get(term, 0.0) for term in TERMS}
    if chosen == "dice_focal":
        settings["loss.focal_gamma"] = trial.suggest_float("loss.focal_gamma", 0.5, 4.0)
    if chosen == "tversky":
        alpha = trial.suggest_float("loss.tversky_alpha", 0.1, 0.7)
        settings |= {"loss.tversky_alpha": alpha, "loss.tversky_beta": 1 - alpha}
    return settings


def _sampling(trial: BaseTrial) -> dict[str, Any]:
    mode = trial.suggest_categorical("sampling.mode", ["all", "foreground", "balanced"])
    if mode != "foreground":
        return {"sampling.mode": mode}
    share = trial.suggest_float("sampling.foreground_share", 0.5, 1.0)
    return {"sampling.mode": mode, "sampling.foreground_share": share}


def _optimiser(trial: BaseTrial) -> dict[str, Any]:
    name = trial.suggest_categorical("optim.name", list(RATES))
    # A name with its own range for each, so that the sampler does not mix up rates that mean different things.
    settings = {
        "optim.name": name,
        "optim.lr": trial.suggest_float(f"optim.lr ({name})", *RATES[name], log=True),
        "optim.weight_decay": trial.suggest_float(f"optim.weight_decay ({name})", *DECAYS[name], log=True),
        "optim.average": trial.suggest_categorical("optim.average", [0.0, 0.99, 0.999]),
    }
    if name != "adamw":
        settings["optim.momentum"] = trial.suggest_categorical("optim.momentum", [0.9, 0.95, 0.99])
    return settings


def _schedule(trial: BaseTrial) -> dict[str, Any]:
    schedule = trial.suggest_categorical("optim.schedule", ["polynomial", "cosine", "one_cycle"])
    if schedule == "one_cycle":  # It rises by itself and heeds no warm-up.
        return {"optim.schedule": schedule}
    warmup = trial.suggest_int("optim.warmup_steps", 0, 200, step=50)
    return {"optim.schedule": schedule, "optim.warmup_steps": warmup}
