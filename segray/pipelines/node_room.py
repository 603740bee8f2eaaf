"""How the CPUs and GPUs of the nodes are shared out: what a process takes, and how many find room."""

from __future__ import annotations

import math
from collections.abc import Sequence

from segray.config import TrainConfig
from segray.errors import SegrayError, UsageError
from segray.pipelines.runtime import READ_TASK_CPUS, Node, WorkerShape, nodes

LEAST_CPUS = 0.1
"""CPUs that a process declares at least."""

ROUNDING = 1e-6
"""Sums and quotients of decimal shares of CPUs are not exact."""


class NoRoomError(UsageError):
    """A process would wait for ever, as the nodes are now."""


def places(node: Node, shape: WorkerShape) -> int:
    """How many of a shape a node has room for."""
    room = int(node.cpus / shape.cpus + ROUNDING)
    return min(room, int(node.gpus // shape.gpus)) if shape.gpus else room


def check_places(shape: WorkerShape, most: int, what: str, setting: str) -> None:
    """Raise NoRoomError where processes of a shape would wait for ever: for room, or for others that find none.

    Args:
        shape: what each takes.
        most: how many there are at most; 0: nothing else has to run beside them.
        what: one of them is called.
        setting: that says how many CPUs each takes.
    """
    living = nodes()
    placed = sum(places(node, shape) for node in living)
    if not placed:
        able = [node for node in living if node.gpus >= shape.gpus] or living
        raise NoRoomError(
            f"A {what} of {shape.cpus:g} CPUs finds no room: the nodes have "
            f"{max(node.cpus for node in able):g} at most.",
            mend=f"Lower {setting}, or leave it at 0.",
        )
    count = min(most, placed)
    if most and _left_to_read(living, shape, count) < READ_TASK_CPUS - ROUNDING:
        those, leave = (f"A {what}", "leaves") if count == 1 else (f"{count} {what}s", "leave")
        raise NoRoomError(
            f"{those} of {shape.cpus:g} CPUs {leave} none to read the slices with.",
            mend=f"Lower {setting} a little, or leave it at 0.",
        )


def _left_to_read(living: Sequence[Node], shape: WorkerShape, workers: int) -> float:
    """CPUs that reading tasks find beside so many workers, wherever these lie; a task needs its share on one node."""
    held = [places(node, shape) for node in living]
    if workers < sum(held):
        return sum(node.cpus for node in living) - workers * shape.cpus
    free = (node.cpus - number * shape.cpus for node, number in zip(living, held, strict=True))
    return READ_TASK_CPUS * sum(math.floor(left / READ_TASK_CPUS + ROUNDING) for left in free)


def worker_shape(workers: int, cpus: float, gpu: str) -> WorkerShape:
    """How much each of ``workers`` takes: a GPU each where there are enough, else an even part of the CPUs.

    A share of every node's CPUs is left for the tasks that read. On CPU nodes the shape is so large that
    no node takes more workers than its part, which spreads them without STRICT_SPREAD.

    Raises:
        SegrayError: ``gpu`` is "yes" and the cluster has fewer GPUs than workers.
    """
    living = nodes()
    total_gpus = sum(node.gpus for node in living)
    if gpu == "yes" and total_gpus < workers:
        raise SegrayError(
            f"{workers} workers need {workers} GPUs, and the cluster has {total_gpus:.0f}.",
            mend="Lower the workers, or set gpu=auto.",
        )
    if gpu != "no" and total_gpus >= workers:
        hosts = [node for node in living if node.gpus]
        share = min(node.cpus / node.gpus for node in hosts)
        return WorkerShape(cpus or max(LEAST_CPUS, round(share * 0.5, 2)), 1.0)
    per_node = -(-workers // len(living))
    used = living[: -(-workers // per_node)]
    smallest = min(node.cpus for node in used)
    return WorkerShape(cpus or max(LEAST_CPUS, round((smallest - reading_share(smallest)) / per_node, 2)), 0.0)


def reading_share(cpus: float) -> float:
    """CPUs of a node that are left for reading and writing."""
    return max(0.5, 0.1 * cpus)


def shape_of(train: TrainConfig) -> WorkerShape:
    """How much each worker of a training takes; of an elastic one as many are counted as the cluster holds now.

    Raises:
        SegrayError: as :func:`worker_shape`.
        NoRoomError: as :func:`check_places`.
    """
    living = nodes()
    gpus = int(sum(node.gpus for node in living))
    hosts = gpus if train.gpu != "no" and gpus >= train.fewest_workers else len(living)
    workers = min(max(hosts, train.fewest_workers), train.most_workers)
    shape = worker_shape(workers, train.cpus_per_worker, train.gpu)
    check_places(shape, train.most_workers, "worker", "train.cpus_per_worker")
    return shape


def trainings_at_once(shape: WorkerShape, fewest: int, most: int) -> int:
    """Trainings that find room at the same time, and the tasks that read their slices; at least one.

    Workers that hold all CPUs would wait for their slices for ever, those too that elastic trainings take later.

    Args:
        shape: of a worker.
        fewest: workers that a training needs.
        most: workers that it takes where there is room.
    """
    living = nodes()
    placed = sum(places(node, shape) for node in living)
    count = max(1, placed // fewest)
    while count > 1 and _left_to_read(living, shape, min(placed, count * most)) < count * READ_TASK_CPUS - ROUNDING:
        count -= 1
    return count


def idle_gpus(count: int, gpu: str, what: str, setting: str) -> list[str]:
    """What is to be said where GPUs are there and CPUs compute, since there are too few of them; else nothing.

    Args:
        count: processes that would need one each.
        gpu: yes, no or auto, as :func:`worker_shape` takes it.
        what: one of them is called.
        setting: that says how many there are.
    """
    gpus = int(sum(node.gpus for node in nodes()))
    if gpu != "auto" or not 0 < gpus < count:
        return []
    there = "1 GPU stands" if gpus == 1 else f"{gpus} GPUs stand"
    return [f"{there} idle: each of {count} {what}s would need one, so all compute on CPUs. Set {setting}={gpus}."]
