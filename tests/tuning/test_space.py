"""A search space: the user's file in, settings out, or one sentence that says what is wrong with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import FixedTrial

from segray.config import Config, parse_config
from segray.errors import UsageError
from segray.tuning.draws import WalkingTrial, ends
from segray.tuning.space import Space, load_space, with_settings

Write = Callable[[str], Space]


def lowest() -> WalkingTrial:
    return WalkingTrial(lambda _, distribution: ends(distribution)[0])


def test_a_space_is_loaded_with_its_docstring(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text('"""What it is for.\n\n    Its cost.\n"""\ndef space(trial):\n    return {"optim.lr": 0.5}\n')
    space = load_space(str(path))
    assert space.path == path
    assert space.docstring == "What it is for.\n\nIts cost."
    assert space.draw(lowest()) == {"optim.lr": 0.5}


def test_loading_leaves_nothing_beside_the_file_and_sees_every_edit(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    for value in (1, 2):
        path.write_text(f"def space(trial):\n    return {{'seed': {value}}}\n")
        assert load_space(path).draw(lowest()) == {"seed": value}
    assert list(tmp_path.iterdir()) == [path]
    assert "mine" not in sys.modules


def test_two_files_of_one_name_are_two_spaces(tmp_path: Path) -> None:
    spaces = []
    for value in (1, 2):
        path = tmp_path / str(value) / "mine.py"
        path.parent.mkdir()
        path.write_text(f"VALUE = {value}\ndef space(trial):\n    return {{'seed': VALUE}}\n")
        spaces.append(load_space(path))
    assert [space.draw(lowest()) for space in spaces] == [{"seed": 1}, {"seed": 2}]


def test_a_file_may_define_dataclasses(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Net:\n    width: int\n"
        "def space(trial):\n    return {'seed': Net(3).width}\n"
    )
    assert load_space(path).draw(lowest()) == {"seed": 3}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def space(trial):\n    return {\n", "mine.py is no Python in line 2: '{' was never closed."),
        ("a = b'\\x00'\nb = \x00", "mine.py is no Python"),
        ("import json\n\n{}['lr']\n", "mine.py fails in line 3 while it is imported: KeyError: 'lr'."),
        ("def lr():\n    return {}['lr']\n\nlr()\n", "mine.py fails in line 2 while it is imported: KeyError: 'lr'."),
        ("import nowhere_at_all\n", "mine.py fails in line 1 while it is imported: ModuleNotFoundError: No module"),
        ("import sys\nsys.exit()\n", "mine.py fails in line 2 while it is imported: SystemExit."),
        ("compile('(', 'other.py', 'exec')\n", "mine.py fails in line 1 while it is imported: SyntaxError"),
        ("def spaces(trial):\n    return {}\n", "mine.py has no function space. Write `def space(trial):`"),
        ("space = {'optim.lr': 0.1}\n", "mine.py has no function space."),
    ],
)
def test_a_file_that_is_no_space_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    before = set(sys.modules)
    with pytest.raises(UsageError) as caught:
        load_space(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    if "fails" in said:
        assert not {name for name in set(sys.modules) - before if name.startswith("_segray")}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    brought = "one that segray brings: augmentation, inference, quick, unet2d"
    with pytest.raises(UsageError, match=rf"There is no search space .*none\.py\. Name a file, or {brought}"):
        load_space(tmp_path / "none.py")
    with pytest.raises(UsageError, match="There is no search space"):
        load_space(tmp_path)


def test_spaces_of_segray_are_called_by_name_unless_a_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_space("quick").path.name == "quick.py"
    monkeypatch.chdir(tmp_path)
    Path("quick").write_text("def space(trial):\n    return {}\n")
    assert load_space("quick").path == Path("quick")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("lr = trial.suggest_float('optim.lr', 1, 2)\nreturn {}[lr]", "mine.py fails in line 3: KeyError: 1.0."),
        ("return trial.suggest_float('optim.lr', 2, 1)", "mine.py fails in line 2: ValueError: `low <= high` must"),
        ("raise RuntimeError", "mine.py fails in line 2: RuntimeError."),
        ("trial.suggest_int('seed', 1, 2)", "mine.py returns nothing. It must return dotted config keys"),
        ("return [1]", "mine.py returns list."),
        ("return {1: 2}", "mine.py returns the key 1, which is no text."),
    ],
)
def test_a_function_that_gives_no_settings_is_named_with_its_line(write: Write, lines: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        write(lines).draw(lowest())
    assert said in str(caught.value)
    assert str(caught.value).startswith("space(trial) of ")


def test_a_function_without_argument_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def space():\n    return {}\n")
    with pytest.raises(UsageError, match=r"fails: TypeError: space\(\) takes 0 positional arguments but 1 was given\."):
        load_space(path).draw(lowest())


def test_a_trial_of_a_study_draws_too(write: Write) -> None:
    space = write("return {'optim.lr': trial.suggest_float('optim.lr', 0.1, 0.1)}")
    study = optuna.create_study()
    assert space.draw(study.ask()) == {"optim.lr": 0.1}


def test_settings_take_the_place_of_the_configs_own() -> None:
    config = parse_config({"train": {"epochs": 7}, "loss": {"class_weights": {"liver": 2}}})
    made = with_settings(
        config, {"net.features": [8, 16, 32], "optim.lr": 0.5, "loss.class_weights.spleen": 3, "seed": 4}
    )
    assert (made.net.features, made.optim.lr, made.seed, made.train.epochs) == ([8, 16, 32], 0.5, 4, 7)
    assert made.loss.class_weights == {"liver": 2, "spleen": 3}
    assert config.loss.class_weights == {"liver": 2}
    assert with_settings(config, {}) == config


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optim.lrr": 1}, "Unknown setting optim.lrr. Did you mean optim.lr?"),
        ({"optim.lr.peak": 1}, "Unknown setting optim.lr.peak. Did you mean optim.lr?"),
        ({"qqqq.zzzz": 1}, "Unknown setting qqqq. `segray config` prints all settings."),
        ({"optim.lr": -1}, "Setting optim.lr: input should be greater than 0; found -1."),
        ({"net.features": [8]}, "Setting net.features"),
        ({"net.features": [8, 16, 32], "net.deep_supervision": True}, "deep_supervision needs four levels or more"),
        ({"augment.window": 0.5, "intensity.mode": "case"}, "Settings that do not go together: augment.window"),
        ({"net": {"features": [8, 16]}}, "net is a section, and a space draws settings. Name them, such as net.name."),
        ({"tune.trials": 3}, "may not draw tune.trials: the settings of the sweep are the same for all of its trials."),
        ({"tune": {}}, "may not draw tune: the settings of the sweep"),
        ({"ray.cpus": 3}, "may not draw ray.cpus: all trials share one cluster. Set it in the config"),
        ({"ingest.grid.size": [64, 64]}, "may not draw ingest.grid.size: all trials read the same shards. Ingest with"),
        ({"train.run": "x"}, "may not draw train.run: every trial gets a run folder of its own. Name the folder"),
        ({"train.shards": "x"}, "may not draw train.shards: trials are compared on the same cases. Set it in"),
        ({"train.folds": 5}, "may not draw train.folds: trials are compared on one split. Cross-validate the best"),
        ({"train.fold": 0}, "may not draw train.fold: trials are compared on one split."),
        ({"train.trackers": []}, "may not draw train.trackers: all trials are tracked alike."),
        ({"train.workers": 2}, "may not draw train.workers: every trial takes the same room."),
    ],
)
def test_settings_that_no_trial_can_have_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        with_settings(Config(), settings)
    assert said in str(caught.value)


def test_values_of_numpy_are_plain(write: Write) -> None:
    space = write("""
import numpy as np
widths = np.array([4, 8]) * trial.suggest_int("n", 1, 1)
return {"train.batch_size": np.int64(8), "net.features": widths, "optim.lr": np.float64(0.1),
        "net.deep_supervision": np.bool_(True), "augment.scale_factor": (np.float32(0.5), 2),
        "predict.x": {"a": np.int8(1)}}
""")
    settings = space.draw(FixedTrial({"n": 1}))
    assert json.loads(json.dumps(settings)) == settings
    assert yaml.safe_load(yaml.safe_dump(settings)) == settings
    assert settings["net.features"] == [4, 8]
    assert type(settings["train.batch_size"]) is int


@pytest.mark.parametrize("value", ["{1, 2}", "object", "__import__('pathlib').Path('x')", "[1, {2: 3}]"])
def test_values_that_no_config_holds(write: Write, value: str) -> None:
    with pytest.raises(UsageError, match=r"for optim\.lr, which no config holds"):
        write(f'return {{"optim.lr": {value}}}').draw(FixedTrial({}))
