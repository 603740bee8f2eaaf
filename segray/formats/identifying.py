"""Which names of an archive tell of a patient: of cases, patients, and of files and folders of one patient alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from segray import privacy, storage
from segray.formats.folder import stem
from segray.formats.source import CaseSource, Discovery

SHARED = ""
"""In place of a patient: a name that stands in the paths of several."""

_PARTS = re.compile(r"(?:_\d{4}|_(?:gt|seg|mask|label|labels|image|img))?")
"""What a file name may have behind the case id and still tell no more than that."""

_ROW = re.compile(r"row \d+")
"""What a row of a table is called that names no case."""


def know_folder(source: str) -> None:
    """Hide what lies below ``source`` (a folder, a file or a pattern), before it is looked at."""
    fixed = source.split("*", 1)[0]
    folder = source if fixed == source and not stem(source) else fixed.rpartition("/")[0]
    privacy.know_folders(one for one in (folder, storage.absolute(folder)) if one.count("/") > 0)


def know_discovery(source: str, found: Discovery) -> Discovery:
    """Hide the names that ``source`` was found to hold; returns what was found, which keeps them."""
    if privacy.is_hiding():
        known = {*storage.absolute(source).split("/"), *privacy.PLAIN}
        problems = [name for name, _ in found.problems if name.lower() not in known and not _ROW.fullmatch(name)]
        privacy.know((*(case.case_id for case in found.cases), *problems), "case")
        privacy.know((case.patient for case in found.cases), "patient")
        privacy.know(names_of_one(found.cases, known))
        privacy.know(part for name in problems for part in map(_stem, name.split("/")) if part.lower() not in known)
    return found


def names_of_one(cases: Iterable[CaseSource], known: Collection[str] = privacy.PLAIN) -> set[str]:
    """Folders, and files without their endings, in the paths of a single patient, but for what is ``known``.

    Slices of a DICOM series are left out: there are millions of them, and what lies below the folder is hidden anyway.
    """
    owner: dict[str, str] = {}
    for case in cases:
        for name in _names(case):
            tells = not (name.startswith(case.case_id) and _PARTS.fullmatch(name, len(case.case_id)))
            if tells and name not in known and name.lower() not in known:
                owner[name] = case.patient if owner.setdefault(name, case.patient) == case.patient else SHARED
    return {name for name, patient in owner.items() if patient != SHARED}


def _names(case: CaseSource) -> set[str]:
    named = [case.image, *([] if case.labels is None else [case.labels])]
    folders = {path.rpartition("/")[0] for path in (*named, *case.parts, *case.masks.values())}
    files = {path.rpartition("/")[2] for path in named}
    found = {name for folder in folders for name in folder.split("/") if name}
    return found | {_stem(name) for name in files if name}


def _stem(name: str) -> str:
    return stem(name) or name.rpartition(".")[0] or name
