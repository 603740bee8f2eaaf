"""What the tests of search spaces share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from segray.tuning.space import Space, load_space

Write = Callable[[str], Space]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """The space whose function has these lines."""

    def written(lines: str) -> Space:
        path = tmp_path / "mine.py"
        path.write_text("def space(trial):\n" + "".join(f"    {line}\n" for line in lines.strip("\n").splitlines()))
        return load_space(path)

    return written
