"""segray: CT archives to trained U-Nets and to masks, on Ray.

The functions mirror the commands: ``segray.doctor``, ``ingest``, ``train``, ``tune``, ``predict``, ``evaluate``,
``report``, ``make_phantoms``; ``segray.load_config`` reads a config. Importing segray loads neither torch nor ray: each
function is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "doctor": "segray.pipelines.doctor",
    "ingest": "segray.pipelines.ingest",
    "train": "segray.pipelines.train",
    "tune": "segray.pipelines.tune",
    "predict": "segray.pipelines.predict",
    "evaluate": "segray.pipelines.evaluate",
    "report": "segray.report.api",
    "make_phantoms": "segray.phantoms",
    "load_config": "segray.config",
    "Config": "segray.config",
}

if TYPE_CHECKING:
    from segray.config import Config as Config
    from segray.config import load_config as load_config
    from segray.phantoms import make_phantoms as make_phantoms
    from segray.pipelines.evaluate import evaluate as evaluate
    from segray.pipelines.ingest import ingest as ingest
    from segray.pipelines.predict import predict as predict
    from segray.pipelines.train import train as train
    from segray.pipelines.tune import tune as tune

__all__ = [
    "Config",
    "doctor",
    "evaluate",
    "ingest",
    "load_config",
    "make_phantoms",
    "predict",
    "report",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    """Import a public function when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'segray' has no attribute {name!r}")
    return public(name)


def public(name: str) -> Any:
    """The public function or class of a name, with its module imported."""
    return getattr(importlib.import_module(_HOMES[name]), name)
