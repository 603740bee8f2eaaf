"""What a job takes along: the small files that its command names, and the command as the cluster has to read it.

Needs neither Ray nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from segray.config import load_config, put_override
from segray.errors import UsageError, without_secrets
from segray.storage import is_remote
from segray.tuning.space import own_spaces

MOST_BYTES = 8 * 1024 * 1024
"""Of all files of a job: what is larger is data."""

FOLDER = "packed"
"""The files' folder in the folder in which a job runs, so that none of them is imported by mistake."""

SHARED = "Name it as the cluster sees it: a path on its shared storage, or a URI."
IN_THE_NODES = "Put it into the environment of the nodes, such as PGPASSWORD or AWS_SECRET_ACCESS_KEY."


@dataclass(frozen=True)
class Roles:
    """Which parameters and settings of a command name files to take along, and which name places on the cluster.

    Attributes:
        files: parameters that name a small file, and what users call them.
        places: parameters that name data or an outcome, and what users call them.
        settings: dotted settings that name a file or a place, and the parameter that overrules each; empty: none does.
        outcome: parameters and settings that name the folder of the outcome, the first that is given counts.
    """

    files: Mapping[str, str] = field(default_factory=lambda: {"config": "--config"})
    places: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    outcome: Sequence[str] = ()


PATIENTS = "ingest.split.patients"
ANNOTATED = "ingest.annotated"
TABLES = {PATIENTS: "", ANNOTATED: ""}
PRIVACY_KEY = "privacy.key_file"
"""A place: a key that went along would lie in the head's memory, and be sent to all nodes."""

FILE_SETTINGS = ("tune.space", *TABLES)
"""Settings that name a small file; the others of :class:`Roles` name places."""

SPACES = ("--space", "tune.space")
"""Where a search space may also be called by the name that segray has for it."""

WORDS = {"tune.storage": "sqlite"}
"""Values of settings of places that are words and no paths."""

COMMANDS: Mapping[str, Roles] = {
    "doctor": Roles(places={"source": "SRC", "out": "--out", "storage": "--storage"}, settings=TABLES),
    "ingest": Roles(places={"source": "SRC", "destination": "DST"}, settings=TABLES, outcome=("destination",)),
    "train": Roles(
        files={"config": "CONFIG"},
        places={"shards": "--shards", "run": "--run", "resume": "--resume", "start_from": "--start-from"},
        settings={"train.shards": "shards", "train.run": "run", "train.start_from": "start_from", **TABLES},
        outcome=("run", "resume", "train.run"),
    ),
    "tune": Roles(
        files={"config": "CONFIG", "space": "--space"},
        places={"shards": "--shards", "run": "--run", "resume": "--resume"},
        settings={
            "train.shards": "shards",
            "tune.run": "run",
            "tune.space": "space",
            "train.start_from": "",
            "tune.bundle": "",
            "tune.earlier": "",
            "tune.storage": "",
        },
        outcome=("run", "resume", "tune.run"),
    ),
    "preview-augment": Roles(
        files={"config": "CONFIG"}, places={"shards": "--shards", "out": "--out"}, settings={"train.shards": "shards"}
    ),
    "predict": Roles(
        places={"bundle": "BUNDLE", "further": "--with", "source": "SRC", "destination": "DST"},
        outcome=("destination",),
    ),
    "evaluate": Roles(
        places={"predictions": "PREDICTIONS", "truth": "TRUTH"}, settings={ANNOTATED: ""}, outcome=("predictions",)
    ),
    "report": Roles(places={"folder": "FOLDER", "predictions": "--predictions"}, outcome=("folder",)),
    "demo": Roles(places={"data": "--data", "out": "--out"}, outcome=("out",)),
}
"""The commands that can be a job."""


@dataclass(frozen=True)
class Package:
    """A command for the cluster, and its files.

    Attributes:
        words: of the command, behind ``segray``.
        files: paths in the folder of the job, and what the files hold.
        outcome: the folder that the command writes or reads; empty: none that it names.
    """

    words: tuple[str, ...]
    files: Mapping[str, bytes]
    outcome: str = ""

    def write(self, folder: Path) -> None:
        """Lay the files out below ``folder``."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def pack(words: Sequence[str], parameters: Mapping[str, Any]) -> Package:
    """Pack a command: files that lie here go along, and the words that name them name their copies.

    A file that does not lie here but has an absolute path is taken for one of the cluster's own.

    Args:
        words: a command and its arguments, such as ``["train", "my.yaml", "--run", "/mnt/run"]``.
        parameters: what the command line made of the words, by the names of the command's parameters.

    Raises:
        UsageError: no command that can be a job; a file that is nowhere, or so large that it is data; a relative path
            of data, which the cluster would look for elsewhere; a password; settings that are wrong.
    """
    roles = COMMANDS.get(words[0])
    if roles is None:
        raise UsageError(f"{words[0]} cannot be a job.", mend=f"These can: {', '.join(COMMANDS)}.")
    for word in words:
        _refuse_password(word, "The command")
    copies = _Copies()
    taken = list(words)
    for name, called in roles.files.items():
        if value := parameters.get(name):
            taken = _renamed(taken, value, copies.take(value, called))
    for name, called in roles.places.items():
        if not (name == "out" and parameters.get("cluster")):
            _refuse_relative(parameters.get(name), called)
    tree = _tree(parameters.get("config"), parameters.get("overrides") or [])
    taken = _with_settings(taken, roles, parameters, tree, copies)
    outcome = next((told for name in roles.outcome if (told := parameters.get(name) or _setting(tree, name))), "")
    return Package(tuple(taken), copies.files, str(outcome))


class _Copies:
    """The files that go along, each in a folder of its own, since two may have one name."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self._names: dict[Path, str] = {}

    def take(self, value: str, called: str) -> str:
        """The path of the copy of a file; ``value`` itself where it is one of the cluster's own."""
        path = Path(value)
        if not path.is_file():
            if path.is_absolute() or is_remote(value) or (called in SPACES and value in own_spaces()):
                return value
            raise UsageError(f"There is no file {value} ({called}).", mend="Mend its path.")
        name = self._names.setdefault(path.resolve(), f"{FOLDER}/{len(self._names)}/{path.name}")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{value} ({called}) cannot be read ({error.strerror}).") from error
        if sum(map(len, self.files.values())) + len(content) > MOST_BYTES:
            raise UsageError(f"{value} ({called}) is too large to go along with a job.", mend=SHARED)
        _refuse_password(content.decode("utf-8", "replace"), f"The file {value}")
        self.files[name] = content
        return name


def _with_settings(
    words: list[str], roles: Roles, parameters: Mapping[str, Any], tree: Mapping[str, Any], copies: _Copies
) -> list[str]:
    """The words, with the settings that name files set to their copies."""
    for key, overruled_by in {**roles.settings, PRIVACY_KEY: ""}.items():
        value = _setting(tree, key)
        if value in (None, WORDS.get(key)) or (overruled_by and parameters.get(overruled_by) is not None):
            continue
        if key not in FILE_SETTINGS:
            _refuse_relative(value, key)
        elif (copy := copies.take(str(value), key)) != value:
            renamed = _renamed(words, f"{key}={value}", f"{key}={copy}")
            words = renamed if renamed != words else [*words, "--set", f"{key}={copy}"]
    return words


def _refuse_password(text: str, what: str) -> None:
    if any(without_secrets(line) != line for line in text.splitlines()):
        raise UsageError(
            f"{what} holds a password, and whoever may look at the cluster can read it there.", mend=IN_THE_NODES
        )


def _refuse_relative(value: Any, called: str) -> None:
    """Raises UsageError for a path that only a process in this folder would find; lists are looked into."""
    for one in value if isinstance(value, list) else [value]:
        if one and not is_remote(str(one)) and not Path(str(one).removeprefix("file://")).is_absolute():
            raise UsageError(f"{called}: {one} is relative, and a job runs in a folder of its own.", mend=SHARED)


def _renamed(words: Sequence[str], value: str, copy: str) -> list[str]:
    """The words behind the command with ``copy`` in place of ``value``, alone or behind an ``=``."""
    return [words[0], *(_with_copy(word, value, copy) for word in words[1:])]


def _with_copy(word: str, value: str, copy: str) -> str:
    if word == value:
        return copy
    return word.removesuffix(value) + copy if word.startswith("--") and word.endswith(f"={value}") else word


def _tree(config: str | None, overrides: Sequence[str]) -> dict[str, Any]:
    """The settings that a command names, of which those are checked whose file lies here. Raises UsageError."""
    known = config is None or Path(config).is_file()
    if known:
        load_config(config, overrides)
    tree = (yaml.safe_load(Path(config).read_text(encoding="utf-8")) if config and known else None) or {}
    for override in overrides:
        put_override(tree, override)
    return dict(tree)


def _setting(tree: Mapping[str, Any], key: str) -> Any:
    found: Any = tree
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
