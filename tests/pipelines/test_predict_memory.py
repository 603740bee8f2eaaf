"""What a Predictor declares of memory, by its settings and its cases."""

from __future__ import annotations

from dataclasses import replace

import torch

from segray.case import LabelMap
from segray.config import NetConfig, PredictConfig
from segray.formats.source import CaseSource
from segray.grid import Grid
from segray.nets.bundle import Bundle
from segray.nets.normalise import Normalisation
from segray.pipelines.headers import Planned
from segray.pipelines.predict_memory import PredictorMemory, StageMemory, bytes_needed
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


def test_what_the_nets_take_is_declared() -> None:
    def memory(*bundles: Bundle, on_gpu: bool = False) -> PredictorMemory:
        return PredictorMemory.of(PredictConfig(), bundles, 1024 * 1024 * MIB, on_gpu=on_gpu)

    flat, deep = bundle(None), bundle((16, 64, 64))
    assert (memory(flat, flat).resident - memory(flat).resident) // MIB == 3 * 4
    # Five labels over sixteen slices of a canvas that the case needs larger than the grid is.
    sums = 4 * 5 * 16 * 2048 * 2048 + 3 * 256 * MIB
    assert memory(deep).of_case(case(10)) - memory(flat).of_case(case(10)) == sums
    assert memory(deep, flat, deep).of_case(case(10)) - memory(flat).of_case(case(10)) == 2 * sums
    assert memory(deep, on_gpu=True).of_case(case(10)) == memory(flat).of_case(case(10))


def bundle(patch: tuple[int, int, int] | None) -> Bundle:
    """Four labels, pixels of half a millimetre, 4 MiB of weights."""
    return Bundle(
        NetConfig(features=[8, 16], patch=patch),
        1,
        LabelMap.of_names("abcd"),
        Grid("spacing", (64, 64), (0.5, 0.5), -1000.0),
        Normalisation("window"),
        {"weight": torch.zeros(MIB)},
    )


def test_reading_keeps_half_of_the_memory() -> None:
    memory = PredictorMemory(PredictConfig(), structures=20, share=1024 * MIB)
    assert memory.resident == 256 * MIB
    assert memory.declared([case(1000)]) == 512 * MIB


def test_a_dicom_seg_takes_memory_for_each_structure_that_may_overlap() -> None:
    few, many = LabelMap.of_names("abcd"), LabelMap.of_names([f"s{number}" for number in range(32)])
    plain, wanted = PredictConfig(), PredictConfig(output="dicom-seg")
    one = case(100)
    assert StageMemory.of(plain, many)(one) == bytes_needed(one)
    assert StageMemory.of(wanted, few)(one) == (20 + 2) * 100 * MIB + 256 * MIB
    overlapping = replace(many, overlapping=True)
    assert StageMemory.of(wanted, overlapping)(one) == (20 + 32 + 2) * 100 * MIB + 256 * MIB
    assert StageMemory.of(PredictConfig(further=["dicom-seg"]), overlapping)(one) == StageMemory.of(
        wanted, overlapping
    )(one)
