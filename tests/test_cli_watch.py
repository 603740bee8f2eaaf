"""`segray watch` as a user sees it: frames, lines in a pipe, its end by itself and by Ctrl-C."""

from __future__ import annotations

import io
import math
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from segray.cli_watch import duration, text_plot, watch

sys.path.insert(0, str(Path(__file__).parent / "pipelines"))

from made_run import add_epoch, make_run, under_way

PROGRAM = "import sys; from segray.cli import main; sys.argv[0] = 'segray'; sys.exit(main())"


def _once(folder: Path, width: int = 100) -> str:
    text = io.StringIO()
    watch(str(folder), interval=0.1, once=True, console=Console(file=text, width=width))
    return text.getvalue()


def test_one_frame_says_all_of_a_run(tmp_path: Path) -> None:
    under_way(make_run(tmp_path / "run"), 3, 5)
    shown = _once(tmp_path / "run")
    for fact in (
        "running", "3 of 4", "5 of 10", "90 s", "0.2500", "0.0005", "20.0", "25.0 %", "2.0 GiB", "0.7000 (epoch 2)",
        "liver", "0.4000 (epoch 1)", "1: node-a (cuda:0)", "validation Dice 0.7", "62 %", "█",
    ):  # fmt: skip
        assert fact in shown, fact
    assert "no sign of it" not in shown


def test_a_run_without_a_first_step_and_a_narrow_pipe(tmp_path: Path) -> None:
    make_run(tmp_path / "run", done=0)
    shown = _once(tmp_path / "run", width=40)
    assert "0 of 4" in shown
    assert "0 %" in shown


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    make_run(tmp_path / "run").write_history(fatal="No step of the epoch had a finite loss.")
    shown = _once(tmp_path / "run")
    assert "failed" in shown
    assert "No step of the epoch had a finite loss." in shown


def test_a_silent_run_is_said_to_be_silent(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    log = tmp_path / "run" / "run.log"
    log.write_text("2020-01-01T00:00:00+00:00 epoch 2: loss 0.5\n")
    assert f"segray train --resume {run.path}" in " ".join(_once(tmp_path / "run", 300).split())


def test_names_are_not_markup(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.log("[/bold] [red]no markup[/red]")
    assert "[/bold] [red]no markup[/red]" in _once(tmp_path / "run")


def test_a_pipe_gets_a_line_a_change_and_the_end(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")

    def go_on() -> None:
        time.sleep(0.6)
        add_epoch(run, 3)
        time.sleep(0.6)
        run.write_history(state="finished", finished=True)

    thread = threading.Thread(target=go_on)
    thread.start()
    text = io.StringIO()
    watch(run.path, interval=0.1, once=False, console=Console(file=text, width=80))
    thread.join()
    lines = text.getvalue().splitlines()
    assert [line.split("  ")[:2] for line in lines] == [
        ["running", "epoch 2/4"], ["running", "epoch 3/4"], ["finished", "epoch 3/4"],
    ]  # fmt: skip


def test_ctrl_c_ends_it_with_a_clean_terminal(tmp_path: Path) -> None:
    under_way(make_run(tmp_path / "run"), 3, 5)
    # A shell gives what it runs in the background no Ctrl-C, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "watch", str(tmp_path / "run"), "--interval", "0.2"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "50"},
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    while seen.count(b"run.log") < 3:
        seen += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    while True:
        try:
            seen += os.read(ours, 4096)
        except OSError:  # how Linux says that the other side is closed
            break
    assert process.wait(timeout=20) == 0
    os.close(ours)
    assert b"Traceback" not in seen
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l") >= 0  # the cursor is shown again


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "watch", str(tmp_path), "--once"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") <= 2
    assert "holds no run" in done.stderr


def test_watching_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    make_run(tmp_path / "run").write_history(state="finished")
    program = (
        "import sys\nfrom segray.cli_watch import watch\n"
        f"watch({str(tmp_path / 'run')!r}, interval=1, once=True)\n"
        "print([name for name in ('torch', 'ray', 'matplotlib', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_falling_curve_falls_from_left_to_right() -> None:
    lines = text_plot([(step, 100.0 - step) for step in range(100)], 20, 4)
    assert len(lines) == 4
    cells = [line[10:] for line in lines]
    heights = [sum(row[column] != " " for row in cells) for column in range(20)]
    assert heights == sorted(heights, reverse=True)
    assert (heights[0], heights[-1]) == (4, 1)
    assert lines[0].split()[0] == "99"  # the mean of the first column, of three points
    assert lines[-1].split()[0] == "2"


def test_a_curve_leaves_out_what_is_no_number() -> None:
    assert text_plot([(0, math.nan)], 10, 3) == []
    assert len(text_plot([(0, 1.0), (1, math.inf), (2, 1.0)], 10, 3)) == 3


@pytest.mark.parametrize(("seconds", "said"), [(0, "0 s"), (99, "99 s"), (720, "12 min"), (11100, "3 h 05 min")])
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
