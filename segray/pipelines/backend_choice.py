"""Who computes the forward passes of a prediction run: chosen once, on a node that predicts, and kept by the folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from segray import formats
from segray.config import PredictConfig
from segray.engine.backend_contest import FEW, choose_forward
from segray.engine.backends import BackendChoice
from segray.errors import CaseError, UsageError
from segray.formats.source import CaseSource
from segray.grid import plan_prediction
from segray.nets.bundle import load_bundle
from segray.pipelines.case_tasks import run_tasks
from segray.pipelines.headers import Planned
from segray.pipelines.runtime import BRIEF_SPIN, WorkerShape

SLICE_PIXELS = 256 * 256
"""Pixels of a slice, of which a run has to have so many that a measurement of some seconds pays."""

TRIED = 3
"""Cases that are asked, one after the other, where the first are broken."""


def choose_backend(
    cases: Sequence[Planned], bundles: Sequence[str], config: PredictConfig, shape: WorkerShape, kept: str
) -> BackendChoice:
    """The choice for a run.

    Args:
        cases: of the run.
        bundles: that predict them.
        config: the settings.
        shape: of a Predictor: the measurement takes as much.
        kept: as JSON, the choice of an earlier run on the same folder; empty where there is none. It stays, since masks
            of two backends are not equal to the voxel.

    Raises:
        UsageError: the backend that is asked for cannot be had.
    """
    if kept and config.backend in ("auto", *_answers(BackendChoice.from_json(kept))):
        return BackendChoice.from_json(kept)
    return replace(_chosen(cases, bundles, config, shape), asked=config.backend)


def _answers(choice: BackendChoice) -> tuple[str, str]:
    """The settings that a choice is an answer to: who computes, and who was asked for and does not work here."""
    return choice.name, choice.asked


def _chosen(
    cases: Sequence[Planned], bundles: Sequence[str], config: PredictConfig, shape: WorkerShape
) -> BackendChoice:
    plain = BackendChoice("torch", config.precision)
    if not cases or config.backend == "torch" or (config.backend == "auto" and shape.gpus > 0):
        return plain
    pixels, canvases = _pixels(cases, bundles)
    if config.backend == "auto" and pixels < FEW * SLICE_PIXELS:
        return plain
    counted = max(sum(case.size[0] for case in cases), pixels // SLICE_PIXELS)
    told = (list(bundles), config.model_dump_json(), shape.threads, shape.gpus > 0, counted, canvases)
    reason = ""
    for case in sorted(cases, key=lambda one: one.voxel_bytes)[len(cases) // 2 :][:TRIED]:
        tasks = run_tasks(
            choose_by_case,
            [case],
            told,
            argument=lambda one: one.source.to_json(),
            cpus=shape.cpus,
            gpus=shape.gpus,
            environment=BRIEF_SPIN,
        )
        for done in tasks:
            answer = done.result or {"reason": done.reason}
            if "usage" in answer:
                raise UsageError(answer["usage"], mend=answer["mend"])
            if "choice" in answer:
                return BackendChoice.from_json(answer["choice"])
            reason = str(answer["reason"])
    return BackendChoice(
        "torch", config.precision, f"torch computes, since no backend could be tried: {reason.splitlines()[0]}"
    )


def _pixels(cases: Sequence[Planned], bundles: Sequence[str]) -> tuple[int, int]:
    """Pixels of all canvases, and how many sizes these have."""
    grid = load_bundle(bundles[0]).grid
    canvases = [plan_prediction(case.size, case.spacing, grid, 1).canvas for case in cases]
    total = sum(case.size[0] * height * width for case, (height, width) in zip(cases, canvases, strict=True))
    return total, len(set(canvases))


def never_measured(
    cases: Sequence[Planned], bundles: Sequence[str], config: PredictConfig, shape: WorkerShape, kept: str
) -> str:
    """A sentence where a folder keeps torch from a first run in which nothing was measured, and this one would measure.

    The arguments are those of :func:`choose_backend`. Empty where there is nothing to say.
    """
    if not kept or not cases or config.backend != "auto" or shape.gpus > 0 or find_spec("openvino") is None:
        return ""
    choice = BackendChoice.from_json(kept)
    if choice.name != "torch" or choice.asked != "auto" or choice.reason:
        return ""
    if _pixels(cases, bundles)[0] < FEW * SLICE_PIXELS:
        return ""
    return (
        "torch computes, as in this folder's first run, which was too small, or lacked OpenVINO, to measure which is"
        " faster. Predict into a new folder to have it measured."
    )


def choose_by_case(
    source: str, bundles: Sequence[str], config: str, threads: int, on_gpu: bool, slices: int, canvases: int
) -> dict[str, Any]:
    """The task: ``choice`` as JSON; or ``usage`` and ``mend``; or the ``reason`` why this case says nothing."""
    settings = PredictConfig.model_validate_json(config)
    try:
        case = formats.read_image(CaseSource.from_json(source))
        loaded = [load_bundle(bundle) for bundle in bundles]
        choice = choose_forward(
            settings.backend,
            loaded,
            settings,
            case.voxels,
            case.geometry.spacing,
            device="auto" if on_gpu else "cpu",
            threads=threads,
            slices=slices,
            canvases=canvases,
        )
    except UsageError as error:
        return {"usage": error.message, "mend": error.mend}
    except CaseError as error:
        return {"reason": str(error)}
    return {"choice": choice.to_json()}


def unlike_choice(settings: PredictConfig, kept: str) -> list[str]:
    """The settings that ask, not by ``auto``, for something else than the choice that a folder keeps, as JSON.

    A choice of precision ``auto`` is one of its own: what it means depends on the device.
    """
    if not kept:
        return []
    choice = BackendChoice.from_json(kept)
    there = {"backend": _answers(choice), "precision": (choice.precision,)}
    wanted = {"backend": settings.backend, "precision": settings.precision}
    return [name for name, one in wanted.items() if one not in ("auto", *there[name])]


def kept_choice(facts: dict[str, Any]) -> str:
    """The choice that ``prediction.json`` holds, as JSON; empty where there is none."""
    found = facts.get("backend")
    return json.dumps(found) if isinstance(found, dict) else ""
