"""What is wrong with a folder of cases, and what it would cost: facts of each case, and findings from all of them.

``segray.doctor(source)`` is a public function and ``segray.doctor`` a room, so the room can be called. Needs no torch
and no ray.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """This package, callable as the function of its name."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """As :func:`segray.pipelines.doctor.doctor`, which the public table of the package knows."""
        import segray

        return segray.public("doctor")(*arguments, **named)


sys.modules[__name__].__class__ = _Room
