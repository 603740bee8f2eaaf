"""Cases named by a table: a CSV or Parquet file with a row a case, which overrules what a folder looks like."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from segray import storage
from segray.errors import SegrayError, UsageError
from segray.formats.channel_files import NAMES
from segray.formats.findings import NOT_KEPT, Findings, shown
from segray.formats.folder import KINDS, ending, is_file, kind_of, listing
from segray.formats.label_names import dataset_labels, is_safe, mask_labels, volume_labels
from segray.formats.source import CaseSource, Discovery

ENDINGS = (".csv", ".parquet")
MASK, IMAGE = "mask_", "image_"
LABEL_COLUMNS = ("labels", "label")
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}

MOST_BYTES = 1 << 28
"""Bytes of a table; a row has about 200."""

MOST_CELL = 4096
"""Characters of a cell: the longest path of Linux."""

MEND = "A table has the columns case_id, image and label (or mask_<structure>), and may have patient and split."

Row = Mapping[str, str]


@dataclass
class _Columns:
    """What the columns of a table say."""

    images: dict[str, str]
    labels: str | None
    masks: dict[str, str]
    others: list[str]


@dataclass
class _There:
    """Whether files exist; of a remote folder the listing is asked for once."""

    _names: dict[str, set[str]] = field(default_factory=dict)

    def __call__(self, path: str) -> bool:
        if not storage.is_remote(path):
            return storage.exists(path)
        folder, _, name = path.rpartition("/")
        if folder not in self._names:
            folders, files = listing(folder)
            self._names[folder] = {*folders, *files}
        return name in self._names[folder]


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
    rows = _rows(path)
    columns = _columns(path, rows)
    folder = path.rpartition("/")[0]
    masks = mask_labels(columns.masks, found.config, found.notes) if columns.masks and found.labelled else None
    label_map = masks
    dropped: tuple[int, ...] = ()
    if columns.labels and found.labelled:
        label_map, dropped = volume_labels(dataset_labels(folder), found.config, found.notes)
    there = _There()
    for number, row in enumerate(rows, start=1):
        source = _source(path, number, row, columns, found)
        if source is not None:
            kept = {name: file for name, file in source.masks.items() if masks is None or name in masks.values}
            _add(replace(source, masks=kept, dropped=dropped), bool(source.masks), found, there)
    _check_patients(path, found.cases.values())
    found.notes.insert(0, f"A table of cases: {len(found.cases)} of {len(rows)} rows name usable files.")
    if columns.others:
        found.notes.append(f"Columns that segray does not use: {', '.join(columns.others[:8])}.")
    return found.finish("table", label_map)


def _rows(path: str) -> list[Row]:
    try:
        data = storage.read_bytes(path)
    except SegrayError as error:
        raise UsageError(str(error)) from error
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path} has {len(data):,} bytes; segray reads tables of up to {MOST_BYTES:,}.")
    rows = list(_csv_rows(path, data) if path.lower().endswith(".csv") else _parquet_rows(path, data))
    if not rows:
        raise UsageError(f"{path} has no rows.", mend=MEND)
    return rows


def _csv_rows(path: str, data: bytes) -> Iterator[Row]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8 (byte {error.start}).", mend="Save it as CSV UTF-8.") from error
    if "\0" in text:
        raise UsageError(f"{path} holds zero bytes, so it is no CSV file.", mend="Save it as CSV UTF-8.")
    first = text.split("\n", 1)[0]
    # Spreadsheets of many countries write a semicolon, because their comma is the decimal point.
    sign = max(",;\t", key=first.count)
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=sign, strict=True)
        names = _names(path, next(lines, []))
        for number, line in enumerate(lines, start=2):
            if not any(cell.strip() for cell in line):
                continue
            if len(line) != len(names):
                raise UsageError(f"{path} has {len(line)} cells in row {number}, but {len(names)} columns.")
            yield {name: _cell(path, number, cell) for name, cell in zip(names, line, strict=True)}
    except csv.Error as error:
        raise UsageError(f"{path} is no CSV file that segray understands ({error}).", mend=MEND) from error


def _parquet_rows(path: str, data: bytes) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        schema = file.schema_arrow
        names = _names(path, schema.names)
        for name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            # Plain types only: an extension type could make a reader unpickle what a stranger wrote.
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
                if pa.types.is_null(kind):
                    continue
                raise UsageError(
                    f"{path} has the column {name[:40]!r} of the type {str(kind)[:40]}.",
                    mend="segray reads columns of text and whole numbers.",
                )
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                cells = ("" if value is None else str(value) for value in values.values())
                yield {name: _cell(path, number, cell) for name, cell in zip(names, cells, strict=True)}
    except (OSError, pa.ArrowException, UnicodeDecodeError, KeyError, OverflowError) as error:
        told = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise UsageError(f"{path} is no Parquet file that segray reads ({told}).") from error


def _names(path: str, told: Sequence[str]) -> list[str]:
    names = [name.strip() for name in told]
    twice = {name for name in names if names.count(name) > 1} if len(names) < 10_000 else {"..."}
    if twice:
        raise UsageError(f"{path} has the column {min(twice)[:40]!r} twice.", mend=MEND)
    return names


def _cell(path: str, number: int, cell: str) -> str:
    if len(cell) > MOST_CELL:
        raise UsageError(f"{path} has a cell of {len(cell):,} characters in row {number}.", mend=MEND)
    return cell.strip()


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


def _source(path: str, number: int, row: Row, columns: _Columns, found: Findings) -> CaseSource | None:
    """The case of a row; None, and a problem, where it names no case or not all of its image."""
    case_id = row["case_id"]
    if not case_id:
        found.problems.append((f"row {number}", "The row has no case_id."))
        return None
    images = [_at(path, row[column]) for column in columns.images.values()]
    if not all(images):
        empty = next(column for column in columns.images.values() if not row[column])
        found.problems.append((shown(case_id), f"The row has no {empty}."))
        return None
    labels = _at(path, row[columns.labels]) if columns.labels else ""
    masks = {name: _at(path, row[column]) for name, column in columns.masks.items() if row[column]}
    kinds = {kind_of(file) for file in (labels, *masks.values()) if file}
    return CaseSource(
        case_id,
        images[0],
        masks=masks,
        labels=labels or None,
        patient=row.get("patient", ""),
        kind=kind_of(images[0]),
        label_kind="" if not kinds else "volume" if "volume" in kinds else "nifti",
        parts=tuple(images[1:]),
        split=_split(path, row.get("split", "")),
        details={NAMES: list(columns.images)} if len(images) > 1 else {},
    )


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


def _add(source: CaseSource, had_masks: bool, found: Findings, there: _There) -> None:
    """Keep a case whose files are there and are such as segray reads."""
    for file in source.files:
        name = file.rpartition("/")[2]
        if ending(name) is None:
            reason = f"{file[:200]!r} is no volume that segray reads ({', '.join(KINDS)})."
        elif "\0" in file or not there(file):
            reason = f"{file[:200]!r} is not there."
        else:
            continue
        found.problems.append((shown(source.case_id), reason))
        return
    if had_masks and not source.masks:
        found.problems.append((source.case_id, NOT_KEPT))
    found.add(source)


def _check_patients(path: str, cases: Any) -> None:
    splits: dict[str, str] = {}
    for case in cases:
        if case.split and splits.setdefault(case.patient, case.split) != case.split:
            raise UsageError(
                f"{path} puts the patient {case.patient[:60]!r} into two splits.", mend="Give each patient one split."
            )
