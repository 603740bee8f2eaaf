"""How a trained bundle predicts: mirrors, turns, zooms, thresholds, cleaning; nothing is trained.

For a bundle that is good already, on the validation cases of the shards that it was trained on. Try it with the bundle
in `tune.bundle`: `segray tune my.yaml --space tune_spaces/inference.py --set tune.bundle=runs/one`, then predict with
`--config best.yaml`. With few validation cases choose what is better by much: what is better by a hair is luck.

Thresholds need names: write those of your structures into STRUCTURES; below 0.5 a structure gets more voxels, above it
fewer. Mirrors help where the training mirrored along the same axis (augment.flip_x and so on); elsewhere they do harm.
Turns are about z; for a 3D net that was trained with augment.space write {"x": 7, "y": 7, "z": 7} into TURNS.

Cost: a trial predicts all validation cases once; an axis in `predict.mirror` doubles its time, and an axis in
`predict.turn`, or a zoom, adds two passes to one.

Found here: on a 2D net of hippocampi (benchmarks/quality/sweep_hippocampus.py, widths 16 to 128, ten epochs without
mirrors; 40 trials in 7 minutes of two cores, before there were turns and zooms) nothing was better than the defaults by
more than a hair (0.8557 against 0.8556), and on 36 cases that took no part in the search nothing at all (0.8634 both).
Mirrors that the training had not seen made validation Dice 0.55 (x), 0.46 (y) and 0.00 (both); a largest component and
holes that are filled changed less than 0.001; smallest_ml took structures away that are no larger themselves
(0.22 from 1.8 ml on).
"""

from __future__ import annotations

from typing import Any

from optuna.trial import BaseTrial

STRUCTURES: tuple[str, ...] = ()
"""Structures whose threshold is searched."""

MIRRORS = {"none": [], "x": ["x"], "y": ["y"], "xy": ["x", "y"]}

TURNS: dict[str, dict[str, float]] = {"none": {}, "7": {"z": 7.0}}


def space(trial: BaseTrial) -> dict[str, Any]:
    """Settings of a trial."""
    settings: dict[str, Any] = {
        "predict.mirror": MIRRORS[trial.suggest_categorical("mirror", list(MIRRORS))],
        "predict.turn": TURNS[trial.suggest_categorical("turn", list(TURNS))],
        "predict.zoom": trial.suggest_categorical("zoom", [0.0, 0.06]),
        "predict.largest_component": ["all"] if trial.suggest_categorical("largest_component", [False, True]) else [],
        "predict.fill_holes": ["all"] if trial.suggest_categorical("fill_holes", [False, True]) else [],
        "predict.smallest_ml": _smallest(trial),
    }
    thresholds = {name: trial.suggest_float(f"threshold {name}", 0.2, 0.8) for name in STRUCTURES}
    return settings | ({"predict.threshold": thresholds} if thresholds else {})


def _smallest(trial: BaseTrial) -> dict[str, float]:
    if not trial.suggest_categorical("remove_small", [False, True]):
        return {}
    return {"all": trial.suggest_float("smallest_ml", 0.01, 10.0, log=True)}
