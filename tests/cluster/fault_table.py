"""What faults cost: each command once undisturbed and once with every fault, on a cluster of this machine.

    python -m tests.cluster.fault_table --faults worker,power --commands train,predict --out /tmp/faults

Root. Writes table.md and table.json into the folder after every row, and goes on where an earlier call of it ended:
rows that are there are not made again. Exit code 1 where a command did not end right.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segray.nets.bundle import load_bundle
from tests.cluster.faults import FAULTS, Fault
from tests.cluster.hosts import ROOT, history_of, ledger_of, mask_voxels, rows_of
from tests.cluster.user_cluster import Ended, UserCluster

EPOCHS = 8
TRIALS = 4
PATIENCE_S = 900.0
"""Longer than anything takes, on a machine that does other work too."""

LOOKS_AT_NOTHING = ("--set", "ray.preflight=false")
"""A resume takes the settings of ray from its command; the hosts' /tmp is smaller than the look before a job allows."""

FEW = 12
"""Cases that are trained on: an epoch takes seconds."""

TMP_SIZE = "256m"
"""Of each host's /tmp, so that it can be full."""

CONFIG = f"""\
net: {{features: [8, 16]}}
ingest:
  grid: {{mode: size, size: [64, 64]}}
  split: {{validation: 0.1}}
optim: {{lr: 0.003}}
train: {{epochs: {EPOCHS}, batch_size: 8, workers: 2, precision: float32, trackers: []}}
tune: {{trials: {TRIALS}, pruner: none, sampler: random}}
predict: {{precision: float32, review: 0}}
ray: {{preflight: false}}
"""


@dataclass(frozen=True)
class Row:
    """What came of a command.

    Attributes:
        fault, command: what happened to what.
        right: it ended with exit code 0 and all that it should have left.
        seconds: from its submission to its end, by the head's clock; where it was given again, to the end of that.
        struck_after: seconds from the submission to the fault.
        remark: what went wrong, or what there is to say.
        load: processes that wanted a core when it ended (one minute's mean).
    """

    fault: str
    command: str
    right: bool
    seconds: float
    struck_after: float
    remark: str
    load: float


@dataclass(frozen=True)
class Command:
    """A command that is disturbed.

    Attributes:
        words: of segray, with the folder of its outcome.
        again: what goes on with it, with the folder.
        begun: how far it is, by its folder; the fault strikes at ``strike_at``.
        strike_at: of that.
        victim: the number of the host that a fault strikes.
        wrong: what is wrong with the outcome; empty: nothing.
    """

    words: Callable[[str], list[str]]
    again: Callable[[str], list[str]]
    begun: Callable[[Path], int]
    strike_at: int
    victim: Callable[[UserCluster, Path], int]
    wrong: Callable[[UserCluster, Path], str]


def commands(cluster: UserCluster) -> dict[str, Command]:
    """The three commands, on what :func:`prepare` has made."""
    config = str(cluster.state / "my.yaml")
    space = str(ROOT / "tune_spaces" / "quick.py")
    shards = ["--shards", "/mnt/shards", "--run"]
    sweep = ["tune", config, "--space", space, "--set", "train.workers=1", *shards]

    def predict(folder: str) -> list[str]:
        return ["predict", "/mnt/run/bundle", "/mnt/cases", folder, "--config", config]

    return {
        "train": Command(
            lambda folder: ["train", config, *shards, folder],
            lambda folder: ["train", "--resume", folder, *LOOKS_AT_NOTHING],
            lambda folder: len(rows_of(folder / "metrics.csv")),
            3,
            lambda cluster, folder: _number(cluster, history_of(folder)["workers"][0]["host"]),
            wrong_training,
        ),
        "tune": Command(
            lambda folder: [*sweep, folder],
            lambda folder: ["tune", "--resume", folder, *LOOKS_AT_NOTHING],
            lambda folder: max((len(rows_of(path)) for path in folder.glob("trials/*/metrics.csv")), default=0),
            3,
            lambda cluster, folder: _number(cluster, _trial_host(folder)),
            wrong_sweep,
        ),
        "predict": Command(
            predict,
            predict,
            lambda folder: len(ledger_of(folder)) if (folder / "ledger").is_dir() else 0,
            1,
            lambda cluster, folder: 1,
            wrong_prediction,
        ),
    }


def _number(cluster: UserCluster, host: str) -> int:
    return int(host.removeprefix(cluster.name))


def _trial_host(folder: Path) -> str:
    """The host of a trial that is under way."""
    running = [path for path in sorted(folder.glob("trials/*")) if not history_of(path).get("finished")]
    return str(history_of(running[0])["workers"][0]["host"])


def wrong_training(_cluster: UserCluster, folder: Path, epochs: int = EPOCHS) -> str:
    """What is wrong with a run: each epoch once and in order, with all its steps, and a bundle that loads."""
    told = [int(row["epoch"]) for row in rows_of(folder / "metrics.csv")]
    if told != list(range(1, epochs + 1)):
        return f"epochs {told}"
    steps: dict[str, list[int]] = {}
    for row in rows_of(folder / "steps.csv"):
        steps.setdefault(row["epoch"], []).append(int(row["step"]))
    every = [step for epoch in sorted(steps, key=int) for step in steps[epoch]]
    if every != list(range(len(every))) or len({len(one) for one in steps.values()}) != 1 or len(steps) != epochs:
        return f"steps {[(epoch, len(one)) for epoch, one in steps.items()]}"
    load_bundle(str(folder / "bundle")).network()
    return ""


def wrong_sweep(cluster: UserCluster, folder: Path) -> str:
    """What is wrong with a sweep: all trials finished, each with all its epochs, and a bundle."""
    states = [row["state"] for row in rows_of(folder / "trials.csv")]
    if states != TRIALS * ["finished"]:
        return f"trials {states}"
    for trial in sorted(folder.glob("trials/*")):
        if wrong := wrong_training(cluster, trial):
            return f"trial {trial.name}: {wrong}"
    load_bundle(str(folder / "bundle")).network()
    return ""


def wrong_prediction(cluster: UserCluster, folder: Path) -> str:
    """What is wrong with a prediction: each case once, its mask that of the undisturbed prediction."""
    rows = ledger_of(folder)
    cases = sorted(path.name for path in (cluster.shared / "cases" / "images").iterdir())
    failed = [f"{row['case_id']}: {row['reason']}" for row in rows if row["status"] != "ok"]
    if failed:
        return f"{len(failed)} failed, such as {failed[0]}"
    masks = sorted(path.name for path in (folder / "masks").iterdir())
    if masks != cases or len(rows) != len(cases):
        return f"{len(rows)} rows, {len(masks)} masks of {len(cases)} cases"
    for name in masks:
        if not np.array_equal(mask_voxels(folder / "masks" / name), mask_voxels(first_masks(cluster) / name)):
            return f"{name} is another mask"
    return ""


def first_masks(cluster: UserCluster) -> Path:
    """Those of the undisturbed prediction."""
    return cluster.shared / "none-predict" / "masks"


def prepare(cluster: UserCluster, data: Path, cases: int) -> None:
    """Cases, shards, and a bundle to predict with, as far as they are not there."""
    names = sorted(path.name for path in (data / "labels").glob("*.nii.gz") if (data / "images" / path.name).exists())
    for folder, count in (("cases", cases), ("few", FEW)):
        for kind in ("images", "labels"):
            (cluster.shared / folder / kind).mkdir(parents=True, exist_ok=True)
            for name in names[:count]:
                shutil.copyfile(data / kind / name, cluster.shared / folder / kind / name)
    config = cluster.state / "my.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    cluster.follow("ingest", "/mnt/few", "/mnt/shards", "--config", str(config), timeout=PATIENCE_S)
    words = ("--shards", "/mnt/shards", "--run", "/mnt/run", "--set", "train.epochs=3", "--set", "optim.warmup_steps=0")
    if not (cluster.shared / "run" / "bundle" / "bundle.json").is_file():
        shutil.rmtree(cluster.shared / "run", ignore_errors=True)
        cluster.follow("train", str(config), *words, timeout=PATIENCE_S)


def measure(cluster: UserCluster, fault: Fault, name: str, command: Command) -> Row:
    """Run a command, let the fault strike in the middle, and see how it ends."""
    label = f"{fault.name}-{name}"
    folder = cluster.shared / label
    job = cluster.submit(*command.words(f"/mnt/{label}"))
    began = time.monotonic()
    if fault.name != "none":
        cluster.wait_for(
            lambda: command.begun(folder) >= command.strike_at or cluster.is_over(job), "a start", PATIENCE_S
        )
    victim = command.victim(cluster, folder) if fault.name != "none" else 1
    struck = time.monotonic() - began
    fault.strike(cluster, victim)
    try:
        if fault.ends_jobs:
            job = cluster.submit(*command.again(f"/mnt/{label}"))
        ended = cluster.ended(job, timeout=PATIENCE_S)
        seconds = time.monotonic() - began if fault.ends_jobs else ended.seconds
        remark = last_words(ended) if ended.code else command.wrong(cluster, folder)
    finally:
        fault.mend(cluster, victim)
    if ended.code and not fault.ends_jobs:
        (cluster.state / f"{label}.log").write_text(ended.told, encoding="utf-8")
    row = Row(fault.name, name, not remark, round(seconds, 1), round(struck, 1), remark, round(os.getloadavg()[0], 1))
    settle(cluster)
    return row


def settle(cluster: UserCluster) -> None:
    """Wait until the cluster is as it was."""
    cluster.wait_for(lambda: cluster.alive() == 1 + cluster.workers, "all hosts live", PATIENCE_S)


def last_words(ended: Ended) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in ended.told.splitlines() if line.strip()]
    return f"exit code {ended.code}: {lines[-1] if lines else ''}"


def markdown(rows: Sequence[Row]) -> str:
    """The table: seconds that a fault costs, against the undisturbed command."""
    names = list(dict.fromkeys(row.command for row in rows))
    found = {(row.fault, row.command): row for row in rows}
    lines = ["| | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for fault in FAULTS.values():
        if any((fault.name, name) in found for name in names):
            cells = [_cell(found, fault.name, name) for name in names]
            lines.append(f"| {fault.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(found: dict[tuple[str, str], Row], fault: str, name: str) -> str:
    row, calm = found.get((fault, name)), found.get(("none", name))
    if row is None:
        return "-"
    if not row.right:
        return f"failed: {row.remark[:120]}"
    if fault == "none" or calm is None:
        return f"{row.seconds:.0f} s"
    return f"{row.seconds - calm.seconds:+.0f} s"


def keep(out: Path, rows: Sequence[Row]) -> None:
    """Both files."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.json").write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    (out / "table.md").write_text(markdown(rows), encoding="utf-8")


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """What to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", default=",".join(FAULTS), help=f"of {', '.join(FAULTS)}; none: undisturbed")
    parser.add_argument("--commands", default="train,tune,predict")
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "hippocampus_mr")
    parser.add_argument("--out", type=Path, default=Path("fault_table"))
    parser.add_argument("--keep", action="store_true", help="leave the cluster up, and use one that is up")
    told = parser.parse_args(words)
    told.faults, told.commands = told.faults.split(","), told.commands.split(",")
    if unknown := set(told.faults) - set(FAULTS):
        parser.error(f"no fault {', '.join(sorted(unknown))}")
    return told


def bring_up(told: argparse.Namespace) -> UserCluster:
    """A cluster with what the commands need; the one that an earlier call with --keep left."""
    settings = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
    cluster = UserCluster(workers=3, spares=1, settings=settings)
    cluster.environment["NC_TMP"] = TMP_SIZE
    if told.keep and cluster.file.is_file():
        cluster.open_tunnel()
    else:
        cluster.make_hosts()
        cluster.ray_up()
    prepare(cluster, told.data, told.cases)
    return cluster


def main(words: Sequence[str]) -> int:
    """Measure what is asked for and not there yet."""
    told = read_arguments(words)
    file = told.out / "table.json"
    rows = [Row(**one) for one in json.loads(file.read_text(encoding="utf-8"))] if file.is_file() else []
    cluster = bring_up(told)
    try:
        for fault in (FAULTS[name] for name in told.faults):
            for name in told.commands:
                if not any((row.fault, row.command) == (fault.name, name) for row in rows):
                    rows.append(attempt(cluster, fault, name))
                    keep(told.out, rows)
                    print(json.dumps(asdict(rows[-1])), flush=True)
    finally:
        cluster.close_tunnel()
        if not told.keep:
            cluster.clear_away()
    print(markdown(rows))
    return 0 if all(row.right for row in rows) else 1


def attempt(cluster: UserCluster, fault: Fault, name: str) -> Row:
    """As :func:`measure`; what goes wrong with the measurement itself is a row too."""
    shutil.rmtree(cluster.shared / f"{fault.name}-{name}", ignore_errors=True)
    try:
        return measure(cluster, fault, name, commands(cluster)[name])
    except Exception as error:
        traceback.print_exc()
        remark = f"not measured: {str(error).splitlines()[0][:200]}"
        _stop_all(cluster)
        return Row(fault.name, name, False, 0.0, 0.0, remark, round(os.getloadavg()[0], 1))


def _stop_all(cluster: UserCluster) -> None:
    try:
        jobs: list[dict[str, Any]] = cluster.ask("jobs/")
        for job in jobs:
            if job["status"] in ("PENDING", "RUNNING"):
                cluster.run("segray", "stop", str(job["submission_id"]), check=False)
        settle(cluster)
    except Exception:
        traceback.print_exc()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
