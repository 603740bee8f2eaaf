"""Cases whose worker died, one more time and each in a task of its own: which of them it was is known then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from ray.data import DataContext

from segray.formats.source import CaseSource
from segray.pipelines.admission import memory_at_most
from segray.pipelines.case_tasks import run_tasks
from segray.pipelines.headers import Planned
from segray.pipelines.ledger import to_line
from segray.pipelines.predict_stages import WriteStage, read_stage
from segray.pipelines.predictor_stage import PredictStage
from segray.pipelines.runtime import BRIEF_SPIN, WorkerShape

MOST_LOST = 100
"""Groups of cases that may be lost in one go before the run stops: then it is not the cases."""

TRIES = 3
"""How often a stage of a case is tried again that lost its process; nodes that go count as well."""


@dataclass(frozen=True)
class LoneCase:
    """What a task needs to predict a case from its file to its mask.

    Attributes:
        stage: the arguments of :class:`segray.pipelines.predictor_stage.PredictStage`.
        write: the last stage.
    """

    stage: tuple[Any, ...]
    write: WriteStage


def allow_losses(context: DataContext) -> DataContext:
    """Let a stream of Ray Data go on where a block's task has died again and again; the block is left out."""
    context.max_errored_blocks = MOST_LOST
    return context


def predict_lost(cases: Sequence[Planned], told: LoneCase, shape: WorkerShape, memory: int) -> Iterator[str]:
    """Ledger lines of cases that a stream has left out; one that takes its worker with it again has failed.

    Args:
        cases: at most a few.
        told: stages and their arguments.
        shape: of a Predictor.
        memory: bytes that each task declares.
    """
    tasks = run_tasks(
        _whole_way,
        cases,
        (told,),
        argument=lambda case: case.source.to_json(),
        cpus=shape.cpus,
        gpus=shape.gpus,
        memory=lambda _: memory_at_most(memory),
        retries=0,
        environment=BRIEF_SPIN,
    )
    for done in tasks:
        yield done.result if done.result is not None else _row_of(done.item.source, done.reason)


def _whole_way(source: str, told: LoneCase) -> str:
    row = read_stage(pa.table({"source": pa.array([source], pa.string())}))
    line: str = told.write(PredictStage(*told.stage)(row)).column("row")[0].as_py()
    return line


def _row_of(source: CaseSource, reason: str) -> str:
    row = {"case_id": source.case_id, "status": "failed", "reason": reason, "image": source.image}
    return to_line(row | {"source": source.to_json(), "fingerprint": source.image_only.fingerprint()})
