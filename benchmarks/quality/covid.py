"""What helps on COVID-19 infection in CT pictures of groups that training has not seen: one change a row.

    python benchmarks/quality/covid.py DATA [--epochs 20] [--batch 16] [--side 128] [--features 16 32 64 128]
        [--rows base focal tversky+residual] [--keep FOLDER] [--small]

DATA holds frames/, masks/ (infection) and lung_masks/: 662 pictures of six patient groups. The base is
examples/covid_lungs2d.yaml. Each row changes one thing and trains three folds for the same number of epochs; a group is
never cut, so that every group is predicted by a net that has seen none of its pictures. `segray predict` and `segray
evaluate` as a user runs them; Dice of all voxels of a group, mean over the six groups, and the lowest of them. Each row
is trained with two seeds, whose difference tells how much is luck. Rows joined by + are changed together. As many
trainings run at once as there are cores, each on a core of its own, some 15 minutes; one that is in --keep is not run
again. All rows take hours: each is written to the results file when it is done, and rows that stand there from before,
of the same size, stay.

Seen with 6 epochs, which is 165 steps a fold: two seeds of the base gave 0.477 and 0.364, so that nothing between them
tells of a setting (focal 0.464; infection weighing three times 0.254). Hence 20 epochs.
Neither do 10 epochs of nets of half the width on 64 pixels, 16 at a time: 0.262 and 0.148. With 8 at a time and 20
epochs (`--epochs 20 --batch 8 --side 64 --features 8 16 32 64`) two seeds agree within 0.034; such a row took 16 to
32 minutes, the quick ones on a machine that did nothing else.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import RESULTS, machine_facts, settings_facts, write_result

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "examples" / "covid_lungs2d.yaml"
FOLDS = 3
SEEDS = (0, 1)

STRONG = ("augment.elastic=0.3", "augment.blur=0.2", "augment.low_resolution=0.2", "augment.window=0.3")
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "base": ("", ()),
    "focal": ("loss", ("loss.focal=1",)),
    "tversky": ("loss", ("loss.dice=0", "loss.tversky=1")),
    "lovasz": ("loss", ("loss.dice=0", "loss.lovasz=1")),
    "infection weighs 2": ("loss", ("loss.class_weights={infection: 2}",)),
    "balanced": ("sampling", ("sampling.mode=balanced",)),
    "no augmentation": ("augmentation", ("augment.enabled=false",)),
    "strong augmentation": ("augmentation", STRONG),
    "residual": ("net", ("net.blocks=residual",)),
    "attention": ("net", ("net.attention=true",)),
    "average of weights": ("optimisation", ("optim.average=0.99",)),
}
"""Name of a row: what kind of change it is, and the settings."""


@dataclass(frozen=True)
class Size:
    """How long is trained, how many pictures at once, of how many pixels a side, with a net of which widths."""

    epochs: int
    batch: int
    side: int
    features: list[int]

    @property
    def shards(self) -> str:
        """Name of the folder of such pictures."""
        return f"shards_{self.side}"

    @property
    def settings(self) -> tuple[str, ...]:
        """Of a training."""
        return (
            f"train.epochs={self.epochs}",
            f"train.batch_size={self.batch}",
            f"net.features={self.features}",
            f"train.validate_every={max(1, self.epochs // 10)}",
        )

    def __str__(self) -> str:
        """For the name of a folder."""
        return f"{self.epochs}_epochs_of_{self.batch}_{self.side}_{'-'.join(str(width) for width in self.features)}"


def row_named(name: str) -> tuple[str, tuple[str, ...]]:
    """What kinds of change a row is, and its settings; several rows joined by + are made together."""
    unknown = [part for part in name.split("+") if part not in ROWS]
    if unknown:
        raise SystemExit(f"there is no row {unknown[0]}; there are: {', '.join(ROWS)}")
    kinds, settings = zip(*(ROWS[part] for part in name.split("+")), strict=True)
    return ", ".join(dict.fromkeys(filter(None, kinds))), tuple(setting for one in settings for setting in one)


def segray(core: int, *words: str, settings: Sequence[str] = ()) -> None:
    """Run a command as a user would, on one core."""
    program = Path(sys.executable).with_name("segray")
    sets = [word for setting in settings for word in ("--set", setting)]
    subprocess.run(["taskset", "-c", str(core), str(program), *words, *sets], check=True)


def scores_of(folder: Path) -> dict[str, dict[str, float]]:
    """Structure to the Dice of each group."""
    found: dict[str, dict[str, float]] = {}
    for row in csv.DictReader((folder / "patients.csv").open()):
        found.setdefault(row["structure"], {})[row["patient"]] = round(float(row["dice"]), 4)
    return found


def is_trained(run: Path) -> bool:
    """Whether a run that was kept came to its end."""
    history = run / "history.json"
    return history.exists() and bool(json.loads(history.read_text()).get("finished"))


def run_once(core: int, name: str, seed: int, data: Path, work: Path, size: Size) -> dict[str, Any]:
    """Train three folds with the change of a row, predict every picture, evaluate."""
    place = work / f"{name.replace(' ', '_')}_{size}_seed_{seed}"
    if (place / "scores.json").exists():
        kept: dict[str, Any] = json.loads((place / "scores.json").read_text())
        return kept
    begin = time.monotonic()
    fit = (f"train.folds={FOLDS}", *size.settings, "train.minutes=0", "train.trackers=[]", f"seed={seed}")
    one_at_once = ("train.cpus_per_worker=0.75",)
    config, run, shards = str(CONFIG), str(place / "run"), str(work / size.shards)
    if not is_trained(Path(run)):
        begun = (Path(run) / "config.yaml").exists()
        words = ("train", "--resume", run) if begun else ("train", config, "--shards", shards, "--run", run)
        segray(core, *words, settings=() if begun else (*fit, *one_at_once, *row_named(name)[1]))
    words = ("predict", run, str(data), str(place / "masks"), "--config", config)
    segray(core, *words, settings=("predict.split=validation", "predict.review=0"))
    segray(core, "evaluate", str(place / "masks"), str(data), "--config", config)
    scores: dict[str, Any] = {"dice": scores_of(place / "masks"), "seconds": round(time.monotonic() - begin)}
    (place / "scores.json").write_text(json.dumps(scores))
    print(f"{name}, seed {seed}: {scores['dice']['infection']}", flush=True)
    return scores


def row_of(name: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A row of the table: means over groups, of each seed and of all."""
    infection = [float(np.mean(list(one["dice"]["infection"].values()))) for one in found]
    lung = [float(np.mean(list(one["dice"]["lung"].values()))) for one in found]
    kind, settings = row_named(name)
    return {
        "changes": kind or "nothing",
        "settings": list(settings),
        "infection": round(float(np.mean(infection)), 4),
        "infection of each seed": [round(value, 4) for value in infection],
        "infection, lowest group": min(min(one["dice"]["infection"].values()) for one in found),
        "lung": round(float(np.mean(lung)), 4),
        "groups of each seed": [one["dice"]["infection"] for one in found],
        "seconds": [one["seconds"] for one in found],
        "processor": machine_facts()["processor"],
    }


def measure(
    data: Path,
    work: Path,
    names: Sequence[str],
    size: Size,
    seeds: Sequence[int] = SEEDS,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and result of each row, as they are done."""
    cores: queue.SimpleQueue[int] = queue.SimpleQueue()
    affinity = sorted(os.sched_getaffinity(0))
    for core in affinity:
        cores.put(core)
    if not (work / size.shards / "manifest.json").exists():
        grid = (f"ingest.grid.size=[{size.side},{size.side}]",)
        segray(affinity[0], "ingest", str(data), str(work / size.shards), "--config", str(CONFIG), settings=grid)

    def one(unit: tuple[str, int]) -> dict[str, Any]:
        core = cores.get()
        try:
            return run_once(core, *unit, data, work, size)
        finally:
            cores.put(core)

    with ThreadPoolExecutor(len(affinity)) as pool:
        scores = pool.map(one, [(name, seed) for name in names for seed in seeds])
        for name in names:
            yield name, row_of(name, [next(scores) for _ in seeds])


def rows_before(kind: dict[str, Any]) -> dict[str, Any]:
    """Rows of the results file that were trained as long as these are, with nets as wide."""
    path = RESULTS / "quality_covid.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    rows: dict[str, Any] = found.get("rows", {})
    return rows if all(found.get(key) == value for key, value in kind.items()) else {}


def small_data(folder: Path) -> Path:
    """Four pictures of each of three groups, a bright disc in a grey one: for CI."""
    rows, columns = np.mgrid[:64, :64]
    for kind in ("frames", "masks", "lung_masks"):
        (folder / kind).mkdir(parents=True)
    for group in (1, 2, 3):
        for number in range(4):
            far = np.hypot(rows - 30 - group, columns - 30 - number)
            lung, infection = far < 22, far < 8
            pictures = {"frames": 90 * lung + 120 * infection, "masks": 255 * infection, "lung_masks": 255 * lung}
            for kind, picture in pictures.items():
                Image.fromarray(picture.astype(np.uint8)).save(folder / kind / f"g0{group}_{number}.png")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", help="folder with frames/, masks/ and lung_masks/")
    parser.add_argument("--epochs", type=int, default=20, help="of each fold")
    parser.add_argument("--batch", type=int, default=16, help="pictures a step")
    parser.add_argument("--side", type=int, default=128, help="of the pictures that are learnt, in pixels")
    parser.add_argument("--features", type=int, nargs="+", default=[16, 32, 64, 128], help="of the net, by level")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), help="which; all by default")
    parser.add_argument("--keep", help="folder for shards, runs, masks and finished rows; else they are thrown away")
    parser.add_argument("--small", action="store_true", help="one row on made pictures, nothing written: for CI")
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_worker_niceness", "0")
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(arguments.keep or scratch)
        work.mkdir(parents=True, exist_ok=True)
        if arguments.small:
            print(dict(measure(small_data(work / "data"), work, ["tversky"], Size(1, 16, 64, [4, 8]), (0,))))
            return
        if not arguments.data:
            parser.error("name the folder of the data")
        for name in arguments.rows:
            row_named(name)
        size = Size(arguments.epochs, arguments.batch, arguments.side, arguments.features)
        kind = {"folds": FOLDS, **asdict(size)}
        rows = rows_before(kind)
        data = Path(arguments.data).resolve()
        for name, row in measure(data, work, arguments.rows, size):
            rows[name] = row
            config = settings_facts(CONFIG, size.settings)
            write_result("quality_covid", kind | {"seeds": SEEDS, "config": config, "rows": rows})


if __name__ == "__main__":
    main()
