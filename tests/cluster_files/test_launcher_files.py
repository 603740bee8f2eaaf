"""cluster.yaml, cluster/aws.yaml and cluster/gcp.yaml against Ray's own schema, by Ray's own functions."""

from __future__ import annotations

import copy
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.cluster_files.filled_in import filled_in

ROOT = Path(__file__).resolve().parents[2]
FILES = ["cluster.yaml", "cluster/aws.yaml", "cluster/gcp.yaml"]
LEAVE = "# Lines to leave"
Config = dict[str, Any]


def load(name: str) -> Config:
    """The config of a file as Ray's launcher reads it."""
    found: Config = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    return found


def prepare(config: Config) -> Config:
    """What `ray up` makes of a config before it talks to any host: the defaults of its provider, then the checks."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: Config = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("name", FILES)
def test_ray_takes_the_file(name: str) -> None:
    prepared = prepare(load(name))
    assert prepared["head_node_type"] in prepared["available_node_types"]


def _unknown(config: Config) -> None:
    config["workers"] = 2


def _misspelt(config: Config) -> None:
    config["auth"]["ssh_key"] = "~/.ssh/id"


def _text(config: Config) -> None:
    config["initialization_commands"] = "mkdir -p segray"


def _number(config: Config) -> None:
    config["idle_timeout_minutes"] = "ten"


@pytest.mark.parametrize("change", [_unknown, _misspelt, _text, _number])
@pytest.mark.parametrize("name", FILES)
def test_ray_refuses_a_file_that_is_wrong(name: str, change: Callable[[Config], None]) -> None:
    config = load(name)
    change(config)
    with pytest.raises(jsonschema.ValidationError):
        prepare(config)


@pytest.mark.parametrize("name", FILES[1:])
def test_ray_refuses_a_wrong_node_type(name: str) -> None:
    config = load(name)
    config["available_node_types"]["gpu"]["min_worker"] = config["available_node_types"]["gpu"].pop("min_workers")
    with pytest.raises(jsonschema.ValidationError):
        prepare(config)


@pytest.mark.parametrize("name", FILES)
def test_lines_to_edit_come_first(name: str) -> None:
    edit, leave = (ROOT / name).read_text(encoding="utf-8").split(LEAVE)
    assert "# Lines to edit" in edit
    keys = set(re.findall(r"^(\w+):", edit, re.MULTILINE))
    assert {"cluster_name", "provider", "auth"} <= keys
    assert not re.search(r"192\.0\.2|example\.org|my-project|0000000|\.ssh", leave), "a line to edit below"
    below = set(re.findall(r"^(\w+):", leave, re.MULTILINE))
    assert {"file_mounts", "head_start_ray_commands", "worker_start_ray_commands"} <= below


def test_all_hosts_are_kept() -> None:
    config = load("cluster.yaml")
    node = prepare(config)["available_node_types"]["local.cluster.node"]
    assert node["min_workers"] == node["max_workers"] == len(config["provider"]["worker_ips"])


def test_what_is_copied_is_there_and_can_be_installed() -> None:
    mounts = load("cluster.yaml")["file_mounts"]
    inside = {there: here for there, here in mounts.items() if not here.startswith("~")}
    for there, here in inside.items():
        assert (ROOT / here).exists(), here
        assert there == f"~/segray/source/{here}"
    # What pip needs to build: the package and what pyproject.toml names.
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "segray", "cluster"} <= set(inside.values())
    assert mounts["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("name", FILES[1:])
def test_clouds_scale_from_zero_on_spot_nodes(name: str) -> None:
    config = load(name)
    types = config["available_node_types"]
    assert set(types) == {config["head_node_type"], "gpu"}
    assert types["head"]["resources"] == {"CPU": 0}
    assert (types["gpu"]["min_workers"], types["gpu"]["max_workers"]) == (0, config["max_workers"])
    text = yaml.safe_dump(types["gpu"]["node_config"]).lower()
    assert "spot" in text
    assert "spot" not in yaml.safe_dump(types["head"]["node_config"]).lower()


def settings_block() -> str:
    """The one command of cluster.yaml that writes the settings of a host."""
    (command,) = load("cluster.yaml")["setup_commands"]
    assert isinstance(command, str)
    return command


def test_the_settings_reach_the_host_through_rays_shell(tmp_path: Path) -> None:
    """The command line is Ray's own; the shell is the one that sshd would start."""
    from ray.autoscaler._private.command_runner import _with_interactive

    done = subprocess.run(
        ["bash", "-c", " ".join(_with_interactive(settings_block()))],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = subprocess.run(
        ["bash", "-c", 'set -a; . "$HOME/segray/node.env"; env'],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    found = dict(line.split("=", 1) for line in shown if "=" in line)
    assert found["SEGRAY_SHARED"] == "/mnt/segray"
    assert found["SEGRAY_VENV"] == f"{tmp_path}/segray/venv"
    assert found["SEGRAY_HEAD_CPUS"] == "0"
    assert found["SEGRAY_TLS"] == ""
    assert found["RAY_health_check_period_ms"] == "1000"


def test_a_changed_setting_is_a_changed_host_for_ray() -> None:
    """Ray sets hosts up anew whose hash differs, and of workers it hashes these commands alone."""
    from ray.autoscaler._private.util import hash_runtime_conf

    def of_workers(text: str) -> object:
        found = prepare(yaml.safe_load(text))
        commands = [found["worker_setup_commands"], found["worker_start_ray_commands"]]
        return hash_runtime_conf({}, [], commands)[0]

    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    changed = text.replace('SEGRAY_MEMORY_MIB=""', "SEGRAY_MEMORY_MIB=4096")
    assert changed != text
    assert of_workers(changed) != of_workers(text)
    for kind in ("head", "worker"):
        settings, install = prepare(yaml.safe_load(text))[f"{kind}_setup_commands"]
        assert "node.env" in settings
        assert install.endswith("install.sh")


def test_every_setting_is_read_and_every_setting_that_is_read_is_there() -> None:
    told = set(re.findall(r"^(SEGRAY_\w+)=", settings_block(), re.MULTILINE))
    scripts = [(ROOT / "cluster" / name).read_text(encoding="utf-8") for name in ("install.sh", "start-node.sh")]
    read = set(re.findall(r"\b(SEGRAY_[A-Z_]+)\b", "\n".join(scripts)))
    of_one_host = {"SEGRAY_CPUS", "SEGRAY_GPUS", "SEGRAY_DRY_RUN", "SEGRAY_PCI"}
    assert told == read - of_one_host


def test_the_lines_to_edit_are_all_that_a_user_must_change() -> None:
    """What tests/cluster may bring up: the file itself, with the addresses of its hosts."""
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    settings = {"SEGRAY_SHARED": "/mnt", "SEGRAY_PACKAGE": "none", "SEGRAY_CPUS": "2", "SEGRAY_GPUS": "0"}
    made = filled_in(text, ["10.77.0.10", "10.77.0.11", "10.77.0.12"], user="root", key="/tmp/key", settings=settings)
    config = yaml.safe_load(made)
    assert config["provider"] == {
        "type": "local",
        "head_ip": "10.77.0.10",
        "worker_ips": ["10.77.0.11", "10.77.0.12"],
    }
    assert config["auth"] == {"ssh_user": "root", "ssh_private_key": "/tmp/key"}
    (command,) = config["setup_commands"]
    assert "\nSEGRAY_SHARED=/mnt\n" in command
    assert "\nSEGRAY_CPUS=2\nSEGRAY_GPUS=0\nSETTINGS\n" in command
    assert made.split(LEAVE)[1] == text.split(LEAVE)[1]
    assert prepare(config)["available_node_types"]["local.cluster.node"]["min_workers"] == 2
    with pytest.raises(ValueError, match="head_ip"):
        filled_in("cluster_name: x\n", ["10.77.0.10"], user="root", key="/tmp/key", settings={})
