"""The commands of README.md, run as they stand there, in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


def commands() -> list[str]:
    """The lines of the block under "The same by hand"."""
    section = README.read_text().split("## The same by hand")[1]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return block[1].strip().splitlines()


@pytest.mark.ray
def test_the_commands_of_the_readme_run_in_their_order(tmp_path: Path) -> None:
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": ""}
    codes = []
    for command in commands():
        words = shlex.split(command)
        assert words[0] == "segray"
        run = subprocess.run(
            [sys.executable, "-c", "from segray.cli import main; main()", *words[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
        assert "Traceback" not in run.stderr
        codes.append(run.returncode)
    assert len(codes) == 6
    assert len(list((tmp_path / "predictions" / "masks").glob("*.nii.gz"))) == 8
    assert (tmp_path / "runs" / "one" / "index.html").exists()
