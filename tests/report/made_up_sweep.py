"""Made-up trials of a sweep that never ran: a space with log, conditional, category, bool and list parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from segray.tuning.records import Objective, State, TrialRecord

DICE, GFLOPS = Objective("val_dice"), Objective("gflops")
HOSTS = ("node-a", "node-b.cluster.local")
LANES, EPOCHS, START = 2, 20, 1_790_000_000.0


def sweep(count: int, seed: int = 0, more: int = 0) -> list[TrialRecord]:
    """``count`` trials of one objective and a cost, on two hosts of two lanes each; ``more`` further parameters."""
    generator = np.random.default_rng(seed)
    free = {(host, lane): START for host in HOSTS for lane in range(LANES)}
    records = []
    for number in range(count):
        params = _draw(generator, number / max(count, 1), more)
        place = min(free, key=lambda key: free[key])
        record = _train(generator, number, params, place[0], free[place])
        free[place] = (record.ended or START) + 4.0
        records.append(record)
    return records


def _draw(generator: np.random.Generator, progress: float, more: int) -> dict[str, Any]:
    spread = 1.6 - 1.1 * progress
    params: dict[str, Any] = {
        "optim.lr": float(10 ** np.clip(-2.6 + spread * generator.normal(), -5, -0.5)),
        "optim.name": str(generator.choice(["adamw", "sgd", "lion"])),
        "net.width": int(generator.choice([16, 32, 48, 64])),
        "net.levels": [[32, 64, 128], [32, 64, 128, 256]][int(generator.integers(2))],
        "augment.elastic": bool(generator.random() < 0.4 + 0.4 * progress),
        "augment.rotation": float(generator.uniform(0, 30)),
    }
    if params["optim.name"] == "sgd":
        params["optim.momentum"] = float(generator.uniform(0.8, 0.99))
    params.update({f"further.parameter_{at:02d}": float(generator.random()) for at in range(more)})
    return params


def _train(generator: np.random.Generator, number: int, params: dict[str, Any], host: str, began: float) -> TrialRecord:
    off = math.log10(params["optim.lr"]) + 2.6
    top = 0.93 - 0.05 * off * off - 0.02 * (params["optim.name"] == "sgd") + 0.0004 * params["net.width"]
    top = max(top + 0.006 * generator.normal(), 0.05)
    chance = generator.random()
    state: State = "failed" if chance < 0.12 else "pruned" if chance < 0.2 or top < 0.86 else "finished"
    epochs = int(generator.integers(2, 12)) if state == "pruned" else EPOCHS
    curve = tuple(
        (at, float(top * (1 - 0.8 * math.exp(-at / 3)) + 0.004 * generator.normal())) for at in range(1, epochs + 1)
    )
    infeasible = state == "failed" and bool(generator.random() < 0.5)
    gflops = 0.01 * params["net.width"] ** 2 * float(generator.uniform(0.8, 1.3))
    return TrialRecord(
        number,
        state,
        params,
        {**params, "train.epochs": EPOCHS},
        (curve[-1][1], gflops) if state == "finished" else None,
        () if state == "failed" else curve,
        began,
        began + (30.0 if state == "failed" else epochs * (20 + params["net.width"])),
        host,
        f"runs/{number}",
        "CUDA ran out of memory." if infeasible else "A <b>worker</b> died." if state == "failed" else "",
        infeasible,
        {"parameters": 1.5},
    )


IMPORTANCES = {
    "optim.lr": 0.61,
    "net.width": 0.17,
    "optim.name": 0.12,
    "augment.rotation": 0.06,
    "augment.elastic": 0.03,
    "net.levels": 0.01,
}
