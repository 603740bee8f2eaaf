"""nnU-Net's own planning, preprocessing, trainer and predictor, with a net of given widths and a time.

nnU-Net's requirements do not install beside segray's, so that its packages lie in a folder of their own, without what
they depend on (`install`). Its plan is what its planner says of the cases for 3d_fullres, but for the widths and the
number of levels, which are those of the other contestants. Its trainer is its own, with its augmentation, deep
supervision, SGD and polynomial decay; what 1,000 epochs are there, the given minutes are here: the learning rate falls
along them. It predicts by its own predictor, mirrored along all axes, as it does by default.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = (
    *("nnunetv2==2.8.1", "dynamic-network-architectures==0.4.4", "batchgenerators==0.25.5", "batchgeneratorsv2==0.3.6"),
    *("acvl-utils==0.2.6", "scikit-image==0.26.0", "lazy-loader==0.6", "imageio==2.38.1", "tifffile==2026.3.3"),
    *("connected-components-3d==4.1.1", "fastremap", "tqdm", "seaborn", "scikit-learn", "joblib", "narwhals"),
)
NAME = "Dataset004_Cases"
CONFIGURATION = "3d_fullres"
STEPS_AN_EPOCH = 25
"""Steps between two looks at the clock; 250 in nnU-Net."""

Files = dict[str, str]


def install(folder: Path) -> None:
    """Fetch nnU-Net into a folder of its own, unless it is there, and make it importable."""
    if not (folder / "nnunetv2").is_dir():
        words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *PACKAGES]
        subprocess.run(words, check=True)
    sys.path.append(str(folder))


class NnUNet:
    """nnU-Net's training within a time, and its prediction of cases.

    Args:
        work: folder for what nnU-Net writes.
        features: widths of the net's levels.
        structures: names of the label values 1, 2, and so on.
    """

    def __init__(self, work: Path, features: Sequence[int], structures: Sequence[str]) -> None:
        self.work, self.features, self.structures = work, list(features), list(structures)
        for name in ("raw", "preprocessed", "results"):
            (work / name).mkdir(parents=True, exist_ok=True)
            os.environ[f"nnUNet_{name}"] = str(work / name)
        # Compiling on a CPU costs more than it brings. The planner takes this number for its threads.
        os.environ.update(nnUNet_n_proc_DA="1", nnUNet_compile="f")
        self._trainer: Any = None

    def train(self, cases: Sequence[Files], held_out: Sequence[Files], minutes: float) -> dict[str, Any]:
        """Plan, preprocess and train until the time has passed, all of it included; the weights are the last ones."""
        begin = time.monotonic()
        self._raw([*cases, *held_out])
        plans, dataset = self._plan()
        folder = self.work / "preprocessed" / NAME
        split = {"train": [_case(one) for one in cases], "val": [_case(one) for one in held_out]}
        (folder / "splits_final.json").write_text(json.dumps([split]))
        # No process beside the training, with which it would share its one core.
        os.environ.update(nnUNet_n_proc_DA="0")
        self._trainer = _trainer(plans, dataset, begin, begin + 60.0 * minutes)
        self._trainer.run_training()
        return {"epochs": self._trainer.current_epoch, "steps an epoch": STEPS_AN_EPOCH}

    def predict(self, cases: Sequence[Files], folder: Path) -> None:
        """A mask a case, on the case's own grid."""
        import torch
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        trainer = self._trainer
        trainer.set_deep_supervision_enabled(False)
        predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
        predictor.manual_initialization(
            trainer.network,
            trainer.plans_manager,
            trainer.configuration_manager,
            [trainer.network.state_dict()],
            trainer.dataset_json,
            type(trainer).__name__,
            trainer.inference_allowed_mirroring_axes,
        )
        folder.mkdir(parents=True, exist_ok=True)
        reader = trainer.plans_manager.image_reader_writer_class()
        for case in cases:
            image, properties = reader.read_images([case["image"]])
            out = str(folder / _case(case))
            predictor.predict_single_npy_array(image, properties, None, out)

    def _raw(self, cases: Sequence[Files]) -> None:
        """The cases as nnU-Net wants them named, as links."""
        raw = self.work / "raw" / NAME
        for name, kind, ending in (("imagesTr", "image", "_0000.nii.gz"), ("labelsTr", "label", ".nii.gz")):
            (raw / name).mkdir(parents=True)
            for case in cases:
                (raw / name / f"{_case(case)}{ending}").symlink_to(case[kind])
        labels = {"background": 0} | {name: number for number, name in enumerate(self.structures, 1)}
        described = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": len(cases)}
        (raw / "dataset.json").write_text(json.dumps(described | {"file_ending": ".nii.gz"}))

    def _plan(self) -> tuple[dict[str, Any], dict[str, Any]]:
        from nnunetv2.experiment_planning.plan_and_preprocess_api import (
            extract_fingerprint_dataset,
            plan_experiment_dataset,
            preprocess_dataset,
        )

        extract_fingerprint_dataset(4, num_processes=1, show_progress_bar=False)
        plan_experiment_dataset(4)
        folder = self.work / "preprocessed" / NAME
        plans = json.loads((folder / "nnUNetPlans.json").read_text())
        _take_widths(plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"], self.features)
        (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
        preprocess_dataset(4, configurations=(CONFIGURATION,), num_processes=(1,), show_progress_bar=False)
        return plans, json.loads((folder / "dataset.json").read_text())


def _case(files: Files) -> str:
    return Path(files["image"]).name.removesuffix(".nii.gz")


def _take_widths(net: dict[str, Any], features: list[int]) -> None:
    """Change the widths of a planned net, and its levels to as many."""
    levels = len(features)
    net["features_per_stage"], net["n_stages"] = features, levels
    for name in ("kernel_sizes", "strides"):
        net[name] = (net[name] + [[3, 3, 3] if name == "kernel_sizes" else [2, 2, 2]] * levels)[:levels]
    net["n_conv_per_stage"], net["n_conv_per_stage_decoder"] = [2] * levels, [2] * (levels - 1)


def _trainer(plans: dict[str, Any], dataset: dict[str, Any], begin: float, end: float) -> Any:
    """nnU-Net's trainer, whose epochs are counted by the clock."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class TimedTrainer(nnUNetTrainer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(plans | {"continue_training": False}, CONFIGURATION, 0, dataset, torch.device("cpu"))
            self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = STEPS_AN_EPOCH, 1
            self.disable_checkpointing = True

        def run_training(self) -> None:
            self.on_train_start()
            longest = 0.0
            while (now := time.monotonic()) + longest < end:
                self._run_epoch((now - begin) / (end - begin))
                longest = max(longest, time.monotonic() - now)

        def _run_epoch(self, progress: float) -> None:
            self.network.train()
            self.lr_scheduler.step(progress * self.num_epochs)
            losses = [
                float(self.train_step(next(self.dataloader_train))["loss"])
                for _ in range(self.num_iterations_per_epoch)
            ]
            self.current_epoch += 1
            mean, steps = sum(losses) / len(losses), self.current_epoch * len(losses)
            print(f"nnunet: {steps} steps, loss {mean:.3f}", flush=True)

        def plot_network_architecture(self) -> None:
            """Its drawing needs a package that is not there."""

    torch.manual_seed(0)
    return TimedTrainer()
