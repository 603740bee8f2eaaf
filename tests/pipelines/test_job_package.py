"""What a job takes along, and what its command becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segray.config import load_config
from segray.errors import UsageError
from segray.pipelines.job_package import COMMANDS, MOST_BYTES, pack


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config and a search space, which is where the command is given."""
    (tmp_path / "my.yaml").write_text("train: {epochs: 3}\n")
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "space.py").write_text("def space(trial):\n    return {}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_config_goes_along_and_its_word_names_the_copy() -> None:
    package = pack(["train", "my.yaml", "--run", "/mnt/run"], {"config": "my.yaml", "run": "/mnt/run"})
    assert package.words == ("train", "packed/0/my.yaml", "--run", "/mnt/run")
    assert package.files == {"packed/0/my.yaml": b"train: {epochs: 3}\n"}
    assert package.outcome == "/mnt/run"


def test_written_out_it_is_what_the_cluster_reads(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pack(["train", "my.yaml"], {"config": "my.yaml"})
    there = tmp_path / "there"
    package.write(there)
    wanted = load_config("my.yaml")
    monkeypatch.chdir(there)
    assert load_config(package.words[1]) == wanted


def test_an_absolute_path_that_is_not_here_is_the_clusters_own() -> None:
    package = pack(["train", "/mnt/none.yaml"], {"config": "/mnt/none.yaml"})
    assert package.words == ("train", "/mnt/none.yaml")
    assert package.files == {}


def test_an_absolute_path_that_is_here_goes_along(here: Path) -> None:
    package = pack(["train", str(here / "my.yaml")], {"config": str(here / "my.yaml")})
    assert package.words == ("train", "packed/0/my.yaml")


@pytest.mark.parametrize("written", [["--space", "spaces/space.py"], ["--space=spaces/space.py"]])
def test_a_search_space_goes_along(written: list[str]) -> None:
    package = pack(["tune", "my.yaml", *written], {"config": "my.yaml", "space": "spaces/space.py"})
    assert package.words[2:] == tuple("=".join(written).replace("spaces", "packed/1").split("=", len(written) - 1))
    assert package.files["packed/1/space.py"].startswith(b"def space")


def test_a_space_that_segray_brings_is_there_already() -> None:
    package = pack(["tune", "my.yaml", "--space", "quick"], {"config": "my.yaml", "space": "quick"})
    assert package.words[2:] == ("--space", "quick")
    with pytest.raises(UsageError, match="There is no file slow"):
        pack(["tune", "--space", "slow"], {"space": "slow"})


@pytest.mark.parametrize("written", [["--set", "tune.space=spaces/space.py"], ["--set=tune.space=spaces/space.py"]])
def test_so_does_one_that_a_setting_names(written: list[str]) -> None:
    package = pack(["tune", *written], {"overrides": ["tune.space=spaces/space.py"]})
    assert package.words[-1].endswith("tune.space=packed/0/space.py")
    assert len(package.words) == 1 + len(written)


def test_one_that_the_config_names_is_set_to_its_copy(here: Path) -> None:
    (here / "my.yaml").write_text("tune: {space: spaces/space.py, run: /mnt/sweep}\n")
    package = pack(["tune", "my.yaml"], {"config": "my.yaml"})
    assert package.words == ("tune", "packed/0/my.yaml", "--set", "tune.space=packed/1/space.py")
    assert package.outcome == "/mnt/sweep"


def test_an_option_overrules_the_setting_of_the_config(here: Path) -> None:
    (here / "my.yaml").write_text("tune: {space: gone.py}\ntrain: {shards: shards}\n")
    named = {"config": "my.yaml", "space": "spaces/space.py", "shards": "/mnt/shards"}
    package = pack(["tune", "my.yaml", "--space", "spaces/space.py", "--shards", "/mnt/shards"], named)
    assert package.words[-4:] == ("--space", "packed/1/space.py", "--shards", "/mnt/shards")


def test_two_files_of_one_name_stay_two(here: Path) -> None:
    (here / "other").mkdir()
    (here / "other" / "my.yaml").write_text("case_id,patient\na,1\n")
    overrides = ["ingest.split.patients=other/my.yaml"]
    words = ["ingest", "/mnt/cases", "/mnt/shards", "--config", "my.yaml", "--set", overrides[0]]
    package = pack(
        words, {"source": "/mnt/cases", "destination": "/mnt/shards", "config": "my.yaml", "overrides": overrides}
    )
    assert package.words[-3:] == ("packed/0/my.yaml", "--set", "ingest.split.patients=packed/1/my.yaml")
    assert len(set(package.files.values())) == 2


RELATIVE: list[tuple[list[str], dict[str, Any], str]] = [
    (["train", "--run", "runs/one"], {"run": "runs/one"}, "--run: runs/one is relative"),
    (["train"], {"shards": "shards"}, "--shards: shards is relative"),
    (["train"], {"overrides": ["train.start_from=old"]}, "train.start_from: old is relative"),
    (["predict"], {"bundle": "/mnt/b", "further": ["/mnt/c", "d"], "source": "s3://a/b"}, "--with: d is relative"),
    (["predict"], {"bundle": "/mnt/b", "source": "scans/*.nii.gz"}, "SRC: scans/*.nii.gz is relative"),
    (["ingest"], {"source": "/mnt/cases", "destination": "file://shards"}, "DST: file://shards is relative"),
    (["doctor"], {"source": "/mnt/cases", "out": "doctor"}, "--out: doctor is relative"),
    (["tune"], {"overrides": ["tune.earlier=[/mnt/a, b]"]}, "tune.earlier: b is relative"),
]


@pytest.mark.parametrize(("words", "parameters", "sentence"), RELATIVE)
def test_relative_data_is_refused(words: list[str], parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match="a job runs in a folder of its own") as raised:
        pack(words, parameters)
    assert raised.value.message.startswith(sentence)
    assert "shared storage" in raised.value.mend


def test_relative_data_in_the_config_is_refused_too(here: Path) -> None:
    (here / "my.yaml").write_text("train: {shards: shards}\n")
    with pytest.raises(UsageError, match=r"train\.shards: shards is relative"):
        pack(["train", "my.yaml"], {"config": "my.yaml"})


def test_the_doctor_of_a_cluster_writes_no_page() -> None:
    assert pack(["doctor", "--cluster"], {"cluster": True, "out": "doctor"}).words == ("doctor", "--cluster")


@pytest.mark.parametrize("place", ["s3://bucket/run", "file:///mnt/run", "/mnt/run", None, ""])
def test_places_that_the_cluster_finds_pass(place: str | None) -> None:
    assert pack(["train"], {"run": place}).outcome == (place or "")


def test_a_file_that_is_nowhere_is_named() -> None:
    with pytest.raises(UsageError, match=r"There is no file none\.yaml \(CONFIG\)"):
        pack(["train", "none.yaml"], {"config": "none.yaml"})


def test_a_wrong_setting_is_told_before_anything_is_sent() -> None:
    with pytest.raises(UsageError, match=r"Unknown setting train\.epoch"):
        pack(["train", "my.yaml"], {"config": "my.yaml", "overrides": ["train.epoch=2"]})


@pytest.mark.parametrize("config", ["my.yaml", "/mnt/none.yaml"])
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epochs=[1", "is not a YAML value"),
        ("train.run=2026-02-30", "is not a YAML value"),
        ("train.epochs", "--set needs key=value"),
    ],
)
def test_an_override_that_cannot_be_read_is_told_wherever_the_config_lies(
    config: str, override: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        pack(["train", config, "--set", override], {"config": config, "overrides": [override]})


@pytest.mark.parametrize("setting", ["tune.storage=all.journal", "train.start_from=runs/one"])
def test_a_place_that_only_this_folder_knows_is_refused(setting: str) -> None:
    """The journal would lie in the copy of the folder that Ray throws away with the job."""
    with pytest.raises(UsageError, match=rf"{setting.partition('=')[0]}: .* is relative"):
        pack(["tune", "--set", setting], {"overrides": [setting]})
    for fine in ("tune.storage=sqlite", "tune.storage=postgresql://me@host/db", "tune.storage=/mnt/all.journal"):
        assert pack(["tune", "--set", fine], {"overrides": [fine]}).words == ("tune", "--set", fine)


def test_what_is_no_job_is_refused() -> None:
    with pytest.raises(UsageError, match="watch cannot be a job"):
        pack(["watch", "/mnt/run"], {"run": "/mnt/run"})


def test_a_password_goes_nowhere(here: Path) -> None:
    address = "postgresql://me:secret@host/db"
    with pytest.raises(UsageError, match="The command holds a password") as raised:
        pack(["tune", "--set", f"tune.storage={address}"], {"overrides": [f"tune.storage={address}"]})
    assert "secret" not in str(raised.value)
    (here / "my.yaml").write_text(f"tune: {{storage: '{address}'}}\n")
    with pytest.raises(UsageError, match=r"The file my\.yaml holds a password"):
        pack(["tune", "my.yaml"], {"config": "my.yaml"})


def test_what_is_too_large_is_data(here: Path) -> None:
    (here / "patients.csv").write_bytes(b"x" * (MOST_BYTES + 1))
    with pytest.raises(UsageError, match=r"patients\.csv \(ingest\.split\.patients\) is too large"):
        pack(["ingest"], {"source": "/a", "destination": "/b", "overrides": ["ingest.split.patients=patients.csv"]})


def test_the_key_of_pseudonyms_never_goes_along(here: Path) -> None:
    (here / "key").write_text("0123456789abcdef")
    told = {"source": "/a", "destination": "/b", "overrides": ["privacy.key_file=key"]}
    with pytest.raises(UsageError, match=r"privacy\.key_file: key is relative"):
        pack(["ingest"], told)
    package = pack(["ingest"], told | {"overrides": [f"privacy.key_file={here}/key"]})
    assert package.files == {}


def test_every_job_is_a_command_with_these_parameters() -> None:
    """What the table of roles names has to be there, else a renamed parameter would pass unseen."""
    import typer

    from segray.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, roles in COMMANDS.items():
        known = {parameter.name for parameter in commands[name].params}
        named = {*roles.files, *roles.places, *filter(None, roles.settings.values())}
        missing = {one for one in named - known if one != "config"}
        assert not missing, f"{name}: {missing}"
