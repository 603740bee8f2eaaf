"""Predict sees the very slices that ingest made for training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from segray.case import LabelMap, voxel_statistics
from segray.config import NetConfig, PredictConfig
from segray.engine.predictor import Predictor
from segray.grid import Grid, fill_value
from segray.nets.bundle import Bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net
from segray.resample import image_to_grid


def test_padding_has_the_value_that_ingest_gives_it() -> None:
    """An MR case has no -1024: its padding is its own lowest voxel, in training and in prediction."""
    torch.manual_seed(0)
    label_map = LabelMap.of_names(["a", "b"])
    config = NetConfig(features=[4, 8, 8])
    net = build_net(config, 1, label_map.channels).eval()
    grid = Grid("native", (32, 32), None, -1024.0)
    bundle = Bundle(config, 1, label_map, grid, Normalisation("case"), net.state_dict())
    voxels = np.random.default_rng(0).integers(0, 400, (3, 30, 27)).astype(np.int16)
    predicted = Predictor(bundle, PredictConfig(precision="float32"), device="cpu").predict(voxels, (1.0, 1.0, 1.0))
    slices, placement = image_to_grid(voxels, (1.0, 1.0, 1.0), replace(grid, fill=fill_value(voxels)))
    mean, sd = (torch.full((3,), value) for value in voxel_statistics(voxels))
    with torch.inference_mode():
        scores = net(bundle.normalisation.apply(torch.from_numpy(slices), mean, sd))
    (y, x), _ = placement.windows()
    assert np.array_equal(predicted, scores.argmax(1).numpy()[:, y, x])
