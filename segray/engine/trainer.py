"""One training step and all state that a resume needs."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segray import storage
from segray.config import Config, OptimConfig
from segray.engine.augment import augment, step_seed
from segray.engine.precision import resolve_precision
from segray.engine.schedule import learning_rate
from segray.errors import SegrayError
from segray.nets.deep_supervision import supervised_loss
from segray.nets.losses import LossParts, segmentation_loss
from segray.nets.normalise import Normalisation
from segray.nets.sigmoid_loss import overlapping_loss

NO_LIMIT = math.inf


@dataclass(frozen=True)
class Batch:
    """Slices on their device.

    Attributes:
        images: (n, H, W) or (n, c, H, W) int16 or float32, voxel values as the shards hold them.
        labels: (n, H, W) uint8 or int32 channel indices, or bit fields.
        mean: (n) or (n, c) float32, mean of each slice's case.
        sd: (n) or (n, c) float32, standard deviation of each slice's case.
        case_ids: n case ids.
    """

    images: Tensor
    labels: Tensor
    mean: Tensor
    sd: Tensor
    case_ids: tuple[str, ...]

    @classmethod
    def from_arrays(
        cls,
        images: NDArray[Any],
        labels: NDArray[Any],
        mean: NDArray[Any],
        sd: NDArray[Any],
        case_ids: Sequence[str],
        *,
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
        precision: bf16 or float32, of the forward pass.
    """

    def __init__(
        self,
        config: Config,
        network: nn.Module,
        normalisation: Normalisation,
        *,
        device: torch.device | str,
        rank: int = 0,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
        overlapping: bool = False,
    ) -> None:
        """Move the network to the device; ``wrap`` may put DistributedDataParallel around it.

        With ``overlapping`` labels are bit fields, and each output of the network is a structure by itself.
        """
        self.config, self.normalisation, self.rank, self.overlapping = config, normalisation, rank, overlapping
        self.device = torch.device(device)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = wrap(self.network) if wrap is not None else self.network
        self._optimiser = build_optimiser(self.network, config.optim, self.device)
        self._parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self._statistics = [buffer for buffer in self.network.buffers() if buffer.is_floating_point()]
        self._has_dropout = config.net.dropout > 0
        self.precision = resolve_precision(config.train.precision, self.device)

    def step(self, batch: Batch, *, epoch: int, step: int, progress: float) -> StepResult:
        """Augment, forward, backward, update.

        A batch whose gradient is not finite changes nothing, neither weights nor running statistics. All workers of
        a wrapped network see the same summed gradient, and so decide alike.

        Args:
            batch: the slices.
            epoch: number of the epoch, for the randomness.
            step: number of the step over the whole run, from 0.
            progress: share of the run that is done, in [0, 1].
        """
        lr = learning_rate(self.config.optim, step=step, progress=progress)
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        images, labels = self._inputs(batch, epoch, step)
        before = torch.cat([buffer.flatten() for buffer in self._statistics]) if self._statistics else None
        self.model.train()
        self._optimiser.zero_grad(set_to_none=True)
        parts = self._forward(images, labels)
        parts.total.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self._parameters, self.config.optim.clip_norm or NO_LIMIT)
        # One transfer a step: everything that the host wants to know comes in a single tensor.
        loss, dice, entropy, size = torch.stack((parts.total.detach(), parts.dice, parts.cross_entropy, norm)).tolist()
        finite = math.isfinite(size)
        if finite:
            self._optimiser.step()
        else:
            self._restore_statistics(before)
        return StepResult(loss, dice, entropy, size, lr, len(images), () if finite else batch.case_ids)

    def state_dict(self) -> dict[str, Any]:
        """Weights, running statistics and optimiser: tensors and plain types, on any device."""
        return {"network": self.network.state_dict(), "optimiser": self._optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken. Raises SegrayError where it belongs to another network."""
        try:
            self.network.load_state_dict(state["network"])
            self._optimiser.load_state_dict(state["optimiser"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise SegrayError(
                f"The checkpoint does not fit the network and optimiser of the config ({reason}).",
                mend="Resume with the config of the run, or start a new run.",
            ) from error

    def _inputs(self, batch: Batch, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            images = self.normalisation.apply(batch.images, batch.mean, batch.sd)
            images, labels = augment(
                images,
                batch.labels,
                self.config.augment,
                span=self.normalisation.span,
                seed=self.config.seed,
                epoch=epoch,
                rank=self.rank,
                step=step,
                overlapping=self.overlapping,
            )
        if self._has_dropout:
            # Dropout draws from torch's global generator; a resumed run must draw the same.
            torch.manual_seed(step_seed(self.config.seed + 1, epoch, self.rank, step))
        return images.contiguous(memory_format=torch.channels_last), labels

    def _forward(self, images: Tensor, labels: Tensor) -> LossParts:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            logits = self.model(images)
        loss = overlapping_loss if self.overlapping else segmentation_loss
        if isinstance(logits, tuple):
            return supervised_loss(loss, logits, labels, self.config.loss)
        return loss(logits, labels, self.config.loss)

    def _restore_statistics(self, before: Tensor | None) -> None:
        if before is None:
            return
        sizes = [buffer.numel() for buffer in self._statistics]
        for buffer, old in zip(self._statistics, torch.split(before, sizes), strict=True):
            buffer.copy_(old.view_as(buffer))


def build_optimiser(network: nn.Module, config: OptimConfig, device: torch.device) -> torch.optim.Optimizer:
    """AdamW or SGD with Nesterov momentum; norms and biases are not decayed."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = device.type in ("cpu", "cuda")
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=fused)


def save_state(uri: str, state: dict[str, Any]) -> None:
    """Write tensors and plain types to a path or URI, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    storage.write_bytes(uri, buffer.getvalue())


def load_state(uri: str) -> dict[str, Any]:
    """Read what :func:`save_state` wrote, to the CPU; no code is run. Raises SegrayError where it is damaged."""
    data = storage.read_bytes(uri)
    try:
        if not zipfile.is_zipfile(io.BytesIO(data)):
            raise EOFError
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise SegrayError(
            f"The checkpoint {uri} is damaged ({type(error).__name__}).", mend="Resume from an earlier one."
        ) from error
    return state


def _to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
