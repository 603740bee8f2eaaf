"""Fingerprints of a whole archive: on an object store from listings, on a slow disk from several threads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from segray import storage
from segray.errors import SegrayError
from segray.formats.folder import file_state
from segray.formats.source import CaseSource

THREADS = 16
"""Cases whose files are asked for at once where each answer comes over a network."""

SAMPLE = 32
"""Cases by which a slow disk is known."""

SLOW_S = 2e-4
"""Seconds a file from which waiting, not computing, takes most of the time: a local disk needs a tenth of it."""

SECOND_NS = 1_000_000_000


@dataclass
class FileStates:
    """Size in bytes and time of the last change in ns of many files; a folder of an object store is listed once.

    A store tells the time of one object to the second, and in listings at times to the millisecond: here always to the
    second.
    """

    _listed: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)

    def __call__(self, uri: str) -> tuple[int, int]:
        """The state of a file. Raises SegrayError where there is no such file."""
        if not storage.is_remote(uri):
            return file_state(uri)
        folder, _, name = uri.rpartition("/")
        if folder not in self._listed:
            self._listed[folder] = _states_in(folder)
        if name not in self._listed[folder]:
            raise SegrayError(f"{uri} is not there.")
        return self._listed[folder][name]


def _states_in(folder: str) -> dict[str, tuple[int, int]]:
    import pyarrow.fs as pafs

    fs, path = storage.filesystem(folder)
    with storage.asking(folder):
        infos = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    files = [info for info in infos if info.type == pafs.FileType.File]
    return {info.base_name: (int(info.size), int(info.mtime_ns or 0) // SECOND_NS * SECOND_NS) for info in files}


def unchanged(cases: Sequence[CaseSource], noted: Sequence[str], states: FileStates | None = None) -> list[bool]:
    """Whether each case has still the fingerprint that was noted of it.

    Args:
        cases: any number.
        noted: the fingerprint of each.
        states: what is known from earlier calls about object stores.
    """
    states = states or FileStates()
    remote = any(storage.is_remote(case.image) for case in cases)
    if not remote and not _is_slow(cases[:: max(1, len(cases) // SAMPLE)][:SAMPLE]):
        return [case.fingerprint() == before for case, before in zip(cases, noted, strict=True)]

    def is_same(case: CaseSource, before: str) -> bool:
        # A store whose listings tell times in another way is asked for the file itself.
        return case.fingerprint(states) == before or (storage.is_remote(case.image) and case.fingerprint() == before)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(is_same, cases, noted))


def unchanged_images(cases: Sequence[CaseSource], noted: Sequence[str], states: FileStates | None = None) -> list[bool]:
    """:func:`unchanged` of the images alone; ``noted`` are fingerprints of :attr:`CaseSource.image_only`.

    A fingerprint of image and labels together, as older ledgers have, says that the image is the same as well.
    """
    states = states or FileStates()
    same = unchanged([case.image_only for case in cases], noted, states)
    others = [at for at, case in enumerate(cases) if not same[at] and case.has_labels]
    for at, is_same in zip(
        others, unchanged([cases[n] for n in others], [noted[n] for n in others], states), strict=True
    ):
        same[at] = is_same
    return same


def _is_slow(sample: Sequence[CaseSource]) -> bool:
    begin = time.perf_counter()
    for case in sample:
        case.fingerprint()
    return time.perf_counter() - begin > SLOW_S * sum(len(case.files) for case in sample)
