"""Does a prediction folder hold what its ledger says? Every file is read, and what can be mended is mended."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from segray import formats, ledger_parts, privacy, storage
from segray.case import Geometry, LabelMap
from segray.config import Config
from segray.errors import SegrayError, UsageError
from segray.evaluation.counting import count_case
from segray.formats.file_states import FileStates, unchanged_images
from segray.formats.source import CaseSource
from segray.pipelines.admission import memory_at_most
from segray.pipelines.case_outputs import FURTHER, PREVIEWS, can_have, further_folder, further_place
from segray.pipelines.case_tasks import run_tasks
from segray.pipelines.claims import Claim
from segray.pipelines.earlier_files import ask, in_reach, remove_file
from segray.pipelines.failures import reason_for
from segray.pipelines.further_check import check_further_file
from segray.pipelines.ledger import Ledger
from segray.pipelines.listed import Listed
from segray.pipelines.predict_todo import counted
from segray.pipelines.runtime import MIB, ray_session
from segray.report.folders import read_json

MASKS = "masks"
FOLDERS = ("", MASKS, ledger_parts.LEDGER, PREVIEWS, *FURTHER)
"""Those of segray in a prediction folder; the name of any other may be that of a patient."""

VOLUME = "volume_ml_"
"""The beginning of the columns of a row that the mask must agree with."""

TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{32}(-before)?")
"""What :mod:`segray.storage` calls a file or folder until it is whole, and a folder that another takes the place of."""

SAME_ML, SAME_SHARE = 1e-3, 1e-5
"""Volume in ml, and share of it, by which mask and row may differ: rows are rounded to a tenth of a thousandth."""

Item = dict[str, Any]
"""A mask to check: case_id, its path, JSON of the source, whether that is unchanged, volumes and voxels of the row.

Or a further file: as :func:`segray.pipelines.further_check.check_further_file` has it, with case_id and bytes.
"""

Checked = Iterator[tuple[Item, str, str]]
"""(item, what is wrong with its file, why that could not be seen), both empty for one that is whole."""

Runner = Callable[[Iterable[Item], str], Checked]
"""Checks masks, given the label map as JSON: :func:`in_this_process` or :func:`on_ray`."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as the ledger says.

    Attributes:
        kind: a key of :data:`KINDS`.
        name: a case id, or a file below the folder.
        reason: in words; empty where the kind says all.
    """

    kind: str
    name: str
    reason: str = ""


KINDS = {
    "lost": ("row has", "rows have", "no mask: dropped, the next run does it again."),
    "lacking": ("case has", "cases have", "lost or damaged further files: a run that asks for them makes them again."),
    "damaged": ("mask is", "masks are", "not what the ledger says: the row is dropped, the next run does it again."),
    "changed": ("case has", "cases have", "another input than the one that was read: the next run does it again."),
    "gone": ("case has", "cases have", "lost the input; the mask is kept."),
    "orphan": ("file is", "files are", "of no row; kept (--delete-orphans removes such)."),
    "deleted": ("file was", "files were", "of no row, and deleted."),
    "unchecked": ("file has", "files have", "not been checked: it could not be reached, and is left as it is."),
    "unreadable": ("ledger part was", "ledger parts were", "damaged: removed; the next run does its cases."),
    "leftover": ("file was", "files were", "left by a killed writer: removed."),
    "absent": ("case is", "cases are", "not done yet: the next run does it."),
}  # fmt: skip
"""Kind of a finding to what is counted, one and several, and what it is and what was done."""


@dataclass(frozen=True)
class VerifySummary:
    """What a check found.

    Attributes:
        folder: the prediction folder.
        masks: the folder of the masks.
        cases: rows of the ledger that count.
        whole: masks that are what their rows say.
        findings: all else, by kind and name.
        notes: a sentence for each kind that was found, and what needs no mending.
    """

    folder: str
    masks: str
    cases: int
    whole: int
    findings: list[Finding]
    notes: list[str]

    @property
    def clean(self) -> bool:
        """True where nothing was found."""
        return not self.findings


@dataclass
class _Found:
    """Findings while they are gathered."""

    findings: list[Finding] = field(default_factory=list)
    lacking: dict[str, dict[str, str]] = field(default_factory=dict)
    whole: int = 0

    def add(self, kind: str, names: Iterable[str]) -> None:
        """Note several findings that need no reason."""
        self.findings += [Finding(kind, name) for name in names]

    def lack(self, case_id: str, kind: str, why: str = "") -> None:
        """Note a kind of further files that a case has lost, or why it is damaged."""
        self.lacking.setdefault(case_id, {})[kind] = why

    def take(self, item: Item, wrong: str, unseen: str) -> None:
        """Note what the check of a file has shown."""
        if kind := item.get("further"):
            if wrong:
                self.lack(item["case_id"], kind, wrong)
            elif unseen:
                self.findings.append(Finding("unchecked", item["case_id"], f"{kind}: {unseen}"))
        elif wrong or unseen:
            self.findings.append(Finding("damaged" if wrong else "unchecked", item["case_id"], wrong or unseen))
        else:
            self.whole += 1

    def rename(self, kind: str, other: str) -> None:
        """Let the findings of a kind be of another."""
        self.findings = [replace(one, kind=other) if one.kind == kind else one for one in self.findings]

    def sorted(self) -> list[Finding]:
        """By kind and name."""
        kinds = list(KINDS)
        return sorted(self._all(), key=lambda finding: (kinds.index(finding.kind), finding.name))

    def named(self, *kinds: str) -> list[str]:
        """The names of the findings of some kinds."""
        return [finding.name for finding in self._all() if finding.kind in kinds]

    def _all(self) -> list[Finding]:
        return [*self.findings, *(_lacking(case, kinds) for case, kinds in self.lacking.items())]


def _lacking(case_id: str, kinds: Mapping[str, str]) -> Finding:
    """What a case lacks, by kind of further files and what is wrong with them; nothing: they are not there."""
    lost = [kind for kind, why in kinds.items() if not why]
    told = [f"It has lost {', '.join(lost)}."] if lost else []
    return Finding("lacking", case_id, " ".join([*told, *(f"{kind}: {why}" for kind, why in kinds.items() if why)]))


def verify(
    folder: str,
    source: str | None = None,
    config: Config | None = None,
    *,
    runner: Runner | None = None,
    delete_orphans: bool = False,
) -> VerifySummary:
    """Compare the ledger of a prediction folder with its masks and with the inputs, and mend what can be mended.

    Rows without a whole mask are dropped, so that the next ``segray predict`` makes just these again; those of cases
    that lack a whole further file name what is left; temporary files and parts of the ledger that cannot be read are
    removed.
    A mask without a row is never taken for a result.

    Args:
        folder: the prediction folder.
        source: the folder of cases; where it is given, cases without a row are told too.
        config: for the discovery of ``source``.
        runner: reads masks and further files; None: in this process, one after the other.
        delete_orphans: remove the files of masks and further files that no row names, and masks that are damaged.

    Raises:
        UsageError: no prediction folder.
        FolderTakenError: a run is at work there.
    """
    folder = storage.absolute(folder)
    if not storage.exists(storage.join(folder, "label_map.json")):
        raise UsageError(f"{folder} is no prediction folder.", mend="Write one by `segray predict`.")
    label_map = storage.read_text(storage.join(folder, "label_map.json"))
    found = _Found()
    with Claim(folder, "predict --verify") as claim, Ledger(folder, run=claim.run) as ledger:
        claim.beat = ledger.tick
        privacy.know(ledger.entries, "case")
        _remove_leftovers(folder, ledger, found)
        _compare_names(folder, ledger, found, LabelMap.from_json(label_map))
        masks = _mask_folders(ledger)
        for item, wrong, unseen in (runner or in_this_process)(_items(folder, found), label_map):
            found.take(item, wrong, unseen)
        claim.check()
        doomed = [path for name in found.named("damaged") if (path := ledger.entries[name].mask)]
        dropped = sorted(set(found.named("lost", "damaged")))
        ledger.drop(dropped, "verify: the mask was not there, or not whole")
        _name_what_is_left(
            folder, ledger, {case: kinds for case, kinds in found.lacking.items() if case in ledger.entries}
        )
        if delete_orphans:
            for path in [*found.named("orphan"), *doomed]:
                remove_file(folder, path)
            found.rename("orphan", "deleted")
        if source is not None:
            _compare_source(source, config or Config(), folder, ledger, found)
        ledger.write_tables()
    told = storage.join(folder, " and ".join(sorted(masks) or [MASKS]))
    return VerifySummary(folder, told, len(ledger.entries), found.whole, found.sorted(), _sentences(found, ledger))


def verify_on_ray(folder: str, source: str, config: Config, *, delete_orphans: bool = False) -> VerifySummary:
    """:func:`verify` with the masks read in parallel."""
    there = storage.exists(storage.join(folder, "label_map.json"))
    config = privacy.with_privacy(config, storage.absolute(folder) if there else None)
    with ray_session(config.ray):
        return verify(folder, source, config, runner=on_ray, delete_orphans=delete_orphans)


def _remove_leftovers(folder: str, ledger: Ledger, found: _Found) -> None:
    """Remove parts that cannot be read, and files that a killed writer was at: nobody else writes here now."""
    for path in ledger.damaged:
        storage.delete(storage.join(folder, path))
    found.add("unreadable", ledger.damaged)
    if storage.is_remote(folder):
        return
    below = [name for name in storage.names(folder) if os.path.isdir(storage.join(folder, name))]
    for place in ("", *(name for name in below if not TEMPORARY.fullmatch(name))):
        names = storage.names(storage.join(folder, place) if place else folder)
        left = [storage.join(place, name) for name in names if TEMPORARY.fullmatch(name)]
        if left and place not in FOLDERS:
            privacy.know([place])
        for path in left:
            whole = storage.join(folder, path)
            (storage.delete_folder if os.path.isdir(whole) else storage.delete)(whole)
        found.add("leftover", left)


def _compare_names(folder: str, ledger: Ledger, found: _Found, label_map: LabelMap) -> None:
    """Rows without a file and files without a row."""
    there = Listed(folder)
    done = {case_id: entry.mask for case_id, entry in ledger.entries.items() if entry.done}
    found.add("lost", (case_id for case_id, mask in done.items() if mask not in there))
    masks = _mask_folders(ledger)
    files = {f"{MASKS}/{name}" for name in ledger_parts.sizes(storage.join(folder, MASKS))}
    orphans = files - set(done.values())
    besides: set[str] = set()
    for kind in FURTHER:
        place = further_folder(kind)
        besides |= (named := _named(kind, ledger, of_masks=place in masks))
        orphans |= {f"{place}/{name}" for name in there.names(place)} - named - set(done.values())
    whole = [place for place in {*done.values(), *besides} if place in there]
    orphans |= there.foreign(whole, label_map)
    # No row and no case of the source needs to know whose these are.
    privacy.know((privacy.stem(part) for path in orphans for part in path.split("/")[1:]), "case")
    found.add("orphan", orphans)


def _mask_folders(ledger: Ledger) -> set[str]:
    """The folders in which the masks of the rows lie: one, unless somebody has edited the ledger."""
    return {entry.mask.partition("/")[0] for entry in ledger.entries.values() if entry.done}


def _named(kind: str, ledger: Ledger, *, of_masks: bool) -> set[str]:
    """Where further files of a kind may lie by the rows; in the folder of the masks those that say so, elsewhere any.

    The row of a case that failed does not tell of the files that it has kept, but nor does it of the mask.
    """
    entries = ledger.entries.items()
    return {further_place(kind, case) for case, entry in entries if not of_masks or kind in entry.further.split(",")}


def _items(folder: str, found: _Found) -> Iterator[Item]:
    """The files to check, part by part of the ledger; what has become of their inputs is noted on the way."""
    skipped = set(found.named("lost"))
    states = FileStates()
    there = Listed(folder)
    for rows in ledger_parts.last_rows(folder, ledger_parts.ledger_files(folder)):
        done = [row for row in rows if row.get("status") == "ok" and row.get("source")]
        sources = [CaseSource.from_json(row["source"]) for row in done]
        same = unchanged_images(sources, [str(row.get("fingerprint") or "") for row in done], states)
        for row, source, is_same in zip(done, sources, same, strict=True):
            if not is_same:
                found.add("changed" if all(map(in_reach, source.image_only.files)) else "gone", [source.case_id])
            mask = {
                "case_id": source.case_id,
                "mask": storage.join(folder, row["mask"]),
                "bytes": round(row.get("peak_mib_write") or 0) * MIB,
            }
            if source.case_id not in skipped:
                volumes = {name: value for name, value in row.items() if name.startswith(VOLUME)}
                yield mask | {"source": row["source"], "same": is_same, "volumes": volumes, "voxels": _voxels(row)}
            for kind in _written(row, source):
                place = further_place(kind, source.case_id)
                if place in there:
                    yield mask | {"further": kind, "path": storage.join(folder, place)}
                else:
                    found.lack(source.case_id, kind)


def _name_what_is_left(folder: str, ledger: Ledger, lacking: Mapping[str, Collection[str]]) -> None:
    """Let the rows of cases that lack further files name those that they have.

    Dropped, the rows would tell nothing of these, and a run that does not ask for them all would remove them.
    """
    files = ledger_parts.ledger_files(folder) if lacking else {}
    for rows in ledger_parts.last_rows(folder, files):
        for row in rows:
            if gone := lacking.get(row["case_id"]):
                kept = [kind for kind in str(row["further"]).split(",") if kind not in gone]
                ledger.add(row | {"further": ",".join(kept)})


def _written(row: ledger_parts.Row, source: CaseSource) -> list[str]:
    """The kinds of further files that were written of a case: what it cannot have is not lost."""
    asked, absent = (str(row.get(name) or "").split(",") for name in ("further", ledger_parts.ABSENT))
    return [kind for kind in asked if kind in FURTHER and kind not in absent and can_have(kind, source)]


def _voxels(row: ledger_parts.Row) -> dict[str, int]:
    """Structure to the number of its voxels; {} of rows from before these were there."""
    columns = row.get("structures") or {}
    return dict(zip(columns.get("structure", ()), columns.get("voxels", ()), strict=False))


def check_item(item: Item, label_map: str) -> tuple[str, str]:
    """:func:`check_mask` of a mask, or ``check_further_file`` of a further file."""
    return (check_further_file if "further" in item else check_mask)(item, label_map)


def check_mask(item: Item, label_map: str) -> tuple[str, str]:
    """What is wrong with a mask, and why that could not be seen; both empty for a mask that is what its row says.

    It is read to its end, so a cut or damaged file shows by its checksum; it must lie on the grid of its image, where
    that is still the one that was read; and its structures must have the voxels and volumes of the row in any case.

    Args:
        item: as :data:`Item` has it; plain data, so that it travels to a task.
        label_map: as JSON.
    """
    try:
        # What cannot be reached now is not damaged: readers tell both alike.
        ask(item["mask"])
        geometry = formats.read_header(CaseSource.from_json(item["source"])).geometry if item["same"] else None
    except SegrayError as error:
        return "", str(error)
    try:
        return _difference(item, geometry, LabelMap.from_json(label_map)), ""
    except MemoryError as error:
        return "", reason_for(error)
    except Exception as error:
        return reason_for(error), ""


def _difference(item: Item, geometry: Geometry | None, label_map: LabelMap) -> str:
    """How a mask differs from its row, and from the grid of its image where that is known; empty where it does not.

    Every mask has a grid of its own, so its volumes are known without the image.

    Raises:
        CaseError: damaged, or on another grid.
    """
    labels, own = formats.read_mask(item["mask"], geometry, label_map)
    indices = label_map.to_index(labels)
    if geometry is not None and labels.shape != geometry.size:
        return f"The mask has {labels.shape} voxels and its image {geometry.size} (z, y, x)."
    voxels = count_case(indices, indices, label_map).structures().truth
    for name, count, volume in zip(label_map.names, voxels.tolist(), (voxels * own.voxel_ml).tolist(), strict=True):
        if item["voxels"].get(name, count) != count:
            return f"The mask has {count:.0f} voxels of {name}, and its row says {item['voxels'][name]}."
        noted = item["volumes"].get(f"{VOLUME}{name}")
        if noted is not None and abs(noted - volume) > SAME_ML + SAME_SHARE * volume:
            return f"The mask has {volume:.4f} ml of {name}, and its row says {noted:.4f} ml."
    return ""


def in_this_process(items: Iterable[Item], label_map: str) -> Checked:
    """The files one after the other."""
    for item in items:
        yield item, *check_item(item, label_map)


def on_ray(items: Iterable[Item], label_map: str) -> Checked:
    """The files as Ray tasks, in a running Ray; one that kills its worker could not be checked."""
    # To write a case took its voxels, its labels and their statistics: to read the labels takes no more.
    tasks = run_tasks(
        check_item, items, (label_map,), argument=lambda item: item, memory=lambda item: memory_at_most(item["bytes"])
    )
    for done in tasks:
        yield done.item, *(done.result or ("", done.reason))


def _compare_source(source: str, config: Config, folder: str, ledger: Ledger, found: _Found) -> None:
    cases = {case.case_id for case in formats.discover(source, config.ingest, labelled=False).cases}
    found.add("absent", (cases & _asked(folder, config, cases)) - ledger.entries.keys())


def _asked(folder: str, config: Config, cases: set[str]) -> set[str]:
    """Those cases that the folder is to hold: of the split that is asked for, or that its last run asked for."""
    facts = read_json(storage.join(folder, ledger_parts.PREDICTION))
    split = config.predict.split if config.predict.split != "all" else facts.get("predict", {}).get("split", "all")
    return cases if split == "all" else set(facts.get("split", {}).get(split, ()))


def _sentences(found: _Found, ledger: Ledger) -> list[str]:
    notes = []
    for kind, (one, several, then) in KINDS.items():
        notes += counted(found.named(kind), one, several, then)
    failed = [case_id for case_id, entry in ledger.entries.items() if not entry.done]
    return notes + counted(failed, "case has", "cases have", "failed: --retry-failed tries again.")
