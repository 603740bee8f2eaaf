"""segray's default training against MONAI's tutorial and milesial's loop: same cases, net size and minutes.

    python benchmarks/quality/against_peers.py DATA [--minutes 20] [--pinned] [--nnunet FOLDER] [--keep FOLDER]

DATA holds images/ and labels/ (the hippocampus of MSD Task04). On an otherwise idle machine each trains for the given
minutes of wall-clock time, start-up and validations included: one after the other on all cores, or with --pinned as
many at a time as there are cores, each on a core of its own, Ray's processes included:

* segray: its defaults (hippocampus_default.yaml);
* milesial: the loop of milesial's Pytorch-UNet with segray's config (hippocampus_milesial.yaml), the same 2D net;
* monai: the spleen_segmentation_3d tutorial with a 3D net of the same widths (monai_tutorial.py);
* nnunet, with --nnunet, the folder where its packages lie or shall lie: its own 3d_fullres training with the same
  widths (nnunet_trainer.py).

All of them then predict the cases of the shards' validation split, which choose nothing but the best epoch of each, and
one function counts the Dice of all of them on the cases' own grids. The difference to segray is given with the 95 %
interval of a bootstrap over the cases.

Predicted: segray 0.87, monai 0.85 (Adam 1e-4 is slow, its 3D patches help), milesial below 0.5 (learning rate 1e-5 on
single slices). Measured, pinned: segray 0.868, monai 0.848, milesial 0.840 (half an epoch of single slices is 5,000
steps), nnU-Net 0.000: 250 steps on a core, of which its loss fell from 0.73 to below 0.03 (results/
quality_against_peers.json). Other work took up to a quarter of the cores then.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import yaml
from hippocampus import FOLDS, INGEST, segray
from machine import settings_facts, write_result
from monai_tutorial import Files, MonaiTutorial
from nnunet_trainer import NnUNet, install

from segray.evaluation.counting import count_pair
from segray.evaluation.metrics import dice
from segray.shards.manifest import load_manifest

HERE = Path(__file__).resolve().parent
NAMES = ("segray", "milesial", "monai")
CONFIGS = {"segray": HERE / "hippocampus_default.yaml", "milesial": HERE / "hippocampus_milesial.yaml"}
DRAWS = 10_000


def files_of(data: Path, case: str) -> Files:
    """The image and the labels of a case."""
    image = next((data / "images").glob(f"{case}.nii*"))
    return {"image": str(image), "label": str(data / "labels" / image.name)}


def scores_of(masks: Path, cases: Sequence[Files], structures: int) -> list[float]:
    """The mean Dice over the structures of each case."""
    found = []
    for case in cases:
        truth, mask = (
            np.ascontiguousarray(np.asarray(nibabel.load(path).dataobj).T).astype(np.uint8)
            for path in (case["label"], masks / Path(case["image"]).name)
        )
        found.append(float(np.nanmean(dice(count_pair(truth, mask, structures + 1).structures()))))
    return found


def interval(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """The 95 % interval of the mean difference, cases drawn with replacement."""
    differences = np.subtract(ours, theirs)
    drawn = np.random.default_rng(0).integers(0, len(differences), (DRAWS, len(differences)))
    low, high = np.percentile(differences[drawn].mean(1), (2.5, 97.5))
    return [round(float(low), 4), round(float(high), 4)]


def train_ours(name: str, data: Path, work: Path, minutes: float, more: list[str]) -> Path:
    """Train and predict by the commands; the folder of the masks."""
    run, out = work / name, work / f"masks_{name}"
    words = ("train", str(CONFIGS[name]), "--shards", str(work / "shards"), "--run", str(run))
    segray(*words, settings=[f"train.minutes={minutes}", *more])
    segray("predict", str(run), str(data), str(out), settings=["predict.split=validation"])
    return out / "masks"


def train_theirs(name: str, data: Path, work: Path, minutes: float) -> Path:
    """The same by MONAI's tutorial or by nnU-Net; the folder of the masks."""
    manifest = load_manifest(str(work / "shards"))
    features = [int(word) for word in yaml.safe_load(CONFIGS["segray"].read_text())["net"]["features"]]
    structures = manifest.label_map.names
    cases = {split: [files_of(data, case) for case in manifest.cases(split)] for split in ("train", "validation")}
    peer: Any = (
        MonaiTutorial(features, len(structures))
        if name == "monai"
        else NnUNet(work / "nnunet", features, list(structures))
    )
    print(name, peer.train(cases["train"], cases["validation"], minutes), flush=True)
    peer.predict(cases["validation"], work / f"masks_{name}")
    return work / f"masks_{name}"


def compete(name: str, data: Path, work: Path, minutes: float, more: list[str]) -> None:
    """Train one contestant, predict, and leave its scores and seconds."""
    begin = time.monotonic()
    manifest = load_manifest(str(work / "shards"))
    structures = len(manifest.label_map.names)
    ours = name in CONFIGS
    masks = train_ours(name, data, work, minutes, more) if ours else train_theirs(name, data, work, minutes)
    seconds = round(time.monotonic() - begin)
    held_out = [files_of(data, case) for case in manifest.cases("validation")]
    scores = scores_of(masks, held_out, structures)
    (work / f"{name}.json").write_text(json.dumps({"scores": scores, "seconds": seconds}))
    print(f"{name}: mean Dice {np.mean(scores):.4f} on {len(held_out)} cases", flush=True)


def in_turn(commands: dict[str, list[str]], *, pinned: bool) -> None:
    """Run the contestants, each on a core of its own or each on all."""
    cores = sorted(os.sched_getaffinity(0)) if pinned else [None]
    waiting = list(commands.values())
    while waiting:
        group, waiting = waiting[: len(cores)], waiting[len(cores) :]
        prefixes = [[] if core is None else ["taskset", "-c", str(core)] for core in cores]
        running = [subprocess.Popen([*prefix, *words]) for prefix, words in zip(prefixes, group, strict=False)]
        codes = [process.wait() for process in running]
        if any(codes):
            raise SystemExit("a contestant failed")


def measure(
    data: Path,
    work: Path,
    minutes: float,
    more: list[str],
    *,
    pinned: bool,
    names: Sequence[str] = NAMES,
    nnunet: Path | None = None,
) -> dict[str, Any]:
    segray("ingest", str(data), str(work / "shards"), settings=[*INGEST, f"ingest.split.validation={1 / FOLDS}"])
    manifest = load_manifest(str(work / "shards"))
    words = [sys.executable, __file__, str(data), "--minutes", str(minutes), "--keep", str(work)]
    words += [*(("--nnunet", str(nnunet)) if nnunet else ()), "--more", *more]
    in_turn({name: [*words[:2], "--only", name, *words[2:]] for name in names}, pinned=pinned)
    found = {name: json.loads((work / f"{name}.json").read_text()) for name in names}
    scores = {name: one["scores"] for name, one in found.items()}
    seconds = {name: one["seconds"] for name, one in found.items()}
    first, *peers = names
    return {
        "minutes": minutes,
        "cores of each": 1 if pinned else len(os.sched_getaffinity(0)),
        "cases": {split: len(manifest.cases(split)) for split in ("train", "validation")},
        "seconds with prediction": seconds,
        "dice": {name: round(float(np.mean(found)), 4) for name, found in scores.items()},
        f"{first} better by, 95 %": {name: interval(scores[first], scores[name]) for name in peers},
    }


def small_data(folder: Path) -> Path:
    """A few blobs with two structures: for CI."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(6):
        labels = np.zeros((32, 48, 32), np.uint8)
        labels[8:24, 12:24, 8:24], labels[8:24, 24:36, 8:24] = 1, 2
        image = (100 * labels + rng.normal(0, 20, labels.shape)).astype(np.float32)
        for kind, voxels in (("images", image), ("labels", labels)):
            nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(folder / kind / f"c{number}.nii.gz")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", help="folder with images/ and labels/")
    parser.add_argument("--minutes", type=float, default=20.0, help="of each training")
    parser.add_argument("--keep", help="folder for shards, runs and masks; else they are thrown away")
    parser.add_argument("--pinned", action="store_true", help="each on a core of its own, several at a time")
    parser.add_argument("--nnunet", type=Path, help="folder of nnU-Net's packages, fetched where it is not there")
    parser.add_argument("--small", action="store_true", help="a few small volumes, nothing written: for CI")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--more", nargs="*", default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    # Ray starts its workers with nice 15, and the peers run with 0.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if not arguments.small and not arguments.data:
        parser.error("name the folder of the data")
    if arguments.nnunet:
        install(arguments.nnunet.resolve())
    if arguments.only:
        data, work = Path(arguments.data).resolve(), Path(arguments.keep)
        compete(arguments.only, data, work, arguments.minutes, arguments.more)
        return
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(arguments.keep or scratch)
        if arguments.small:
            small = ["net.features=[4,8]", "train.epochs=1"]
            measure(small_data(work / "data"), work, 0.1, small, pinned=False, names=NAMES[1:])
            return
        names = (*NAMES, "nnunet") if arguments.nnunet else NAMES
        data, nnunet = Path(arguments.data).resolve(), arguments.nnunet and arguments.nnunet.resolve()
        result = measure(data, work, arguments.minutes, [], pinned=arguments.pinned, names=names, nnunet=nnunet)
    print(result)
    configs = {name: settings_facts(path) for name, path in CONFIGS.items()}
    write_result("quality_against_peers", result | {"configs": configs})


if __name__ == "__main__":
    main()
