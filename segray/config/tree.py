"""All settings as one tree: YAML and ``key=value`` in, resolved YAML out; of an unknown key the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError, model_validator

from segray.config.ingest import IngestConfig
from segray.config.learning import AugmentConfig, LossConfig, OptimConfig, SamplingConfig
from segray.config.net import IntensityConfig, NetConfig
from segray.config.predict import EvaluateConfig, PredictConfig
from segray.config.section import Count, Section, setting
from segray.config.surroundings import PrivacyConfig, RayConfig
from segray.config.train import TrainConfig
from segray.config.tune import TuneConfig
from segray.errors import UsageError


class Config(Section):
    """All settings of segray."""

    seed: Count = setting(0, "seed of order, augmentation and initial weights")
    ingest: IngestConfig = IngestConfig()
    net: NetConfig = NetConfig()
    intensity: IntensityConfig = IntensityConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    sampling: SamplingConfig = SamplingConfig()
    train: TrainConfig = TrainConfig()
    predict: PredictConfig = PredictConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tune: TuneConfig = TuneConfig()
    ray: RayConfig = RayConfig()
    privacy: PrivacyConfig = PrivacyConfig()

    @model_validator(mode="after")
    def _window_can_move(self) -> Config:
        if self.augment.window > 0 and self.intensity.mode != "window":
            raise ValueError(f"augment.window moves a window, and intensity.mode={self.intensity.mode} has none")
        return self


# A sweep writes and reads a config a trial, which takes libyaml 3 ms and PyYAML's own writer and reader 12 each.
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MOST_NESTED = 2000
"""Signs that may open something within something: libyaml ends the process where it comes to ten thousands deep."""

_dumped: dict[str, tuple[str, str]] = {}
"""Of the key of a setting, or of a group in a section: what was written of it last, and the YAML that it became."""


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The config of a YAML file (or the defaults) with ``key=value`` overrides applied.

    Raises:
        UsageError: no such file, bad YAML, an unknown key (with the nearest known one) or a value out of range.
    """
    tree = _read_yaml(Path(path)) if path is not None else {}
    _fill_sections(tree, Config)
    for override in overrides:
        put_override(tree, override)
    return parse_config(tree)


def parse_config(tree: dict[str, Any]) -> Config:
    """Build the typed config of a nested dictionary. Raises UsageError as :func:`load_config`."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UsageError(_explain(error)) from None


def dump_config(config: Config) -> str:
    """The resolved config as YAML that :func:`load_config` reads back to an equal config."""
    return "".join(_yaml_of(name, value) for name, value in config.model_dump(mode="json").items())


def _yaml_of(name: str, value: Any) -> str:
    if not isinstance(value, dict) or not value:
        return _kept_yaml(name, {name: value})
    # Each below the name of its section, since YAML breaks lines by their length.
    inner = (_kept_yaml(f"{name}.{key}", {name: {key: one}}).partition("\n")[2] for key, one in value.items())
    return "".join([f"{name}:\n", *inner])


def _kept_yaml(key: str, tree: dict[str, Any]) -> str:
    """A setting as YAML, made anew only where it is another than last time: of most trials of a sweep a few are."""
    told, text = _dumped.get(key, ("", ""))
    # Not the values: to Python 1 is 1.0 and True, and to YAML it is not.
    if told != (now := repr(tree)):
        text = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=120)
        _dumped[key] = now, text
    return text


def put_setting(tree: dict[str, Any], key: str, value: Any) -> None:
    """Put ``value`` at a dotted key of a nested dictionary. Raises UsageError where the key leads through a value."""
    *parents, last = key.split(".")
    node = tree
    for name in parents:
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            raise UsageError(_unknown(key))
        node = child
    node[last] = value


def put_override(tree: dict[str, Any], override: str) -> None:
    """Put a ``key=value`` of the command line into a nested dictionary. Raises UsageError as :func:`load_config`."""
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise UsageError(f"--set needs key=value, such as --set train.epochs=20; found {override!r}.")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # a date that is none is a ValueError
        raise UsageError(f"--set {key}: {text!r} is not a YAML value.") from error
    put_setting(tree, key.strip(), value)


def known_keys(section: type[Section] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All dotted keys in order, each with its pydantic field."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from known_keys(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = _parsed(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The config {path} cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        place = f" at line {where.line + 1}" if where is not None else ""
        raise UsageError(f"The config {path} is not valid YAML{place}.") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UsageError(f"The config {path} must be a table of settings, such as 'train: {{epochs: 20}}'.")
    return tree


def _parsed(text: str) -> Any:
    if sum(map(text.count, "[{-:?")) < MOST_NESTED:
        # Of an error PyYAML's own reader knows the line better.
        with suppress(yaml.YAMLError):
            loader = _Loader(text)
            try:
                return loader.get_single_data()
            finally:
                loader.dispose()
    return yaml.safe_load(text)


def _fill_sections(tree: dict[str, Any], section: type[Section]) -> None:
    """A section with nothing below it, which YAML reads as null, names no setting."""
    for name, field in section.model_fields.items():
        inner = field.annotation
        if name in tree and isinstance(inner, type) and issubclass(inner, Section):
            if tree[name] is None:
                tree[name] = {}
            if isinstance(tree[name], dict):
                _fill_sections(tree[name], inner)


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return _unknown(key)
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and not key:
        return f"Settings that do not go together: {reason}."
    if first["type"] == "value_error":
        return f"Setting {key}: {reason}."
    return f"Setting {key}: {reason[:1].lower()}{reason[1:]}; found {first['input']!r}."


def _unknown(key: str) -> str:
    known = [name for name, _ in known_keys()]
    sections = sorted({name.rsplit(".", depth)[0] for name in known for depth in range(1, name.count(".") + 1)})
    near = difflib.get_close_matches(key, known + sections, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else " `segray config` prints all settings."
    return f"Unknown setting {key}.{hint}"
