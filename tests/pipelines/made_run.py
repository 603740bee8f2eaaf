"""A run folder as a training leaves it after so many epochs, written by what a training writes it with."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from segray.config import dump_config, load_config
from segray.pipelines.run_folder import RunFolder

STEPS = 10


def make_run(folder: Path, *, epochs: int = 4, done: int = 2, settings: tuple[str, ...] = ()) -> RunFolder:
    """``done`` of ``epochs`` epochs of ten steps, 60 seconds each, liver better and better, spleen best in epoch 1."""
    run = RunFolder(str(folder))
    run.begin(dump_config(load_config(None, [f"train.epochs={epochs}", "train.batch_size=4", *settings])))
    workers = [{"rank": 0, "host": "node-a", "node_id": "x", "device": "cuda:0"}]
    run.write_history(fatal="", finished=False, state="running", workers=workers, starts=[{"after_epoch": 0}])
    run.log("start: 1 workers, each 2 CPUs and 1 GPUs")
    for epoch in range(1, done + 1):
        add_epoch(run, epoch)
    return run


def add_epoch(run: RunFolder, epoch: int) -> None:
    """The rows of one more epoch."""
    for number in range(STEPS):
        step = (epoch - 1) * STEPS + number
        run.add_step([epoch, step, 2.0 / (step + 1), 0.1, 0.1, 1.0, 0.001, 4, "0.3", "0.1"])
    row: dict[str, Any] = {"epoch": epoch, "step": epoch * STEPS, "seconds": 60.0 * epoch, "lr": "0.001"}
    row |= {"train_loss": 1.0 / epoch, "step_s": 45.0, "data_wait_s": 15.0, "slices_per_s": 12.5}
    row |= {"gpu_memory_mib": 2048, "val_dice": 0.5 + 0.1 * epoch}
    row |= {"val_dice_liver": 0.6 + 0.1 * epoch, "val_dice_spleen": 0.5 - 0.1 * epoch}
    run.add_epoch(row)
    run.log(f"epoch {epoch}: loss {1.0 / epoch}, validation Dice {0.5 + 0.1 * epoch}")


def under_way(run: RunFolder, epoch: int, step: int, epochs: int = 4) -> None:
    """What rank 0 writes in an epoch about once a second."""
    facts = {"epoch": epoch, "epochs": epochs, "step": step, "steps": STEPS, "loss": 0.25, "lr": 0.0005}
    run.show_progress(force=True, slices_per_s=20.0, dice=None, at=time.time(), **facts)
