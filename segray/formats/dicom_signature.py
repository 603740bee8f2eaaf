"""Whether a file or a folder is DICOM, by first bytes alone: no library is imported for it."""

from __future__ import annotations

from segray import storage
from segray.errors import SegrayError
from segray.formats.folder import is_file, walk

PREAMBLE = 132
"""Bytes after which the word DICM ends."""

ENDINGS = (".dcm", ".dicom", ".ima")
"""Endings of files that claim to be DICOM; most in an archive have none."""

_OTHERS = (".gz", ".nii", ".png", ".jpg", ".jpeg", ".json", ".csv", ".txt", ".md", ".parquet", ".nrrd", ".mha")


def looks_like_dicom(head: bytes) -> bool:
    """True for the first :data:`PREAMBLE` bytes of a DICOM file, with the word DICM or old ones without it."""
    if head[128:132] == b"DICM":
        return True
    group, element = int.from_bytes(head[:2], "little"), int.from_bytes(head[2:4], "little")
    return len(head) == PREAMBLE and ((group == 8 and element <= 0x20) or (group == 2 and element <= 2))


def is_dicom_file(path: str) -> bool:
    """True where a file starts as DICOM does; without the word DICM only where its name says so too."""
    try:
        head = storage.read_head(path, PREAMBLE)
    except SegrayError:
        return False
    return head[128:132] == b"DICM" or (path.lower().endswith(ENDINGS) and looks_like_dicom(head))


def is_dicom(root: str, folders: int = 50, files: int = 3) -> bool:
    """True where one of the first files in one of the first folders below ``root`` is DICOM, or the file itself."""
    if is_file(root):
        return is_dicom_file(root)
    for count, (below, names) in enumerate(walk(root)):
        if count >= folders:
            return False
        place = storage.join(root, below) if below else root
        likely = [name for name in names if not name.lower().endswith(_OTHERS)]
        if any(is_dicom_file(storage.join(place, name)) for name in likely[:files]):
            return True
    return False
