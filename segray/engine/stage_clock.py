"""Seconds that each stage of a prediction takes; imported without torch, by processes that only read and write."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

STAGES = ("place", "forward", "labels", "postprocess")
"""To the grid and normalised; the nets, of all mirrors; back to the case's grid, argmax, with confidence and
probabilities where they are asked for; components and holes."""


class StageClock:
    """Seconds a stage; on a GPU by events, so that measuring makes nothing wait."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._sums = dict.fromkeys(STAGES, 0.0)
        self._events: list[tuple[str, Any, Any]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add what runs inside to a stage of :data:`STAGES`."""
        if not self._on_gpu:
            begin = time.perf_counter()
            yield
            self._sums[name] += time.perf_counter() - begin
            return
        import torch

        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        first.record()
        yield
        last.record()
        self._events.append((name, first, last))

    def seconds(self) -> dict[str, float]:
        """Sums by stage; waits for the GPU."""
        if self._events:
            import torch

            torch.cuda.synchronize()
        for name, first, last in self._events:
            self._sums[name] += first.elapsed_time(last) / 1000.0
        self._events.clear()
        return dict(self._sums)
