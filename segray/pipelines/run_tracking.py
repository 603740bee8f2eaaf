"""What rank 0 of a training tells the trackers: numbers of steps and epochs, pictures, distributions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from segray import privacy
from segray.config import Config
from segray.engine.trainer import Batch, StepResult, Trainer
from segray.engine.validation import Validator
from segray.pipelines.live import visit_reader
from segray.pipelines.run_folder import STEPS, RunFolder
from segray.shards.index import SliceIndex
from segray.shards.reader import ReadVisit, SliceBatch, iterate_batches
from segray.shards.stacks import stack_around
from segray.tracking.tracker import Start
from segray.tracking.trackers import Trackers

SHOWN_SLICES = 4
"""Held-out slices whose masks are drawn after a validation, each of another case."""


class RunTracking:
    """The trackers of a run and the count of its steps, which goes on where a checkpoint was taken.

    The count is that of the rows in ``steps.csv``: the number of the step in its epoch would go back where a run goes
    on with more workers, and so with fewer steps an epoch.
    """

    def __init__(self, config: Config, run: RunFolder, structures: tuple[str, ...]) -> None:
        self._config, self._structures = config, structures
        self._steps = len(run.rows(STEPS))
        start = Start(run.path, config.model_dump(mode="json"), self._steps)
        self._trackers = Trackers(config.train.trackers, start, run.log)
        self._shown: SliceBatch | None = None

    def step(self, result: StepResult, *, slices_per_s: float, data_wait_s: float) -> None:
        """Take a step."""
        values = {
            "train/loss": result.loss,
            "train/dice_loss": result.dice_loss,
            "train/cross_entropy": result.cross_entropy,
            "train/grad_norm": result.grad_norm,
            "train/lr": result.lr,
            "speed/slices_per_s": slices_per_s,
            "speed/data_wait_s": data_wait_s,
        }
        self._trackers.scalars(values, self._steps)
        self._steps += 1

    def epoch(self, row: Mapping[str, Any], trainer: Trainer) -> None:
        """Take the row of an epoch for ``metrics.csv``, at the epoch's last step, and draw histograms if it is time."""
        every = self._config.train.histograms_every
        if every and int(row["epoch"]) % every == 0:
            self._trackers.histograms(lambda: weights_and_gradients(trainer.network), self._steps - 1)
        self._trackers.scalars(epoch_scalars(row), self._steps - 1)
        self._trackers.flush()

    def show(self, folder: str, index: SliceIndex, trainer: Trainer, read: ReadVisit) -> None:
        """Draw the masks of a few held-out slices, the same ones every time, where a tracker takes pictures."""

        def draw() -> dict[str, NDArray[np.uint8]]:
            if self._shown is None:
                self._shown = read_shown(folder, index, read)
            if trainer.config.net.patch:
                predicted = _masks_of_stacks(folder, index, trainer, trainer.config.net.patch, read)
            else:
                predicted = _masks(self._shown, trainer)
            beside = trainer.config.net.neighbours
            return draw_slices(self._shown, predicted, self._structures, overlapping=trainer.overlapping, beside=beside)

        self._trackers.pictures(draw, self._steps - 1)

    def close(self, *, failed: bool) -> None:
        """Let go of the trackers."""
        self._trackers.close(failed=failed)


def epoch_scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an epoch by the names that trackers show; what was not measured is left out."""
    renamed = {"val_dice": "validation/dice", "train_loss": "epoch/loss"}
    values = {}
    for name, value in row.items():
        if name == "step" or value in ("", None):
            continue
        structure = name.removeprefix("val_dice_")
        shown = f"validation/dice/{structure}" if structure != name else renamed.get(name, f"epoch/{name}")
        values[shown] = float(value)
    return values


def weights_and_gradients(network: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Every trained parameter, and the clipped gradient of the last step where there is one."""
    values = {}
    for name, parameter in network.named_parameters():
        values[f"weights/{name}"] = parameter.detach().float().cpu().numpy()
        if parameter.grad is not None:
            values[f"gradients/{name}"] = parameter.grad.detach().float().cpu().numpy()
    return values


def shown_slices(index: SliceIndex, most: int) -> NDArray[np.int64]:
    """Of up to ``most`` held-out cases, evenly from the list, the slice that shows most structures; sorted.

    Among equals the one with the most foreground.
    """
    held_out = index.slices_of("validation")
    cases = np.unique(index.part[held_out])
    chosen = cases[np.unique(np.linspace(0, len(cases) - 1, most).round().astype(int))] if cases.size else cases
    fullest = []
    for case in chosen:
        mine = held_out[index.part[held_out] == case]
        structures = np.diff(index.present[1])[mine]
        fullest.append(mine[np.lexsort((index.foreground[mine], structures))[-1]])
    return np.array(sorted(fullest), dtype=np.int64)


def read_shown(folder: str, index: SliceIndex, read: ReadVisit | None = None) -> SliceBatch:
    """The pixels of :func:`shown_slices`, from the parts or the cases' files."""
    slices = shown_slices(index, SHOWN_SLICES)
    return next(iterate_batches(folder, index.visits(slices), len(slices), read=read or visit_reader(index)))


def _masks_of_stacks(
    folder: str, index: SliceIndex, trainer: Trainer, patch: tuple[int, int, int], read: ReadVisit
) -> NDArray[Any]:
    """The masks of the shown slices by a 3D net that sees as many slices around each as a patch has."""
    found = []
    for number in shown_slices(index, SHOWN_SLICES).tolist():
        visits = stack_around(index, number, patch[0])
        stack = next(iterate_batches(folder, visits, patch[0], read=read))
        batch = Batch.from_arrays(
            stack.images, stack.labels, stack.mean, stack.sd, stack.case_ids, device=trainer.device
        )
        masks = _validator(trainer).case_masks(batch, patch).cpu().numpy()
        found.append(masks[int(np.flatnonzero(stack.z == index.z[number])[0])])
    return np.stack(found)


def _validator(trainer: Trainer) -> Validator:
    precision = trainer.config.train.precision
    return Validator(trainer.trained, trainer.normalisation, trainer.device, precision, overlapping=trainer.overlapping)


def _masks(shown: SliceBatch, trainer: Trainer) -> NDArray[Any]:
    device = trainer.device
    batch = Batch.from_arrays(shown.images, shown.labels, shown.mean, shown.sd, shown.case_ids, device=device)
    masks: torch.Tensor = _validator(trainer).masks(batch)
    return masks.cpu().numpy()


def middle_channel(images: NDArray[Any], beside: int) -> int:
    """The first channel of the slice itself in (n, (2 * beside + 1) * c, H, W)."""
    return int(beside * (images.shape[1] // (2 * beside + 1)))


def draw_slices(
    shown: SliceBatch, predicted: NDArray[Any], structures: tuple[str, ...], *, overlapping: bool, beside: int = 0
) -> dict[str, NDArray[np.uint8]]:
    """A picture a slice, named by its case and place; of several channels the first is drawn.

    ``beside``: slices on each side that ``shown`` has as further channels.
    """
    from segray.report.overlays import display_window
    from segray.tracking.pictures import slice_picture

    images = shown.images[:, middle_channel(shown.images, beside)] if shown.images.ndim == 4 else shown.images
    window = display_window(images, shown.labels)
    return {
        f"validation/{privacy.hide_case(case_id)}, slice {z}": slice_picture(
            image, truth, mask, structures, window, overlapping=overlapping
        )
        for case_id, z, image, truth, mask in zip(shown.case_ids, shown.z, images, shown.labels, predicted, strict=True)
    }
