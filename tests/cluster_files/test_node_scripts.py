"""The scripts that cluster.yaml runs on a host: install.sh, start-node.sh, and train_or_resume.sh of the RayJob.

There is no GPU here: a small program that answers as nvidia-smi does stands in for one, and a folder for the PCI bus.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
HEAD = ("ray", "start", "--head", "--port=6379")
WORKER = ("ray", "start", "--address=127.0.0.1:6379")


class Host:
    """A home folder and what a script sees around it."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.pci = folder / "pci"
        self.programs = folder / "bin"
        for path in (self.home / "segray", self.pci, self.programs):
            path.mkdir(parents=True)
        self.environment = {
            "HOME": str(self.home),
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "SEGRAY_PCI": str(self.pci),
        }

    def settings(self, **values: str) -> None:
        """Write node.env."""
        lines = "".join(f'{name}="{value}"\n' for name, value in values.items())
        (self.home / "segray" / "node.env").write_text(lines)

    def token(self) -> Path:
        """A token as Ray writes it: readable by all."""
        path = self.home / ".ray" / "auth_token"
        path.parent.mkdir(exist_ok=True)
        path.write_text("0123")
        path.chmod(0o644)
        return path

    def run(self, script: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script of the folder cluster/."""
        return subprocess.run(
            ["bash", str(CLUSTER / script), *words],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, *words: str, **environment: str) -> tuple[str, dict[str, str]]:
        """The command and the environment that start-node.sh would run."""
        done = self.run("start-node.sh", *words, SEGRAY_DRY_RUN="1", **environment)
        assert done.returncode == 0, done.stderr
        command, *rest = done.stdout.splitlines()
        return command, dict(line.split("=", 1) for line in rest)

    def gpus(self, driver: int, hardware: int = 0) -> None:
        """GPUs that the driver shows, and that sit in the machine."""
        answer = "".join(f"GPU-{number}\\n" for number in range(driver))
        program = self.programs / "nvidia-smi"
        program.write_text(f"#!/bin/sh\nprintf '{answer}'\nexit {0 if driver else 9}\n")
        program.chmod(0o755)
        for number in range(hardware):
            device = self.pci / f"0000:0{number}:00.0"
            device.mkdir()
            (device / "vendor").write_text("0x10de\n")
            (device / "class").write_text("0x030200\n")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host with nothing on it."""
    return Host(tmp_path)


def test_a_host_joins_with_a_token_its_own_size_and_fixed_ports(host: Host) -> None:
    host.gpus(driver=2, hardware=2)
    command, environment = host.start(*WORKER)
    assert command.startswith("ray start --address=127.0.0.1:6379 ")
    assert f"--num-cpus={len(os.sched_getaffinity(0))} --num-gpus=2 " in command
    assert "--metrics-export-port=8080" in command
    assert "--dashboard-host" not in command
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_worker_niceness"] == "0"
    assert environment["RAY_enable_autoscaler_v2"] == "0"
    assert "RAY_USE_TLS" not in environment


def test_a_host_without_gpus_joins_with_none(host: Host) -> None:
    assert "--num-gpus=0 " in host.start(*WORKER)[0]


def test_a_gpu_without_a_driver_keeps_the_host_out(host: Host) -> None:
    host.gpus(driver=0, hardware=1)
    done = host.run("start-node.sh", *WORKER, SEGRAY_DRY_RUN="1")
    assert done.returncode == 1
    assert "there is an NVIDIA GPU, and nvidia-smi sees none. Mend the driver, or set SEGRAY_GPUS=0" in done.stderr
    assert done.stdout == ""
    host.settings(SEGRAY_GPUS="3")
    (host.home / "segray" / "host.env").write_text("SEGRAY_GPUS=0\n")
    assert "--num-gpus=0 " in host.start(*WORKER)[0]


def test_a_head_keeps_its_cpus_and_gpus_unless_told(host: Host) -> None:
    host.gpus(driver=1, hardware=1)
    assert "--num-cpus=0 --num-gpus=0 " in host.start(*HEAD)[0]
    host.settings(SEGRAY_HEAD_CPUS="all")
    assert f"--num-cpus={len(os.sched_getaffinity(0))} --num-gpus=1 " in host.start(*HEAD)[0]


def test_the_object_store_fits_memory_and_shm_or_is_what_was_told(host: Host) -> None:
    found = re.search(r"--object-store-memory=(\d+)", host.start(*WORKER)[0])
    assert found is not None
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shm = shutil.disk_usage("/dev/shm")
    assert 75 * 2**20 <= int(found[1]) <= min(total / 5 + 2**20, shm.total)
    host.settings(SEGRAY_OBJECT_STORE_MIB="300", SEGRAY_MEMORY_MIB="4000")
    command, _ = host.start(*WORKER)
    assert f"--object-store-memory={300 * 2**20} " in command
    assert command.endswith(f"--memory={4000 * 2**20}")
    host.settings(SEGRAY_OBJECT_STORE_MIB="10")
    assert "too little free" in host.run("start-node.sh", *WORKER).stderr


def test_settings_of_the_host_reach_ray_and_the_token_is_not_shown(host: Host) -> None:
    host.settings(RAY_health_check_period_ms="1000", GLOO_SOCKET_IFNAME="ib0")
    _, environment = host.start(*WORKER, RAY_AUTH_TOKEN="secret")
    assert environment["RAY_health_check_period_ms"] == "1000"
    assert environment["GLOO_SOCKET_IFNAME"] == "ib0"
    assert "secret" not in environment.values()


def test_the_launchers_choice_of_autoscaler_is_overruled(host: Host) -> None:
    told = {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": "i", "RAY_NODE_TYPE_NAME": "n"}
    _, environment = host.start(*HEAD, **told)
    assert environment["RAY_enable_autoscaler_v2"] == "0"
    assert not {"RAY_CLOUD_INSTANCE_ID", "RAY_NODE_TYPE_NAME"} & set(environment)


def test_certificates_turn_encryption_on_and_missing_ones_keep_the_host_out(host: Host, tmp_path: Path) -> None:
    made = subprocess.run(["bash", str(CLUSTER / "tls.sh"), str(tmp_path / "tls"), "10.0.0.1"], check=False)
    assert made.returncode == 0
    folder = tmp_path / "tls" / "10.0.0.1"
    host.settings(SEGRAY_TLS=str(folder))
    _, environment = host.start(*WORKER)
    assert environment["RAY_USE_TLS"] == "1"
    assert environment["RAY_TLS_SERVER_KEY"] == str(folder / "node.key")
    assert environment["RAY_TLS_CA_CERT"] == str(folder / "ca.crt")
    (folder / "node.key").unlink()
    done = host.run("start-node.sh", *WORKER)
    assert (done.returncode, "node.key is not there" in done.stderr) == (1, True)


@pytest.mark.parametrize("words", [(), ("ray",), ("bash", "-c", "true")])
def test_only_ray_start_is_run(host: Host, words: tuple[str, ...]) -> None:
    done = host.run("start-node.sh", *words)
    assert (done.returncode, "usage: start-node.sh ray start" in done.stderr) == (1, True)


def test_ray_takes_the_arguments(host: Host) -> None:
    """All of them are options of the `ray start` that is installed."""
    from click import Context
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    host.settings(SEGRAY_MEMORY_MIB="4000")
    command, _ = host.start(*HEAD)
    used = {word.split("=")[0] for word in command.split()[2:]}
    assert used <= known, used - known
    taken = start.make_context("start", command.split()[2:]).params
    assert taken["metrics_export_port"] == 8080
    assert taken["system_config"]["grpc_client_keepalive_time_ms"] == 20000
    assert isinstance(start.make_context("start", ["--head"]), Context)


def ready(host: Host, tmp_path: Path, **more: str) -> None:
    """Settings by which install.sh has nothing to install."""
    (tmp_path / "shared").mkdir(exist_ok=True)
    values = {"SEGRAY_SHARED": str(tmp_path / "shared"), "SEGRAY_VENV": sys.prefix, "SEGRAY_PACKAGE": "none"}
    host.settings(**(values | more))


def test_a_host_that_has_segray_is_only_looked_at(host: Host, tmp_path: Path) -> None:
    ready(host, tmp_path)
    token = host.token()
    for _ in range(2):
        done = host.run("install.sh")
        assert done.returncode == 0, done.stderr
        assert f"segray is ready in {sys.prefix}" in done.stdout
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    lines = (host.home / ".bashrc").read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"export PATH={sys.prefix}/bin:$PATH RAY_AUTH_MODE=token ")
    assert "TLS" not in lines[0]
    ready(host, tmp_path, SEGRAY_TLS="/etc/tls")
    assert host.run("install.sh").returncode == 0
    (line,) = (host.home / ".bashrc").read_text().splitlines()
    assert "RAY_USE_TLS=1 RAY_TLS_CA_CERT=/etc/tls/ca.crt" in line, "`ray status` in a shell of the host"
    assert list((tmp_path / "shared").iterdir()) == []


def test_what_is_missing_is_said_with_its_mend(host: Host, tmp_path: Path) -> None:
    ready(host, tmp_path)
    assert "auth_token is not there. Run `ray get-auth-token --generate`" in host.run("install.sh").stderr
    host.token()
    ready(host, tmp_path, SEGRAY_SHARED=str(tmp_path / "nowhere"))
    assert "is not there. Mount it, or change SEGRAY_SHARED" in host.run("install.sh").stderr
    ready(host, tmp_path, SEGRAY_PACKAGE=str(tmp_path / "no.whl"))
    assert "no.whl is not there. Change SEGRAY_PACKAGE" in host.run("install.sh").stderr
    ready(host, tmp_path, SEGRAY_SHARED="s3://bucket/segray")
    assert host.run("install.sh").returncode == 0
    package = {"SEGRAY_PACKAGE": str(ROOT), "SEGRAY_VENV": str(tmp_path / "venv"), "SEGRAY_PYTHON": "python9.9"}
    ready(host, tmp_path, **package)
    assert "python9.9 is not installed. Install it, or change SEGRAY_PYTHON" in host.run("install.sh").stderr


def make_wheel(folder: Path, number: int) -> Path:
    """A wheel called segray with one module and no dependencies: pip is real, what it brings is small."""
    path = folder / "segray-0.1.0-py3-none-any.whl"
    info = "segray-0.1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("segray/__init__.py", f"NUMBER = {number}\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: segray\nVersion: 0.1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def test_a_wheel_is_installed_once_and_again_when_it_changes(host: Host, tmp_path: Path) -> None:
    host.token()
    venv = tmp_path / "venv"
    wheel = make_wheel(tmp_path, 1)
    package = {"SEGRAY_PACKAGE": str(wheel), "SEGRAY_VENV": str(venv), "SEGRAY_PYTHON": sys.executable}
    ready(host, tmp_path, **package, SEGRAY_PIP_ARGS="--no-index --no-deps")
    for number, again in ((1, False), (1, True), (2, False)):
        make_wheel(tmp_path, number) if not again else None
        done = host.run("install.sh")
        assert done.returncode == 0, done.stderr
        assert ("is up to date" in done.stdout) is again
        asked = [str(venv / "bin" / "python"), "-I", "-c", "import segray; print(segray.NUMBER)"]
        assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == str(number)


def test_another_python_is_no_silent_matter(host: Host, tmp_path: Path) -> None:
    host.token()
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    for path, version in ((venv / "bin" / "python", "3.11"), (host.programs / "python3.12", "3.12")):
        path.write_text(f"#!/bin/sh\necho {version}\n")
        path.chmod(0o755)
    package = {"SEGRAY_PACKAGE": str(make_wheel(tmp_path, 1)), "SEGRAY_VENV": str(venv)}
    ready(host, tmp_path, **package, SEGRAY_PYTHON="python3.12")
    done = host.run("install.sh")
    assert done.returncode == 1
    assert f"{venv} has Python 3.11, and SEGRAY_PYTHON is python3.12. Name another SEGRAY_VENV" in done.stderr
    ready(host, tmp_path, **package, SEGRAY_PYTHON="python9.9")
    told = host.run("install.sh").stderr
    assert f"SEGRAY_PYTHON is python9.9, which is not installed; {venv} stays as it is." in told


def test_the_interface_that_a_host_names_is_that_of_both_libraries(host: Host) -> None:
    environment = host.start(*WORKER, GLOO_SOCKET_IFNAME="eth7")[1]
    assert (environment["GLOO_SOCKET_IFNAME"], environment["NCCL_SOCKET_IFNAME"]) == ("eth7", "eth7")


def test_a_run_is_begun_or_gone_on_with(host: Host, tmp_path: Path) -> None:
    """segray itself answers: there is no such config, or the run's own config is no config."""
    path = f"{sys.prefix}/bin:{os.environ['PATH']}"
    run = tmp_path / "run"
    begun = host.run("train_or_resume.sh", str(run), str(tmp_path / "none.yaml"), PATH=path)
    assert (begun.returncode, "none.yaml cannot be read" in begun.stderr) == (2, True), begun.stderr
    run.mkdir()
    (run / "config.yaml").write_text("no_such_setting: 1\n")
    gone_on = host.run("train_or_resume.sh", str(run), str(tmp_path / "none.yaml"), PATH=path)
    assert (gone_on.returncode, "no_such_setting" in gone_on.stderr) == (2, True), gone_on.stderr
    assert host.run("train_or_resume.sh", str(run)).returncode == 2
