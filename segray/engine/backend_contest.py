"""The choice of who computes the forward pass: the fastest of those whose masks are the float32 network's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from segray.case import Volume
from segray.config import PredictConfig
from segray.engine.backends import BackendChoice
from segray.engine.compiled_pass import compiler_fault
from segray.engine.openvino_pass import import_openvino, openvino_precision
from segray.engine.precision import resolve_precision
from segray.engine.predictor import CPU_PIXELS, Predictor, choose_device
from segray.engine.windows import predicted_patch
from segray.errors import UsageError
from segray.grid import plan_prediction
from segray.nets.bundle import Bundle

Asked = Literal["auto", "torch", "openvino", "compile"]
"""What the setting ``predict.backend`` may say."""

AGREEMENT = 0.999
"""Least Dice, over all foreground, with the masks of torch in float32."""

PLACES = (0.5, 0.35, 0.65, 0.2, 0.8, 0.05, 0.95)
"""Where slices of a case are tried, as shares of its height, one after the other until there is foreground."""

MOST_APART = 0.05
"""By how much a probability may differ from float32's where nothing is found; bf16 was seen to differ by 0.01."""

GAIN = 1.05
"""How many times as fast as torch OpenVINO must be: what is less, the next measurement may turn round."""

FEW = 500
"""Slices of a run that are over before a measurement of some seconds has paid."""

SLICES, MOST_SLICES = 3, 32
"""Slices of the case that are predicted, or as many as go through the net at once, up to the most."""

ROUNDS, SECONDS = 5, 6.0
"""Rounds of timing, and the time after which no further round begins."""

_NAMES = {"torch": "torch", "openvino": "OpenVINO", "compile": "torch.compile"}


def choose_forward(
    asked: Asked,
    bundles: Bundle | Sequence[Bundle],
    config: PredictConfig,
    voxels: Volume,
    spacing: tuple[float, float, float],
    *,
    device: torch.device | str = "auto",
    threads: int | None = None,
    slices: int | None = None,
    canvases: int = 1,
) -> BackendChoice:
    """Choose for a whole run, by a few slices of one of its cases.

    ``auto`` is torch on a GPU, where OpenVINO is not installed, and for fewer slices than :data:`FEW`. Else Predictors
    with both predict some slices in which float32 finds something (without mirrors and cleaning), and OpenVINO is taken
    where its labels have a Dice of :data:`AGREEMENT` or more with float32's and it is :data:`GAIN` times as fast as
    torch, or torch's low precision does not agree. Where nothing is found anywhere, probabilities have to agree to
    :data:`MOST_APART`. ``openvino`` and ``compile`` are measured too, for the reason, and taken if they work.

    Args:
        asked: the setting.
        bundles: those of the run; of several that differ in their weights alone, one is tried.
        config: the settings of the run.
        voxels: the first case, (z, y, x) or (z, c, y, x).
        spacing: its own, (z, y, x) mm.
        device: as for a Predictor.
        threads: as for a Predictor: the measurement means most where as many compute as in the run.
        slices: how many slices the run has; None: so many that compiling does not count.
        canvases: in how many sizes; each is compiled.

    Raises:
        UsageError: OpenVINO is asked for and is missing, cannot compute this network, or is to compute on a GPU.
        CaseError: the case does not go with the bundle; another may.
    """
    where = choose_device(device, config.gpu)
    plain = BackendChoice("torch", config.precision)
    few = slices is not None and slices < FEW
    if asked == "torch" or (asked == "auto" and (where.type != "cpu" or few or not _openvino_would_do(config))):
        return plain
    if asked == "compile" and (fault := compiler_fault(where)):
        return replace(plain, reason=fault)
    rival = _rival(asked, config, where)
    # What follows the networks is the same for all, or multiplies their time.
    without: dict[str, Any] = {"mirror": [], "turn": {}, "zoom": 0.0}
    bare = config.model_copy(update=without | {"largest_component": [], "smallest_ml": {}, "fill_holes": []})
    found = [middle_of(voxels, spacing, _unlike(bundles), config, place) for place in PLACES]
    contest = _Contest(*found[0], spacing, bare, where, threads).where_something_is([sample for _, sample in found])
    return contest.held(plain, rival, canvases / slices if slices else 0.0, forced=asked != "auto")


def _openvino_would_do(config: PredictConfig) -> bool:
    """True where OpenVINO is there and has the arithmetic; where it is not, ``auto`` has nothing to say."""
    try:
        import_openvino()
        openvino_precision(config.precision)
    except UsageError:
        return False
    return True


def _rival(asked: Asked, config: PredictConfig, device: torch.device) -> BackendChoice:
    """Who is measured against torch. Raises UsageError where that cannot be."""
    if asked == "compile":
        return BackendChoice("compile", config.precision)
    if device.type != "cpu":
        raise UsageError(
            "predict.backend=openvino is for CPUs, and a GPU predicts here.",
            mend="Set predict.gpu=no, or predict.backend=auto.",
        )
    import_openvino()
    return BackendChoice("openvino", openvino_precision(config.precision))


def _unlike(bundles: Bundle | Sequence[Bundle]) -> list[Bundle]:
    """One bundle of each kind of network: neither speed nor rounding depend much on the weights."""
    found: dict[str, Bundle] = {}
    for bundle in [bundles] if isinstance(bundles, Bundle) else bundles:
        found.setdefault(bundle.net.model_dump_json(), bundle)
    return list(found.values())


def middle_of(
    voxels: Volume,
    spacing: tuple[float, float, float],
    bundles: list[Bundle],
    config: PredictConfig,
    place: float = 0.5,
) -> tuple[list[Bundle], Volume]:
    """The middle of a case, and the bundles for it: some slices, or one 3D patch, whose canvas then is no larger.

    ``place`` is a share of the height of the case: slices about another one than the middle.
    """
    grid = bundles[0].grid
    patches = [predicted_patch(bundle.net, config.patch) for bundle in bundles if bundle.net.patch]
    if not patches:
        at_once = config.batch_slices or CPU_PIXELS // (grid.size[0] * grid.size[1])
        return bundles, voxels[_centred(len(voxels), min(max(at_once, SLICES), MOST_SLICES), place)]
    deep, *sides = (max(side) for side in zip(*patches, strict=True))
    if any(0 in patch for patch in patches):
        sides = [0, 0]
    height, width = (min(side or room, room) for side, room in zip(sides, grid.size, strict=True))
    original, resampled = voxels.shape[-2:], plan_prediction(_size(voxels), spacing, grid, 1).resampled
    rows, columns = (
        _centred(old, old * side // new) for old, side, new in zip(original, (height, width), resampled, strict=True)
    )
    cut = [replace(bundle, grid=replace(bundle.grid, size=(height, width))) for bundle in bundles]
    return cut, voxels[_centred(len(voxels), deep, place)][..., rows, columns]


def _size(voxels: Volume) -> tuple[int, int, int]:
    return len(voxels), voxels.shape[-2], voxels.shape[-1]


def _centred(room: int, side: int, place: float = 0.5) -> slice:
    side = min(max(side, 1), room)
    start = int((room - side) * place)
    return slice(start, start + side)


@dataclass(frozen=True)
class _Runner:
    """A Predictor that has predicted the sample: its labels, and the seconds of that first time and of later ones."""

    predictor: Predictor
    precision: str
    labels: NDArray[Any]
    first: float
    later: list[float] = field(default_factory=list)

    def probabilities(self, voxels: Volume, spacing: tuple[float, float, float]) -> NDArray[np.float32]:
        """(n, L, Y, X) of some slices."""
        found: list[NDArray[Any]] = []
        self.predictor.predict(voxels, spacing, probabilities=lambda _, slab: found.append(slab.copy()))
        shares = np.concatenate(found)
        return shares.astype(np.float32) / np.float32(np.iinfo(shares.dtype).max)

    def milliseconds(self, share: float) -> float:
        """Of a slice: the median of the later times, and ``share`` of what the first time took longer: to compile."""
        usual = statistics.median(self.later)
        return 1000 * (usual / len(self.labels) + share * max(self.first - usual, 0.0))


@dataclass(frozen=True)
class _Agreement:
    """Dice with float32, and where that has no foreground by how much probabilities differ at most."""

    dice: float
    apart: float | None = None

    @property
    def share(self) -> float:
        """What is compared with :data:`AGREEMENT`: any backend agrees on nothing, if all it says is background."""
        return self.dice if self.apart is None or self.apart <= MOST_APART else 0.0

    def words(self, other: _Agreement) -> str:
        """This and that of another, for the reason."""
        if self.apart is None or other.apart is None:
            return f"their Dice with float32 is {self.dice:.5f} and {other.dice:.5f}"
        return (
            f"where float32 finds nothing, their probabilities differ from it by {self.apart:.3f} and "
            f"{other.apart:.3f} at most"
        )


@dataclass(frozen=True)
class _Contest:
    """The sample of a case and what its Predictors are made of."""

    bundles: list[Bundle]
    voxels: Volume
    spacing: tuple[float, float, float]
    config: PredictConfig
    device: torch.device
    threads: int | None

    def runner(self, choice: BackendChoice) -> _Runner:
        """A Predictor that has predicted the sample once."""
        config = self.config.model_copy(update={"precision": choice.precision})
        predictor = Predictor(self.bundles, config, self.device, self.threads, choice)
        labels = predictor.predict(self.voxels, self.spacing)
        precision = resolve_precision(choice.precision, self.device)
        return _Runner(predictor, precision, labels, predictor.last_seconds["total"])

    def where_something_is(self, samples: Sequence[Volume]) -> _Contest:
        """The contest on the first sample in which float32 finds foreground; on this one where none has any."""
        exact = self.runner(BackendChoice("torch", "float32"))
        for sample in samples:
            if exact.predictor.predict(sample, self.spacing).any():
                return replace(self, voxels=sample)
        return self

    def agreement(self, exact: _Runner, runner: _Runner) -> _Agreement:
        """How the labels of a runner agree with float32's, and where there is no foreground the probabilities."""
        overlapping = self.bundles[0].label_map.overlapping
        dice = foreground_dice(exact.labels, runner.labels, overlapping=overlapping)
        if exact.labels.any():
            return _Agreement(dice)
        some = self.voxels[_centred(len(self.voxels), SLICES)]
        ours, theirs = (one.probabilities(some, self.spacing) for one in (exact, runner))
        return _Agreement(dice, float(np.abs(ours - theirs).max(initial=0.0)))

    def time(self, *runners: _Runner) -> None:
        """Predict in turn, so that what else the machine does meets all alike."""
        begin = time.perf_counter()
        for number in range(ROUNDS):
            for runner in runners if number % 2 else reversed(runners):
                runner.predictor.predict(self.voxels, self.spacing)
                runner.later.append(runner.predictor.last_seconds["total"])
            if time.perf_counter() - begin > SECONDS:
                break

    def held(self, plain: BackendChoice, rival: BackendChoice, share: float, *, forced: bool) -> BackendChoice:
        """The better of torch and its rival, with the reason; ``forced``: the rival, or UsageError where it cannot."""
        ours = self.runner(plain)
        try:
            theirs = self.runner(rival)
        except UsageError as error:
            if forced:
                raise
            return replace(plain, reason=f"torch computes: {error.message}")
        self.time(ours, theirs)
        exact = ours if ours.precision == "float32" else self.runner(BackendChoice("torch", "float32"))
        took, takes = (runner.milliseconds(share) for runner in (ours, theirs))
        agreed, agrees = (self.agreement(exact, runner) for runner in (ours, theirs))
        chosen = rival if forced or rival_wins((took, takes), (agreed.share, agrees.share)) else plain
        reason = (
            f"{_NAMES[chosen.name]} computes: a slice takes torch {took:.3g} ms in {ours.precision} and "
            f"{_NAMES[rival.name]} {takes:.3g} ms in {theirs.precision}, and {agreed.words(agrees)}."
        )
        return replace(chosen, reason=reason)


def rival_wins(milliseconds: tuple[float, float], agreements: tuple[float, float]) -> bool:
    """Whether torch's rival is to compute, by milliseconds a slice and Dice with float32 of torch and of the rival."""
    (torch_takes, takes), (torch_agrees, agrees) = milliseconds, agreements
    return agrees >= AGREEMENT and (torch_takes >= GAIN * takes or torch_agrees < AGREEMENT)


def foreground_dice(first: NDArray[Any], second: NDArray[Any], *, overlapping: bool) -> float:
    """Dice over all foreground of two label arrays: twice the voxels of the same structure, over all that have one.

    Args:
        first: label indices of any shape; with ``overlapping`` bit fields, of which each bit counts as a voxel.
        second: of the same shape.
        overlapping: whether they are bit fields.

    Returns:
        0 to 1; 1 where neither has foreground.
    """
    if overlapping:
        common, *both = (int(np.bitwise_count(one).sum()) for one in (first & second, first, second))
    else:
        common, *both = (int(np.count_nonzero(one)) for one in ((first == second) & (first > 0), first, second))
    return 2 * common / sum(both) if any(both) else 1.0
