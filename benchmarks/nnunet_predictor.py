"""Predict cases from file to file: segray against nnU-Net's own predictor and export, the same weights, 31 structures.

    python benchmarks/nnunet_predictor.py --nnunet FOLDER [--slices 24] [--rounds 3] [--features 32 64 128 256 512]
    python benchmarks/nnunet_predictor.py --small     # for CI: a small net and case, and no nnU-Net beside it

FOLDER holds the packages of nnU-Net 2.8.1, or they are fetched into it (as for quality/against_peers.py). A U-Net that
has learnt a phantom of 31 ellipses a slice, each of a brightness of its own, predicts 512x512 slices of 0.8 mm:

* native: the net works on the slices as they are;
* coarse: it works at 1.6 mm, so that its scores have to come back to 0.8 mm, the export for which nnU-Net is slow.

nnU-Net 2.8.1: its ``predict_single_npy_array`` with a plan of a 2d configuration as its planner writes one (image by
order 3, scores by order 1, CT normalisation, Gaussian windows of the whole slice), read and written by its SimpleITK
class; without mirrors, as segray does by default, and one case after the other. segray: formats.read_image, Predictor
with the backend that it chooses itself, formats.write_mask. All cores for both, in turn in each round; medians, ratios
paired within a round. Dice of the masks with each other, of all structures: at 0.8 mm they are nearly the same; at
1.6 mm they differ by how the image is resampled, since nnU-Net's cubic interpolation is not segray's linear one.

nnU-Net adds up its windows in half precision, so that where two structures are nearly as probable its mask is another.

Predicted: with bf16 7 times at 1.6 mm and 4 times at 0.8 mm; without, 4.5 and 2. Measured with bf16 (AMD EPYC with
avx512_bf16): 8.1 and 3.8; without (AMD EPYC, AVX2 alone): 4.7 and 2.0.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import begin_again_with, write_result
from numpy.typing import NDArray
from predict_end_to_end import SPACING, WINDOW, seconds, with_segray, write_scan
from torch import Tensor

from segray import formats
from segray.case import LabelMap
from segray.config import NetConfig, PredictConfig, parse_config
from segray.engine.backend_contest import choose_forward
from segray.engine.predictor import Predictor
from segray.engine.trainer import Batch, Trainer
from segray.evaluation.counting import count_pair
from segray.evaluation.metrics import dice
from segray.grid import Grid
from segray.nets.bundle import Bundle, load_bundle, save_bundle
from segray.nets.unet import SegmentationNet, build_net
from segray.pipelines.runtime import BRIEF_SPIN

STRUCTURES = 31
ACROSS = 6
"""Ellipses a row and a column."""

LEARNT, AT_ONCE = 128, 4
"""Side of the slices that the net learns from, whole ones: norms take away how bright a crop is, and by that alone the
structures differ."""

TARGETS = {"times nnU-Net": 6.0, "dice at 0.8 mm": 0.999}


def phantom(side: int, slices: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """(z, y, x) int16 HU with noise of sd 8, and uint8 labels of 31 ellipses that swell and shrink along z."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] + 0.5
    places = rng.permutation(ACROSS * ACROSS)[:STRUCTURES]
    levels = np.linspace(-900, 900, STRUCTURES)
    radii = rng.uniform(0.3, 0.45, (STRUCTURES, 2)) * side / ACROSS
    images = np.full((slices, side, side), -1000.0)
    labels = np.zeros(images.shape, np.uint8)
    for z in range(slices):
        for label, (place, level, (ry, rx)) in enumerate(zip(places, levels, radii, strict=True), start=1):
            cy, cx = ((np.array(divmod(place, ACROSS)) + 0.5) * side / ACROSS).tolist()
            swell = 0.75 + 0.25 * np.sin(label + 2 * np.pi * z / max(slices, 1))
            inside = ((y - cy) / (ry * swell)) ** 2 + ((x - cx) / (rx * swell)) ** 2 < 1
            images[z][inside], labels[z][inside] = level, label
    return (images + rng.normal(0, 8, images.shape)).astype(np.int16), labels


def train_briefly(features: list[int], steps: int, side: int) -> tuple[SegmentationNet, NetConfig]:
    """A net that has learnt some steps of the phantom, and whose last layer then tells all its structures apart."""
    config = parse_config(
        {
            "net": {"features": features},
            "optim": {"lr": 5e-3, "warmup_steps": 5},
            "augment": {"enabled": False},
        }
    )
    torch.manual_seed(0)
    net = build_net(config.net, 1, STRUCTURES + 1)
    trainer = Trainer(config, net, WINDOW, device="cpu")
    images, labels = phantom(LEARNT, 32, seed=1)
    rng, ones = np.random.default_rng(0), np.ones(AT_ONCE)
    for step in range(steps):
        chosen = rng.integers(0, len(images), AT_ONCE)
        batch = Batch.from_arrays(images[chosen], labels[chosen], ones, ones, ["phantom"] * AT_ONCE)
        trainer.step(batch, epoch=0, step=step, progress=step / steps)
    tell_apart(net, *phantom(side, 2, seed=1))
    return net, config.net


def tell_apart(net: SegmentationNet, images: NDArray[Any], labels: NDArray[Any]) -> None:
    """Set the last layer to the linear discriminants of the structures (Hastie et al. 2009, eq. 4.10), equal priors.

    Some hundred steps are too few for a net to tell 31 shades of grey apart; the layers below see them well enough. An
    edge passes through the shades of others, so that structures have rims of them: Dice with the truth is about 0.5.
    """
    seen: list[Tensor] = []
    head = net.get_submodule("head")
    hook = head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].movedim(1, -1)))
    with torch.inference_mode():
        for image in images:
            net.eval()(WINDOW.apply(torch.from_numpy(image)[None], torch.zeros(1), torch.ones(1)))
    hook.remove()
    features, truth = torch.cat(seen).flatten(0, 2).double(), torch.from_numpy(labels.ravel().astype(np.int64))
    means = torch.stack([features[truth == label].mean(0) for label in range(STRUCTURES + 1)])
    spread = torch.cov((features - means[truth]).T) + 1e-6 * torch.eye(features.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(spread, means.T).T
    bias = -0.5 * (weights * means).sum(1)
    net.load_state_dict(net.state_dict() | {"head.weight": weights[:, :, None, None], "head.bias": bias})


def bundle_of(folder: str, learnt: tuple[SegmentationNet, NetConfig], grid: Grid) -> Bundle:
    """The net as a bundle that works on a grid."""
    names = LabelMap.of_names(f"structure_{number}" for number in range(1, STRUCTURES + 1))
    save_bundle(folder, learnt[0], net=learnt[1], label_map=names, grid=grid, normalisation=WINDOW)
    return load_bundle(folder)


def nnunet_predictor(bundle: Bundle, side: int, spacing: float, packages: Path) -> Callable[[str, str], None]:
    """nnU-Net's way from file to file, with the net of a bundle and a plan of its kind."""
    sys.path.insert(0, str(Path(__file__).resolve().parent / "quality"))
    from nnunet_trainer import install

    install(packages)
    os.environ.update(nnUNet_compile="f")
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(plan_of(side, spacing))
    labels = {"background": 0} | {name: n for n, name in enumerate(bundle.label_map.names, start=1)}
    described = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    predictor = nnUNetPredictor(
        use_mirroring=False, device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False
    )
    net = bundle.network()
    configuration = plans.get_configuration("2d")
    predictor.manual_initialization(net, plans, configuration, [net.state_dict()], described, "segray", None)
    reader = plans.image_reader_writer_class()

    def predict(source: str, target: str) -> None:
        image, properties = reader.read_images([source])
        predictor.predict_single_npy_array(image, properties, None, target.removesuffix(".nii.gz"))

    return predict


def plan_of(side: int, spacing: float) -> dict[str, Any]:
    """What nnU-Net's default planner writes for a 2d configuration, for slices of ``side`` pixels of ``spacing`` mm."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    data, data_words, labels, labels_words = ExperimentPlanner.determine_resampling(None)
    scores, scores_words = ExperimentPlanner.determine_segmentation_softmax_export_fn(None)
    intensity = {"mean": 0.0, "std": 1000.0, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0}
    configuration = {
        "data_identifier": "2d", "preprocessor_name": "DefaultPreprocessor", "batch_size": 1, "architecture": {},
        "patch_size": [side, side], "median_image_size_in_voxels": [side, side], "spacing": [spacing, spacing],
        "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False], "batch_dice": False,
        "resampling_fn_data": data.__name__, "resampling_fn_data_kwargs": data_words,
        "resampling_fn_seg": labels.__name__, "resampling_fn_seg_kwargs": labels_words,
        "resampling_fn_probabilities": scores.__name__, "resampling_fn_probabilities_kwargs": scores_words,
    }  # fmt: skip
    return {
        "dataset_name": "Dataset001_Phantom", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensity}, "configurations": {"2d": configuration},
    }  # fmt: skip


def compare(
    grid: Grid,
    side: int,
    slices: int,
    learnt: tuple[SegmentationNet, NetConfig],
    rounds: int,
    packages: Path | None,
) -> dict[str, Any]:
    """Both on one case, in turn; without ``packages`` segray alone."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = bundle_of(f"{folder}/bundle", learnt, grid)
        voxels, truth = phantom(side, slices)
        source = f"{folder}/ct.nii.gz"
        write_scan(source, voxels)
        config = PredictConfig(gpu="no")
        choice = choose_forward("auto", bundle, config, voxels, SPACING)
        predictor = Predictor(bundle, config, backend=choice)
        predictor.warm_up()
        calls: dict[str, Callable[[], None]] = {
            "segray": lambda: with_segray(predictor, source, f"{folder}/segray.nii.gz")
        }
        if packages:
            spacing = SPACING[1] * side / grid.size[0]
            theirs = nnunet_predictor(bundle, grid.size[0], spacing, packages)
            calls["nnU-Net"] = lambda: theirs(source, f"{folder}/nnU-Net.nii.gz")
        times: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(rounds):
            for name in list(calls)[:: 1 if number % 2 else -1]:
                times[name].append(seconds(calls[name]))
            print({name: round(slices / values[-1], 3) for name, values in times.items()}, "slices/s", flush=True)
        ours = mask(f"{folder}/segray.nii.gz")
        found: dict[str, Any] = {
            "case": f"{side}x{side}x{slices}",
            "net works on": list(grid.size),
            "backend": f"{choice.name} {choice.precision}",
            "slices/s": {name: round(slices / statistics.median(values), 3) for name, values in times.items()},
            "dice with the truth": dice_of(truth, ours),
            "seconds a stage": {name: round(value, 3) for name, value in predictor.last_seconds.items()},
        }
        if packages:
            ratios = [peer / mine for peer, mine in zip(times["nnU-Net"], times["segray"], strict=True)]
            found["times nnU-Net"] = round(statistics.median(ratios), 2)
            found["times nnU-Net, rounds"] = [round(ratio, 2) for ratio in ratios]
            found["dice with nnU-Net"] = dice_of(mask(f"{folder}/nnU-Net.nii.gz"), ours)
            found["of nnU-Net with the truth"] = dice_of(truth, mask(f"{folder}/nnU-Net.nii.gz"))
        return found


def mask(path: str) -> NDArray[Any]:
    """Labels of a mask file, (z, y, x)."""
    return formats.read_image(formats.lone_image(path)).voxels.astype(np.uint8)


def dice_of(first: NDArray[Any], second: NDArray[Any]) -> dict[str, float]:
    """Lowest and mean Dice over the structures."""
    values = dice(count_pair(first, second, STRUCTURES + 1))[1:]
    return {"lowest": round(float(np.nanmin(values)), 4), "mean": round(float(np.nanmean(values)), 5)}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet", type=Path, help="folder of nnU-Net's packages, fetched where it is not there")
    parser.add_argument("--slices", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="that the net learns before")
    parser.add_argument("--features", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--small", action="store_true", help="a small net and case, nothing written: for CI")
    options = parser.parse_args(words)
    begin_again_with(BRIEF_SPIN)  # as `segray predict` starts its Predictors
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    side, slices, features, steps = (512, options.slices, options.features, options.steps)
    if options.small:
        side, slices, features, steps = 192, 4, [8, 16], 20
    elif not options.nnunet:
        parser.error("name the folder of nnU-Net's packages")
    grids = {
        "native": Grid("native", (side, side), None, -1024.0),
        "coarse": Grid("spacing", (side // 2, side // 2), (1.6, 1.6), -1024.0),
    }
    packages = options.nnunet and options.nnunet.resolve()
    learnt = train_briefly(features, steps, side)
    found = {name: compare(grid, side, slices, learnt, options.rounds, packages) for name, grid in grids.items()}
    print(found)
    if not options.small:
        write_result(
            "nnunet_predictor",
            {"targets": TARGETS, "nnunetv2": version("nnunetv2"), "features": features, "cases": found},
        )


if __name__ == "__main__":
    main()
