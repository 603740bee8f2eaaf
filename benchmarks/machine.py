"""The facts of the machine that a benchmark ran on, and where its result is written."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segray.config import load_config

RESULTS = Path(__file__).resolve().parent / "results"

PACKAGES = ("segray", "ray", "torch", "numpy", "pyarrow", "blosc2", "isal", "nibabel", "monai", "scipy", "openvino")


def machine_facts() -> dict[str, Any]:
    """Processor, cores, memory, load before the run and the versions of what is measured.

    Returns:
        Plain types only; ``memory_gib`` in GiB, ``load`` the mean number of running processes in the last minute
        (a value near ``cores`` means that others were computing too).
    """
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def begin_again_with(variables: Mapping[str, str]) -> None:
    """Start this script anew with variables that libraries read when they are loaded; at once where it has them."""
    if any(name not in os.environ for name in variables):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**variables, **os.environ})


def settings_facts(config: Path, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Those of a training, the seed too: all sections that it reads, with the defaults of the day."""
    tree = load_config(str(config), list(settings)).model_dump(mode="json")
    return {name: tree[name] for name in ("seed", "net", "intensity", "loss", "augment", "optim", "sampling", "train")}


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Write ``results/<name>.json``: the machine's facts and the result; print the path and return it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine_facts(), **result}, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")
    return path


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
