"""Keyed pseudonyms of cases, patients and their files, and the key that they are made with."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from segray import storage
from segray.config import PrivacyConfig
from segray.errors import UsageError

OWN_KEY = "privacy.key"
"""The key of a run that was given none, in its folder."""

LEAST_KEY = 16
"""Bytes of a key: of fewer all could be tried."""

OWN_KEY_BYTES = 32
DIGITS = 16
"""Hex digits of a pseudonym: 64 bits, of which a million names share one with a probability of 3e-8."""

KINDS = ("case", "patient", "name", "uid")
"""What a pseudonym stands for: its first word. A name is a file or folder."""


@dataclass(frozen=True, repr=False)
class Pseudonyms:
    """Names to pseudonyms: ``case-`` and the first 64 bits of HMAC-SHA256 (RFC 2104) of the name.

    Without a key, as in a process on a host that the key has not reached, all names have one and the same, of zeros.

    Attributes:
        key: the key; None: there is none here.
    """

    key: bytes | None

    def of(self, name: str, kind: str = "case") -> str:
        """The pseudonym of a name; ``kind`` is one of :data:`KINDS`."""
        if self.key is None:
            return f"{kind}-{'0' * DIGITS}"
        digest = hmac.new(self.key, name.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()
        return f"{kind}-{digest[:DIGITS]}"

    def table(self, names: Iterable[tuple[str, str]]) -> list[tuple[str, str, str]]:
        """(pseudonym, kind, name) of (kind, name), each once, sorted: how the holder of the key maps back."""
        return sorted({(self.of(name, kind), kind, name) for kind, name in names})


def named_key(settings: PrivacyConfig) -> bytes | None:
    """The key that the settings name, as it is found in this process; None where they name none.

    Raises:
        UsageError: the file cannot be read, others may read it, or the key is too short.
    """
    if settings.key_file:
        return _long_enough(_read_key(settings.key_file), f"the file {settings.key_file}")
    found = os.environ.get(settings.key_variable, "")
    return _long_enough(found.encode("utf-8", "surrogateescape"), f"${settings.key_variable}") if found else None


def own_key_file(folder: str) -> str:
    """The file of the folder's own key, made where it is not there yet, readable by its owner alone.

    Raises:
        UsageError: the folder lies in an object store, which knows no such rights.
        SegrayError: the file cannot be written.
    """
    if storage.is_remote(folder):
        raise UsageError(
            f"{folder} is no place for the key of pseudonyms: an object store knows no owner of a file.",
            mend="Name a key by privacy.key_file, or by the variable of privacy.key_variable.",
        )
    path = storage.join(storage.absolute(folder), OWN_KEY)
    if os.path.exists(path):
        return path
    temporary = f"{path}.{secrets.token_hex(8)}"
    with storage.asking(path, "written"):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(file, "w", encoding="ascii") as stream:
                stream.write(secrets.token_hex(OWN_KEY_BYTES) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            # Of two runs that begin at once one makes the key, and both have it.
            with suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
    return path


def _read_key(path: str) -> bytes:
    try:
        with open(storage.absolute(path), "rb") as stream:
            rights = os.fstat(stream.fileno()).st_mode
            found = stream.read().strip()
    except OSError as error:
        raise UsageError(
            f"The key of the pseudonyms, {path}, cannot be read ({error.strerror}).",
            mend="Look at privacy.key_file, and copy the key to the same path on all nodes.",
        ) from error
    if rights & stat.S_IRWXO:
        raise UsageError(f"All users may read the key {path}.", mend=f"Run chmod 600 {path}.")
    return found


def _long_enough(key: bytes, where: str) -> bytes:
    if len(key) < LEAST_KEY:
        raise UsageError(
            f"The key of the pseudonyms in {where} has {len(key)} bytes, and {LEAST_KEY} are the least.",
            mend="Make one by `openssl rand -hex 32`.",
        )
    return key
