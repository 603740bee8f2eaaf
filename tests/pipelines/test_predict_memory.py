"""What a Predictor declares of memory, by its settings and its cases."""

from __future__ import annotations

from segray.config import PredictConfig
from segray.formats.source import CaseSource
from segray.pipelines.headers import Planned
from segray.pipelines.predict_memory import PredictorMemory
from segray.pipelines.runtime import MIB


def case(slices: int) -> Planned:
    return Planned(CaseSource("a", "a.nii.gz"), (slices, 1024, 1024), (1.0, 1.0, 1.0), 2 * slices * MIB)


def test_a_predictor_declares_what_its_largest_case_takes() -> None:
    def more(**settings: object) -> int:
        memory = PredictorMemory(PredictConfig(**settings), structures=20, share=64 * 1024 * MIB)
        return (memory.declared([case(10), case(100)]) - memory.resident) // MIB

    assert more() == 300
    assert more(fill_holes="all") == 1000
    assert more(further=["probabilities"]) == 2300


def test_reading_keeps_half_of_the_memory() -> None:
    memory = PredictorMemory(PredictConfig(), structures=20, share=1024 * MIB)
    assert memory.resident == 256 * MIB
    assert memory.declared([case(1000)]) == 512 * MIB
