"""All logs of a run: what its jobs wrote, what their workers wrote on every node, and the log of the run folder."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from segray.errors import SegrayError, UsageError
from segray.pipelines.head import ALL_LINES, Head, HeadNode, Job
from segray.pipelines.jobs import driver_log
from segray.pipelines.log_file import JSON_LOG, LOG, log_place, read_log, read_records

RAYS_OWN = (":job_id:", ":actor_name:", ":task_name:")
"""Beginnings of the lines that Ray writes into the logs of workers for itself."""

WORKER = re.compile(r"worker-[0-9a-f]+-[0-9a-f]+-(?P<pid>\d+)(?P<turn>\.\d+)?\.(?P<kind>out|err)(\.\d+)?")
"""A worker's log: id of the worker, of the job, of the process."""


@dataclass(frozen=True)
class ProcessLog:
    """The log of one process, or of the run itself.

    Attributes:
        node: the address of the node; empty: the run folder, which all nodes share.
        file: its name there.
        process: what people call it, such as ``worker 4711 err``.
        text: the log.
        records: the same as lines of JSON, where the run wrote them; empty elsewhere.
    """

    node: str
    file: str
    process: str
    text: str
    records: str = ""

    @property
    def lines(self) -> Iterator[str]:
        """Its lines, each behind node and process."""
        prefix = f"[{' '.join(part for part in (self.node, self.process) if part)}]"
        return (f"{prefix} {line}" for line in self.text.splitlines())

    @property
    def json_lines(self) -> Iterator[str]:
        """Its lines as JSON: those of the run as it wrote them, others with ``node``, ``process`` and ``message``."""
        if self.records:
            yield from self.records.splitlines()
            return
        for line in self.text.splitlines():
            yield json.dumps({"node": self.node, "process": self.process, "message": line}, ensure_ascii=False)


@dataclass(frozen=True)
class RunLogs:
    """The logs of a run, and sentences about those that are not to be had."""

    logs: Sequence[ProcessLog]
    notes: Sequence[str]


def gather_logs(run: str, head: Head | None, lines: int = 0) -> RunLogs:
    """The logs of a run from all nodes that live: of its jobs first, in the order of their start.

    Args:
        run: a run folder, a prediction folder or the like as the command named it, or the name of a job.
        head: of the cluster; None: only the log in the run folder.
        lines: the last of each process; 0: all.

    Raises:
        UsageError: neither a log in the folder nor a job of that name or folder.
        SegrayError: the head refuses or is lost.
    """
    own, notes = _own_log(run, lines)
    jobs = jobs_of(run, head.jobs()) if head else []
    if not own and not jobs:
        where = f", and the head at {head.address} knows no job of it" if head else ""
        raise UsageError(
            f"{run} holds no {LOG}{where}.",
            mend="Name a run folder or a job; with --address also the logs of the nodes are gathered.",
        )
    found: list[ProcessLog] = []
    if head and jobs:
        nodes = head.nodes()
        dead = sum(not node.alive for node in nodes)
        if dead:
            notes.append(f"What {dead} node{'s' * (dead > 1)} wrote that live no more is not to be had.")
        for job in jobs:
            found += _of_job(head, job, nodes, lines, notes)
    return RunLogs([*found, *own], notes)


def jobs_of(run: str, jobs: Sequence[Job]) -> list[Job]:
    """Those of ``jobs`` that are called ``run`` or whose outcome it is; without an outcome: that name it."""
    wanted = run.rstrip("/")
    return [job for job in jobs if wanted in (job.name, job.job_id) or wanted in _outcome(job)]


def _outcome(job: Job) -> set[str]:
    folder = (job.metadata or {}).get("folder", "").rstrip("/")
    return {folder} if folder else _named(job)


def _named(job: Job) -> set[str]:
    """What the command of a job names, also behind an ``=``."""
    try:
        words = shlex.split(job.entrypoint)
    except ValueError:
        words = job.entrypoint.split()
    return {part.rstrip("/") for word in words for part in (word, word.rpartition("=")[2])}


def _own_log(run: str, lines: int) -> tuple[list[ProcessLog], list[str]]:
    """The log in the run folder, where it can be seen from here."""
    try:
        text = read_log(run)
        if text is None:
            return [], [f"{log_place(run)} cannot be seen from here."] if "/" in run else []
        records = _last(read_records(run), lines)
    except SegrayError as error:  # of a bucket that the nodes may read, and who asks may not
        return [], [str(error)]
    return [ProcessLog("", LOG, LOG, _last(text, lines), records)], []


def _last(text: str, lines: int) -> str:
    return "".join(text.splitlines(keepends=True)[-lines:]) if lines else text


def _of_job(head: Head, job: Job, nodes: Sequence[HeadNode], lines: int, notes: list[str]) -> Iterator[ProcessLog]:
    """The log of a job's command, then those of its workers, node by node."""
    wanted = [(node, name) for node in nodes if node.alive for name in _files(head, job, node, notes)]
    for node, name in sorted(wanted, key=lambda one: one[1] != driver_log(job.name)):
        try:
            text = head.read_log(node.node_id, name, lines or ALL_LINES)
        except SegrayError as error:
            notes.append(f"{name} of {node.address} is not to be had: {error.message}")
            continue
        kept = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(RAYS_OWN))
        if kept:
            yield ProcessLog(node.address, PurePosixPath(name).name, process_of(name), kept)


def _files(head: Head, job: Job, node: HeadNode, notes: list[str]) -> list[str]:
    """The files of a job on a node."""
    patterns = [driver_log(job.name)] if node.node_id == job.node_id else []
    patterns += [f"worker-*-{job.job_id}-*"] if job.job_id else []
    try:
        return [name for pattern in patterns for name in head.log_files(node.node_id, pattern)]
    except SegrayError as error:
        notes.append(f"The logs of {node.address} are not to be had: {error.message}")
        return []


def process_of(file: str) -> str:
    """What people call the process that writes a log file."""
    name = PurePosixPath(file).name
    if found := WORKER.fullmatch(name):
        return f"worker {found['pid']} {found['kind']}"
    return name.removeprefix("job-driver-").removesuffix(".log")


def write_logs(gathered: RunLogs, folder: str) -> list[str]:
    """Write each log into ``folder``/<address of the node>/<its file>; returns the paths."""
    paths = []
    for log in gathered.logs:
        path = Path(folder) / log.node.replace(":", "-") / log.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(log.text, encoding="utf-8")
        paths.append(str(path))
        if log.records:
            beside = path.with_name(JSON_LOG)
            beside.write_text(log.records, encoding="utf-8")
            paths.append(str(beside))
    return paths
