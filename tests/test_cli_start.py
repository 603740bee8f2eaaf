"""The commands answer --help at once and load neither torch nor ray for it."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

import segray
from segray import cli, privacy
from segray.config import PrivacyConfig
from segray.errors import UsageError

LIMIT_S = 0.4
"""Wall-clock limit of a --help on a machine of its own."""

TIMES_BARE = 2.0
"""Where the machine is slow or shared: so many times what typer takes for a command without any code of ours."""

HEAVY = ("torch", "ray", "monai", "pandas", "matplotlib", "scipy", "pyarrow", "blosc2")

COMMANDS = sorted(
    command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback is not None
)


def run_segray(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh process, as a user starts it."""
    program = "import sys; from segray.cli import main; sys.argv[0] = 'segray'; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)


def children_cpu() -> float:
    """CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def modules_after(statement: str) -> list[str]:
    """The heavy modules that a fresh process holds after ``statement``."""
    program = f"import sys\n{statement}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_commands_are_those_that_users_know() -> None:
    assert set(COMMANDS) >= {"ingest", "train", "predict", "evaluate", "report", "config", "phantoms", "demo"}


def seconds_of(run: Callable[[], subprocess.CompletedProcess[str]]) -> tuple[float, float]:
    """Wall clock and CPU of a --help that works."""
    started, before = time.perf_counter(), children_cpu()
    done = run()
    seconds = time.perf_counter() - started, children_cpu() - before
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    return seconds


def seconds_of_bare() -> tuple[float, float]:
    """The same of a command of typer's that does nothing."""
    program = "import typer\napp = typer.Typer()\napp.command()(lambda: None)\napp(['--help'])"
    command = [sys.executable, "-c", program]
    return seconds_of(lambda: subprocess.run(command, capture_output=True, text=True, check=False))


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_answers_at_once(command: str) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    tries = []
    for _ in range(3):
        wall, cpu = seconds_of(lambda: run_segray(*arguments))
        tries.append((round(wall, 2), round(cpu, 2), round(seconds_of_bare()[1], 2)))
        if wall < LIMIT_S or cpu < TIMES_BARE * tries[-1][2]:
            return
    pytest.fail(f"wall clock, CPU and CPU of a bare command, in seconds: {tries}")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_example(command: str) -> None:
    done = run_segray(command, "--help")
    assert f"segray {command} " in done.stdout.replace("Usage: segray", "") or "Example" in done.stdout


def test_importing_segray_loads_nothing_heavy() -> None:
    assert modules_after("import segray") == []


def test_importing_the_commands_loads_nothing_heavy() -> None:
    assert modules_after("import segray.cli") == []


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_nothing_heavy(command: str) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    statement = (
        f"import io, contextlib\nsys.argv = {['segray', *arguments]!r}\nfrom segray.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    try:\n        main()\n    except SystemExit as end:\n        assert not end.code, end.code"
    )
    assert modules_after(statement) == []


def test_an_unknown_command_is_wrong_usage() -> None:
    done = run_segray("segment")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "segment" in done.stderr


def test_an_unknown_setting_is_said_in_one_line() -> None:
    done = run_segray("train", "--set", "train.epoch=3")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Did you mean train.epochs?" in " ".join((done.stderr + done.stdout).split())


def test_a_flag_of_verify_alone_is_refused() -> None:
    done = run_segray("predict", "bundle", "scans", "out", "--delete-orphans")
    assert done.returncode == 2
    assert "--delete-orphans is for --verify." in " ".join(done.stderr.split())


@pytest.mark.parametrize("flag", ["--with=other", "--retry-failed", "--overwrite"])
def test_what_verify_would_not_look_at_is_refused(flag: str) -> None:
    with pytest.raises(UsageError, match=f"predicts nothing, and {flag.partition('=')[0]} would change nothing"):
        cli.app(["predict", "bundle", "scans", "out", "--verify", flag], standalone_mode=False)


def test_the_version_is_told_without_a_command() -> None:
    done = run_segray("--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        f"segray {segray.__version__} (ray {version('ray')}, torch {version('torch')}, Python "
    )


def _fail(error: BaseException) -> int:
    def command() -> None:
        raise error

    return cli._guarded(command)


@pytest.mark.parametrize("by_typer", [False, True])
def test_ctrl_c_says_what_is_kept(by_typer: bool, capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    code = cli._guarded(lambda: app([])) if by_typer else _fail(KeyboardInterrupt())
    assert code == 130
    assert "segray: interrupted. What is finished is kept" in capsys.readouterr().err


def test_what_nobody_foresaw_is_one_line_with_hidden_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(cli.TRACEBACK, raising=False)
    privacy.begin(PrivacyConfig(hash_ids=True), str(tmp_path))
    try:
        privacy.know(["Mueller"], "case")
        assert _fail(KeyError("Mueller")) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert re.match(r"segray: KeyError: 'case-\w{16}'\. This is a defect of segray: please report it", line)
        monkeypatch.setenv(cli.TRACEBACK, "1")
        assert _fail(ValueError("s3://me:hush@bucket/Mueller\nand more.")) == 1
    finally:
        privacy.forget()
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "in command" in told
    assert told.splitlines()[-1].startswith("segray: ValueError: s3://***@bucket/case-")
    assert "Mueller" not in told
    assert "hush" not in told


def test_an_error_without_words_is_a_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(cli.TRACEBACK, raising=False)
    assert _fail(AssertionError()) == 1
    assert capsys.readouterr().err.startswith("segray: AssertionError: no words. This is a defect")


@pytest.mark.parametrize("end", [typer.Exit(3), typer.Abort(), SystemExit(3)])
def test_how_a_command_ends_by_itself_passes(end: BaseException) -> None:
    with pytest.raises(type(end)):
        _fail(end)
