"""Settings that change nothing in a prediction: said before it, so that nobody believes to have measured them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from segray.config import PredictConfig
from segray.nets.bundle import Bundle


def idle_predict(settings: PredictConfig, bundles: Sequence[Bundle]) -> list[str]:
    """What the settings ask for and the nets or other settings give no occasion for, a sentence each."""
    return [*_of_the_nets(settings, bundles), *_of_the_files(settings)]


def without_windows(settings: PredictConfig, bundles: Sequence[Bundle]) -> bool:
    """Whether nothing can overlap, however large a slice is: no net sees patches, and windows are forbidden."""
    return settings.window == (0, 0) and _slices_alone(bundles)


def _slices_alone(bundles: Sequence[Bundle]) -> bool:
    return all(bundle.net.patch is None for bundle in bundles)


def _of_the_nets(settings: PredictConfig, bundles: Sequence[Bundle]) -> Iterator[str]:
    if settings.overlap != PredictConfig().overlap and _slices_alone(bundles):
        if without_windows(settings, bundles):
            yield "predict.overlap changes nothing: predict.window=[0,0] lets whole slices be seen."
        elif settings.window is None:
            yield (
                "predict.overlap changes nothing where slices are seen whole, as all but very large ones are: "
                "predict.window sets windows."
            )


def _of_the_files(settings: PredictConfig) -> Iterator[str]:
    if settings.probabilities != PredictConfig().probabilities and "probabilities" not in settings.further:
        yield (
            f"predict.probabilities={settings.probabilities} changes nothing: predict.further does not ask for "
            "probabilities."
        )
