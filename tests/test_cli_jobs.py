"""The commands for jobs, as far as no cluster is needed: what they read, refuse and print."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from segray import cli
from segray.cli_cluster import node_table, print_cluster, verdict
from segray.cli_jobs import _parameters, add_commands, job_lines, job_table
from segray.errors import SegrayError, UsageError
from segray.pipelines.cluster_facts import ClusterFacts, NodeFacts
from segray.pipelines.cluster_findings import GIB, conclude
from segray.pipelines.head import Job
from segray.pipelines.job_package import pack

OURS = {"submit", "status", "stop", "logs"}


@pytest.fixture
def app() -> typer.Typer:
    """The commands of segray with those for jobs."""
    made = typer.Typer()
    made.registered_commands.extend(
        one for one in cli.app.registered_commands if one.callback is not None and one.callback.__name__ not in OURS
    )
    add_commands(made)
    return made


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a port that nobody listens on."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{closed.getsockname()[1]}"


def test_the_arguments_of_a_command_are_read_as_the_command_does(app: typer.Typer) -> None:
    found = _parameters(app, ["train", "my.yaml", "--set", "seed=1", "--set=train.epochs=2", "--run", "/mnt/run"])
    assert (found["config"], found["run"]) == ("my.yaml", "/mnt/run")
    assert list(found["overrides"]) == ["seed=1", "train.epochs=2"]


def test_options_of_submit_and_of_the_command_may_stand_anywhere(
    app: typer.Typer, nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them were understood where only the head is missing at the end."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("train: {epochs: 3}\n")
    for words in (
        ["--address", nowhere, "train", "my.yaml", "--set", "seed=1", "--follow"],
        ["train", "my.yaml", "--run", "/mnt/run", "--follow", "--set=seed=1", "--address", nowhere],
        ["--follow", "--address", nowhere, "--", "train", "my.yaml", "--set", "seed=1"],
        ["--address", nowhere, "segray", "train", "my.yaml"],
    ):
        done = CliRunner().invoke(app, ["submit", *words])
        assert isinstance(done.exception, SegrayError), done.output
        assert done.exception.message == f"No job server of Ray answers at {nowhere}."


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "--sheds", "/mnt/a"], "No such option: --sheds"),
        (["predict", "/mnt/bundle"], "Missing argument"),
        (["train", "a.yaml", "b.yaml"], "unexpected extra argument"),
    ],
)
def test_a_wrong_argument_is_told_before_anything_is_sent(
    app: typer.Typer, nowhere: str, words: list[str], told: str
) -> None:
    done = CliRunner().invoke(app, ["submit", "--address", nowhere, *words])
    assert done.exit_code == 2
    assert told in " ".join(done.output.split())


def test_an_unknown_command_is_told(app: typer.Typer) -> None:
    with pytest.raises(UsageError, match="no command trian"):
        _parameters(app, ["trian"])


def test_what_was_packed_is_read_as_before(app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("seed: 5\n")
    (tmp_path / "space.py").write_text("def space(trial):\n    return {}\n")
    words = ["tune", "my.yaml", "--space", "space.py", "--run", "/mnt/s", "--trials", "7", "--set", "tune.pruner=none"]
    before = _parameters(app, words)
    package = pack(words, before)
    after = _parameters(app, package.words)
    moved = {"config": "packed/0/my.yaml", "space": "packed/1/space.py"}
    assert after == {**before, **moved}


@pytest.mark.parametrize("words", [["status"], ["status", "one", "--follow"], ["stop", "one"], ["logs", "/mnt/run"]])
def test_a_head_that_is_not_there_is_told(app: typer.Typer, nowhere: str, words: list[str]) -> None:
    done = CliRunner().invoke(app, [*words, "--address", nowhere])
    assert isinstance(done.exception, SegrayError)
    assert nowhere in done.exception.message


def test_following_needs_a_job(app: typer.Typer, nowhere: str) -> None:
    done = CliRunner().invoke(app, ["status", "--follow", "--address", nowhere])
    assert isinstance(done.exception, UsageError)


def test_logs_of_a_run_folder_need_no_cluster(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "run.log").write_text("2026-08-01 epoch 1\n")
    done = CliRunner().invoke(app, ["logs", str(tmp_path)])
    assert done.output == "[run.log] 2026-08-01 epoch 1\n"
    CliRunner().invoke(app, ["logs", str(tmp_path), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "run.log").read_text() == "2026-08-01 epoch 1\n"


def test_jobs_are_listed_the_last_at_the_bottom() -> None:
    jobs = [
        Job("old", "FAILED", "segray train [x]", exit_code=3, started=1000.0, ended=4661.0),
        Job("new", "RUNNING", "segray predict", started=5000.0, metadata={"folder": "/mnt/out"}),
    ]
    out = io.StringIO()
    Console(file=out, width=100).print(job_table(jobs))
    lines = out.getvalue().splitlines()
    assert "1:01:01" in next(line for line in lines if line.startswith("old"))
    assert "[x]" in out.getvalue()
    assert lines[-1].startswith("new")
    assert "/mnt/out" in lines[-1]


def test_a_job_that_never_began_says_why() -> None:
    told = job_lines(Job("one", "FAILED", "segray train", message="Failed to set up runtime environment.\nmore"))
    assert told == ["one  failed", "command  segray train", "reason  Failed to set up runtime environment."]


def test_a_cluster_is_shown_with_its_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    from segray import cli_cluster
    from segray.pipelines.cluster_doctor import ClusterDiagnosis

    nodes = [NodeFacts("head (10.0.0.1)", "10.0.0.1", 4.0, tmp_free=9 * GIB, tmp_total=10 * GIB, skew_s=-0.25)]
    nodes.append(NodeFacts("two (10.0.0.2)", "10.0.0.2", 8.0, problem="no answer in 45 s"))
    facts = ClusterFacts({}, nodes, storage_path="/mnt/[x]")
    out = io.StringIO()
    monkeypatch.setattr(cli_cluster, "console", Console(file=out, width=100))
    diagnosis = ClusterDiagnosis(facts, conclude(facts), 3.0)
    print_cluster(diagnosis)
    assert "-0.250" in out.getvalue()
    assert "no-answer" in out.getvalue()
    assert "1 error, 0 warnings, 1 note; 3 s" in out.getvalue()
    assert diagnosis.exit_code == 1
    assert node_table(nodes).row_count == 2
    assert verdict({"error": 0, "warning": 0}) == "Nothing is wrong."
