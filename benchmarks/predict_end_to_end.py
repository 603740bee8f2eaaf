"""Predict a case from file to file: segray against a slice-by-slice loop and MONAI's SliceInferer, and peak memory.

    python benchmarks/predict_end_to_end.py [--small] [--rounds 3] [--threads 0] [--memory]

The same weights for all. Peers: the loop of milesial's Pytorch-UNet ``predict.py`` over the slices of a NIfTI file
(nibabel get_fdata, one float32 slice after the other through the net, argmax, nibabel save), and the same with MONAI's
SliceInferer, four slices at once, in the loop's place. segray: formats.read_image, Predictor, formats.write_mask, with
the backend that it chooses for itself (bf16 where the CPU has it), and with float32 asked for, whose masks have to be
the loop's. "forward" is the network of segray's Predictor alone on slices that are normalised already, as many at once
as the Predictor takes. All in turn in each round, medians, ratios paired within a round. The net is trained for some
steps on the phantom, so that masks mean something; masks must agree with the loop's (Dice >= 0.999 a structure).

``--memory``: peak resident memory of a fresh process that reads, predicts and writes a 512x512x600 case with 117
structures on a 1.5 mm grid, so that scores are brought back to the file's 0.8 mm (target < 3 GiB).

Predicted before the first run: with torch bf16 2.5 to 2.9 times the loop (bf16 in channels_last with folded norms was
2.3 times float32, activations inside the convolutions save another tenth), with OpenVINO bf16 3.8, SliceInferer 0.83;
without bf16 hardware OpenVINO float32 1.8; share of the forward pass above 0.95.

Measured in bf16 at 512x512 (AMD EPYC with avx512_bf16, two cores): 3.60 times the loop, share 0.94
(results/predict_end_to_end_bf16.json). With threads of torch that sleep sooner (``GOMP_SPINCOUNT``; OpenVINO's had to
share the cores with them) 4.45 instead of 4.16 slices/s and share 0.97, but 3.44 times the loop, which was faster too
in that run. What is left is OpenVINO's own time: two streams of one thread each would take 216 ms a slice, not 224.

On an Intel Xeon with amx_bf16 (results/predict_end_to_end_amx.json) the network takes 48 ms a slice of 512x512 in bf16:
11.9 times the loop, which is in float32 as milesial's is, and 13.9 times SliceInferer; 2.26 times with float32's masks;
share 0.87, and 0.82 at 256x256, where what is around the network weighs more.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from machine import begin_again_with, write_result
from numpy.typing import NDArray
from scipy import ndimage

from segray import formats
from segray.case import LabelMap
from segray.config import NetConfig, Precision, PredictConfig, parse_config
from segray.engine.backend_contest import choose_forward
from segray.engine.backends import BackendChoice, forward_pass
from segray.engine.predictor import Predictor
from segray.engine.trainer import Batch, Trainer
from segray.grid import Grid
from segray.nets.bundle import Bundle, load_bundle, save_bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net
from segray.pipelines.runtime import BRIEF_SPIN

TARGETS = {
    "times the loop": 3.8,
    "times SliceInferer": 4.5,
    "float32, times the loop": 1.9,
    "share of forward": 0.85,
    "dice": 0.999,
    "peak GiB": 3.0,
}
STRUCTURES = ("body", "lung_right", "lung_left", "liver", "spine")
WINDOW = Normalisation("window", -1000.0, 1000.0)
SPACING = (2.0, 0.8, 0.8)
FLOAT32 = "segray float32"
MEMORY_STRUCTURES = 117
CROP, CROPS = 64, 6


def phantom(side: int, slices: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """(z, y, x) int16 HU with noise of sd 20, and uint8 labels of five large structures."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:side, :side] + 0.5) / side * 2 - 1
    images = np.empty((slices, side, side), np.int16)
    labels = np.zeros(images.shape, np.uint8)
    texture = ndimage.gaussian_filter(rng.normal(size=(side, side)), side / 64)
    texture *= 15 / texture.std()
    ellipses = [(0, 0, 0.75, 0.55, 40), (-0.35, -0.1, 0.22, 0.3, -700), (0.35, -0.1, 0.22, 0.3, -400),
                (-0.2, 0.28, 0.3, 0.16, 300), (0, 0.4, 0.09, 0.09, 800)]  # fmt: skip
    for z in range(slices):
        swell = 1 + 0.15 * np.sin(z / max(slices, 1) * np.pi)
        image = np.full((side, side), -1000.0)
        for label, (cx, cy, rx, ry, hu) in enumerate(ellipses, start=1):
            inside = ((x - cx) / (rx * swell)) ** 2 + ((y - cy) / (ry * swell)) ** 2 < 1
            image[inside], labels[z][inside] = hu, label
        images[z] = image + texture + rng.normal(0, 20, image.shape)
    return images, labels


def train_briefly(folder: str, features: list[int], side: int, steps: int) -> Bundle:
    """A bundle whose net has learnt crops of the phantom around its structures."""
    config = parse_config(
        {
            "net": {"features": features},
            "optim": {"lr": 5e-3, "warmup_steps": 5},
            "augment": {"enabled": False},
        }
    )
    torch.manual_seed(0)
    net = build_net(config.net, 1, len(STRUCTURES) + 1)
    trainer = Trainer(config, net, WINDOW, device="cpu")
    images, labels = phantom(side, 6, seed=1)
    rng, ones = np.random.default_rng(0), np.ones(CROPS)
    for step in range(steps):
        cuts = [crop_of(labels, number % (len(STRUCTURES) + 1), rng) for number in range(CROPS)]
        crops, truth = (np.stack([array[cut] for cut in cuts]) for array in (images, labels))
        trainer.step(
            Batch.from_arrays(crops, truth, ones, ones, ["phantom"] * CROPS), epoch=0, step=step, progress=step / steps
        )
    save_bundle(
        folder, net, net=config.net, label_map=LabelMap.of_names(STRUCTURES),
        grid=Grid("native", (side, side), None, -1024.0), normalisation=WINDOW,
    )  # fmt: skip
    return load_bundle(folder)


def crop_of(labels: NDArray[Any], label: int, rng: np.random.Generator, side: int = CROP) -> tuple[int, slice, slice]:
    """A square around a random pixel of a label in a random slice."""
    z = int(rng.integers(len(labels)))
    ys, xs = np.nonzero(labels[z] == label)
    pixel = rng.integers(len(ys))
    y, x = (int(np.clip(at[pixel] - side // 2, 0, labels.shape[1] - side)) for at in (ys, xs))
    return z, slice(y, y + side), slice(x, x + side)


def write_scan(path: str, voxels: NDArray[Any], spacing: tuple[float, float, float] = SPACING) -> None:
    """A NIfTI file in LPS order; (z, y, x) voxels and spacing in mm."""
    z, y, x = spacing
    nib.save(nib.Nifti1Image(voxels.transpose(2, 1, 0), np.diag([-x, -y, z, 1.0])), path)


def slice_loop(net: torch.nn.Module, source: str, target: str) -> None:
    """The peer: what milesial's predict.py does, slice after slice."""
    image = nib.load(source)
    values = image.get_fdata()
    mask = np.zeros(values.shape, np.uint8)
    with torch.no_grad():
        for number in range(values.shape[2]):
            plane = np.clip(values[:, :, number].T, -1000, 1000) / 1000
            logits = net(torch.from_numpy(plane).to(torch.float32)[None, None])
            mask[:, :, number] = logits.argmax(1)[0].numpy().T
    nib.save(nib.Nifti1Image(mask, image.affine), target)


def slice_inferer(inferer: Callable[..., Any], net: torch.nn.Module, source: str, target: str) -> None:
    """The other peer: the same with MONAI's SliceInferer in the loop's place."""
    image = nib.load(source)
    values = np.clip(image.get_fdata(dtype=np.float32), -1000, 1000) / 1000
    planes = torch.from_numpy(values).permute(1, 0, 2)[None, None]
    with torch.no_grad():
        labels = inferer(planes, net).argmax(1)[0].permute(1, 0, 2)
    nib.save(nib.Nifti1Image(labels.numpy().astype(np.uint8), image.affine), target)


def with_segray(predictor: Predictor, source: str, target: str) -> None:
    """segray's way from file to file."""
    case = formats.read_image(formats.lone_image(source))
    labels = predictor.predict(case.voxels, case.geometry.spacing)
    formats.write_mask(target, predictor.bundle.label_map.to_value(labels), case.geometry)


def seconds(call: Callable[[], Any]) -> float:
    """Wall-clock seconds of a call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def structure_dice(first: str, second: str) -> dict[str, float]:
    """Dice a structure between two mask files."""
    one, two = (np.asanyarray(nib.load(path).dataobj) for path in (first, second))
    table = np.bincount((one.astype(np.int64) * 16 + two).ravel(), minlength=256).reshape(16, 16)
    return {
        name: float(2 * table[n, n] / max(table[n].sum() + table[:, n].sum(), 1))
        for n, name in enumerate(STRUCTURES, start=1)
    }


def chosen_predictor(bundle: Bundle, voxels: NDArray[Any], precision: Precision) -> tuple[Predictor, BackendChoice]:
    """A Predictor with the backend that `segray predict` would choose, warmed."""
    config = PredictConfig(gpu="no", precision=precision)
    choice = choose_forward("auto", bundle, config, voxels, SPACING)
    predictor = Predictor(bundle, config, backend=choice)
    predictor.warm_up()
    return predictor, choice


def contenders(
    bundle: Bundle, folder: str, voxels: NDArray[Any]
) -> tuple[dict[str, Callable[[], None]], dict[str, str], Predictor]:
    """The calls by name, each from the scan to a mask of its name; the backends chosen; segray's Predictor."""
    from monai.inferers import SliceInferer  # takes seconds, which other benchmarks that import this module need not

    net, source = bundle.network(), f"{folder}/ct.nii.gz"
    predictor, choice = chosen_predictor(bundle, voxels, "auto")
    exact, exact_choice = chosen_predictor(bundle, voxels, "float32")
    forward = forward_pass(bundle.network(), torch.device("cpu"), "auto", choice)
    at_once = predictor.slices_at_once(voxels.shape[1:])
    inferer = SliceInferer(spatial_dim=2, roi_size=voxels.shape[1:], sw_batch_size=4)
    zeros, ones = torch.zeros(len(voxels)), torch.ones(len(voxels))
    ready = WINDOW.apply(torch.from_numpy(voxels), zeros, ones).split(at_once)  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def forward_alone() -> None:
        for images in ready:
            forward(images)

    with torch.inference_mode():
        net(ready[0][:1])
        forward(ready[0])
    backends = {"segray": f"{choice.name} {choice.precision}", FLOAT32: f"{exact_choice.name} {exact_choice.precision}"}
    calls: dict[str, Callable[[], None]] = {
        "loop": lambda: slice_loop(net, source, f"{folder}/loop.nii.gz"),
        "SliceInferer": lambda: slice_inferer(inferer, net, source, f"{folder}/SliceInferer.nii.gz"),
        "segray": lambda: with_segray(predictor, source, f"{folder}/segray.nii.gz"),
        FLOAT32: lambda: with_segray(exact, source, f"{folder}/{FLOAT32}.nii.gz"),
        "forward": forward_alone,
    }
    return calls, backends, predictor


def compare(side: int, slices: int, features: list[int], rounds: int, steps: int) -> dict[str, Any]:
    """Peers, segray and forward alone on one phantom case, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = train_briefly(f"{folder}/bundle", features, side, steps)
        voxels, _ = phantom(side, slices)
        write_scan(f"{folder}/ct.nii.gz", voxels)
        calls, backends, predictor = contenders(bundle, folder, voxels)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(rounds):
            # The order turns, so that no one always follows the same neighbour.
            turn = number % len(calls)
            for name in [*list(calls)[turn:], *list(calls)[:turn]]:
                times[name].append(seconds(calls[name]))
            print({name: round(slices / values[-1], 2) for name, values in times.items()}, "slices/s", flush=True)
        masks = {name: f"{folder}/{name}.nii.gz" for name in ("SliceInferer", "segray", FLOAT32)}
        dice = {name: structure_dice(f"{folder}/loop.nii.gz", path) for name, path in masks.items()}
        stages = {name: round(value, 3) for name, value in predictor.last_seconds.items()}
    ratios = {
        "times the loop": ratio(times["loop"], times["segray"]),
        "times SliceInferer": ratio(times["SliceInferer"], times["segray"]),
        "float32, times the loop": ratio(times["loop"], times[FLOAT32]),
        "share of forward": ratio(times["forward"], times["segray"]),
    }
    return {
        "case": f"{side}x{side}x{slices}",
        "features": features,
        "backends": backends,
        "slices/s": {name: round(slices / statistics.median(values), 3) for name, values in times.items()},
        **{name: round(statistics.median(values), 2) for name, values in ratios.items()},
        "rounds": ratios,
        "dice": {name: round(min(values.values()), 5) for name, values in dice.items()},
        "seconds a stage": stages,
    }


def ratio(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Of paired times, round by round."""
    return [round(one / other, 3) for one, other in zip(first, second, strict=True)]


def measure_memory(slices: int) -> dict[str, Any]:
    """Peak memory of a fresh process that predicts 512x512 slices of 117 structures."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        net = NetConfig(features=[8, 16, 32])
        names = LabelMap.of_names(f"structure_{n}" for n in range(MEMORY_STRUCTURES))
        save_bundle(
            f"{folder}/bundle", build_net(net, 1, names.channels), net=net, label_map=names,
            grid=Grid("spacing", (288, 288), (1.5, 1.5), -1024.0), normalisation=WINDOW,
        )  # fmt: skip
        few, _ = phantom(512, 10)
        write_scan(f"{folder}/ct.nii.gz", np.resize(few, (slices, 512, 512)))
        command = [sys.executable, __file__, "--memory-child", folder]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    return {"case": f"512x512x{slices}", "structures": MEMORY_STRUCTURES, **json.loads(done.stdout.splitlines()[-1])}


def resident_gib(key: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process; getrusage's maximum would include the parent before exec."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 2**20


def memory_child(folder: str) -> None:
    """Predict the case in ``folder`` and print the peak resident memory of this process."""
    predictor = Predictor(load_bundle(f"{folder}/bundle"), PredictConfig(gpu="no"))
    loaded = resident_gib("VmRSS")
    took = seconds(lambda: with_segray(predictor, f"{folder}/ct.nii.gz", f"{folder}/mask.nii.gz"))
    peak = resident_gib("VmHWM")
    stages = {name: round(value, 1) for name, value in predictor.last_seconds.items()}
    print(json.dumps({"peak GiB": round(peak, 2), "before the case GiB": round(loaded, 2), "seconds": round(took, 1),
                      "seconds a stage": stages}))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small net and case, for CI; nothing is written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0: all cores")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of speed")
    parser.add_argument("--memory-child", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_child:
        memory_child(options.memory_child)
        return
    begin_again_with(BRIEF_SPIN)  # as `segray predict` starts its Predictors
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    report: dict[str, Any]
    if options.memory:
        report = {"memory": measure_memory(20 if options.small else 600)}
    elif options.small:
        report = {"cases": [compare(128, 6, [8, 16, 32], options.rounds, 100)]}
    else:
        features = [32, 64, 128, 256, 512]
        report = {
            "cases": [compare(side, slices, features, options.rounds, 100) for side, slices in ((256, 40), (512, 20))]
        }
    print(json.dumps(report, indent=1))
    if not options.small:
        name = "predict_memory" if options.memory else "predict_end_to_end"
        write_result(name, {"targets": TARGETS, "threads": torch.get_num_threads(), **report})


if __name__ == "__main__":
    main()
