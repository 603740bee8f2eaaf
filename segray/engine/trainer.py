"""One training step and all state that a resume needs."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segray import storage
from segray.config import Config
from segray.engine.compiled_pass import compiler_fault
from segray.engine.draws import step_seed
from segray.engine.inputs import network_inputs
from segray.engine.mixup import Target, mix
from segray.engine.optimisers import WeightAverage, build_optimiser
from segray.engine.precision import autocast, resolve_precision, training_format
from segray.engine.schedule import learning_rate
from segray.errors import SegrayError
from segray.nets.deep_supervision import supervised_loss
from segray.nets.losses import LossParts, weighted_parts
from segray.nets.normalise import Normalisation
from segray.nets.objective import Objective
from segray.nets.unet import SegmentationNet, UNet

NO_LIMIT = math.inf


@dataclass(frozen=True)
class Batch:
    """Slices on their device.

    Attributes:
        images: (n, H, W) or (n, c, H, W) int16 or float32, voxel values as the shards hold them.
        labels: (n, H, W) uint8 or int32 channel indices, or bit fields; of 3D patches (n, D, H, W), and then the images
            are (n, D * c, H, W), of each slice all channels together.
        mean: (n) or (n, c) float32, mean of each slice's case.
        sd: (n) or (n, c) float32, standard deviation of each slice's case.
        case_ids: n case ids.
        known: (n, L) bool, which outputs of the net the labels of each slice's case tell of; None: all.
    """

    images: Tensor
    labels: Tensor
    mean: Tensor
    sd: Tensor
    case_ids: tuple[str, ...]
    known: Tensor | None = None

    @property
    def slices(self) -> int:
        """Slices, in 3D those of all patches."""
        return self.labels.shape[:-2].numel()

    @classmethod
    def from_arrays(
        cls,
        images: NDArray[Any],
        labels: NDArray[Any],
        mean: NDArray[Any],
        sd: NDArray[Any],
        case_ids: Sequence[str],
        *,
        known: NDArray[np.bool_] | None = None,
        device: torch.device | str = "cpu",
    ) -> Batch:
        """A batch of numpy arrays; int16 and uint8 travel to the device as they are."""
        target = torch.device(device)
        if images.dtype not in (np.int16, np.float32):
            images = images.astype(np.float32)
        if labels.dtype != np.uint8:
            # The bits of a uint32 stay what they are.
            labels = labels.astype(np.int32)
        return cls(
            _to_device(images, target),
            _to_device(labels, target),
            _to_device(mean.astype(np.float32, copy=False), target),
            _to_device(sd.astype(np.float32, copy=False), target),
            tuple(str(case) for case in case_ids),
            None if known is None else _to_device(known, target),
        )


@dataclass(frozen=True)
class StepResult:
    """What a step did.

    Attributes:
        loss: weighted sum of the losses.
        dice_loss: 1 - mean soft Dice over the structures present.
        cross_entropy: in nats a pixel.
        grad_norm: norm of all gradients before clipping.
        lr: the learning rate of this step.
        slices: slices in the batch.
        skipped: case ids of a batch whose loss or gradient was not finite, so that nothing was learnt; else empty.
    """

    loss: float
    dice_loss: float
    cross_entropy: float
    grad_norm: float
    lr: float
    slices: int
    skipped: tuple[str, ...] = ()


class Trainer:
    """Network, optimiser and schedule.

    Attributes:
        network: the bare network, on the device, in channels_last.
        model: what the forward pass calls: the network, or what ``wrap`` made of it.
        normalisation: voxel values to network input.
        device: where everything lies.
        overlapping: labels are bit fields.
        precision: bf16, fp16 or float32, of the forward pass.
        fallback: why the network is not compiled although ``train.compile`` asks for it, one sentence; else empty.
    """

    def __init__(
        self,
        config: Config,
        network: SegmentationNet,
        normalisation: Normalisation,
        *,
        device: torch.device | str,
        rank: int = 0,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
        overlapping: bool = False,
        structures: Sequence[str] = (),
        ignored: int | None = None,
    ) -> None:
        """Move the network to the device; ``wrap`` may put DistributedDataParallel around it.

        With ``overlapping`` labels are bit fields, and each output of the network is a structure by itself.
        ``structures`` are the names of the label map, for ``loss.class_weights``. Pixels of the index ``ignored`` count
        in no term of the loss.
        """
        self.config, self.normalisation, self.rank, self.overlapping = config, normalisation, rank, overlapping
        self.device = torch.device(device)
        self._format = training_format(config.net, self.device)
        self.network = network.to(self.device).to(memory_format=self._format)  # type: ignore[call-overload]
        self.model = wrap(self.network) if wrap is not None else self.network
        self._optimiser = build_optimiser(self.network, config.optim, self.device)
        self._objective = partial(Objective(config.loss, structures, overlapping=overlapping), ignored=ignored)
        self._parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self._statistics = [buffer for buffer in self.network.buffers() if buffer.is_floating_point()]
        self._has_dropout = config.net.dropout > 0
        self.precision = resolve_precision(config.train.precision, self.device)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self._average = WeightAverage(self.network, config.optim.average) if config.optim.average else None
        self._pending: tuple[str, ...] = ()
        self._before: Tensor | None = None
        self._sound = True
        self._pieces = self._largest = 1
        self.network.checkpointing = config.train.checkpointing
        self.fallback = compiler_fault(self.device) if config.train.compile else ""
        if config.train.compile and not self.fallback:
            self.network.compile()

    def step(
        self,
        batch: Batch,
        *,
        epoch: int,
        step: int,
        progress: float,
        drops: int = 0,
        update: bool = True,
        together: int = 0,
    ) -> StepResult:
        """Augment, forward, backward, update.

        Where a gradient is not finite, the whole update changes nothing, neither weights nor running statistics. All
        workers of a wrapped network see the same summed gradient, and so decide alike.

        Args:
            batch: the slices.
            epoch: number of the epoch, for the randomness.
            step: number of the step over the whole run, from 0.
            progress: share of the run that is done, in [0, 1].
            drops: how often the learning rate was lowered (schedule plateau).
            update: False: the gradient is kept for a later step (``optim.accumulate``).
            together: batches whose mean gradient makes the update; 0: ``optim.accumulate``.
        """
        lr = learning_rate(self.config.optim, step=step, progress=progress, drops=drops)
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        if not self._pending:
            self._before = self._copied_statistics()
            self._optimiser.zero_grad(set_to_none=True)
            self._sound = True
        self._pending += batch.case_ids
        self._largest = max(self._largest, len(batch.labels))
        self.model.train()
        try:
            images, targets = self._inputs(batch, epoch, step)
            parts = self._learn(images, targets, update, together or self.config.optim.accumulate)
        except torch.OutOfMemoryError:
            self._forget()
            raise
        norm = self._gradient_norm() if update else torch.full_like(parts.dice, math.nan)
        # One transfer a step: everything that the host wants to know comes in a single tensor.
        loss, dice, entropy, size = torch.stack((parts.total.detach(), parts.dice, parts.cross_entropy, norm)).tolist()
        self._sound &= math.isfinite(loss)
        skipped = self._update(finite=math.isfinite(size)) if update else ()
        return StepResult(loss, dice, entropy, size, lr, batch.slices, skipped)

    def spare_memory(self) -> str:
        """After an out-of-memory error: compute activations again, and then halve the batch; what was done, in words.

        A halved batch is learnt in pieces whose gradients are added up. Batch norm and batch Dice see one piece at a
        time.

        Raises:
            SegrayError: a single slice was too much already.
        """
        if not self.network.checkpointing and isinstance(self.network, UNet) and not self.config.train.compile:
            self.network.checkpointing = True
            return "Memory ran out: activations are computed again from now on (train.checkpointing)."
        if self._pieces >= self._largest:
            raise SegrayError(
                "A single slice, or patch, does not fit into the memory of the device.",
                mend="Take fewer net.features, or a smaller net.patch.",
            )
        self._pieces *= 2
        return f"Memory ran out: every batch is learnt in {self._pieces} pieces from now on."

    def spare(self, spared: dict[str, Any]) -> None:
        """Begin where :attr:`spared` of another worker was."""
        self.network.checkpointing |= bool(spared.get("checkpointing"))
        self._pieces = max(self._pieces, int(spared.get("pieces", 1)))

    @property
    def spared(self) -> dict[str, Any]:
        """What :meth:`spare_memory` has come to."""
        return {"checkpointing": self.network.checkpointing, "pieces": self._pieces}

    def _learn(self, images: Tensor, targets: Sequence[Target], update: bool, together: int) -> LossParts:
        """Loss and gradients of a batch, in pieces where memory is short."""
        size = -(-len(images) // self._pieces)
        learnt: list[tuple[float, LossParts]] = []
        for start in range(0, len(images), size):
            rows = slice(start, min(start + size, len(images)))
            share = (rows.stop - rows.start) / len(images)
            with self._unsynchronised(update and rows.stop == len(images)):
                parts = self._forward(images[rows], [target.part(rows) for target in targets])
                scale = share / together
                self._scaler.scale(parts.total if scale == 1 else parts.total * scale).backward()  # type: ignore[no-untyped-call]
            learnt.append((share, parts.detached()))
        return weighted_parts(learnt)

    def _forget(self) -> None:
        """Leave the update that is under way as if it had not begun."""
        self._pending = ()
        self._optimiser.zero_grad(set_to_none=True)
        self._restore_statistics(self._before)

    @property
    def trained(self) -> nn.Module:
        """What to validate and to keep: the moving average of the weights, where there is one, or the network."""
        return self.network if self._average is None else self._average.network

    def _update(self, *, finite: bool) -> tuple[str, ...]:
        """Move the weights, or put everything back; the cases of the batches that came to nothing."""
        cases, self._pending = self._pending, ()
        if finite:
            self._scaler.step(self._optimiser)
            if self._average is not None:
                self._average.update()
        else:
            self._restore_statistics(self._before)
        self._scaler.update()
        # In fp16 finite losses with an infinite gradient say that the scale is too large, not that a batch is bad.
        return () if finite or (self._sound and self._scaler.is_enabled()) else cases

    def _gradient_norm(self) -> Tensor:
        self._scaler.unscale_(self._optimiser)
        return nn.utils.clip_grad_norm_(self._parameters, self.config.optim.clip_norm or NO_LIMIT)

    def _unsynchronised(self, update: bool) -> AbstractContextManager[Any]:
        """Without an update the workers of a wrapped network need not sum their gradients yet."""
        quiet = getattr(self.model, "no_sync", None)
        return nullcontext() if update or quiet is None else quiet()

    def _copied_statistics(self) -> Tensor | None:
        return torch.cat([buffer.flatten() for buffer in self._statistics]) if self._statistics else None

    def state_dict(self) -> dict[str, Any]:
        """Weights, running statistics and optimiser: tensors and plain types, on any device."""
        state = {"network": self.network.state_dict(), "optimiser": self._optimiser.state_dict()}
        if self._average is not None:
            state["average"] = self._average.state_dict()
        return state | ({"scaler": self._scaler.state_dict()} if self._scaler.is_enabled() else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken. Raises SegrayError where it belongs to another network."""
        try:
            self.network.load_state_dict(state["network"])
            self._optimiser.load_state_dict(state["optimiser"])
            if self._average is not None:
                self._average.load_state_dict(state["average"])
            if self._scaler.is_enabled():
                self._scaler.load_state_dict(state["scaler"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise SegrayError(
                f"The checkpoint does not fit the network and optimiser of the config ({reason}).",
                mend="Resume with the config of the run, or start a new run.",
            ) from error

    def _inputs(self, batch: Batch, epoch: int, step: int) -> tuple[Tensor, list[Target]]:
        with torch.no_grad():
            images, labels = network_inputs(
                batch,
                self.config,
                self.normalisation,
                epoch=epoch,
                rank=self.rank,
                step=step,
                overlapping=self.overlapping,
            )
            draw = step_seed(self.config.seed, epoch, self.rank, step)
            images, targets = mix(images, labels, batch.known, self.config.augment, draw)
        if self._has_dropout:
            # Dropout draws from torch's global generator; a resumed run must draw the same.
            torch.manual_seed(step_seed(self.config.seed + 1, epoch, self.rank, step))
        return images.contiguous(memory_format=self._format), targets

    def _forward(self, images: Tensor, targets: Sequence[Target]) -> LossParts:
        with autocast(self.device, self.precision):
            logits = self.model(images)
        levels = logits if isinstance(logits, tuple) else (logits,)
        return weighted_parts(
            [
                (target.weight, supervised_loss(partial(self._objective, known=target.known), levels, target.labels))
                for target in targets
            ]
        )

    def _restore_statistics(self, before: Tensor | None) -> None:
        if before is None:
            return
        sizes = [buffer.numel() for buffer in self._statistics]
        for buffer, old in zip(self._statistics, torch.split(before, sizes), strict=True):
            buffer.copy_(old.view_as(buffer))


def save_state(uri: str, state: dict[str, Any]) -> None:
    """Write tensors and plain types to a path or URI, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    storage.write_bytes(uri, buffer.getvalue())


def load_state(uri: str) -> dict[str, Any]:
    """Read what :func:`save_state` wrote, to the CPU; no code is run. Raises SegrayError where it is damaged."""
    data = storage.read_bytes(uri)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if archive.testzip() is not None:
                raise EOFError
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, zipfile.BadZipFile, KeyError, pickle.UnpicklingError) as error:
        raise SegrayError(
            f"The checkpoint {uri} is damaged ({type(error).__name__}).", mend="Resume from an earlier one."
        ) from error
    return state


def _to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
