"""The commands for jobs on a cluster: submit, status, stop, logs."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segray.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from segray.pipelines.head import Head, Job

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended, as a shell has it."""

JOBS_SHOWN = 20

STYLES = {"SUCCEEDED": "green", "FAILED": "bold red", "STOPPED": "yellow", "RUNNING": "bold cyan", "PENDING": "cyan"}

Address = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="URL", help="The dashboard of the head, http://HEAD:8265; else RAY_API_SERVER_ADDRESS."
    ),
]
Follow = Annotated[bool, typer.Option("--follow", help="Show the log until the job ends; its exit code is this one's.")]

UNREAD = {"ignore_unknown_options": True}
"""Options that ``submit`` does not know are those of the command that it submits."""


def add_commands(app: typer.Typer) -> None:
    """Add the commands to those of segray, of which ``submit`` reads the arguments."""

    @app.command(context_settings=UNREAD)
    def submit(
        command: Annotated[list[str], typer.Argument(metavar="COMMAND ...", help="A command with its arguments.")],
        address: Address = None,
        follow: Follow = False,
    ) -> None:
        """Run a command of segray on a cluster, as a job that goes on without this machine.

        Config, search space and table of patients go along; data and outcome are named as the cluster sees them. Ctrl-C
        ends the following, not the job. Plain `ray job submit -- segray train ...` works too.

        Example: `segray submit train my.yaml --shards /mnt/shards --run /mnt/one --address http://head:8265 --follow`
        """
        words = command[1:] if command[0] == "segray" and len(command) > 1 else command
        raise typer.Exit(_submit(words, _parameters(app, words), address, follow=follow))

    app.command()(status)
    app.command()(stop)
    app.command()(logs)


def _parameters(app: typer.Typer, words: Sequence[str]) -> Mapping[str, Any]:
    """What the command line makes of ``words``, which is told of here where it is wrong; nothing is run."""
    known = getattr(typer.main.get_command(app), "commands", {})
    if words[0] not in known:
        raise UsageError(f"segray has no command {words[0]}.", mend="`segray --help` lists them.")
    parameters: Mapping[str, Any] = known[words[0]].make_context(f"segray {words[0]}", list(words[1:])).params
    return parameters


def _submit(words: Sequence[str], parameters: Mapping[str, Any], address: str | None, *, follow: bool) -> int:
    from segray.pipelines.job_package import pack

    package = pack(words, parameters)

    from segray.cli_display import print_paths
    from segray.pipelines.head import Head
    from segray.pipelines.jobs import how_to_follow, submit

    head = Head(address)
    name = submit(head, package)
    if follow:
        _say(f"{name} runs on the cluster; Ctrl-C ends only the following.")
        return _followed(head, name)
    print_paths(job=name, follow=how_to_follow(head, name), stop=f"segray stop {name} --address {head.address}")
    return 0


def status(
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="One job; else the latest are listed.")] = None,
    address: Address = None,
    follow: Follow = False,
) -> None:
    """List the jobs of a cluster, or show one; with --follow its log, from the beginning to the end.

    Example: `segray status --address http://head:8265`
    """
    from segray.cli_display import console
    from segray.pipelines.head import Head

    if job is None:
        if follow:
            raise UsageError("--follow needs the name of a job.", mend="`segray status` lists them.")
        console.print(job_table(Head(address).jobs()))
        return
    head = Head(address)
    if follow:
        raise typer.Exit(_followed(head, job))
    for line in job_lines(head.job(job)):
        console.print(line, markup=False, soft_wrap=True)


def stop(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The name that submit gave it.")], address: Address = None
) -> None:
    """Stop a job, and wait until it has ended. What it has done is kept.

    Submitted again, ingest and predict do what is missing; train and tune go on with --resume.

    Example: `segray stop segray-train-20260801-120000-1a2b --address http://head:8265`
    """
    from segray.cli_display import print_note
    from segray.pipelines.head import Head
    from segray.pipelines.jobs import stop as end

    ended = end(Head(address), job)
    print_note(f"{ended.name}: {ended.status.lower()}")


def logs(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run folder as the job's command named it, or the name of a job.")
    ],
    address: Address = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Write a file a process there; else to stdout.")
    ] = None,
    lines: Annotated[int, typer.Option(min=0, metavar="N", help="The last N lines of each process; 0: all.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each line of a log.")] = False,
) -> None:
    """Gather the logs of a run from all nodes: its jobs, their workers, run.log. Without a cluster: run.log alone.

    Example: `segray logs /mnt/runs/one --address http://head:8265 --out logs`
    """
    import os

    from segray.cli_display import print_paths
    from segray.pipelines.head import ADDRESS_VARIABLES, Head
    from segray.pipelines.run_logs import gather_logs, write_logs

    named = address or any(os.environ.get(name) for name in ADDRESS_VARIABLES)
    gathered = gather_logs(run, Head(address) if named else None, lines)
    for note in gathered.notes:
        _say(note)
    if out is not None:
        print_paths(logs=f"{out}  ({len(write_logs(gathered, out))} files)")
        return
    for log in gathered.logs:
        for line in log.json_lines if as_json else log.lines:
            print(line)


def _followed(head: Head, name: str) -> int:
    """Show the log of a job to its end; its exit code."""
    from segray.pipelines.head import HeadLostError
    from segray.pipelines.jobs import exit_code, follow, how_to_follow

    try:
        job = follow(head, name, _write, _say)
    except KeyboardInterrupt:
        _say(f"The job goes on. Follow it again: {how_to_follow(head, name)}")
        return INTERRUPTED
    except HeadLostError as error:
        raise HeadLostError(error.message, mend=f"Follow it again: {how_to_follow(head, name)}") from error
    code = exit_code(job)
    if code:
        for line in job_lines(job):
            _say(line)
    return code


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(sentence: str) -> None:
    """Beside the log, which has stdout for itself."""
    typer.echo(f"segray: {sentence}", err=True)


def job_table(jobs: Sequence[Job]) -> Table:
    """The latest jobs, the last one at the bottom."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title_justify="left", title="Jobs" if jobs else "No jobs")
    for column in ("job", "state", "began", "took", "outcome"):
        table.add_column(column, overflow="fold", no_wrap=column != "outcome")
    for job in jobs[-JOBS_SHOWN:]:
        style = STYLES.get(job.status, "")
        state = f"[{style}]{job.status.lower()}[/{style}]" if style else job.status.lower()
        outcome = (job.metadata or {}).get("folder") or job.entrypoint
        table.add_row(escape(job.name), state, _moment(job.started), _took(job), escape(outcome))
    return table


def job_lines(job: Job) -> list[str]:
    """One job in a few lines."""
    code = "" if job.exit_code is None else f", exit code {job.exit_code}"
    facts = [f"{job.name}  {job.status.lower()}{code}", f"command  {job.entrypoint}"]
    if job.started:
        facts.append(f"began  {_moment(job.started)}, took {_took(job)}")
    if job.status == "FAILED" and job.exit_code is None and job.message:
        facts.append(f"reason  {job.message.strip().splitlines()[0]}")
    return facts


def _moment(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S") if seconds else "-"


def _took(job: Job) -> str:
    import time

    if not job.started:
        return "-"
    seconds = int((job.ended or time.time()) - job.started)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
