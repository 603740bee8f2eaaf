"""MONAI's spleen_segmentation_3d tutorial on other cases: its transforms, net, loss, optimiser and inference.

Beside the tutorial only what small MR volumes need is changed: intensities by each case's own mean and sd instead of a
window of HU, patches of 32 x 48 x 32 voxels instead of 96 x 96 x 96 (the volumes are smaller than that), an output a
structure, and the widths that the other contestants have. As there, the weights are those of the best validation.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, decollate_batch
from monai.inferers import sliding_window_inference
from monai.losses import DiceLoss
from monai.metrics import DiceMetric
from monai.networks.nets import UNet
from monai.transforms import (
    AsDiscrete,
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandCropByPosNegLabeld,
    Spacingd,
    SpatialPadd,
)

PATCH = (32, 48, 32)
KEYS = ("image", "label")
VALIDATE_EVERY = 2
"""Epochs, as in the tutorial."""

Files = dict[str, str]


def _loading() -> list[Any]:
    return [
        LoadImaged(keys=KEYS),
        EnsureChannelFirstd(keys=KEYS),
        NormalizeIntensityd(keys="image"),
        Orientationd(keys=KEYS, axcodes="RAS"),
        Spacingd(keys=KEYS, pixdim=(1.0, 1.0, 1.0), mode=("bilinear", "nearest")),
    ]


def _cropping() -> list[Any]:
    return [
        SpatialPadd(keys=KEYS, spatial_size=PATCH),
        RandCropByPosNegLabeld(
            keys=KEYS, label_key="label", spatial_size=PATCH, pos=1, neg=1, num_samples=4, image_key="image"
        ),
    ]


class MonaiTutorial:
    """The tutorial's training within a time, and its prediction of cases.

    Args:
        features: widths of the net's levels.
        structures: label values 1 to this.
    """

    def __init__(self, features: Sequence[int], structures: int) -> None:
        torch.manual_seed(0)
        self.channels = structures + 1
        self.net: torch.nn.Module = UNet(
            spatial_dims=3,
            in_channels=1,
            out_channels=self.channels,
            channels=tuple(features),
            strides=(2,) * (len(features) - 1),
            num_res_units=2,
            norm="batch",
        )

    def train(self, cases: Sequence[Files], held_out: Sequence[Files], minutes: float) -> dict[str, float]:
        """Epochs until the time has passed, loading and validations included; the best weights are kept."""
        begin = time.monotonic()
        loader = DataLoader(
            CacheDataset(list(cases), Compose(_loading() + _cropping()), cache_rate=1.0, progress=False),
            batch_size=2,
            shuffle=True,
        )
        validation = DataLoader(CacheDataset(list(held_out), Compose(_loading()), cache_rate=1.0, progress=False))
        loss = DiceLoss(to_onehot_y=True, softmax=True)
        optimizer = torch.optim.Adam(self.net.parameters(), 1e-4)
        best, chosen, epoch = -1.0, copy.deepcopy(self.net.state_dict()), 0
        while time.monotonic() - begin < 60.0 * minutes:
            epoch += 1
            self._epoch(loader, loss, optimizer, begin + 60.0 * minutes)
            if epoch % VALIDATE_EVERY == 0 and (score := self._score(validation)) > best:
                best, chosen = score, copy.deepcopy(self.net.state_dict())
        self.net.load_state_dict(chosen)
        return {"epochs": epoch, "best validation": round(best, 4)}

    def _epoch(self, loader: Any, loss: Any, optimizer: torch.optim.Optimizer, end: float) -> None:
        self.net.train()
        for batch in loader:
            if time.monotonic() > end:
                return
            optimizer.zero_grad()
            loss(self.net(batch["image"]), batch["label"]).backward()
            optimizer.step()

    def _score(self, validation: Any) -> float:
        metric = DiceMetric(include_background=False, reduction="mean")
        one_hot, truth = (
            AsDiscrete(argmax=True, to_onehot=self.channels),
            AsDiscrete(to_onehot=self.channels),
        )
        for batch in validation:
            logits = self._logits(batch["image"])
            metric(
                y_pred=[one_hot(one) for one in decollate_batch(logits)],
                y=[truth(one) for one in decollate_batch(batch["label"])],
            )
        return float(metric.aggregate().item())

    @torch.no_grad()
    def _logits(self, image: torch.Tensor) -> torch.Tensor:
        self.net.eval()
        logits: torch.Tensor = sliding_window_inference(image, PATCH, 4, self.net)
        return logits

    def predict(self, cases: Sequence[Files], folder: Path) -> None:
        """A mask a case, on the case's own grid; the cases have 1 mm voxels already."""
        folder.mkdir(parents=True, exist_ok=True)
        for case in cases:
            stored = nibabel.load(case["image"])
            canonical = nibabel.as_closest_canonical(stored)
            voxels = np.asarray(canonical.dataobj, np.float32)
            image = torch.from_numpy((voxels - voxels.mean()) / voxels.std())[None, None]
            labels = self._logits(image)[0].argmax(0).numpy().astype(np.uint8)
            there = nibabel.orientations.io_orientation(canonical.affine)
            back = nibabel.orientations.ornt_transform(there, nibabel.orientations.io_orientation(stored.affine))
            turned = nibabel.orientations.apply_orientation(labels, back)
            nibabel.Nifti1Image(turned, stored.affine).to_filename(folder / Path(case["image"]).name)
