"""Where the Optuna study of a sweep lies: a file in its folder, a file elsewhere, or a database."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from segray import storage
from segray.config import TuneConfig
from segray.errors import SegrayError, UsageError
from segray.tuning.journal import PatientJournal

NAME = "segray"
SQLITE = "sqlite"
FILES = (".journal", ".db")
SECRETS = ("password", "sslpassword", "passwd", "pwd")


def own_file(config: TuneConfig) -> bool:
    """Whether the study lies in the folder of its sweep, and is alone in its file."""
    return not config.storage or config.storage == SQLITE


def storage_url(config: TuneConfig, folder: str) -> str:
    """Where the study lies: an address of a database, or a path that ends in ``.db`` or ``.journal``.

    Raises:
        UsageError: ``tune.storage`` is neither, or holds a password, or the sweep's folder lies in an object store.
    """
    if storage.is_remote(folder):
        raise UsageError(
            f"A sweep cannot lie in an object store, as {folder} is one.",
            mend="Name a folder on a disk that all nodes share; the shards may lie in the object store.",
        )
    if own_file(config):
        return storage.join(folder, "study.db" if config.storage == SQLITE else "study.journal")
    return _address(str(config.storage))


def _address(text: str) -> str:
    # What is mistyped may hold a password where no pattern looks for one.
    shown = f"tune.storage {text}" if "@" not in text else "tune.storage"
    if "://" not in text:
        if not text.endswith(FILES):
            raise UsageError(
                f"{shown} is neither the address of a database nor a file that ends in {' or '.join(FILES)}.",
                mend="Write sqlite, or an address such as postgresql://user@host/db, or leave it empty.",
            )
        return storage.absolute(text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise UsageError(
            f"{shown} is no address of a database.", mend="Write one such as postgresql://user@host/db."
        ) from error
    if url.password is not None or any(name.lower() in SECRETS for name in url.query):
        raise UsageError(
            "tune.storage holds a password, which would lie in config.yaml.",
            mend="Leave it out of the address; PostgreSQL takes it from PGPASSWORD or ~/.pgpass.",
        )
    return text


def open_storage(url: str) -> BaseStorage:
    """The storage at an address or a path. Raises SegrayError where it cannot be opened."""
    try:
        if url.endswith(".journal"):
            return JournalStorage(PatientJournal(url))
        return RDBStorage(url if "://" in url else f"sqlite:///{url}", engine_kwargs=_engine(url))
    except Exception as error:  # any driver of SQLAlchemy raises its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SegrayError(
            f"The storage of the study, {url}, cannot be opened ({reason}).",
            mend="Look at tune.storage; `pip install psycopg2-binary` for PostgreSQL.",
        ) from error


def _engine(url: str) -> dict[str, Any]:
    if "://" in url:
        # A server, or what lies on the way to it, drops connections that were idle as long as an epoch takes.
        return {"pool_pre_ping": True}
    # Somebody may look at the study, with optuna-dashboard, while the sweep writes.
    return {"connect_args": {"timeout": 60}}


def study_name(config: TuneConfig, run_id: str) -> str:
    """The name of a sweep's study: a storage may hold those of many; a file of its own moves with its folder."""
    return NAME if own_file(config) else f"{NAME} {run_id}"


def held_study(config: TuneConfig, folder: str, run_id: str) -> optuna.Study:
    """The study of the sweep in ``folder``, to read. Raises SegrayError where its storage holds none."""
    url, name = storage_url(config, folder), study_name(config, run_id)
    if "://" in url or storage.exists(url):
        held = open_storage(url)
        if name in optuna.get_all_study_names(held):
            return optuna.load_study(study_name=name, storage=held)
    raise SegrayError(
        f"{folder} holds no study of a sweep: {name!r} is not in {url}.",
        mend="Name the folder of a sweep; of one that was restored bring back its storage too.",
    )
