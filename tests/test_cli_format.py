"""Every command that takes a folder of cases takes --format, short for ingest.format."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from segray import cli
from segray.config import Config
from segray.errors import UsageError

FOLDERS = {
    "doctor": ["scans"],
    "ingest": ["scans", "shards"],
    "train": ["--shards", "scans"],
    "predict": ["bundle", "scans", "predictions"],
    "evaluate": ["predictions", "scans"],
}


@pytest.mark.parametrize("command", FOLDERS)
def test_a_command_hands_the_format_on(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []

    def run(*arguments: Any, **_: Any) -> None:
        seen.extend(one for one in arguments if isinstance(one, Config))
        raise UsageError("Stopped here.")

    monkeypatch.setattr(f"segray.pipelines.{command}.{command}", run)
    result = CliRunner().invoke(cli.app, [command, *FOLDERS[command], "--format", "pairs"])
    assert isinstance(result.exception, UsageError), result.output
    assert [config.ingest.format for config in seen] == ["pairs"]
