"""What all tests share: the folder of real data, one embedded Ray, an S3 server, and skips that fail in CI."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from segray.outage import patient

ROOT = Path(__file__).resolve().parents[1]
ALLOWED_SKIPS = ROOT / ".ci" / "allowed_skips.txt"

RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_worker_niceness": "0",
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


@pytest.fixture(autouse=True)
def _no_patience() -> Iterator[None]:
    """Stages that a test runs in this process make it patient; the next test's writes would wait for minutes."""
    with patient(0):
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public real cases beside the repository; the test is skipped where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data is absent")
    return folder


@pytest.fixture(scope="session")
def embedded_ray() -> Iterator[None]:
    """One Ray of 4 CPUs for the whole session; mark the tests that use it with ``ray``."""
    os.environ.update(RAY_ENVIRONMENT)
    os.environ.pop("RAY_ADDRESS", None)
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=300_000_000,
        include_dashboard=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, str]]:
    """The environment of a process that talks to the S3 server of this session, on a free port of this machine.

    moto lives in a virtual environment of its own, since botocore wants an older python-dateutil than the one pinned.
    """
    program = ROOT / ".venv-moto" / "bin" / "moto_server"
    if not program.is_file():
        pytest.skip(".venv-moto is absent (make dev)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(program), "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await(port, server)
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    finally:
        server.terminate()
        server.wait(10)


def _await(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("The S3 server of the tests did not start.")


@pytest.fixture(scope="session")
def new_bucket(s3_server: dict[str, str]) -> Callable[[], str]:
    """Make an empty bucket; returns its URI."""

    def make() -> str:
        name = f"bucket-{uuid.uuid4().hex[:8]}"
        request = urllib.request.Request(f"{s3_server['AWS_ENDPOINT_URL']}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
        return f"s3://{name}"

    return make


@pytest.fixture
def s3(s3_server: dict[str, str], new_bucket: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty bucket, which pyarrow's own S3 client of this process reaches."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    return new_bucket()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--share K/N``: CI takes another share of the long tests each time."""
    parser.addoption("--share", metavar="K/N", help="of the modules with long tests every N-th only, from the K-th on")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long tests of the other shares; those of a module share what it trains, and stay together.

    A module whose tests are of several faults is one for each of them.
    """
    share = config.getoption("--share")
    if share is None:
        return
    first, every = (int(number) for number in share.split("/"))
    long = {item: _together(item) for item in items if item.get_closest_marker("long")}
    on_hosts = {together for item, together in long.items() if item.get_closest_marker("cluster")}
    chosen = {*_shared_out(on_hosts, first, every), *_shared_out({*long.values()} - on_hosts, first, every)}
    left = [item for item in items if item in long and long[item] not in chosen]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


def _together(item: pytest.Item) -> str:
    """The name of what runs in the same share."""
    fault = item.callspec.params.get("fault") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ""
    return f"{item.path}::{fault}" if fault else str(item.path)


def _shared_out(modules: set[str], first: int, every: int) -> list[str]:
    """Each `every`-th module from the `first` on; where there are fewer one of them, so that no share goes without."""
    return sorted(modules)[first % max(min(every, len(modules)), 1) :: every]


def _allowed_reasons() -> set[str]:
    lines = ALLOWED_SKIPS.read_text(encoding="utf-8").splitlines() if ALLOWED_SKIPS.is_file() else []
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def _fail_unlisted_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure: in CI a test that silently stopped running is a lost test."""
    if not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
        return
    reason = str(report.longrepr[2]).removeprefix("Skipped: ")
    if reason not in _allowed_reasons():
        report.outcome = "failed"
        report.longrepr = f"skipped in CI for a reason that {ALLOWED_SKIPS.name} does not list: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI=true a skipped test fails unless its reason is listed in .ci/allowed_skips.txt."""
    report = yield
    if os.environ.get("CI") == "true":
        _fail_unlisted_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for modules that skip themselves."""
    report = yield
    if os.environ.get("CI") == "true":
        _fail_unlisted_skip(report)
    return report
