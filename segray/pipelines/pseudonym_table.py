"""Which case, patient or file a pseudonym stands for, for who has the key; needs neither Ray nor torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from segray import formats, ledger_parts, storage
from segray.config import Config, PrivacyConfig, load_config
from segray.errors import UsageError
from segray.formats.identifying import names_of_one
from segray.formats.source import CaseSource
from segray.pseudonyms import OWN_KEY, Pseudonyms, named_key
from segray.shards.manifest import MANIFEST, load_manifest

CONFIG, FAILURES = "config.yaml", "failures.csv"

Named = tuple[str, str]
"""What a name is of, a word of :data:`segray.pseudonyms.KINDS`, and the name."""


def pseudonym_table(folder: str, config: Config) -> list[tuple[str, str, str]]:
    """(pseudonym, kind, name) of all cases that ``folder`` knows, their patients, and files of a single patient.

    Args:
        folder: shards, a run, a sweep, predictions, or a folder of cases.
        config: names the key, and how a folder of cases is read; without a key that of the folder is taken.

    Raises:
        UsageError: no key, or nothing that has cases.
    """
    folder = storage.absolute(folder)
    return Pseudonyms(_key(folder, config.privacy)).table(_names(folder, config))


def csv_of(rows: list[tuple[str, str, str]]) -> str:
    """The table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("pseudonym", "kind", "name"))
    writer.writerows(rows)
    return text.getvalue()


def _key(folder: str, settings: PrivacyConfig) -> bytes:
    own = storage.join(folder, OWN_KEY)
    of_run = load_config(storage.join(folder, CONFIG)).privacy if storage.exists(storage.join(folder, CONFIG)) else None
    of_folder = PrivacyConfig(key_file=own) if storage.exists(own) else None
    for told in (settings if settings.key_file else None, of_folder, settings, of_run):
        if told is not None and (key := named_key(told)) is not None:
            return key
    raise UsageError(
        f"There is no key for the pseudonyms of {folder}.",
        mend="Name it by --set privacy.key_file=FILE, or set SEGRAY_PRIVACY_KEY.",
    )


def _names(folder: str, config: Config) -> Iterator[Named]:
    if storage.exists(storage.join(folder, "label_map.json")) and ledger_parts.ledger_files(folder):
        yield from _of_predictions(folder)
    elif storage.exists(storage.join(folder, MANIFEST)):
        yield from _of_shards(folder)
    elif storage.exists(storage.join(folder, CONFIG)):
        yield from _of_run(folder)
    else:
        found = formats.discover(folder, config.ingest, labelled=False)
        yield from _of_sources(found.cases)
        yield from (("case", name) for name, _ in found.problems)


def _of_run(folder: str) -> Iterator[Named]:
    shards = load_config(storage.join(folder, CONFIG)).train.shards or ""
    live = storage.join(folder, "live")
    yield from _of_shards(live if storage.exists(storage.join(live, MANIFEST)) else shards)
    yield from _failed(folder)


def _of_shards(folder: str) -> Iterator[Named]:
    for part in load_manifest(folder).parts:
        yield "case", part.case_id
        yield "patient", part.patient
    yield from _failed(folder)


def _failed(folder: str) -> Iterator[Named]:
    path = storage.join(folder, FAILURES)
    rows = csv.DictReader(io.StringIO(storage.read_text(path))) if storage.exists(path) else ()
    yield from (("case", row["case_id"]) for row in rows)


def _of_predictions(folder: str) -> Iterator[Named]:
    for rows in ledger_parts.last_rows(folder, ledger_parts.ledger_files(folder)):
        yield from (("case", str(row["case_id"])) for row in rows)
        yield from _of_sources([CaseSource.from_json(row["source"]) for row in rows if row.get("source")])


def _of_sources(cases: list[CaseSource]) -> Iterator[Named]:
    for case in cases:
        yield "case", case.case_id
        yield "patient", case.patient
    yield from (("name", name) for name in names_of_one(cases))
