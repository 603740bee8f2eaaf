"""What earlier runs left of a case in a prediction folder, and what of it still holds when the case has a new row."""

from __future__ import annotations

from collections.abc import Collection

from segray import formats, storage
from segray.errors import SegrayError
from segray.formats.file_states import unchanged_images
from segray.formats.source import CaseSource
from segray.ledger_parts import ABSENT, Row
from segray.pipelines.case_outputs import FURTHER, further_place
from segray.pipelines.ledger import Entry
from segray.pipelines.listed import Listed

OVERLAYS = "overlays"
"""Further files of which a case has a folder that is no mask."""


class EarlierFiles:
    """The masks and further files in ``folder``; each of its folders is listed once, when the first row comes.

    Args:
        folder: the prediction folder.
        replaced: ``predict.overwrite``: what is there is to be replaced, though it may be of the same input.
    """

    def __init__(self, folder: str, *, replaced: bool) -> None:
        self._folder = folder
        self._there = Listed(folder)
        self._replaced = replaced

    def settle(self, row: Row, before: Entry | None) -> Row:
        """Remove what no longer holds of the case of a new row; the row, with the further files that do.

        A case that is done anew keeps the kinds that this run does not write where its input is the same, since its
        mask then is the same too. A failed case keeps its mask where that is of the present input, or where the input
        is out of reach: then nobody knows, and a disk that is away may come back.

        Args:
            row: of a case, before it is added to the ledger.
            before: what the ledger knows of it; None: nothing, so that nothing of it is a result.
        """
        case_id, done = str(row["case_id"]), before is not None and before.done
        places: dict[str, str] = {kind: further_place(kind, case_id) for kind in FURTHER}
        lie = {kind: place for kind, place in places.items() if place in self._there}
        masks = {place for place in formats.mask_places(case_id) if place in self._there}
        if not lie and not masks:
            return row
        if row["status"] != "ok":
            if _may_hold(row, before if done else None):
                return row
            return self._without(row, {*masks, *lie.values()})
        written = [kind for kind in str(row.get("further") or "").split(",") if kind]
        if before is not None and done and not self._replaced and before.fingerprint == row.get("fingerprint"):
            written += [kind for kind in before.further.split(",") if kind in lie and kind not in written]
            row = row | {"further": ",".join(written)}
        kept = {row["mask"], *(places[kind] for kind in written if kind in places and kind not in _absent(row))}
        return self._without(row, {*masks, *lie.values()} - kept)

    def _without(self, row: Row, places: Collection[str]) -> Row:
        """Remove files; where that cannot be, the row's notes say so."""
        for place in sorted(places):
            try:
                remove_file(self._folder, place)
            except SegrayError as error:
                note = f"{place} is of an earlier run and could not be removed: {error}"
                row = row | {"notes": f"{row.get('notes') or ''} {note}".strip()}
        return row


def remove_file(folder: str, place: str) -> None:
    """Remove a mask, or a further file, which may be a folder, below a prediction folder. Raises SegrayError."""
    path = storage.join(folder, place)
    if _may_be_folder(place):
        storage.delete_folder(path)
    # A stray file may lie where folders of cases do.
    storage.delete(path)


def ask(path: str) -> None:
    """Raise SegrayError where a mask, or a further file, which may be a folder, is not to be reached."""
    if _may_be_folder(path):
        storage.names(path)
    else:
        storage.read_head(path, 1)


def _may_be_folder(place: str) -> bool:
    above = place.rpartition("/")[0].rpartition("/")[2]
    return above == OVERLAYS or formats.is_folder(place)


def _absent(row: Row) -> list[str]:
    return str(row.get(ABSENT) or "").split(",")


def _may_hold(row: Row, before: Entry | None) -> bool:
    """Whether the mask of an earlier run may still be that of the input of a failed row."""
    if not row.get("source"):
        return True
    source = CaseSource.from_json(row["source"]).image_only
    if before is not None and unchanged_images([source], [before.fingerprint])[0]:
        return True
    return not all(map(in_reach, source.files))


def in_reach(path: str) -> bool:
    """Whether a file of a case is there; False too where its disk or store does not answer."""
    try:
        return storage.exists(path)
    except SegrayError:
        return False
