"""All trackers of a run together: none of them can stop the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from segray.tracking.tracker import Histograms, Pictures, Scalars, Start, Tracker

Log = Callable[[str], None]
Opener = Callable[[Start], Tracker]


def _tensorboard(start: Start) -> Tracker:
    from segray.tracking.tensorboard import TensorBoard

    return TensorBoard(start)


def _mlflow(start: Start) -> Tracker:
    from segray.tracking.mlflow_store import MLflow

    return MLflow(start)


def _wandb(start: Start) -> Tracker:
    from segray.tracking.wandb_offline import WandB

    return WandB(start)


def _swanlab(start: Start) -> Tracker:
    from segray.tracking.swanlab_offline import SwanLab

    return SwanLab(start)


OPENERS: Mapping[str, Opener] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
    "swanlab": _swanlab,
}
"""Names of ``train.trackers``; a library is imported when its tracker is opened."""


class Trackers:
    """The trackers that ``names`` asks for, as far as they work.

    What one of them raises is said once, by ``log``, and switches that one off.
    """

    def __init__(self, names: Sequence[str], start: Start, log: Log, openers: Mapping[str, Opener] = OPENERS) -> None:
        self._log = log
        self._open: dict[str, Tracker] = {}
        for name in dict.fromkeys(names):
            try:
                self._open[name] = openers[name](start)
            except Exception as error:
                self._off(name, error)

    @property
    def names(self) -> list[str]:
        """Those that work."""
        return list(self._open)

    def scalars(self, values: Scalars, step: int) -> None:
        """Hand named numbers of a step to all."""
        self._each(lambda tracker: tracker.scalars(values, step))

    def pictures(self, make: Callable[[], Pictures], step: int) -> None:
        """Hand pictures to those that draw; they are made where there is one, and an error there counts as its own."""
        self._each(lambda tracker: tracker.pictures(make(), step), drawing=True)

    def histograms(self, make: Callable[[], Histograms], step: int) -> None:
        """Hand distributions to those that draw, made as :meth:`pictures` are."""
        self._each(lambda tracker: tracker.histograms(make(), step), drawing=True)

    def flush(self) -> None:
        """Bring everything to where it outlives this process."""
        self._each(lambda tracker: tracker.flush())

    def close(self, *, failed: bool = False) -> None:
        """Let go of all."""
        self._each(lambda tracker: tracker.close(failed=failed))
        self._open = {}

    def _each(self, tell: Callable[[Tracker], None], *, drawing: bool = False) -> None:
        for name, tracker in list(self._open.items()):
            if drawing and not tracker.draws:
                continue
            try:
                tell(tracker)
            except Exception as error:
                del self._open[name]
                self._off(name, error)

    def _off(self, name: str, error: Exception) -> None:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        mend = f" Install it by `pip install segray[{name}]`." if isinstance(error, ImportError) else ""
        self._log(f"the tracker {name} is off: {reason}{mend}")
