"""Where a training worker sits: in a group that Ray Train leads, or by itself in the process of a trial."""

from __future__ import annotations

import os
import posixpath
import socket
from datetime import UTC, datetime
from typing import Any, Protocol

import ray
import ray.train
import torch
from ray.train import Checkpoint
from ray.train.torch import get_device, prepare_model
from torch import nn

from segray import storage
from segray.pipelines.checkpoints import KEPT, STATE, checkpoint_names
from segray.pipelines.run_folder import CHECKPOINTS, RunFolder


class Seat(Protocol):
    """What a training session asks of the group that it belongs to.

    Attributes:
        rank: of this worker.
        world: number of workers.
        device: what it computes on.
        direct: slices are read in this process instead of by tasks of Ray Data.
    """

    rank: int
    world: int
    device: torch.device
    direct: bool

    def wrap(self, net: nn.Module) -> nn.Module:
        """The net, with its gradients summed over all workers."""

    def latest(self) -> str | None:
        """The name of the newest checkpoint under the run's ``checkpoints``; None before the first."""

    def report(self, checkpoint: str | None) -> None:
        """An epoch is finished. Every worker calls it; ``checkpoint`` is a local folder to be kept, of rank 0."""


def whereabouts(seat: Seat) -> dict[str, Any]:
    """Host, node, device and process of a worker, for ``history.json``."""
    return {
        "rank": seat.rank,
        "host": socket.gethostname(),
        "node_id": ray.get_runtime_context().get_node_id(),
        "device": str(seat.device),
        "pid": os.getpid(),
    }


class GroupSeat:
    """A worker of Ray Train."""

    direct = False

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world: int = context.get_world_size()
        # Ray hides no GPU from a worker that has none, and takes the first one for its own.
        self.device: torch.device = get_device() if ray.get_gpu_ids() else torch.device("cpu")

    def wrap(self, net: nn.Module) -> nn.Module:
        """As :class:`Seat`."""
        if self.world == 1:
            return net
        wrapped: nn.Module = prepare_model(net, move_to_device=False)
        return wrapped

    def latest(self) -> str | None:
        """As :class:`Seat`; what Ray Train has committed."""
        found = ray.train.get_checkpoint()
        return None if found is None else posixpath.basename(found.path.rstrip("/"))

    def report(self, checkpoint: str | None) -> None:
        """As :class:`Seat`; a barrier for all workers."""
        ray.train.report({}, checkpoint=Checkpoint.from_directory(checkpoint) if checkpoint else None)


class LoneSeat:
    """The only worker of its training, in a process that stays for the next one.

    A trial of a sweep sits here: a group of Ray Train takes 11 to 15 seconds to start and to end, and Ray Data another
    one to three, which is more than an epoch of a small trial.
    """

    rank, world, direct = 0, 1, True

    def __init__(self, run: RunFolder, device: torch.device) -> None:
        self._run, self.device = run, device

    def wrap(self, net: nn.Module) -> nn.Module:
        """As :class:`Seat`."""
        return net

    def latest(self) -> str | None:
        """As :class:`Seat`; a checkpoint that a kill left half written is none."""
        folder = self._run.file(CHECKPOINTS)
        for name in reversed(checkpoint_names(self._run)):
            if storage.exists(storage.join(folder, name, STATE)):
                return name
        return None

    def report(self, checkpoint: str | None) -> None:
        """As :class:`Seat`; older checkpoints than the last :data:`KEPT` are removed."""
        if checkpoint is None:
            return
        name = datetime.now(UTC).strftime("checkpoint_%Y-%m-%d_%H-%M-%S.%f")
        folder = storage.join(self._run.file(CHECKPOINTS), name)
        for file in sorted(os.listdir(checkpoint)):
            with open(os.path.join(checkpoint, file), "rb") as stream:
                storage.write_bytes(storage.join(folder, file), stream.read())
        for old in checkpoint_names(self._run)[:-KEPT]:
            storage.delete_folder(storage.join(self._run.file(CHECKPOINTS), old))
