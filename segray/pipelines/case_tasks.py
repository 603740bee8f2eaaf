"""One function for every case, as Ray tasks: what a case needs is declared, what kills a worker is a row.

Ray's own scheduler holds the next tasks ready beside those that run. Ray Data, which suits what streams from stage to
stage, starts a task some 50 ms after another has ended: as long as a small case takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from segray import privacy
from segray.formats.source import CaseSource
from segray.pipelines.admission import class_of, memory_ceiling
from segray.pipelines.failures import reason_for
from segray.pipelines.runtime import nodes

Item = TypeVar("Item")
Result = TypeVar("Result")
Case = TypeVar("Case", bound="_Case")

WAITING_A_CPU = 2
"""Tasks that are handed to Ray for each CPU: one that runs and one that follows at once."""


@dataclass(frozen=True)
class Done(Generic[Item, Result]):
    """A task that has ended.

    Attributes:
        item: what it was for.
        result: what the function returned; None where the task was lost.
        reason: why it was lost, in words; empty where it was not.
    """

    item: Item
    result: Result | None
    reason: str = ""


def run_tasks(
    function: Callable[..., Result],
    items: Iterable[Item],
    shared: Sequence[Any] = (),
    *,
    argument: Callable[[Item], Any],
    cpus: float = 1.0,
    gpus: float = 0.0,
    memory: Callable[[Item], int] = lambda _: 0,
    retries: int = 3,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Done[Item, Result]]:
    """``function(argument(item), *shared)`` for every item, in parallel, in the order in which they end.

    A task whose worker or node dies is tried again by Ray; where that does not help, or where the function raises, the
    others go on. However many items there are, only a few tasks exist at a time.

    Args:
        function: known by its name on all nodes.
        items: begun in this order; asked for one by one, as there is room.
        shared: what every task gets; brought to each node once.
        argument: what a task gets of its item.
        cpus: that a task declares.
        gpus: that a task declares.
        memory: bytes that the task of an item declares; 0: none.
        retries: how often Ray tries a task again whose worker or node died.
        environment: variables of the processes, which then do these tasks alone; None: any process of the session.
    """
    task = ray.remote(
        num_cpus=cpus,
        num_gpus=gpus or None,
        max_retries=retries,
        runtime_env={"env_vars": dict(environment)} if environment else None,
    )(privacy.discreet(function))
    common = [ray.put(each) for each in shared]
    room = max(4, int(WAITING_A_CPU * sum(node.cpus for node in nodes()) / cpus))
    left = iter(items)
    waiting: dict[ray.ObjectRef, Item] = {}
    try:
        while True:
            for item in islice(left, room - len(waiting)):
                options = task.options(memory=memory(item) or None)
                waiting[options.remote(argument(item), *common)] = item
            if not waiting:
                return
            ready, _ = ray.wait(list(waiting), num_returns=1)
            for reference in ready:
                yield _done(reference, waiting.pop(reference))
    finally:
        for reference in waiting:
            ray.cancel(reference)


class _Case(Protocol):
    @property
    def source(self) -> CaseSource: ...


def run_on_cases(
    function: Callable[..., Result],
    cases: Sequence[Case],
    shared: Sequence[Any] = (),
    *,
    bytes_of: Callable[[Case], int],
    cpus: float,
) -> Iterator[Done[Case, Result]]:
    """:func:`run_tasks` for cases, the largest first; a task gets ``{"source": JSON}`` and declares its memory.

    Memory is declared in classes that double, since Ray keeps workers ready for a few kinds of tasks, and never more
    than the largest node has: such a task would wait for ever.
    """
    ceiling = memory_ceiling()
    return run_tasks(
        function,
        sorted(cases, key=bytes_of, reverse=True),
        shared,
        argument=lambda case: {"source": case.source.to_json()},
        cpus=cpus,
        memory=lambda case: min(class_of(bytes_of(case)), ceiling),
    )


def _done(reference: ray.ObjectRef, item: Item) -> Done[Item, Any]:
    try:
        return Done(item, ray.get(reference))
    except RayTaskError as error:
        return Done(item, None, reason_for(error.cause))
    except RayError as error:
        lines = str(error).strip().splitlines()
        return Done(item, None, f"The process that worked on it died ({lines[0] if lines else type(error).__name__})")
