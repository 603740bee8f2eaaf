"""A trial that trains nothing: a bundle predicts the validation cases of the shards with other prediction settings."""

from __future__ import annotations

import math
import socket
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.tune import Trainable

from segray.case import LabelMap, Volume
from segray.config import Config, load_config
from segray.engine.placed_case import CaseStatistics
from segray.engine.predictor import Predictor
from segray.errors import SegrayError, UsageError
from segray.evaluation.counting import Counts, count_overlapping, count_pair
from segray.evaluation.metrics import dice
from segray.nets.bundle import Bundle, find_bundles, load_bundle
from segray.outage import be_patient
from segray.pipelines.live import data_folder, hide_names
from segray.pipelines.run_folder import CONFIG, RunFolder
from segray.pipelines.trial import failure_of, keep_memory
from segray.shards.cache import ShardCache, shard_cache
from segray.shards.index import SliceIndex, load_index
from segray.shards.known_labels import KnownLabels
from segray.shards.manifest import Manifest, load_manifest
from segray.shards.reader import case_spacing, case_statistics, read_case_volume
from segray.shards.tally import counting
from segray.tuning.objectives import OF_STRUCTURE, refuse_unshown

KEPT_BYTES = 2 * 2**30
"""Voxels of validation cases that stay in memory between trials."""


@dataclass(frozen=True)
class HeldOut:
    """A validation case on the grid of the shards: voxels, true indices (z, H, W), spacing (z, y, x) in mm.

    ``statistics`` are of its voxels before the grid, which on it have a margin or were cut.
    """

    case_id: str
    voxels: Volume
    truth: Volume
    spacing: tuple[float, float, float]
    statistics: CaseStatistics


class HeldOutCases:
    """The validation cases of a shard folder, kept as far as there is room.

    Attributes:
        manifest: of the folder.
        notes: sentences for the log that came up while they were read.
    """

    def __init__(self, folder: str, cache: ShardCache | None = None) -> None:
        self._folder, self._cache = folder, cache
        self.notes: list[str] = []
        self.manifest: Manifest = load_manifest(folder)
        self._index: SliceIndex = load_index(folder, self.manifest)
        self._kept: dict[str, HeldOut] = {}
        self._bytes = 0

    def __iter__(self) -> Iterator[HeldOut]:
        """Case by case, in the order of the manifest."""
        for part in self._index.parts:
            if part.split == "validation":
                yield self._kept.get(part.case_id) or self._read(part.case_id)

    def _read(self, case_id: str) -> HeldOut:
        with counting() as tally:
            voxels, truth = read_case_volume(self._folder, self._index, case_id, cache=self._cache)
            spacing = case_spacing(self._folder, self._index, case_id, self._cache)
            statistics = case_statistics(self._folder, self._index, case_id, self._cache)
            one = HeldOut(case_id, voxels, truth, spacing, statistics)
        self.notes += tally.notes
        size = voxels.nbytes + truth.nbytes
        if self._bytes + size <= KEPT_BYTES:
            self._kept[case_id], self._bytes = one, self._bytes + size
        return one


def check_inference(config: Config) -> None:
    """Raise UsageError where a sweep over a bundle's prediction could not begin."""
    tune = config.tune
    bundles = [load_bundle(path) for path in find_bundles(str(tune.bundle))]
    manifest = load_manifest(data_folder(config))
    for bundle in bundles:
        if bundle.label_map != manifest.label_map:
            raise UsageError(
                f"The bundle {tune.bundle} knows {', '.join(bundle.label_map.names)}, and the shards "
                f"{', '.join(manifest.label_map.names)}.",
                mend="Take the shards that it was trained on.",
            )
        seen = set(bundle.split.get("train", ())) & set(manifest.cases("validation"))
        if seen:
            raise UsageError(
                f"{len(seen)} validation cases of the shards, such as {min(seen)}, were trained on.",
                mend="Take the shards, with the split, that the bundle was trained on.",
            )
    if not manifest.cases("validation"):
        raise UsageError("The shards have no validation cases.", mend="Ingest with ingest.split.validation.")
    allowed = {"val_dice", "latency", "seconds", *(f"val_dice_{name}" for name in manifest.label_map.names)}
    unknown = [name for name in tune.objectives if name not in allowed]
    if unknown:
        raise UsageError(
            f"The objective {unknown[0]} is not one of a prediction.", mend=f"Known are {', '.join(sorted(allowed))}."
        )
    check_shown(config, manifest)


def check_shown(config: Config, manifest: Manifest) -> None:
    """Raise UsageError where an objective is the Dice of a structure that no validation case of the shards shows."""
    objectives = config.tune.objectives
    # The index of a large archive takes a while to read.
    if any(name.startswith(OF_STRUCTURE) for name in objectives):
        numbers = load_index(data_folder(config), manifest).structures_of("validation")
        names = manifest.label_map.names
        refuse_unshown(objectives, [name for number, name in enumerate(names, start=1) if number in numbers])


class InferenceActor(Trainable):  # type: ignore[misc]
    """Ray Tune's side of such a trial; told and telling as :class:`segray.pipelines.trial.TrialActor`.

    The bundle and the cases stay for the next trial of the same process.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Begin with the first trial of this process."""
        keep_memory()
        be_patient()
        self._told = config
        self._cases: HeldOutCases | None = None
        self._bundles: list[Bundle] = []

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin with the next trial."""
        self._told = new_config
        return True

    def step(self) -> dict[str, Any]:
        """The whole trial."""
        run = RunFolder(self._told["run"])
        try:
            config = load_config(run.file(CONFIG))
            hide_names(config)
            return self._measure(config, run)
        except Exception as error:
            run.log(f"trial failed:\n{traceback.format_exc().rstrip()}", "error")
            return {"done": True, "epoch": 0, "value": math.nan, **failure_of(error)}

    def _measure(self, config: Config, run: RunFolder) -> dict[str, Any]:
        if self._cases is None:
            self._cases = HeldOutCases(data_folder(config), shard_cache(config.train))
            self._bundles = [load_bundle(path) for path in find_bundles(str(config.tune.bundle))]
        device = "auto" if self._told["gpus"] else "cpu"
        predictor = Predictor(self._bundles, config.predict, device, threads=int(self._told["threads"]))
        predictor.warm_up()
        begin, slices = time.monotonic(), 0
        scores, ids = [], []
        for one in self._cases:
            ids.append(one.case_id)
            found = predictor.predict(one.voxels, one.spacing, statistics=one.statistics)
            scores.append(dice_of(one.truth, found, self._cases.manifest.label_map))
            slices += len(found)
        seconds = time.monotonic() - begin
        for words in self._cases.notes:
            run.log(words)
        self._cases.notes.clear()
        judged = without_unknown(np.array(scores), ids, config, self._cases.manifest)
        known = outcome(judged, self._cases.manifest.label_map.names, seconds, slices)
        run.write_history(finished=True, state="finished", outcome=known)
        values = [known[name] for name in config.tune.objectives]
        return {
            "epoch": 1,
            "value": values[0],
            "done": True,
            "host": socket.gethostname(),
            "values": values,
            "other": list(known.items()),
        }


def dice_of(truth: Volume, predicted: Volume, label_map: LabelMap) -> NDArray[np.float64]:
    """Dice of every structure of a case; NaN where it is in neither. Ignored voxels are background on both sides."""
    names = len(label_map.names)
    if label_map.overlapping:
        return dice(count_overlapping(truth, predicted, names).structures())
    judged = truth < label_map.channels
    counts: Counts = count_pair(truth * judged, predicted * judged, names + 1)
    return dice(counts.structures())


def without_unknown(
    scores: NDArray[np.float64], case_ids: Sequence[str], config: Config, manifest: Manifest
) -> NDArray[np.float64]:
    """(cases, structures) Dice; NaN for what is not known of a case, as in the validation of a training."""
    known = KnownLabels.of_manifest(manifest, config.loss.missing)
    return scores if known is None else np.where(known.structures(case_ids), scores, np.nan)


def outcome(scores: NDArray[np.float64], names: tuple[str, ...], seconds: float, slices: int) -> dict[str, float]:
    """What may be an objective: mean Dice, of each structure too, seconds, and ms a slice (reading left out).

    Args:
        scores: (cases, structures) Dice.
        names: of the structures.
        seconds: that prediction took.
        slices: that were predicted.

    Raises:
        SegrayError: no validation case shows a structure.
    """
    if not np.isfinite(scores).any():
        raise SegrayError("No validation case shows a structure.", mend="Look at the split of the shards.")
    found = {"val_dice": float(np.nanmean(scores)), "seconds": seconds, "latency": 1000 * seconds / max(slices, 1)}
    for number, name in enumerate(names):
        column = scores[:, number]
        found[f"val_dice_{name}"] = float(np.nanmean(column)) if np.isfinite(column).any() else math.nan
    return found
