"""One image in all 48 orientations predicts to one mask; odd volumes end in one sentence."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from segray import formats
from segray.case import LabelMap
from segray.config import NetConfig, PredictConfig
from segray.engine.predictor import Predictor
from segray.errors import CaseError
from segray.grid import Grid
from segray.nets.bundle import Bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """A net with random weights: whatever it sees differently in another orientation shows in its mask."""
    torch.manual_seed(7)
    label_map = LabelMap.of_names(["a", "b", "c"])
    config = NetConfig(features=[4, 8], norm="instance")
    net = build_net(config, 1, label_map.channels)
    bundle = Bundle(
        config, 1, label_map, Grid("spacing", (32, 32), (4.0, 4.0), 0.0), Normalisation("case"), net.state_dict()
    )
    return Predictor(bundle, PredictConfig(precision="float32"), device="cpu")


def test_masks_of_all_orientations_are_equal_after_reorientation(
    shared_data: Path, predictor: Predictor, tmp_path: Path
) -> None:
    files = sorted((shared_data / "robust" / "orientations").glob("*.nii.gz"))
    assert len(files) == 48
    canonical = []
    for path in files:
        case = formats.read_image(formats.lone_image(str(path)))
        indices = predictor.predict(case.voxels, case.geometry.spacing)
        target = tmp_path / path.name
        formats.write_mask(str(target), predictor.bundle.label_map.to_value(indices), case.geometry)
        image, mask = nibabel.load(path), nibabel.load(target)
        assert mask.shape == image.shape[:3]
        assert np.array_equal(mask.affine, image.affine)
        canonical.append(np.asarray(nibabel.as_closest_canonical(mask).dataobj))
    assert len(np.unique(canonical[0])) > 1
    for path, array in zip(files, canonical, strict=True):
        assert np.array_equal(array, canonical[0]), path.name


@pytest.mark.parametrize(("name", "word"), [("complex.nii.gz", "complex"), ("ct_perfusion.nii.gz", "RGB")])
def test_volumes_that_are_no_scan_are_refused_in_one_sentence(shared_data: Path, name: str, word: str) -> None:
    with pytest.raises(CaseError) as caught:
        formats.read_image(formats.lone_image(str(shared_data / "robust" / name)))
    assert word.lower() in caught.value.message.lower()
    assert "\n" not in str(caught.value)


def test_a_sheared_volume_is_predicted_on_its_own_grid_and_said(
    shared_data: Path, predictor: Predictor, tmp_path: Path
) -> None:
    path = shared_data / "robust" / "shear.nii.gz"
    case = formats.read_image(formats.lone_image(str(path)))
    assert any("shear" in note.lower() for note in case.notes)
    indices = predictor.predict(case.voxels, case.geometry.spacing)
    formats.write_mask(str(tmp_path / "shear.nii.gz"), predictor.bundle.label_map.to_value(indices), case.geometry)
    image, mask = nibabel.load(path), nibabel.load(tmp_path / "shear.nii.gz")
    assert mask.shape == image.shape[:3]
    assert np.array_equal(mask.affine, image.affine)
