"""The spaces of tune_spaces/: each loads, draws nothing impossible, reaches the defaults and keeps its conditions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import optuna
import pytest

from segray.config import Config, parse_config
from segray.errors import UsageError
from segray.tuning.combinations import default_params
from segray.tuning.draws import example_draws
from segray.tuning.space import Space, load_space, with_settings
from segray.tuning.space_check import check_space

ROOT = Path(__file__).resolve().parents[2]
SPACES = sorted((ROOT / "tune_spaces").glob("*.py"))


def draws(name: str) -> list[dict[str, Any]]:
    """200 draws, of one that can draw anything."""
    return example_draws(load_space(ROOT / "tune_spaces" / f"{name}.py"), 200, seed=0)


@pytest.fixture(params=SPACES, ids=lambda path: path.stem)
def space(request: pytest.FixtureRequest) -> Space:
    return load_space(request.param)


def test_the_spaces_are_there() -> None:
    assert {"quick", "unet2d", "augmentation"} <= {path.stem for path in SPACES}


def test_each_says_what_it_is_for_and_costs_and_found(space: Space) -> None:
    first, *others = space.docstring.split("\n\n")
    assert first.endswith(".")
    assert any(part.startswith("Cost: ") for part in others)
    assert any(part.startswith("Found here: ") for part in others)


def test_nothing_that_each_draws_is_impossible(space: Space) -> None:
    check_space(space, Config())
    made = [with_settings(Config(), drawn) for drawn in example_draws(space, 200, seed=0)]
    assert len({str(config) for config in made}) > 100


def test_each_reaches_the_defaults(space: Space) -> None:
    params = default_params(space, Config())
    assert params is not None
    study = optuna.create_study()
    study.enqueue_trial(params)
    trial = study.ask()
    assert with_settings(Config(), space.draw(trial)) == Config()
    assert trial.params == params


def test_each_goes_through_a_study_with_the_samplers(space: Space) -> None:
    for sampler in (
        optuna.samplers.TPESampler(multivariate=True, group=True, n_startup_trials=5, seed=0),
        optuna.samplers.NSGAIISampler(population_size=5, seed=0),
    ):
        study = optuna.create_study(sampler=sampler)
        for number in range(15):
            trial = study.ask()
            with_settings(Config(), space.draw(trial))
            study.tell(trial, float(number % 4))


def test_quick_draws_three_numbers() -> None:
    for drawn in draws("quick"):
        assert set(drawn) == {"optim.lr", "optim.weight_decay", "train.batch_size"}


def test_unet2d_keeps_its_conditions() -> None:
    drawn = draws("unet2d")
    for one in drawn:
        levels = len(one["net.features"])
        assert levels >= 4 or one["net.deep_supervision"] is False
        assert ("loss.focal_gamma" in one) == (one["loss.focal"] > 0)
        assert ("loss.tversky_alpha" in one) == (one["loss.tversky"] > 0)
        if one["loss.tversky"]:
            assert one["loss.tversky_alpha"] + one["loss.tversky_beta"] == pytest.approx(1)
        assert ("sampling.foreground_share" in one) == (one["sampling.mode"] == "foreground")
        assert ("optim.momentum" in one) == (one["optim.name"] != "adamw")
        assert ("optim.warmup_steps" in one) == (one["optim.schedule"] != "one_cycle")
    assert {len(one["net.features"]) for one in drawn} == {3, 4, 5}
    assert any(one["net.deep_supervision"] for one in drawn)
    fastest = {name: max(one["optim.lr"] for one in drawn if one["optim.name"] == name) for name in ("adamw", "sgd")}
    assert fastest["adamw"] <= 1e-2 < fastest["sgd"]


def test_unet2d_draws_every_loss_with_all_of_its_weights() -> None:
    terms = ("dice", "cross_entropy", "bce", "focal", "tversky", "lovasz")
    losses = {tuple(one[f"loss.{term}"] for term in terms) for one in draws("unet2d")}
    assert losses == {
        (1.0, 1.0, 0.0, 0.0, 0.0, 0.0),
        (0.6, 0.0, 0.4, 0.0, 0.0, 0.0),
        (1.0, 0.0, 0.0, 1.0, 0.0, 0.0),
        (0.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        (0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    }


def test_unet2d_overrules_a_config_that_its_nets_do_not_go_with() -> None:
    config = parse_config({"net": {"name": "segresnet", "features": [8, 16]}, "loss": {"lovasz": 3}})
    check_space(load_space(ROOT / "tune_spaces" / "unet2d.py"), config)


def test_augmentation_draws_no_strength_of_what_is_off() -> None:
    strengths = {
        "rotate": ("rotate_degrees",),
        "scale": ("scale_factor",),
        "shift": ("shift_share",),
        "brightness": ("brightness_share",),
        "contrast": ("contrast_change",),
        "gamma": ("gamma_change",),
        "noise": ("noise_sd",),
        "elastic": ("elastic_spacing", "elastic_shift"),
        "blur": ("blur_sd",),
        "low_resolution": ("low_resolution_factor",),
        "cutout": ("cutout_count", "cutout_size"),
        "mixup": ("mixup_alpha",),
    }
    drawn = draws("augmentation")
    for probability, names in strengths.items():
        assert {one[f"augment.{probability}"] > 0 for one in drawn} == {True, False}
        for one in drawn:
            for name in names:
                assert (f"augment.{name}" in one) == (one[f"augment.{probability}"] > 0), name
    assert not {key for one in drawn for key in one if "flip" in key or "window" in key}


def test_augmentation_goes_with_images_that_have_no_window() -> None:
    space = load_space(ROOT / "tune_spaces" / "augmentation.py")
    check_space(space, parse_config({"intensity": {"mode": "case"}, "augment": {"enabled": False}}))


def test_the_page_shows_quick_as_it_is_and_a_space_that_works(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    assert (ROOT / "tune_spaces" / "quick.py").read_text(encoding="utf-8").endswith(blocks[0])
    path = tmp_path / "mine.py"
    path.write_text(blocks[1], encoding="utf-8")
    mine = load_space(path)
    check_space(mine, Config())
    assert default_params(mine, Config()) is not None


def test_the_page_names_every_space_and_what_may_not_be_drawn() -> None:
    page = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    for path in SPACES:
        assert f"`{path.name}`" in page
    for key in re.findall(r"`([a-z.*]+)`", page.split("may not draw")[1].split(".\n")[0]):
        name = key.removesuffix(".*")
        with pytest.raises(UsageError, match="may not draw"):
            with_settings(Config(), {name: None})
