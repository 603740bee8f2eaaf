"""`segray pseudonyms`: who holds the key sees whom a log means."""

from __future__ import annotations

import csv
import io
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segray.cli import app
from segray.errors import UsageError
from segray.phantoms import make_phantoms
from segray.pseudonyms import Pseudonyms

KEY = "a key of the house, long enough"


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    make_phantoms(str(tmp_path / "scans"), cases=2, broken=False)
    return tmp_path / "scans"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text(KEY)
    file.chmod(0o600)
    return file


def test_the_table_of_a_folder_of_cases(scans: Path, key: Path, tmp_path: Path) -> None:
    out = tmp_path / "names.csv"
    out.touch(mode=0o644)
    words = ["pseudonyms", str(scans), "--set", f"privacy.key_file={key}"]
    done = CliRunner().invoke(app, words)
    rows = list(csv.DictReader(io.StringIO(done.output)))
    assert [row["name"] for row in rows if row["kind"] == "case"] != []
    for row in rows:
        assert row["pseudonym"] == Pseudonyms(KEY.encode()).of(row["name"], row["kind"])
    assert KEY not in done.output
    assert CliRunner().invoke(app, [*words, "--out", str(out)]).exit_code == 0
    assert out.read_text() == done.output
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_without_the_key_there_is_no_table(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGRAY_PRIVACY_KEY", raising=False)
    done = CliRunner().invoke(app, ["pseudonyms", str(scans)])
    assert isinstance(done.exception, UsageError)
    assert "There is no key" in str(done.exception)
