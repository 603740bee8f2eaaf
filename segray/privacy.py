"""The one place that logs, terminal and trackers pass before a person reads them: names become pseudonyms.

A process begins with clear names. Once it has begun to hide (:func:`begin`, :func:`join`), it does not end: what one
run has learnt of names, the words of the next do not tell. Masks and tables do not pass here.
"""

from __future__ import annotations

import posixpath
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import update_wrapper
from typing import Any, TypeVar

from segray import storage
from segray.config import Config, PrivacyConfig
from segray.errors import SegrayError, UsageError
from segray.hidden_words import cover_python
from segray.pseudonyms import DIGITS, KINDS, OWN_KEY, Pseudonyms, named_key, own_key_file

_LETTER = r"[^\W_]"
_START = re.compile(rf"(?<!{_LETTER})(?=\S)")
"""Where a name may begin: not within a word."""

_DONE = re.compile(rf"(?:{'|'.join(KINDS)})-[0-9a-f]{{{DIGITS}}}")

_UID = re.compile(r"(?<![\w.])[0-2](?:\.\d+){5,}")
"""A DICOM UID: whoever has the archive finds the scan by it."""

_SHORT, _SHORT_NUMBER = 4, 6
"""Characters, and digits, from which a name is one wherever it stands; `12` is a number more often than a case."""

_BEFORE_SHORT = re.compile(
    r"[/\\\"'`]$|\bpart-$|\bcases? \(?(?:[^()\s]+, )*$|^\d+: (?:[^()\s]+, )*$|^rank \d+: $"
    r"|\b(?:labels|series|preview|overlay|patient) of $|\bpatient $|\bsuch as $"
    r"|\bthe first \($|\bthe first problem is $"
)
"""What stands before a short name where it is a name: a path, quotes, and the words of segray's own sentences."""

_AFTER_SHORT = re.compile(r": |(?:\.nii|\.nrrd|\.mh[ad]|\.dcm|\.png)| is no DICOM series| lies in several ")
"""What stands behind a short name at the beginning of a line."""

_PATH_ENDS = re.compile(r"[\n\"'`<>|]|: |; | \(|, | and (?=/)")
_ENDING = re.compile(r"(?:\.nii\.gz|\.[A-Za-z][A-Za-z0-9]{0,6})$")
_SPACED = re.compile(r"[^\n]*?\.(?:nii\.gz|nii|nrrd|mha|mhd|z?raw|dcm|png|jpe?g|tiff?|bmp|json|csv|parquet)(?=\W|$)")

_PLAIN_WORDS = (
    "ct mr pet image images img imgs scan scans label labels mask masks seg segmentation segmentations frames "
    "annotations imagestr imagests imagesval labelstr labelsts labelsval train training val valid validation test "
    "dataset dicom nifti ledger previews live"
)
PLAIN = frozenset(_PLAIN_WORDS.split())
"""Names of files and folders that say how an archive is kept, and nothing of a patient; in small letters."""

Result = TypeVar("Result")


class Hider:
    """Replaces the names that it knows, and what it does not know below the folders of scans.

    Args:
        pseudonyms: what takes their place.
    """

    def __init__(self, pseudonyms: Pseudonyms) -> None:
        self.pseudonyms = pseudonyms
        self._kinds: dict[str, str] = {}
        self._sizes: set[int] = set()
        self._lengths: tuple[int, ...] = ()
        self._roots: tuple[str, ...] = ()
        self._shown: tuple[str, ...] = ()
        self._lock = threading.Lock()

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of scans that it knows."""
        return self._roots

    def know(self, names: Iterable[str], kind: str = "name") -> None:
        """Hide these names from now on; a name that is known as a case stays one."""
        with self._lock:
            for name in names:
                if name and (name not in self._kinds or kind == "case"):
                    self._kinds[name] = kind
                    self._sizes.add(len(name))
            self._lengths = tuple(sorted(self._sizes, reverse=True))

    def know_folder(self, folder: str) -> None:
        """Hide what lies below a folder of scans, a path or a URI."""
        self._roots = _with_folder(self._roots, folder)

    def show_folder(self, folder: str) -> None:
        """Below this folder, which may lie in one of scans, only names that are known are hidden."""
        self._shown = _with_folder(self._shown, folder)

    def text(self, text: str) -> str:
        """``text`` with pseudonyms; hidden again it is the same."""
        if any(root in text for root in self._roots):
            text = self._below_roots(text)
        if self._kinds:
            text = "".join(self._pieces(text))
        return _UID.sub(lambda found: self.pseudonyms.of(found[0], "uid"), text)

    def _pieces(self, text: str) -> Iterator[str]:
        done = place = 0
        while (found := _START.search(text, place)) is not None:
            place = found.start()
            if hidden := _DONE.match(text, place):
                place = hidden.end()
            elif (end := self._name_at(text, place)) > place:
                name = text[place:end]
                yield text[done:place] + self.pseudonyms.of(name, self._kinds[name])
                done = place = end
            else:
                place += 1
        yield text[done:]

    def _name_at(self, text: str, start: int) -> int:
        """The end of the longest known name that begins there; ``start`` where none does."""
        for length in self._lengths:
            end = start + length
            if end > len(text) or text[start:end] not in self._kinds:
                continue
            within = end < len(text) and text[end].isalnum() and text[end - 1].isalnum()
            if not within and (not _is_short(text[start:end]) or _is_named(text, start, end)):
                return end
        return start

    def _below_roots(self, text: str) -> str:
        pattern = "|".join(re.escape(root) for root in self._roots)
        pieces, done = [], 0
        for found in re.finditer(rf"(?:{pattern})/", text):
            if found.start() < done or any(_lies_in(text, found.start(), one) for one in self._shown):
                continue
            end = found.end() + _length_of_path(text[found.end() :], pattern)
            hidden = "/".join(self._component(one) for one in text[found.end() : end].split("/"))
            pieces.append(text[done : found.end()] + hidden)
            done = end
        return "".join([*pieces, text[done:]])

    def _component(self, name: str) -> str:
        """A file or folder below a root; one that is known is left to be found among the names."""
        bare = stem(name)
        plain = not bare or bare.lower() in PLAIN or _DONE.fullmatch(bare)
        if plain or any(one in self._kinds for one in (name, bare, re.sub(r"_\d{4}$", "", bare))):
            return name
        return self.pseudonyms.of(bare, "uid" if _UID.fullmatch(bare) else "name") + name[len(bare) :]


def _lies_in(text: str, start: int, folder: str) -> bool:
    """Whether the path that begins there is ``folder``, or lies in it."""
    return text.startswith(folder, start) and re.match(r"/|[.,;:)]?(?:\s|$)", text[start + len(folder) :]) is not None


def _with_folder(folders: tuple[str, ...], folder: str) -> tuple[str, ...]:
    root = folder.rstrip("/")
    return folders if not root or root in folders else tuple(sorted((*folders, root), key=len, reverse=True))


def _is_short(name: str) -> bool:
    return len(name) < _SHORT or (len(name) < _SHORT_NUMBER and name.isdigit())


def _is_named(text: str, start: int, end: int) -> bool:
    """Whether a short name stands where names stand."""
    if start == 0 and _AFTER_SHORT.match(text, end):
        return True
    line = text.rfind("\n", 0, start) + 1
    return _BEFORE_SHORT.search(text[max(line, start - 300) : start]) is not None


def _length_of_path(text: str, roots: str) -> int:
    """Characters at the beginning of ``text`` that are a path, with spaces perhaps, and not the sentence behind it."""
    stops = [found.start() for found in (_PATH_ENDS.search(text), re.search(f"(?:{roots})/", text)) if found]
    piece = text[: min(stops, default=len(text))]
    last = piece.rpartition("/")[2]
    spaced = _SPACED.match(last)
    name = spaced[0] if spaced and ". " not in spaced[0] else last.split(" ", 1)[0].rstrip(".,;:)]")
    return len(piece) - len(last) + len(name)


_hider: Hider | None = None
_settings = PrivacyConfig()
_lock = threading.Lock()


def begin(settings: PrivacyConfig, folder: str | None) -> PrivacyConfig:
    """Hide names in this process from now on, where the settings say so; the settings for the processes beside it.

    Args:
        settings: as the user gave them.
        folder: of the run or of its outcome, where the key of a run lies that was given none; None: there is no
            outcome, and such a key is thrown away.

    Returns:
        the same settings, with the path of the run's own key where it has one. No key stands in them.

    Raises:
        UsageError: the key that is named cannot be had or is too short, or there is no place for one.
    """
    if not settings.hash_ids:
        return settings
    given = storage.absolute(settings.key_file) if settings.key_file else None
    settings = settings.model_copy(update={"key_file": given})
    if given and posixpath.basename(given) == OWN_KEY and not storage.exists(given):
        # The folder of the run has been moved.
        settings = settings.model_copy(update={"key_file": None})
    key = named_key(settings)
    if key is None and folder is not None:
        settings = settings.model_copy(update={"key_file": own_key_file(folder)})
        key = named_key(settings)
    hider = _hide_by(Pseudonyms(key or secrets.token_bytes()), settings)
    if folder is not None:
        hider.show_folder(storage.absolute(folder))
    return settings


def join(settings: PrivacyConfig, folders: Iterable[str] = ()) -> None:
    """Hide names in a process that works for a run; where the key has not reached it, all names look alike."""
    if not settings.hash_ids:
        return
    if _hider is None or settings != _settings:
        try:
            key = named_key(settings)
        except UsageError:
            key = None
        _hide_by(Pseudonyms(key), settings)
    know_folders(folders)


def _hide_by(pseudonyms: Pseudonyms, settings: PrivacyConfig) -> Hider:
    global _hider, _settings
    with _lock:
        if _hider is None:
            cover_python(hide, is_hiding)
            _hider = Hider(pseudonyms)
        _hider.pseudonyms, _settings = pseudonyms, settings
        return _hider


def with_privacy(config: Config, folder: str | None) -> Config:
    """:func:`begin` with the settings of a config; the config for the processes beside this one."""
    privacy = begin(config.privacy, folder)
    return config if privacy is config.privacy else config.model_copy(update={"privacy": privacy})


def is_hiding() -> bool:
    """Whether this process hides names."""
    return _hider is not None


def stem(name: str) -> str:
    """The name of a file without its ending; the id of a case may hold dots."""
    return _ENDING.sub("", name)


def know(names: Iterable[str], kind: str = "name") -> None:
    """Names to hide: of cases, patients, or files (``case``, ``patient``, ``name``)."""
    if _hider is not None:
        _hider.know(names, kind)


def know_folders(folders: Iterable[str]) -> None:
    """Folders of scans: what lies below them is hidden, known or not."""
    if _hider is not None:
        for folder in folders:
            _hider.know_folder(folder)


def hide(text: str) -> str:
    """What may be said of ``text``."""
    return text if _hider is None else _hider.text(text)


def hide_case(case_id: str) -> str:
    """What a case may be called."""
    if _hider is None or not case_id or _DONE.fullmatch(case_id):
        return case_id
    return _hider.pseudonyms.of(case_id, "case")


def discreet(function: Callable[..., Result]) -> Callable[..., Result]:
    """``function`` for a task in another process, which then hides what this one hides, also in what it raises."""
    if _hider is None:
        return function
    settings, folders = _settings, _hider.folders

    def told(*args: Any, **named: Any) -> Result:
        join(settings, folders)
        try:
            return function(*args, **named)
        except Exception as error:
            raise hidden_error(error) from None

    return update_wrapper(told, function)


def hidden_error(error: Exception) -> Exception:
    """An error of the same kind with hidden words, for those who write errors down before segray does."""
    if isinstance(error, SegrayError):
        return type(error)(hide(error.message), mend=hide(error.mend))
    return (OSError if isinstance(error, OSError) else RuntimeError)(hide(f"{type(error).__name__}: {error}"))


def forget() -> None:
    """Begin anew with clear names; for tests."""
    global _hider
    with _lock:
        _hider = None
