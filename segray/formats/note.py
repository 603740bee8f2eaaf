"""Notes of readers and layouts: a sentence each, and what it tells of, so that the doctor need not read words."""

from __future__ import annotations

from typing import Literal

Kind = Literal["odd", "twice", "gap", "between", "lost", "overview", "single", "modality", "files", "others", "unnamed"]
"""What a note tells of.

Of a case: ``odd`` is good to know; ``twice``: slices that lie there twice; ``gap``: a structure is not drawn on slices
between others; ``between``: contours that are left out for nearer ones; ``lost``: labels that are left out.
Of a folder: ``overview``, ``single`` and ``modality``: series that are left out as scouts, for their single slice, or
beside CTs; ``files``: files that are left out and may be cases; ``others``: files that are none; ``unnamed``:
pictures that no annotation file names.
"""


class Note(str):
    """A sentence that knows what it tells of; it goes wherever a plain string goes, which is a note of kind ``odd``.

    Args:
        sentence: for the user.
        kind: what it tells of.
    """

    __slots__ = ("kind",)
    kind: Kind

    def __new__(cls, sentence: str, kind: Kind = "odd") -> Note:
        """A string with a kind. The default is what a copy starts from."""
        note = super().__new__(cls, sentence)
        note.kind = kind
        return note


def kind_of(note: str) -> Kind:
    """What a note tells of."""
    return note.kind if isinstance(note, Note) else "odd"
