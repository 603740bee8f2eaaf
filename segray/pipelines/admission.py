"""Cases grouped by the memory they need, so that Ray admits only as many at once as fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from segray.pipelines.runtime import MIB, nodes

Item = TypeVar("Item")

SMALLEST_CLASS = 512 * MIB


def memory_classes(
    items: Sequence[Item], bytes_of: Callable[[Item], int], *, beside: int = 0
) -> list[tuple[int, list[Item]]]:
    """Group ``items`` into classes of memory that double, the largest first.

    Every task of a class declares the class's memory to Ray (``memory=``), so a small case waits for no
    memory that only a large one needs. A class never declares more than the largest node has: such a task
    would wait for ever.

    Args:
        items: in any order.
        bytes_of: bytes that an item needs.
        beside: bytes that something else on each node holds meanwhile.

    Returns:
        (bytes to declare, items, largest first) for each class.
    """
    ceiling = memory_ceiling() - beside
    classes: dict[int, list[Item]] = {}
    for item in sorted(items, key=bytes_of, reverse=True):
        classes.setdefault(min(class_of(bytes_of(item)), ceiling), []).append(item)
    return sorted(classes.items(), reverse=True)


def class_of(wanted: int) -> int:
    """The class of memory that holds ``wanted`` bytes."""
    declared = SMALLEST_CLASS
    while declared < wanted:
        declared *= 2
    return declared


def memory_at_most(wanted: int) -> int:
    """Bytes for a task to declare: ``wanted``, but no more than the largest node has."""
    return min(wanted, memory_ceiling()) if wanted else 0


def memory_ceiling() -> int:
    """The most memory that a task may declare without waiting for ever."""
    return int(max(node.memory for node in nodes()) * 0.95)
