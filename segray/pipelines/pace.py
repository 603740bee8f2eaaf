"""Ray Data executions that wait when there is nothing to do."""

from __future__ import annotations

import time

from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

BREATH_S = 0.02
"""The scheduling loop of Ray Data 2.60 turns without a pause while back-pressure holds finished blocks or all tasks are
done: seen with py-spy, 0.6 of a core for the whole of a training. A pause a turn costs a block at most this much."""

SLOW_BREATH_S = 0.1
"""Beside a training step, which takes its blocks slowly and wants the cores for itself."""


class Breath(ExecutionCallback):  # type: ignore[misc]
    """A pause in each turn of the scheduling loop."""

    seconds = BREATH_S

    def on_execution_step(self, executor: object) -> None:
        """Sleep a little."""
        del executor
        time.sleep(self.seconds)


class SlowBreath(Breath):
    """A longer pause."""

    seconds = SLOW_BREATH_S


def paced_context(breath: type[Breath] = Breath) -> DataContext:
    """A copy of the current context without progress bars, whose loop pauses."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.custom_execution_callback_classes = [breath]
    return context
