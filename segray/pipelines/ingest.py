"""From a folder of cases to shards, in parallel over cases on Ray."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from segray import formats, privacy, storage
from segray.case import Case, LabelMap, channel_volumes, voxel_statistics
from segray.config import Config
from segray.errors import CaseError, UsageError
from segray.formats.source import CaseSource, Discovery
from segray.grid import Grid, fill_value, resolve_grid
from segray.pipelines.case_tasks import run_on_cases
from segray.pipelines.case_watch import CaseWatch, Watcher
from segray.pipelines.cluster_doctor import preflight_notes
from segray.pipelines.failures import reason_for
from segray.pipelines.headers import Planned, read_headers
from segray.pipelines.runtime import MIB, ray_session
from segray.resample import image_to_grid, labels_to_grid
from segray.shards.annotated import Annotated, read_annotated
from segray.shards.index import build_index
from segray.shards.manifest import INDEX, MANIFEST, SPLITS, Manifest, PartEntry, case_intensity, pool_intensity
from segray.shards.split import match_table, split_cases
from segray.shards.writer import CaseSlices, PartFacts, part_name, read_part_facts, write_part

FAILURES = "failures.csv"
INGEST_TASK_CPUS = 1.0

Failure = tuple[str, str]


@dataclass(frozen=True)
class IngestSummary:
    """What an ingest left.

    Attributes:
        folder: the shard folder.
        cases: cases in the shards.
        slices: their slices.
        written: parts written by this call; the others were there.
        split: number of cases in train, validation, test.
        notes: what was understood of the folder.
        failed: (case id or file, reason) of what is not in the shards.
    """

    folder: str
    cases: int
    slices: int
    written: int
    split: dict[str, int]
    notes: list[str]
    failed: list[Failure]


@dataclass(frozen=True)
class Recipe:
    """How cases become slices; a part made by another recipe is made again."""

    label_map: dict[str, int]
    grid: dict[str, Any]
    overlap: str
    rows_per_group: int
    codec: str
    level: int
    pixels: bool = True
    channels: Sequence[str] = ()
    ignored: int = 0

    @property
    def hash(self) -> str:
        """Short SHA-256 of the recipe."""
        table = asdict(self)
        if not self.ignored:
            # As before there were ignored voxels, so that no part is made again for it.
            del table["ignored"]
        return hashlib.sha256(json.dumps(table, sort_keys=True).encode("utf-8")).hexdigest()[:16]

    def labels(self) -> LabelMap:
        """The label map; its structures may overlap where masks keep all their voxels."""
        return LabelMap(self.label_map, overlapping=self.overlap == "keep", ignored=self.ignored)


def ingest(
    source: str, destination: str, config: Config | None = None, *, watcher: Watcher | None = None
) -> IngestSummary:
    """Write shards for the labelled cases of ``source``; run again, only what is missing or changed.

    The manifest is written last: killed at any moment, a reader sees none of the cases that were added. A case that is
    written again replaces the one before at once, and a reader of the older manifest meets a ShardError there.

    Args:
        source: the folder of cases.
        destination: the shard folder (path or URI).
        config: the settings, section ``ingest``; None: the defaults.
        watcher: told of every case.

    Raises:
        UsageError: no labelled case was found, or none could be read; the CSV of ``ingest.split.patients`` or
            ``ingest.annotated`` is wrong, or names none of the cases.
    """
    config = privacy.with_privacy(config or Config(), storage.absolute(destination))
    return ingest_cases(source, formats.discover(source, config.ingest), destination, config, watcher=watcher)


def ingest_cases(
    source: str,
    discovery: Discovery,
    destination: str,
    config: Config,
    *,
    pixels: bool = True,
    watcher: Watcher | None = None,
    log: tuple[str, str] | None = None,
) -> IngestSummary:
    """:func:`ingest` of what was discovered.

    Args:
        source: as :func:`ingest`.
        discovery: what it holds.
        destination: as :func:`ingest`.
        config: as :func:`ingest`.
        pixels: False: the parts are hollow, and name the cases' files.
        watcher: as :func:`ingest`.
        log: folder and id of the run that this is a part of; None: the shard folder, a run of its own.
    """
    folder = storage.absolute(destination)
    failed = list(discovery.problems)
    known = [*(case.case_id for case in discovery.cases), *dict(failed)]
    annotated = read_annotated(config.ingest.annotated)
    strays = [*match_table(known, config.ingest.split), *annotated.match(known)]
    place, run = log or (folder, "")
    with ray_session(config.ray), CaseWatch(place, "ingest", watcher, run=run) as watch:
        for sentence in preflight_notes(config, folder):
            watch.say(sentence)
        cases = [case for case in discovery.cases if case.has_labels]
        planned, broken = read_headers(cases, with_label_values=discovery.label_map is None)
        failed += [(case.case_id, reason) for case, reason in broken]
        planned, odd = same_channels(planned)
        failed += odd
        if not planned:
            raise UsageError(_nothing_left(source, failed), mend="Name a folder of labelled cases.")
        label_map, notes = _label_map(discovery.label_map, planned)
        label_map = replace(label_map, overlapping=config.ingest.overlap == "keep")
        if config.ingest.structures is None:
            annotated.check(label_map)
        recipe = replace(_recipe(config, label_map, planned), pixels=pixels)
        notes = [*discovery.notes, *strays, *notes]
        for note in notes:
            watch.note(note)
        watch.failed(failed)
        watch.expect(planned)
        facts, new, more = _make_parts(planned, recipe, folder, watch)
        failed += more
        watch.note(f"{len(facts)} cases are in the shards, {new} of them written now; {len(failed)} failed")
    if not facts:
        raise UsageError(_nothing_left(source, failed), mend="Name a folder of labelled cases.")
    manifest = _close(folder, facts, planned, recipe, label_map, config, annotated)
    write_failures(folder, failed)
    split = {name: len(manifest.cases(name)) for name in SPLITS}
    return IngestSummary(folder, len(manifest.parts), manifest.slices, new, split, notes, failed)


def same_channels(planned: Sequence[Planned]) -> tuple[list[Planned], list[Failure]]:
    """The cases with the channels that most have, and the others with the reason why they are left out."""
    names = Counter(case.channels for case in planned)
    common = names.most_common(1)[0][0] if names else ()
    kept = [case for case in planned if case.channels == common]
    odd = [
        (
            case.source.case_id,
            f"Its channels are {_channel_names(case.channels)}, those of most cases {_channel_names(common)}.",
        )
        for case in planned
        if case.channels != common
    ]
    return kept, odd


def _channel_names(channels: Sequence[str]) -> str:
    return ", ".join(channels) if channels else "one without a name"


def _nothing_left(source: str, failed: Sequence[Failure]) -> str:
    why = f" {len(failed)} failed, the first ({failed[0][0]}): {failed[0][1]}" if failed else ""
    return f"{source} holds no labelled case that can be read.{why}"


def _label_map(known: LabelMap | None, planned: Sequence[Planned]) -> tuple[LabelMap, list[str]]:
    if known is not None:
        return known, []
    values = sorted({value for case in planned for value in case.label_values if value})
    if not values:
        raise UsageError("All label volumes are empty.", mend="Check the labels/ folder.")
    named = {f"label_{value}": value for value in values}
    note = f"Nothing names the labels, so the values {values} found in the files are called {', '.join(named)}; "
    return LabelMap(named), [note + "give ingest.labels={name: value, ...} to name them."]


def _recipe(config: Config, label_map: LabelMap, planned: Sequence[Planned]) -> Recipe:
    settings = config.ingest
    grid = resolve_grid(settings.grid, [(case.size, case.spacing) for case in planned])
    return Recipe(
        dict(label_map.values),
        grid.to_dict(),
        settings.overlap,
        settings.rows_per_group,
        settings.codec,
        settings.level,
        channels=planned[0].channels,
        ignored=label_map.ignored,
    )


def _make_parts(
    planned: Sequence[Planned], recipe: Recipe, folder: str, watcher: Watcher
) -> tuple[list[PartFacts], int, list[Failure]]:
    """The facts of all parts, kept or written; the number written; the failures."""
    facts: list[PartFacts] = []
    failed: list[Failure] = []
    written = 0
    for done, row in enumerate(_rows(planned, recipe, folder), start=1):
        made = read_part_facts(folder, row["case_id"]) if not row["reason"] else None
        if made is not None:
            facts.append(made)
            written += int(row["written"])
        else:
            row |= {"reason": row["reason"] or "The part that was written cannot be read."}
            failed.append((row["case_id"], row["reason"]))
        watcher(row, done, len(planned))
    return sorted(facts, key=lambda part: part.case_id), written, sorted(failed)


def bytes_needed(case: Planned) -> int:
    """Memory to ingest a case: file, voxels, labels and their slices on the grid."""
    return case.voxel_bytes * 6 + 256 * MIB


def _rows(planned: Sequence[Planned], recipe: Recipe, folder: str) -> Iterator[dict[str, Any]]:
    for done in run_on_cases(ingest_row, planned, (recipe, folder), bytes_of=bytes_needed, cpus=INGEST_TASK_CPUS):
        yield done.result or {"case_id": done.item.source.case_id, "reason": done.reason, "written": False}


def ingest_row(row: dict[str, Any], recipe: Recipe, folder: str) -> dict[str, Any]:
    """Bring the part of one case up to date; a failure is a reason in the row, never an error."""
    source, begin = CaseSource.from_json(row["source"]), time.perf_counter()
    try:
        written, reason = ingest_case(source, recipe, folder), ""
    except Exception as error:
        written, reason = False, reason_for(error)
    seconds = round(time.perf_counter() - begin, 4)
    return {"case_id": source.case_id, "reason": reason, "written": written, "seconds": seconds}


def ingest_case(source: CaseSource, recipe: Recipe, folder: str) -> bool:
    """Write the part of a case unless it is there as its files and the recipe say. Returns whether it was written.

    Raises CaseError where the case cannot be used.
    """
    fingerprint = source.fingerprint()
    before = read_part_facts(folder, source.case_id)
    if before is not None and (before.fingerprint, before.recipe) == (fingerprint, recipe.hash):
        return False
    write_part(
        folder,
        read_slices(source, recipe, fingerprint),
        rows_per_group=recipe.rows_per_group,
        codec=recipe.codec,  # type: ignore[arg-type]
        level=recipe.level,
        origin=None if recipe.pixels else {"source": source.to_json(), "recipe": asdict(recipe)},
    )
    return True


def read_slices(source: CaseSource, recipe: Recipe, fingerprint: str) -> CaseSlices:
    """Read a case and bring it to the grid. Raises CaseError where it cannot be used."""
    label_map = recipe.labels()
    case = formats.read_case(source, label_map, overlap=recipe.overlap)
    found, wanted = len(channel_volumes(case.voxels)), max(len(recipe.channels), 1)
    if found != wanted:
        raise CaseError(f"The case has {found} channels, the others {wanted}.", mend="Take it out of the folder.")
    return slices_of_case(case, label_map, Grid.from_dict(recipe.grid), fingerprint, recipe.hash)


def slices_of_case(case: Case, label_map: LabelMap, grid: Grid, fingerprint: str, recipe: str) -> CaseSlices:
    """A case on the grid. Raises CaseError where it has no labels."""
    if case.labels is None:
        raise CaseError("The case has no labels.")
    indices = label_map.to_index(case.labels)
    channels = channel_volumes(case.voxels)
    voxels = channels[0] if len(channels) == 1 else case.voxels
    ignored = label_map.ignored_index or 0
    foreground = np.where(indices == ignored, 0, indices) if ignored else indices
    statistics = [voxel_statistics(volume) for volume in channels]
    seed = zlib.crc32(case.case_id.encode("utf-8"))
    filled = replace(grid, fill=fill_value(channels[0]))
    images, placement = image_to_grid(voxels, case.geometry.spacing, filled)
    labels = labels_to_grid(indices, placement, filled, overlapping=label_map.overlapping)
    return CaseSlices(
        case_id=case.case_id,
        images=np.ascontiguousarray(images),
        labels=np.ascontiguousarray(labels),
        spacing=(case.geometry.spacing[0], *placement.spacing),
        z_first=float(case.geometry.lps_affine[2, 3]),
        mean=[mean for mean, _ in statistics],
        sd=[sd for _, sd in statistics],
        intensity=[case_intensity(volume, foreground, seed) for volume in channels],
        fingerprint=fingerprint,
        recipe=recipe,
        notes=case.notes,
        overlapping=label_map.overlapping,
        ignored=ignored,
    )


def _close(
    folder: str,
    facts: Sequence[PartFacts],
    planned: Sequence[Planned],
    recipe: Recipe,
    label_map: LabelMap,
    config: Config,
    annotated: Annotated,
) -> Manifest:
    """Index, then manifest, then the removal of parts that no longer belong."""
    owners = {case.source.case_id: case.source.patient for case in planned}
    memory = {} if recipe.pixels else {case.source.case_id: bytes_needed(case) for case in planned}
    given = {case.source.case_id: case.source.split for case in planned}
    missing = {
        case.source.case_id: case.source.missing(label_map.names)
        for case in planned
        if case.source.case_id not in annotated.structures
    }
    split = split_cases({part.case_id: owners[part.case_id] for part in facts}, config.ingest.split, given)
    parts = [
        PartEntry(
            part.case_id,
            owners[part.case_id],
            split[part.case_id],
            part.file,
            part.bytes,
            part.slices,
            part.fingerprint,
            part.recipe,
            part.notes,
            left_out=part.hollow.bytes if part.hollow else 0,
            memory=memory.get(part.case_id, 0),
            missing=missing.get(part.case_id, []),
            content=part.content,
            unannotated=annotated.lacking(part.case_id, label_map.names),
        )
        for part in facts
    ]
    trained = [part.intensity for part in facts if split[part.case_id] == "train"]
    channels = range(max(len(recipe.channels), 1))
    intensity = [pool_intensity([case[channel] for case in trained]) for channel in channels]
    manifest = Manifest(label_map, Grid.from_dict(recipe.grid), intensity, parts, asdict(recipe), recipe.channels)
    storage.write_bytes(storage.join(folder, INDEX), build_index(folder, parts))
    storage.write_text(storage.join(folder, "label_map.json"), label_map.to_json())
    storage.write_text(storage.join(folder, MANIFEST), manifest.to_json())
    wanted = {part_name(part.case_id) for part in facts}
    for name in storage.names(folder, ".parquet"):
        if name.startswith("part-") and name not in wanted:
            storage.delete(storage.join(folder, name))
    return manifest


def write_failures(folder: str, failed: Sequence[Failure]) -> None:
    """``failures.csv`` with a row for each case or file that cannot be used."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("case_id", "reason"))
    writer.writerows(failed)
    storage.write_text(storage.join(folder, FAILURES), text.getvalue())
