"""Settings that change nothing in a prediction, or do harm: said before it, so that nobody finds out afterwards."""

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


def unlearnt_mirrors(settings: PredictConfig, bundles: Sequence[Bundle]) -> list[str]:
    """A sentence where nets look at mirror images that their training had none of, as far as the bundles tell."""
    unseen = []
    for axis in settings.mirror:
        for bundle in bundles:
            learnt = bundle.provenance.get("mirrored")
            looks = axis != "z" or bundle.net.patch is not None or bundle.net.neighbours > 0
            if isinstance(learnt, list) and axis not in learnt and looks:
                unseen.append(axis)
                break
    if not unseen:
        return []
    flips = " and ".join(f"augment.flip_{axis}" for axis in unseen)
    return [
        f"predict.mirror: the training saw no mirror images along {' and '.join(unseen)} ({flips}); unless the anatomy "
        "is symmetric the masks get much worse."
    ]


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
