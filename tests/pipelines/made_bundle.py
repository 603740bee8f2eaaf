"""A bundle as small as can be, whose net has learnt nothing."""

from __future__ import annotations

from pathlib import Path

from segray.case import LabelMap
from segray.config import NetConfig
from segray.grid import Grid
from segray.nets.bundle import save_bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net


def make_bundle(folder: Path, *structures: str) -> None:
    """A 2D net of the structures for slices of 16 x 16 at any spacing, in ``folder``."""
    net = NetConfig(features=[4, 8])
    save_bundle(
        str(folder), build_net(net, 1, 1 + len(structures)), net=net, label_map=LabelMap.of_names(structures),
        grid=Grid("native", (16, 16), None, -1024.0), normalisation=Normalisation("window"),
    )  # fmt: skip
