"""A sweep on the hippocampus of MSD Task04: is the best trial better than the defaults, on cases that nobody chose by?

    python benchmarks/quality/sweep_hippocampus.py DATA [--space quick] [--trials 30] [--epochs 6] [--keep FOLDER]
                                                   [--set KEY=VALUE] [--spacing 1] [--small]

DATA holds images/ and labels/. `segray tune` with a space of tune_spaces/ (TPE, ASHA) around hippocampus_default.yaml;
the first trial is the defaults. With the space inference nothing is trained but one net by the defaults. The search
sees training and validation cases; a fifth of all cases, the test split, is predicted only afterwards, by the bundle of
the defaults and by that of the best trial (with inference by the one net, as the defaults predict and as the best trial
does), and measured by `segray evaluate`. The difference is given with the 95 % interval of a bootstrap over the test
cases.

Wanted: better than the defaults, or as good with a smaller net, with at least 30 trials. Measured
(results/quality_sweep_hippocampus.json): 0.8657 against 0.8589 on the 36 test cases, better by 0.0067 (95 % 0.0032 to
0.0108), in 75 minutes of one core while other work ran on the other; 17 of the 30 trials were pruned. What
the other spaces found stands in their docstrings, and in results files named after them.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hippocampus import HERE, INGEST, segray

sys.path.insert(0, str(HERE.parent))

from machine import settings_facts, write_result

SPACES = HERE.parents[1] / "tune_spaces"
SPLIT = ("ingest.split.validation=0.2", "ingest.split.test=0.2")
DRAWS = 10_000


def case_dice(masks: Path) -> dict[str, float]:
    """Case to its mean Dice over the structures, of a `segray evaluate`."""
    found: dict[str, list[float]] = {}
    for row in csv.DictReader((masks / "metrics.csv").open()):
        if row["dice"] not in ("", "nan"):
            found.setdefault(row["case_id"], []).append(float(row["dice"]))
    return {case: float(np.mean(values)) for case, values in found.items()}


def interval(differences: list[float]) -> list[float]:
    """The 95 % interval of the mean, cases drawn with replacement."""
    drawn = np.random.default_rng(0).integers(0, len(differences), (DRAWS, len(differences)))
    low, high = np.percentile(np.array(differences)[drawn].mean(1), (2.5, 97.5))
    return [round(float(low), 4), round(float(high), 4)]


@dataclass(frozen=True)
class Plan:
    """What is searched: the space, how many trials, and the settings of the ingest and of the trainings."""

    space: str
    trials: int
    ingest: list[str]
    more: list[str]


def measure(data: Path, work: Path, plan: Plan) -> dict[str, Any]:
    begin = time.monotonic()
    shards, sweep = str(work / "shards"), work / "sweep"
    if not (work / "shards" / "manifest.json").exists():
        segray("ingest", str(data), shards, settings=[*plan.ingest, *SPLIT])
    config, more = str(HERE / "hippocampus_default.yaml"), plan.more
    if plan.space == "inference":
        if not (work / "trained" / "bundle").exists():
            segray("train", config, "--shards", shards, "--run", str(work / "trained"), settings=more)
        more = [*more, f"tune.bundle={work / 'trained'}"]
    words = ("tune", config, "--space", str(SPACES / f"{plan.space}.py"), "--shards", shards, "--run", str(sweep))
    seconds = segray(*words, "--trials", str(plan.trials), settings=more)
    rows = list(csv.DictReader((sweep / "trials.csv").open()))
    best = max((row for row in rows if row["state"] == "finished"), key=lambda row: float(row["val_dice"]))
    dice = {name: test_dice(data, work, plan, name, row) for name, row in (("defaults", rows[0]), ("best", best))}
    differences = [dice["best"][case] - dice["defaults"][case] for case in dice["best"]]
    return {
        "space": plan.space,
        "settings": plan.more,
        "trials": len(rows),
        "states": dict(Counter(row["state"] for row in rows)),
        "minutes of the sweep": round(seconds / 60, 1),
        "minutes in all": round((time.monotonic() - begin) / 60, 1),
        "best trial": int(best["trial"]),
        "its settings": settings_of(best),
        "validation Dice": {"defaults": float(rows[0]["val_dice"]), "best": float(best["val_dice"])},
        "test cases": len(differences),
        "test Dice": {name: round(float(np.mean(list(found.values()))), 4) for name, found in dice.items()},
        "best better by": round(float(np.mean(differences)), 4),
        "95 %": interval(differences),
    }


def settings_of(row: dict[str, str]) -> dict[str, str]:
    """What a trial was given: the columns between its reason and its run."""
    names = list(row)
    return {name: row[name] for name in names[names.index("reason") + 1 : -1] if row[name]}


def test_dice(data: Path, work: Path, plan: Plan, name: str, row: dict[str, str]) -> dict[str, float]:
    """The Dice of each case that took no part in the search, of a trial's bundle, or of its way to predict."""
    masks, words = work / f"masks_{name}", []
    trained = str(work / "trained") if plan.space == "inference" else row["run"]
    if plan.space == "inference" and name == "best":
        words = ["--config", str(work / "sweep" / "best.yaml")]
    segray("predict", trained, str(data), str(masks), *words, settings=["predict.split=test"])
    segray("evaluate", str(masks), str(data), settings=[*plan.ingest[:1], "evaluate.split=test"])
    return case_dice(masks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", help="folder with images/ and labels/")
    parser.add_argument("--space", default="quick", help="of tune_spaces/")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=6, help="of a trial")
    parser.add_argument("--keep", help="folder for shards, sweep and masks; else they are thrown away")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="a further setting, such as ray.cpus=1")
    parser.add_argument("--spacing", type=float, default=1.0, help="mm of the pixels: 2 are four times as fast as 1")
    parser.add_argument("--small", action="store_true", help="two trials on small phantoms, nothing written: for CI")
    arguments = parser.parse_args()
    if not arguments.small and not arguments.data:
        parser.error("name the folder of the data")
    os.environ.setdefault("RAY_worker_niceness", "0")
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(arguments.keep or scratch)
        if arguments.small:
            segray("phantoms", str(work / "scans"), "--cases", "5")
            ingest = ["ingest.structures=[liver]", "ingest.grid.spacing=[9,9]"]
            quick = ["train.epochs=1", "net.features=[4,8]"]
            print(measure(work / "scans", work, Plan(arguments.space, 2, ingest, quick)))
            return
        more = [f"train.epochs={arguments.epochs}", *arguments.sets]
        # Canvases that every net of the spaces can halve.
        ingest = [*INGEST, f"ingest.grid.spacing=[{arguments.spacing},{arguments.spacing}]", "ingest.grid.multiple=16"]
        plan = Plan(arguments.space, arguments.trials, INGEST if arguments.spacing == 1 else ingest, more)
        result = measure(Path(arguments.data).resolve(), work, plan) | {"spacing mm": arguments.spacing}
    print(result)
    beside = "" if arguments.space == "quick" else f"_{arguments.space}"
    config = settings_facts(HERE / "hippocampus_default.yaml", more)
    write_result(f"quality_sweep_hippocampus{beside}", result | {"config": config})


if __name__ == "__main__":
    main()
