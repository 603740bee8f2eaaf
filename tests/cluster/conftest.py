"""The hosts, and what is made on them once for all tests of this folder."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import CASES, CONFIG, STATE, VENV, Hosts, can_make_hosts


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """A head without CPUs and two workers of 2 CPUs, up for the session."""
    if not can_make_hosts():
        pytest.skip("needs root and network namespaces")
    cluster = Hosts()
    try:
        cluster.control("up", "3")
        cluster.control("ray-up")
        yield cluster
    finally:
        keep = os.environ.get("SEGRAY_TEST_KEEP_LOGS")
        if keep:
            # Files vanish while rsync reads (exit code 24): what is copied is for reading after a failure, no more.
            subprocess.run(["rsync", "-rt", f"{STATE}/", f"{keep}/"], capture_output=True, check=False)
        cluster.control("down")


@pytest.fixture(scope="session")
def cases(hosts: Hosts) -> Path:
    """Phantoms on the shared path, as seen from outside."""
    folder = hosts.shared / "cases"
    arguments = ["phantoms", str(folder), "--cases", str(CASES), "--seed", "3"]
    subprocess.run([str(VENV / "bin" / "segray"), *arguments], check=True, capture_output=True, timeout=120)
    (hosts.shared / "config.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def shards(hosts: Hosts, cases: Path) -> Path:
    """The shards, ingested on the cluster."""
    hosts.run("segray", "ingest", "/mnt/cases", "/mnt/shards", "--config", "/mnt/config.yaml")
    return hosts.shared / "shards"


@pytest.fixture(scope="session")
def run(hosts: Hosts, shards: Path) -> Path:
    """A run of two workers on two hosts."""
    hosts.run("segray", "train", "/mnt/config.yaml", "--shards", "/mnt/shards", "--run", "/mnt/run")
    return hosts.shared / "run"


@pytest.fixture(scope="session")
def predictions(hosts: Hosts, run: Path) -> Path:
    """Masks predicted on the cluster."""
    command = ("segray", "predict", "/mnt/run/bundle", "/mnt/cases", "/mnt/predictions")
    hosts.run(*command, "--config", "/mnt/config.yaml")
    return hosts.shared / "predictions"
