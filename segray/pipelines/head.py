"""The head of a cluster, asked from outside over HTTP: its jobs, nodes and log files, by Ray's own client."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from segray.errors import SegrayError, UsageError, without_secrets

ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Where Ray looks for the address of the head, in its order."""

CONNECT_S, ANSWER_S = 5.0, 20.0
"""Seconds after which a head counts as not answering; Ray's client waits for ever."""

TALKATIVE = ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging")
"""Modules of Ray that tell of every upload."""

REASON_LETTERS = 200
ALL_LINES = -1
MOST_NODES = 10_000
GCS_PORT = 6379
"""Where Ray's own protocol is spoken."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")

GONE = "`segray status` lists those that it knows; a head that was started anew has forgotten all of its earlier ones."
START_ONE = "Is it up (`ray up cluster.yaml`), and does a tunnel lead to its port 8265 (`ray dashboard cluster.yaml`)?"
TOKEN_PLACES = "RAY_AUTH_TOKEN, in the file that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token"  # noqa: S105


class HeadLostError(SegrayError):
    """The head does not answer, or its server fails: the same question may be answered later."""


@dataclass(frozen=True)
class Job:
    """A job as its head knows it.

    Attributes:
        name: its submission id.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        entrypoint: its command.
        message: what Ray says of its status.
        exit_code: of the command; negative: the signal that ended it; None: it has not ended, or Ray does not know.
        job_id: Ray's own id, which the names of worker logs hold; empty before the command connects.
        node_id: where the command runs; empty before it starts.
        started, ended: seconds since 1970; None: not yet.
        metadata: what was said of it when it was submitted.
    """

    name: str
    status: str
    entrypoint: str
    message: str = ""
    exit_code: int | None = None
    job_id: str = ""
    node_id: str = ""
    started: float | None = None
    ended: float | None = None
    metadata: Mapping[str, str] | None = None

    @property
    def is_over(self) -> bool:
        """True where nothing more will come."""
        return self.status in ENDED


@dataclass(frozen=True)
class HeadNode:
    """A node as its head knows it: id, address, whether it lives."""

    node_id: str
    address: str
    alive: bool


class _PatientClient(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client, which gives up waiting some time."""

    def _do_request(self, method: str, endpoint: str, **kwargs: Any) -> Any:
        return super()._do_request(method, endpoint, timeout=(CONNECT_S, ANSWER_S), **kwargs)


class Head:
    """The job server of a head.

    Args:
        address: such as ``http://10.0.0.10:8265``; None: RAY_API_SERVER_ADDRESS, else RAY_ADDRESS. An address that is
            given counts more than those, where Ray's own client takes them first.

    Raises:
        UsageError: no address, or one of another kind.
        HeadLostError: nobody answers there.
        SegrayError: the token is missing or wrong.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = address_of(address)
        for name in TALKATIVE:
            logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
        known = token()
        with self._asking(), _unset(ADDRESS_VARIABLES):
            self._client = _PatientClient(self.address, headers={"Authorization": f"Bearer {known}"} if known else None)

    def submit(self, name: str, entrypoint: str, working_dir: str | None, metadata: Mapping[str, str]) -> None:
        """Start the shell command ``entrypoint`` as a job, in a copy of ``working_dir``."""
        with self._asking():
            self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=name,
                runtime_env={"working_dir": working_dir} if working_dir else {},
                metadata=dict(metadata),
            )

    def jobs(self) -> list[Job]:
        """The jobs that were submitted, the oldest first."""
        with self._asking():
            found = [_job(one) for one in self._client.list_jobs() if one.submission_id]
        return sorted(found, key=lambda one: one.started or 0.0)

    def job(self, name: str) -> Job:
        """One job. Raises UsageError where the head does not know it."""
        with self._asking(name):
            return _job(self._client.get_job_info(quote(name, safe="")))

    def stop(self, name: str) -> bool:
        """Ask the job to end; True where it was running. Raises UsageError where the head does not know it."""
        with self._asking(name):
            return bool(self._client.stop_job(quote(name, safe="")))

    async def tail(self, name: str) -> AsyncIterator[str]:
        """The log of the job's command from its beginning, as it grows, until the job is over.

        Raises:
            HeadLostError: the connection ended before.
        """
        try:
            async for lines in self._client.tail_job_logs(quote(name, safe="")):
                yield str(lines)
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise HeadLostError(f"The connection to {self.address} ended ({_first_line(error)}).") from error

    def nodes(self) -> list[HeadNode]:
        """All nodes that the head has known, dead ones too."""
        rows = self._ask_json("/api/v0/nodes", limit=MOST_NODES, detail=False)["result"]
        return [HeadNode(str(row["node_id"]), str(row["node_ip"]), row["state"] == "ALIVE") for row in rows]

    def log_files(self, node_id: str, pattern: str) -> list[str]:
        """Names of the files in Ray's log folder of a living node that match ``pattern``."""
        kinds = self._ask_json("/api/v0/logs", node_id=node_id, glob=pattern)
        return sorted(str(name) for names in kinds.values() for name in names)

    def read_log(self, node_id: str, name: str, lines: int = ALL_LINES) -> str:
        """The last ``lines`` of a file in Ray's log folder of a living node."""
        query = urlencode({"node_id": node_id, "filename": name, "lines": lines})
        content: bytes = self._ask(f"/api/v0/logs/file?{query}").content
        return content.decode("utf-8", "replace")

    def _ask_json(self, path: str, **query: Any) -> Any:
        told = self._ask(f"{path}?{urlencode(query)}")
        with self._asking():
            return told.json()["data"]["result"]

    def _ask(self, path: str) -> Any:
        with self._asking():
            answer = self._client._do_request("GET", path)
            if answer.status_code != 200:
                raise RuntimeError(f"status code {answer.status_code}: {answer.text}")
            return answer

    @contextmanager
    def _asking(self, job: str = "") -> Iterator[None]:
        """What Ray's client raises, in our own words."""
        try:
            yield
        except AuthenticationError as error:
            raise _token_error(self.address, error.message) from None
        except RuntimeError as error:
            if job and "does not exist" in str(error):
                raise UsageError(f"The head at {self.address} knows no job {job}.", mend=GONE) from None
            kind = HeadLostError if re.search(r"status code 5\d\d", str(error)) else SegrayError
            raise kind(f"The head at {self.address} refuses ({_first_line(error)}).") from None
        except OSError as error:
            # So are the errors of requests: no connection, no answer in time, an answer that is no JSON.
            raise HeadLostError(
                f"No job server of Ray answers at {self.address}{_in_brackets(error)}.", mend=START_ONE
            ) from None


def address_of(given: str | None) -> str:
    """The HTTP address of a head: the one that is given, else that of the environment.

    Raises:
        UsageError: there is none, or it is that of Ray's own protocol.
    """
    found = given or next((os.environ[name] for name in ADDRESS_VARIABLES if os.environ.get(name)), "")
    if not found:
        raise UsageError(
            "No cluster is named.", mend=f"Give --address http://HEAD:8265, or set {ADDRESS_VARIABLES[0]}."
        )
    address = found if "://" in found else f"http://{found}"
    if not _serves_jobs(address):
        raise UsageError(
            f"{found} is no address of a job server.",
            mend="It is that of the dashboard, by its port 8265, such as --address http://HEAD:8265.",
        )
    return address.rstrip("/")


def _serves_jobs(address: str) -> bool:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.hostname not in (None, "auto") and port != GCS_PORT


def token() -> str:
    """The token that the nodes of a cluster ask for; empty where there is none, or with RAY_AUTH_MODE=disabled.

    It is looked for as Ray does it: RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, ``~/.ray/auth_token``. Ray
    shows it only with RAY_AUTH_MODE=token, which its clients do not set by themselves.

    Raises:
        UsageError: the file that RAY_AUTH_TOKEN_PATH names cannot be read, or is empty.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return ""
    if told := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return told
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        found = Path(named or "~/.ray/auth_token").expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        found = ""
    if named and not found:
        raise UsageError(f"RAY_AUTH_TOKEN_PATH names {named}, and no token can be read there.", mend="Mend the path.")
    return found


def _token_error(address: str, told: str) -> SegrayError:
    if told.startswith("Authentication required") or not token():
        return SegrayError(f"The head at {address} asks for a token.", mend=f"Put the cluster's into {TOKEN_PLACES}.")
    return SegrayError(
        f"The head at {address} refuses the token.", mend=f"Put that of this cluster into {TOKEN_PLACES}."
    )


@contextmanager
def _unset(names: tuple[str, ...]) -> Iterator[None]:
    """Hide variables of the environment for the time of the block."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _job(details: Any) -> Job:
    return Job(
        name=details.submission_id or details.job_id or "",
        status=str(details.status.value),
        entrypoint=details.entrypoint,
        message=details.message or "",
        exit_code=details.driver_exit_code,
        job_id=details.job_id or "",
        node_id=details.driver_node_id or "",
        started=_seconds(details.start_time),
        ended=_seconds(details.end_time),
        metadata=details.metadata or {},
    )


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None


def _in_brackets(error: OSError) -> str:
    """What there is to add to "does not answer": of a connection that was not made, nothing."""
    line = _first_line(error)
    return "" if "ConnectionPool(" in line or isinstance(error, ConnectionError) else f" ({line})"


def _first_line(error: BaseException) -> str:
    told = without_secrets(str(error)).strip().removeprefix("Request failed with ")
    lines = told.splitlines()
    # A server's traceback ends with the error itself.
    line = lines[-1] if "Traceback" in told else lines[0] if lines else type(error).__name__
    return line[:REASON_LETTERS].rstrip(". ")
