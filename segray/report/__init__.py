"""Plots, overlays and the one page that shows a run and its predictions. Needs no torch and no ray.

``segray.report(folder)`` is a public function and ``segray.report`` a room, so the room can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType


class _Room(ModuleType):
    """This package, callable as the function of its name."""

    def __call__(self, folder: str, *, predictions: str | None = None, run: str | None = None) -> str:
        """As :func:`segray.report.api.report`."""
        from segray.report.api import report

        return report(folder, predictions=predictions, run=run)


sys.modules[__name__].__class__ = _Room
