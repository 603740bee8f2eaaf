"""Settings of a prediction that are taken and change nothing are said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segray.case import LabelMap
from segray.config import NetConfig, load_config
from segray.grid import Grid
from segray.nets.bundle import Bundle
from segray.nets.normalise import Normalisation
from segray.pipelines.idle_predict import idle_predict, unlearnt_mirrors


def bundle(*, patch: tuple[int, int, int] | None = None) -> Bundle:
    """Without weights."""
    grid = Grid("native", (16, 16), None, 0.0)
    return Bundle(NetConfig(patch=patch), 1, LabelMap({"a": 1}), grid, Normalisation("window"), {}, bundle_id="0")


FLAT, DEEP = bundle(), bundle(patch=(16, 16, 16))


@pytest.mark.parametrize(
    ("settings", "bundles", "words"),
    [
        (["predict.overlap=0.25"], [FLAT], "predict.overlap changes nothing where slices are seen whole"),
        (["predict.overlap=0.25", "predict.window=[0,0]"], [FLAT], "predict.overlap changes nothing: predict.window"),
        (["predict.probabilities=uint16"], [FLAT], "predict.probabilities=uint16 changes nothing"),
    ],
)
def test_a_setting_without_effect_is_said(settings: list[str], bundles: list[Bundle], words: str) -> None:
    (said,) = idle_predict(load_config(None, settings).predict, bundles)
    assert said.startswith(words)


@pytest.mark.parametrize(
    ("settings", "bundles"),
    [
        ([], [FLAT, DEEP]),
        (["predict.overlap=0.25"], [DEEP]),
        (["predict.overlap=0.25"], [FLAT, DEEP]),
        (["predict.overlap=0.25", "predict.window=[128,128]"], [FLAT]),
        (["predict.probabilities=uint16", "predict.further=probabilities"], [FLAT]),
        (["predict.batch_slices=4"], [DEEP]),
    ],
)
def test_settings_with_an_effect_are_not(settings: list[str], bundles: list[Bundle]) -> None:
    assert idle_predict(load_config(None, settings).predict, bundles) == []


def test_mirror_images_that_the_training_had_none_of_are_told() -> None:
    mirrored = load_config(None, ["predict.mirror=[x,y,z]"]).predict
    learnt_x = replace(FLAT, provenance={"mirrored": load_config(None, ["augment.flip_x=0.5"]).augment.mirrored})
    (said,) = unlearnt_mirrors(mirrored, [learnt_x])
    assert "no mirror images along y (augment.flip_y)" in said
    (said,) = unlearnt_mirrors(mirrored, [learnt_x, replace(DEEP, provenance={"mirrored": []})])
    assert "along x and y and z" in said
    assert unlearnt_mirrors(load_config(None, ["predict.mirror=x"]).predict, [learnt_x]) == []
    # Bundles of before do not tell, and of what a file says otherwise nothing is believed.
    assert unlearnt_mirrors(mirrored, [FLAT, replace(FLAT, provenance={"mirrored": "none"})]) == []


def test_without_augmentation_no_mirror_image_is_learnt() -> None:
    assert load_config(None, ["augment.flip_x=0.5", "augment.flip_z=1"]).augment.mirrored == ["x", "z"]
    assert load_config(None, ["augment.flip_x=0.5", "augment.enabled=false"]).augment.mirrored == []
