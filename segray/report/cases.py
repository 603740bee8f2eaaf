"""Which cases the report shows as overlays, and their pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from segray import formats, storage
from segray.case import LabelMap, Volume, channel_volumes
from segray.errors import CaseError, SegrayError
from segray.evaluation.tables import case_means
from segray.formats.source import CaseSource
from segray.report.folders import PredictionFiles, as_number
from segray.report.overlays import overlay
from segray.report.theme import save_png


@dataclass(frozen=True)
class Chosen:
    """A case to show: its id and why, such as ``worst case, mean Dice 0.512``."""

    case_id: str
    why: str


@dataclass(frozen=True)
class Drawn:
    """What came of it: (case, name of the PNG) of the drawn ones, and a sentence for each that could not be drawn."""

    pictures: list[tuple[Chosen, str]]
    problems: list[str]


def choose_cases(files: PredictionFiles) -> list[Chosen]:
    """Best, median and worst case by mean Dice; without an evaluation the largest, median and smallest foreground."""
    masked = {str(row["case_id"]) for row in files.done}
    means = {case: mean for case, mean in case_means(files.metrics).items() if case in masked and not math.isnan(mean)}
    if means:
        return _three(means, ("best", "median", "worst"), "mean Dice {:.3f}")
    totals = {}
    for row in files.done:
        volumes = [as_number(row.get(f"volume_ml_{name}")) for name in files.structures]
        totals[str(row["case_id"])] = sum(volume for volume in volumes if not math.isnan(volume))
    return _three(totals, ("largest", "median", "smallest"), "{:.1f} ml in all structures")


def draw_cases(files: PredictionFiles, chosen: list[Chosen], plots: str) -> Drawn:
    """Write ``overlay_<case id>.png`` into ``plots`` for every chosen case that can be read."""
    drawn = Drawn([], [])
    for case in chosen:
        name = f"overlay_{case.case_id}.png"
        try:
            _draw(files, case, storage.join(plots, name))
        except SegrayError as error:
            drawn.problems.append(f"No overlay of {case.case_id}: {error}")
        else:
            drawn.pictures.append((case, name))
    return drawn


def _three(values: dict[str, float], words: tuple[str, str, str], shown: str) -> list[Chosen]:
    ranked = sorted(values, key=lambda case: (-values[case], case))
    if not ranked:
        return []
    places = {0: words[0], len(ranked) - 1: words[2]}
    if len(ranked) > 2:
        places[len(ranked) // 2] = words[1]
    if len(ranked) == 1:
        places = {0: "only"}
    return [Chosen(ranked[at], f"{places[at]} case, {shown.format(values[ranked[at]])}") for at in sorted(places)]


def _draw(files: PredictionFiles, case: Chosen, target: str) -> None:
    mask = files.mask(case.case_id)
    if files.label_map is None or mask is None:
        raise CaseError("its mask or label_map.json is missing.", mend="Run `segray predict` again.")
    predicted, geometry = formats.read_mask(mask, label_map=files.label_map)
    truth_map = files.truth_map or files.label_map
    voxels, truth = _image_and_truth(files, case.case_id, truth_map)
    for volume, what in ((voxels, "image"), (truth, "truth")):
        if volume is not None and volume.shape != predicted.shape:
            raise CaseError(f"the {what} has {volume.shape} voxels and the mask {predicted.shape}.")
    if truth is not None:
        truth = files.label_map.from_map(truth_map, truth_map.to_index(truth))
    figure = overlay(
        voxels,
        geometry.spacing,
        truth,
        files.label_map.to_index(predicted),
        files.label_map.names,
        f"{case.case_id}: {case.why}",
        overlapping=files.label_map.overlapping,
    )
    save_png(figure, target)


def _image_and_truth(files: PredictionFiles, case_id: str, label_map: LabelMap) -> tuple[Volume, Volume | None]:
    if case_id in files.truth:
        found = formats.read_case(
            CaseSource.from_json(files.truth[case_id]),
            label_map,
            overlap="keep" if label_map.overlapping else "smallest",
        )
        return channel_volumes(found.voxels)[0], found.labels
    if case_id not in files.sources:
        raise CaseError("The ledger does not name its image.", mend="Run `segray predict` again.")
    return channel_volumes(formats.read_image(CaseSource.from_json(files.sources[case_id])).voxels)[0], None
