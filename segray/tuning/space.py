"""The search space of a sweep: the user's own Python file, and what its draws make of a config."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from segray.config import Config, known_keys, parse_config, put_setting
from segray.errors import UsageError

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

IN_THE_CONFIG = "Set it in the config or with --set."
NOT_DRAWN = {
    "tune": ("the settings of the sweep are the same for all of its trials", IN_THE_CONFIG),
    "ray": ("all trials share one cluster", IN_THE_CONFIG),
    "ingest": ("all trials read the same shards", "Ingest with each of its values, and run a sweep on each."),
    "train.run": ("every trial gets a run folder of its own", "Name the folder of the sweep in tune.run."),
    "train.shards": ("trials are compared on the same cases", IN_THE_CONFIG),
    "train.folds": ("trials are compared on one split", "Cross-validate the best settings after the sweep."),
    "train.fold": ("trials are compared on one split", "Cross-validate the best settings after the sweep."),
    "train.workers": ("every trial takes the same room", IN_THE_CONFIG),
    "train.cpus_per_worker": ("every trial takes the same room", IN_THE_CONFIG),
    "train.gpu": ("every trial takes the same room", IN_THE_CONFIG),
    "train.trackers": ("all trials are tracked alike", IN_THE_CONFIG),
}
"""Keys that no space may draw: why, and what to do instead."""

OWN_SPACES = Path(__file__).resolve().parents[2] / "tune_spaces"
"""The spaces that come with segray, beside its package in a checkout and where it is installed."""

KEYS = tuple(key for key, _ in known_keys())


@dataclass(frozen=True)
class Space:
    """A search space.

    Attributes:
        path: its file.
        space: the file's function: of an Optuna trial, to dotted config keys and values.
        docstring: what the file says of itself; empty where it says nothing.
    """

    path: Path
    space: Callable[[BaseTrial], dict[str, Any]]
    docstring: str = ""

    def draw(self, trial: BaseTrial) -> dict[str, Any]:
        """The settings of a trial, in plain values that a config, a study and YAML hold: 8 for numpy's 8.

        Raises:
            UsageError: the function fails (with its line), or returns no settings.
        """
        try:
            settings = self.space(trial)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"space(trial) of {self.path} fails{_place(error, self.path)}: {_told(error)}.",
                mend="It must work with whatever its trial suggests.",
            ) from error
        if not isinstance(settings, dict):
            raise self._no_settings(f"returns {'nothing' if settings is None else type(settings).__name__}")
        for key in settings:
            if not isinstance(key, str):
                raise self._no_settings(f"returns the key {key!r}, which is no text")
        return {key: self._plain(key, value) for key, value in settings.items()}

    def _plain(self, key: str, value: Any) -> Any:
        if isinstance(value, np.generic | np.ndarray):
            value = value.tolist()
        if isinstance(value, list | tuple):
            return [self._plain(key, one) for one in value]
        if isinstance(value, dict) and all(type(name) is str for name in value):
            return {name: self._plain(f"{key}.{name}", one) for name, one in value.items()}
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise UsageError(
            f"space(trial) of {self.path} returns {value!r} for {key}, which no config holds.",
            mend="Return numbers, text, true or false, None, or lists and tables of them.",
        )

    def _no_settings(self, what: str) -> UsageError:
        return UsageError(
            f"space(trial) of {self.path} {what}.",
            mend="It must return dotted config keys and values, such as {'optim.lr': 0.001}.",
        )


def own_spaces() -> dict[str, Path]:
    """Name to file of the spaces that come with segray."""
    return {path.stem: path for path in sorted(OWN_SPACES.glob("*.py"))}


def load_space(path: str | Path) -> Space:
    """Import the file of a search space, under a module name that nothing else has.

    ``path`` may be the name of one that comes with segray, where no file is called so.

    Raises:
        UsageError: no such file, no Python (with the line), an exception while it is imported (with name and line), or
            no function ``space``.
    """
    told, own = Path(path), own_spaces()
    path = told if told.is_file() else own.get(str(path), told)
    if not path.is_file():
        names = ", ".join(own)
        raise UsageError(f"There is no search space {path}.", mend=f"Name a file, or one that segray brings: {names}.")
    module = _imported(path)
    space = getattr(module, "space", None)
    if not callable(space):
        raise UsageError(
            f"The search space {path} has no function space.",
            mend="Write `def space(trial):`, which returns dotted config keys and values.",
        )
    return Space(path, space, inspect.cleandoc(module.__doc__ or ""))


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """The config with what a space drew in place of its own settings, validated again.

    Args:
        config: all that the space does not draw.
        settings: dotted keys and values; lists and tables are replaced as a whole.

    Raises:
        UsageError: a key that no space may draw (:data:`NOT_DRAWN`), an unknown key (with the nearest known one), a
            value out of range, or settings that do not go together.
    """
    tree = config.model_dump()
    for key, value in settings.items():
        _refuse(key)
        if key == "train.batch_size" and value == "auto":
            raise UsageError(
                "A search space may not draw train.batch_size=auto: it is found once, before the first trial.",
                mend="Draw numbers, or set auto in the config or with --set.",
            )
        put_setting(tree, key, value)
    return parse_config(tree)


class _FreshLoader(SourceFileLoader):
    """Reads the file itself: a cache would lie beside the user's file, and be stale after a quick edit."""

    def get_code(self, fullname: str) -> CodeType:
        """The compiled file; ``fullname`` is the module's name."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def _imported(path: Path) -> ModuleType:
    name = f"_segray_space_{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_loader(name, _FreshLoader(name, str(path)))
    if spec is None or spec.loader is None:
        raise UsageError(f"The search space {path} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Dataclasses, for one, look their module up.
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        if isinstance(error, SyntaxError) and error.filename in (None, str(path)):
            line = f" in line {error.lineno}" if error.lineno else ""
            raise UsageError(f"The search space {path} is no Python{line}: {error.msg}.") from error
        raise UsageError(
            f"The search space {path} fails{_place(error, path)} while it is imported: {_told(error)}.",
            mend="Mend that line.",
        ) from error
    return module


def _place(error: BaseException, path: Path) -> str:
    """The line of the user's file where an exception came from, as part of a sentence."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" in line {lines[-1]}" if lines else ""


def _told(error: BaseException) -> str:
    # What a program would exit with says nothing here; wandb makes a 0 of none.
    words = "" if isinstance(error, SystemExit) else str(error).rstrip(".")
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _refuse(key: str) -> None:
    for name, (why, instead) in NOT_DRAWN.items():
        if key == name or key.startswith(f"{name}."):
            raise UsageError(f"A search space may not draw {key}: {why}.", mend=instead)
    inside = next((known for known in KEYS if known.startswith(f"{key}.")), None)
    if inside is not None:
        raise UsageError(f"{key} is a section, and a space draws settings.", mend=f"Name them, such as {inside}.")
