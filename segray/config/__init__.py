"""Every setting of segray: typed, with default, unit and a line of explanation; YAML in, resolved YAML out.

A module a group of sections; :mod:`segray.config.tree` puts them together, reads and writes them.
"""

from segray.config.ingest import MOST_LEVEL, GridConfig, IngestConfig, SplitConfig
from segray.config.learning import AugmentConfig, LossConfig, OptimConfig, SamplingConfig
from segray.config.net import IntensityConfig, NetConfig
from segray.config.predict import ALL, EvaluateConfig, FurtherKind, PredictConfig
from segray.config.section import Precision, Section
from segray.config.surroundings import PrivacyConfig, RayConfig
from segray.config.train import TrainConfig
from segray.config.tree import (
    Config,
    dump_config,
    known_keys,
    load_config,
    parse_config,
    put_override,
    put_setting,
)
from segray.config.tune import TuneConfig

__all__ = [
    "ALL",
    "MOST_LEVEL",
    "AugmentConfig",
    "Config",
    "EvaluateConfig",
    "FurtherKind",
    "GridConfig",
    "IngestConfig",
    "IntensityConfig",
    "LossConfig",
    "NetConfig",
    "OptimConfig",
    "Precision",
    "PredictConfig",
    "PrivacyConfig",
    "RayConfig",
    "SamplingConfig",
    "Section",
    "SplitConfig",
    "TrainConfig",
    "TuneConfig",
    "dump_config",
    "known_keys",
    "load_config",
    "parse_config",
    "put_override",
    "put_setting",
]
