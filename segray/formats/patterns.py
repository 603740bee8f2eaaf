"""Cases named by a pattern such as ``archive/*/ct.nii.gz``; ``**`` stands for any number of folders."""

from __future__ import annotations

from fnmatch import fnmatchcase

from segray import storage
from segray.errors import UsageError
from segray.formats.findings import Findings
from segray.formats.folder import KINDS, Left, kind_of, stem
from segray.formats.overlooked import folders_of_images
from segray.formats.source import CaseSource, Discovery

MAGIC = frozenset("*?[")
SCAN_STEMS = ("ct", "mri")
"""Names that every case of an archive has alike: there the folder is the name of the case."""


def is_pattern(source: str) -> bool:
    """Whether ``source`` has the letters of a pattern. A file that is named with them is asked for first."""
    return bool(MAGIC & set(source))


def read_pattern(pattern: str, found: Findings) -> Discovery:
    """The volume files that match a pattern, each a case without labels.

    A case is named as in a folder of lone scans: by the folders below the first one that the pattern leaves open, and
    its file; by those folders alone where the file is ``ct`` or ``mri`` and no other matches, as TotalSegmentator
    names cases. Folders that are named as labels are passed over unless the pattern names them so, and what segray
    predicted always.

    Args:
        pattern: a path or URI in which ``*``, ``?`` and ``[...]`` stand for letters of a name, and a part ``**`` for
            any number of folders.
        found: where cases and problems go.

    Raises:
        UsageError: no file matches.
    """
    root, wanted = _split(pattern)
    left: Left = []
    others = 0
    for below, files in folders_of_images(root, left, found.notes, wanted):
        parts = tuple(below.split("/")) if below else ()
        if not _may_lead(parts, wanted):
            continue
        named = [name for name in files if matches((*parts, name), wanted)]
        volumes = {name: base for name in named if (base := stem(name)) is not None}
        others += len(named) - len(volumes)
        for name, base in volumes.items():
            path = storage.join(root, *parts, name)
            alone = bool(parts) and base.lower() in SCAN_STEMS and len(volumes) == 1
            found.add(CaseSource("_".join(parts if alone else (*parts, base)), path, kind=kind_of(path)))
    found.problems += left
    if not found.cases and not found.problems:
        known = f"It reads {', '.join(KINDS)}."
        what = f"{others} files match {pattern}, and none is a volume" if others else f"No file matches {pattern}"
        raise UsageError(f"{what}.", mend=f"{known} Put the pattern into quotes, so that the shell leaves it alone.")
    if others:
        found.notes.append(f"{others} files that match are no volumes and are left out.")
    return found.finish("images", None)


def matches(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Whether a path, by its parts, is what the parts of a pattern say; letters count as they are written."""
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return matches(parts, wanted[1:]) or (bool(parts) and matches(parts[1:], wanted))
    return bool(parts) and fnmatchcase(parts[0], wanted[0]) and matches(parts[1:], wanted[1:])


def _may_lead(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Whether files in this folder can match."""
    if "**" in wanted:
        return True
    return len(parts) == len(wanted) - 1 and all(map(fnmatchcase, parts, wanted))


def _split(pattern: str) -> tuple[str, tuple[str, ...]]:
    """The folder that the pattern says outright, and the parts of the rest."""
    scheme, mark, rest = pattern.partition("://")
    fixed, parts = [], (rest if mark else pattern).split("/")
    while len(parts) > 1 and not MAGIC & set(parts[0]):
        fixed.append(parts.pop(0))
    folder = "/".join(fixed)
    if mark:
        return storage.absolute(f"{scheme}://{folder}"), tuple(parts)
    return storage.absolute(folder or ("/" if pattern.startswith("/") else ".")), tuple(parts)
