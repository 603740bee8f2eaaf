"""docs/cluster.md, docs/security.md and cluster/README.md: their links, their commands, and what they say is so.

Every block of commands begins with a line that says what it needs. What needs nothing is run here; of the others the
shell, the programs, their options and segray's settings are checked.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from segray.cli import app
from segray.config import load_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/cluster.md", "docs/security.md", "cluster/README.md")
WORDS = "ray segray pip chmod export for ssh scp done cluster/tls.sh docker aws helm kubectl bash group=$(aws"
PROGRAMS = frozenset(WORDS.split())


def text_of(name: str) -> str:
    """A page."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str) -> list[str]:
    """The blocks of commands of a page."""
    found = re.findall(r"^( *)```sh\n(.*?)^ *```", text_of(name), re.DOTALL | re.MULTILINE)
    return ["\n".join(line.removeprefix(indent) for line in block.splitlines()) for indent, block in found]


ALL = [(page, block) for page in PAGES for block in blocks(page)]


def lines(block: str) -> Iterator[list[str]]:
    """The words of each line of a block that is a command, without the variables before it."""
    for line in block.replace("\\\n", " ").splitlines()[1:]:
        words = shlex.split(line, comments=True)
        yield words[1:] if re.fullmatch(r"\w+=[\w.]*", words[0]) else words


def check_options(command: Any, words: list[str]) -> None:
    """Every option is one that the command has; of a group, that its subcommand has. What follows -- is another's."""
    own = words[: words.index("--")] if "--" in words else words
    if hasattr(command, "commands"):
        check_options(command.commands[own[0]], words[1:])
        return
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.split("=")[0] for word in own if re.match(r"--?[a-z]", word)}
    assert used <= known, f"{command.name}: {used - known}"


def check_segray(words: list[str]) -> None:
    """The command, its options, and the settings after --set; of ``submit`` those of the command that it submits."""
    if words[0] == "submit":
        check_segray([word for word in words[1:] if word != "--follow"])
        return
    check_options(typer.main.get_command(app), words)
    load_config(None, [words[place + 1] for place, word in enumerate(words) if word == "--set"])


def ray_command() -> Any:
    """The command line of Ray, with that of its jobs."""
    from ray.scripts.scripts import cli

    return cli


def test_there_are_commands_on_every_page() -> None:
    assert {page for page, _ in ALL} == set(PAGES)
    assert len(ALL) >= 12


@pytest.mark.parametrize(("page", "block"), ALL)
def test_a_block_says_what_it_needs_and_can_be_run(page: str, block: str) -> None:
    assert re.match(r"# Needs: .+\.$", block.splitlines()[0]), page
    done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    for words in lines(block):
        assert words[0] in PROGRAMS, words
        if words[0] == "ray":
            check_options(ray_command(), words[1:])
        for place, word in enumerate(words):
            if word == "segray" and words[place - 1 : place] in ([], ["--"]):
                check_segray(words[place + 1 :])


@pytest.mark.parametrize("words", ["train --no-such-option", "train --set train.worker=2"])
def test_a_command_that_is_wrong_is_seen(words: str) -> None:
    with pytest.raises((AssertionError, Exception), match=r"no-such-option|train\.worker"):
        check_segray(words.split())


def test_what_needs_nothing_runs(tmp_path: Path) -> None:
    free = [block for _, block in ALL if block.startswith("# Needs: nothing.")]
    assert len(free) == 1
    done = subprocess.run(
        ["bash", "-euc", free[0]], cwd=ROOT, env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "segray-tls").iterdir())[0] == "192.0.2.10"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    found = re.findall(r"\]\(([^)#]+)\)", text_of(page))
    assert found
    for link in found:
        assert link.startswith("http") or ((ROOT / page).parent / link).exists(), link


def test_settings_of_one_host_are_told() -> None:
    assert {"SEGRAY_GPUS", "SEGRAY_CPUS"} <= set(re.findall(r"`(SEGRAY_\w+)`", text_of("docs/cluster.md")))


def test_the_place_for_measured_times_is_there_or_filled() -> None:
    measured = text_of("docs/cluster.md").split("### Measured")[1]
    assert "<!-- RECOVERY TIMES" in measured or "| " in measured


def calls() -> Iterator[tuple[Path, str, ast.Call]]:
    """Every call in the package, by its dotted name."""
    for path in sorted((ROOT / "segray").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield path, ast.unparse(node.func), node


def test_files_are_data_but_for_search_spaces() -> None:
    loads, code = [], set()
    for path, name, node in calls():
        if name == "torch.load":
            loads.append({word.arg: ast.unparse(word.value) for word in node.keywords})
        assert name not in {"pickle.load", "pickle.loads", "yaml.load", "yaml.full_load", "yaml.unsafe_load"}, path
        assert name not in {"eval", "exec", "os.system", "cloudpickle.loads", "joblib.load"}, path
        assert not (name.endswith("np.load") and any(word.arg == "allow_pickle" for word in node.keywords)), path
        if name.endswith("exec_module") or name.startswith("runpy."):
            code.add(path.relative_to(ROOT).as_posix())
    assert len(loads) >= 2
    assert all(words["weights_only"] == "True" for words in loads)
    assert code == {"segray/tuning/space.py"}


def test_segray_opens_no_port_and_binds_nothing_to_all_addresses() -> None:
    for path, name, _ in calls():
        assert not name.endswith((".bind", ".listen", "HTTPServer", "create_server")), (path, name)
    for path in (ROOT / "segray").rglob("*.py"):
        assert "0.0.0.0" not in path.read_text(encoding="utf-8"), path
    assert 'dashboard_host="127.0.0.1"' in text_of("segray/pipelines/runtime.py")


def test_a_bundle_without_cases_is_a_bundle(tmp_path: Path) -> None:
    """What docs/security.md tells to do before a bundle leaves the house."""
    import json

    from segray.case import LabelMap
    from segray.config import NetConfig
    from segray.grid import Grid
    from segray.nets.bundle import load_bundle, save_bundle
    from segray.nets.normalise import Normalisation
    from segray.nets.unet import build_net

    net = NetConfig(features=[4, 8])
    labels = LabelMap({"liver": 1})
    save_bundle(
        str(tmp_path),
        build_net(net, 1, labels.channels),
        net=net,
        label_map=labels,
        grid=Grid("native", (16, 16), None, -1024.0),
        normalisation=Normalisation("window"),
        split={"train": ["a_name"]},
        provenance={"shards": "/mnt/a_name"},
    )
    file = tmp_path / "bundle.json"
    told = '"split": {}, "provenance": {}'
    assert told in " ".join(text_of("docs/security.md").split())
    file.write_text(json.dumps(json.loads(file.read_text()) | json.loads(f"{{{told}}}")))
    assert load_bundle(str(tmp_path)).split == {}
    assert "a_name" not in file.read_text()


def rays(name: str) -> str:
    """The text of a file of the installed Ray."""
    import ray

    return (Path(ray.__file__).parent / name).read_text(encoding="utf-8")


def test_the_paths_without_a_token_are_those_that_the_page_names() -> None:
    source = rays("dashboard/http_server_head.py")
    found = re.search(r"public_exact_paths = \{(.*?)\}\n\s*public_path_prefixes = \(([^)]*)\)", source, re.DOTALL)
    assert found is not None
    without_comments = re.sub(r"#.*", "", found[1] + found[2])
    open_paths = set(re.findall(r'"(/[^"]*)"', without_comments))
    sentence = re.search(
        r"\*\*What answers without it\*\*:(.*?) of the dashboard", text_of("docs/security.md"), re.DOTALL
    )
    assert sentence is not None
    assert set(re.findall(r"`(/[^`]*)`", sentence[1])) == open_paths


def test_a_token_is_made_readable_by_all(tmp_path: Path) -> None:
    program = (
        "import os; os.umask(0o022)\n"
        "from ray._private.authentication.authentication_token_setup import generate_and_save_token\n"
        "generate_and_save_token()"
    )
    subprocess.run([sys.executable, "-c", program], env=os.environ | {"HOME": str(tmp_path)}, check=True, timeout=120)
    assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o644


def test_what_is_said_of_ray_stands_in_its_files() -> None:
    assert '"StrictHostKeyChecking": "no"' in rays("autoscaler/_private/command_runner.py")
    assert 'remote_key_path = "~/ray_bootstrap_key.pem"' in rays("autoscaler/_private/commands.py")
    aws = rays("autoscaler/_private/aws/config.py")
    assert '"IpRanges": [{"CidrIp": "0.0.0.0/0"}]' in aws
    assert {"AmazonEC2FullAccess", "AmazonS3FullAccess"} <= set(re.findall(r"Amazon\w+FullAccess", aws))
    assert {"roles/compute.admin", "roles/storage.objectAdmin"} <= set(
        re.findall(r"roles/[\w.]+", rays("autoscaler/_private/gcp/config.py"))
    )
    assert "os.chmod(directory_path, 0o0777)" in rays("_common/utils.py")
    assert '/report_events"' in rays("dashboard/modules/event/event_agent.py")
    assert "headers=get_auth_headers_if_auth_enabled({})" in rays("dashboard/modules/event/event_agent.py")
    # A host that comes back gets no files: recover_if_needed hands over none.
    recover = rays("autoscaler/_private/autoscaler.py").split("def recover_if_needed")[1].split("def ")[0]
    assert "file_mounts={}" in recover
    assert "setup_commands=[]" in recover
