"""How many Predictors a run has, and what each takes of its node."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from segray.config import PredictConfig
from segray.nets.bundle import Bundle
from segray.pipelines.headers import Planned
from segray.pipelines.node_room import check_places, idle_gpus, reading_share, worker_shape
from segray.pipelines.predict_memory import PredictorMemory
from segray.pipelines.runtime import WorkerShape, nodes

CPUS_A_PREDICTOR = 8
"""CPUs of a node for one Predictor more: the threads of one wait for each other at every layer.

Two CPUs that compute a 512x512 slice each took 216 ms a slice, both at the same slice 224 (OpenVINO, bf16). OpenVINO's
guide gives its own streams 1 to 4 threads; here each also holds a net and a case.
"""

MEMORY_SHARE = 0.5
"""Of a node's memory, what several Predictors may hold together; the rest reads and writes."""


@dataclass(frozen=True)
class Crew:
    """The Predictors of a run.

    Attributes:
        settings: of the prediction.
        bytes_each: that one of them holds with the largest case of the run.
    """

    settings: PredictConfig
    bytes_each: int

    @classmethod
    def of(cls, settings: PredictConfig, bundles: Sequence[Bundle], cases: Sequence[Planned]) -> Crew:
        """For a run of these bundles on these cases."""
        without_limit = PredictorMemory.of(settings, bundles, sys.maxsize, on_gpu=False)
        return cls(settings, without_limit.declared(cases))

    def predictors(self, cases: int) -> int:
        """How many Predictors so many cases have, which one pool predicts."""
        told = self.settings
        return told.predictors or usual_predictors(told.gpu, cases, told.cpus_per_predictor, self.bytes_each)

    def shape(self, cases: int) -> WorkerShape:
        """What each of them takes. Raises SegrayError as :func:`segray.pipelines.node_room.worker_shape`."""
        return worker_shape(self.predictors(cases), self.settings.cpus_per_predictor, self.settings.gpu)

    def check(self, cases: int) -> list[str]:
        """What is to be said of the largest pool. Raises NoRoomError where its Predictors would wait for ever."""
        count = self.predictors(cases)
        check_places(self.shape(cases), min(count, cases), "Predictor", "predict.cpus_per_predictor")
        return idle_gpus(count, self.settings.gpu, "Predictor", "predict.predictors")


def usual_predictors(gpu: str, cases: int, cpus: float, bytes_each: int) -> int:
    """How many Predictors there are where nobody says: one a GPU; without one a node, or several of a large one.

    Args:
        gpu: yes, no or auto; with no, GPUs do not count.
        cases: to be predicted: more Predictors than cases would leave CPUs idle.
        cpus: that each takes; 0: a part of the node's.
        bytes_each: that each holds.
    """
    living = nodes()
    if gpus := sum(int(node.gpus) for node in living) if gpu != "no" else 0:
        return gpus
    room = min(node.cpus / CPUS_A_PREDICTOR for node in living)
    if cpus:
        room = min(room, *((node.cpus - reading_share(node.cpus)) / cpus for node in living))
    room = min(room, *(MEMORY_SHARE * node.memory / max(bytes_each, 1) for node in living))
    return len(living) * max(1, min(int(room), -(-cases // len(living))))
