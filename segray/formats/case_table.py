"""Cases named by a table: a CSV or Parquet file with a row a case, which overrules what a folder looks like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from segray import privacy, storage
from segray.case import LabelMap
from segray.errors import SegrayError, UsageError
from segray.formats.channel_files import NAMES
from segray.formats.findings import NOT_KEPT, Findings, shown
from segray.formats.folder import is_file
from segray.formats.frames import PLAIN, Meaning, meaning_of_masks
from segray.formats.label_names import dataset_labels, is_safe, mask_labels, volume_labels
from segray.formats.picture_folders import channel_details
from segray.formats.source import SPLITS, CaseSource, Discovery
from segray.formats.table_files import VOLUMES, Places, name_image, name_labels
from segray.formats.table_rows import MEND, Row, read_rows

ENDINGS = (".csv", ".parquet")
MASK, IMAGE = "mask_", "image_"
LABEL_COLUMNS = ("labels", "label")


@dataclass
class _Columns:
    """What the columns of a table say."""

    images: dict[str, str]
    labels: str | None
    masks: dict[str, str]
    others: list[str]


@dataclass(frozen=True)
class _Case:
    """A row whose files are there.

    Attributes:
        source: the case, its labels as the row names them.
        numbers: structure to number in the DICOM SEG or RTSTRUCT that holds the labels.
        had_masks: also where none of them is kept.
    """

    source: CaseSource
    numbers: Mapping[str, int]
    had_masks: bool


@dataclass(frozen=True)
class _Labels:
    """What the label files of a table mean.

    Attributes:
        label_map: None where only voxel values could tell.
        dropped: values that count as background.
        told: the structures that settings or dataset.json name, kept or not.
        pictures: what pictures among them mean.
    """

    label_map: LabelMap | None = None
    dropped: tuple[int, ...] = ()
    told: frozenset[str] = frozenset()
    pictures: Meaning = field(default_factory=Meaning)


def is_table(path: str) -> bool:
    """True for the name of a CSV or Parquet file."""
    return path.lower().endswith(ENDINGS)


def is_table_file(path: str) -> bool:
    """True for such a file; a folder is none, whatever its name."""
    return is_table(path) and is_file(path)


def read_table(path: str, found: Findings) -> Discovery:
    """The cases of a table; relative paths in it are relative to its folder.

    Rows that cannot be used (no id, no image, files that are not there, a second row of one id) are problems.

    Raises:
        UsageError: the table cannot be read, lacks a column, or names an unknown split or a patient in two splits.
    """
    if not is_table_file(path):
        raise UsageError(f"{path} is no table: it is no file whose name ends in .csv or .parquet.")
    rows = read_rows(path)
    columns = _columns(path, rows)
    masks = mask_labels(columns.masks, found.config, found.notes) if columns.masks and found.labelled else None
    cases = list(_cases(path, rows, columns, masks, found))
    labels = _meaning(path, cases, found) if columns.labels and found.labelled else _Labels(masks)
    _add(cases, labels, found)
    _check_patients(path, found.cases.values())
    found.notes.insert(0, f"A table of cases: {len(found.cases)} of {len(rows)} rows name usable files.")
    if columns.others:
        found.notes.append(f"Columns that segray does not use: {', '.join(columns.others[:8])}.")
    return found.finish("table", labels.label_map)


def _columns(path: str, rows: Sequence[Row]) -> _Columns:
    names = list(rows[0])
    images = {name[len(IMAGE) :]: name for name in names if name.startswith(IMAGE)}
    masks = {name[len(MASK) :]: name for name in names if name.startswith(MASK)}
    labels = [name for name in LABEL_COLUMNS if name in names]
    missing = [name for name in ("case_id",) if name not in names]
    missing += ["image"] if not images and "image" not in names else []
    if missing:
        raise UsageError(f"{path} lacks the column {' and the column '.join(missing)}.", mend=MEND)
    if images and "image" in names:
        raise UsageError(f"{path} has a column image and columns image_<channel>; one of them says it.", mend=MEND)
    if len(labels) + bool(masks) > 1:
        raise UsageError(f"{path} has more than one of label, labels and mask_<structure>.", mend=MEND)
    for name in (*masks, *images):
        if not is_safe(name):
            raise UsageError(f"{path} has a column for {name[:40]!r}, which cannot be a name.", mend=MEND)
    used = {"case_id", "image", "patient", "split", *labels, *images.values(), *masks.values()}
    others = [name[:40] for name in names if name and name not in used]
    return _Columns(images or {"": "image"}, labels[0] if labels else None, masks, others)


def _cases(
    path: str, rows: Sequence[Row], columns: _Columns, masks: LabelMap | None, found: Findings
) -> Iterable[_Case]:
    """The rows that can be used; the others are problems."""
    places = Places()
    for number, row in enumerate(rows, start=1):
        split = _split(path, row.get("split", ""))
        try:
            case = _case(path, row, columns, masks, found.labelled, places)
        except SegrayError as error:
            found.problems.append((shown(row["case_id"]) or f"row {number}", str(error)))
            continue
        yield replace(case, source=replace(case.source, split=split))


def _case(path: str, row: Row, columns: _Columns, masks: LabelMap | None, labelled: bool, places: Places) -> _Case:
    """The case of a row. Raises SegrayError where it names no case, or files that segray does not read."""
    empty = next((name for name in ("case_id", *columns.images.values()) if not row[name]), None)
    if empty is not None:
        raise SegrayError(f"The row has no {empty}.")
    image = name_image([_at(path, row[column]) for column in columns.images.values()], places)
    labels = _at(path, row[columns.labels]) if columns.labels else ""
    named = {name: _at(path, row[column]) for name, column in columns.masks.items() if row[column]}
    kept = {name: file for name, file in named.items() if masks is None or name in masks.values}
    label_kind = name_labels([labels] if labels else list(kept.values()), places)
    source = CaseSource(
        row["case_id"],
        image.image,
        masks=kept,
        labels=labels or None,
        patient=row.get("patient", ""),
        kind=image.kind,
        label_kind=label_kind,
        parts=image.parts,
        details={NAMES: list(columns.images)} if len(columns.images) > 1 else image.details,
    )
    numbers = _structures(labels) if labels and label_kind == "dicom" and labelled else {}
    return _Case(source, numbers, bool(named))


def _structures(path: str) -> Mapping[str, int]:
    """Structure to number of a DICOM SEG or RTSTRUCT. Raises CaseError where it holds none."""
    from segray.formats.dicom_labels import structure_numbers

    return structure_numbers(path)


def _at(path: str, told: str) -> str:
    """A path of the table, as it is or relative to its folder."""
    if not told or storage.is_remote(told):
        return told
    if told.startswith(("/", "~", "file://")):
        return storage.absolute(told)
    return storage.join(path.rpartition("/")[0], told)


def _split(path: str, told: str) -> str:
    if not told:
        return ""
    if told.lower() not in SPLITS:
        raise UsageError(f"{path} names the split {told[:40]!r}.", mend="A split is one of train, validation, test.")
    return SPLITS[told.lower()]


def _meaning(path: str, cases: Sequence[_Case], found: Findings) -> _Labels:
    """What the column label means, by the kinds of its files.

    Raises:
        UsageError: files of several kinds, and no names that all of them could share.
    """
    folder = path.rpartition("/")[0]
    kinds = {case.source.label_kind for case in cases if case.source.labels is not None}
    kinds = {"volume" if kind in VOLUMES else kind for kind in kinds}
    if len(kinds) > 1 and not found.config.labels:
        raise UsageError(
            f"{path} has labels of several kinds ({', '.join(sorted(kinds))}), and nothing says what they share.",
            mend="Give the structures as ingest.labels, such as {liver: 1}.",
        )
    pictures = meaning_of_masks(folder, [PLAIN], found) if "picture" in kinds else Meaning()
    if kinds == {"picture"}:
        return _Labels(pictures.label_map, pictures.dropped, pictures=pictures)
    dataset = dataset_labels(folder)
    told = frozenset(found.config.labels or dataset or {})
    if kinds == {"dicom"} and not told:
        return _Labels(mask_labels([name for case in cases for name in case.numbers], found.config, found.notes))
    label_map, dropped = volume_labels(dataset, found.config, found.notes)
    return _Labels(label_map, dropped, told, pictures)


def _add(cases: Sequence[_Case], labels: _Labels, found: Findings) -> None:
    """Keep the cases, with the labels that are wanted of them."""
    pictures = [case.source.image for case in cases if case.source.kind == "picture"]
    look = channel_details(pictures, found.config, found.notes) if pictures else {}
    for case in cases:
        source = _labelled(case, labels) if found.labelled else case.source
        if source.kind == "picture":
            source = replace(source, details={**source.details, **look})
        if (case.had_masks or case.source.has_labels) and not source.has_labels:
            found.problems.append((source.case_id, NOT_KEPT))
        found.add(source)


def _labelled(case: _Case, labels: _Labels) -> CaseSource:
    """A case whose labels are such as its reader takes: values, or a mask a structure that is kept."""
    source, path = case.source, case.source.labels
    if path is None or (source.label_kind == "picture" and labels.pictures.single):
        return replace(source, dropped=labels.dropped, details={**source.details, **labels.pictures.details})
    # A DICOM file that has none of the names that were told is taken by its numbers, as values are.
    by_name = bool(case.numbers) and (not labels.told or not labels.told.isdisjoint(case.numbers))
    if source.label_kind != "picture" and not by_name:
        return replace(source, dropped=labels.dropped)
    names = list(case.numbers) if by_name else [labels.pictures.renamed.get(PLAIN, PLAIN)]
    kept = [name for name in names if labels.label_map is not None and name in labels.label_map.values]
    structures = {"structures": {name: case.numbers[name] for name in kept}} if by_name else {}
    masks = dict.fromkeys(kept, path)
    return replace(source, labels=None, masks=masks, details={**source.details, **structures})


def _check_patients(path: str, cases: Iterable[CaseSource]) -> None:
    splits: dict[str, str] = {}
    for case in cases:
        if case.split and splits.setdefault(case.patient, case.split) != case.split:
            privacy.know([case.patient], "patient")
            raise UsageError(
                f"{path} puts the patient {case.patient[:60]!r} into two splits.", mend="Give each patient one split."
            )
