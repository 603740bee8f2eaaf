"""What a node of a cluster says of itself, in plain functions.

Needs neither Ray nor torch: where torch is asked, it is in a process of its own.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import ipaddress
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import segray
from segray import storage
from segray.errors import SegrayError

SHM = "/dev/shm"  # noqa: S108
TMP = "/tmp"  # noqa: S108
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Where they name a network interface, the host name is not asked for its address."""

SMALL_BYTES = 1024

ASK_TORCH = """
import json, torch
count = torch.cuda.device_count()
gpus = [(torch.cuda.get_device_name(n), *torch.cuda.mem_get_info(n)) for n in range(count)]
print(json.dumps([{"name": name, "free": free, "total": total} for name, free, total in gpus]))
"""


def versions() -> dict[str, str]:
    """Versions of Python, segray, torch and Ray, and a digest of segray's own code; empty: not installed."""
    return {
        "python": platform.python_version(),
        "segray": segray.__version__,
        "code": code_digest(Path(segray.__file__).parent),
        "torch": _version("torch"),
        "ray": _version("ray"),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def code_digest(package: Path) -> str:
    """A digest of all Python files of a package: two checkouts of one version may differ."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def host_facts() -> dict[str, Any]:
    """Host name, the addresses that it has for itself, seconds that finding them took, and the space of its disks."""
    name = socket.gethostname()
    began = time.monotonic()
    addresses = _addresses(name)
    seconds = time.monotonic() - began
    tmp, shm = _space(TMP), _space(SHM)
    return {
        "host": name,
        "addresses": addresses,
        "resolve_s": seconds,
        "interfaces": all(os.environ.get(one) for one in INTERFACES),
        "tmp_free": tmp[0],
        "tmp_total": tmp[1],
        "shm_free": shm[0],
        "shm_total": shm[1],
    }


def _addresses(name: str) -> list[str]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def is_loopback(address: str) -> bool:
    """True for 127.* and ::1, which no other node reaches."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _space(folder: str) -> tuple[int, int]:
    """Free and total bytes of the disk that holds ``folder``; zeros where there is none."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return 0, 0
    return usage.free, usage.total


def torch_gpus(seconds: float) -> list[dict[str, Any]]:
    """Name, free and total bytes of the GPUs that torch sees on this node.

    Asked in a process of its own: Ray hides the GPUs from tasks that declare none, and what hangs can be left alone.

    Raises:
        SegrayError: torch cannot be imported, fails, or does not answer in time.
    """
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", ASK_TORCH],
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SegrayError(f"torch did not answer in {seconds:.0f} s.") from None
    if done.returncode:
        told = done.stderr.strip().splitlines()
        raise SegrayError(f"torch fails ({told[-1] if told else f'exit code {done.returncode}'}).")
    gpus: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return gpus


def write_token(folder: str, name: str, size: int) -> dict[str, Any]:
    """Write ``size`` random bytes to ``folder``/``name``.

    Returns:
        ``problem`` (empty: none), ``digest`` of what was written, ``seconds`` for it, ``latency_s`` of a write of 1 KiB
        that waits for the disk, and ``free`` bytes (None: an object store).
    """
    content = os.urandom(size)
    path = storage.join(folder, name)
    try:
        if not storage.is_remote(folder) and not os.path.isdir(folder):
            return {"problem": f"there is no folder {folder}"}
        began = time.monotonic()
        storage.write_bytes(path, content[:SMALL_BYTES])
        latency = time.monotonic() - began
        began = time.monotonic()
        storage.write_bytes(path, content)
        seconds = time.monotonic() - began
    except SegrayError as error:
        return {"problem": error.message}
    free = None if storage.is_remote(folder) else _space(folder)[0]
    digest = hashlib.sha256(content).hexdigest()
    return {"problem": "", "digest": digest, "seconds": seconds, "latency_s": latency, "free": free}


def read_token(folder: str, name: str, digest: str, patience_s: float) -> dict[str, Any]:
    """Read what another node wrote with :func:`write_token`; it may take ``patience_s`` to appear.

    Returns:
        ``problem`` (empty: none), ``seconds`` of the read, ``waited_s`` until it was whole.
    """
    path = storage.join(folder, name)
    began = time.monotonic()
    while True:
        start = time.monotonic()
        try:
            found = storage.read_bytes(path)
            problem = "" if hashlib.sha256(found).hexdigest() == digest else "what is read is not what was written"
        except SegrayError:
            problem = "it is not there"
        now = time.monotonic()
        if not problem or now - began > patience_s:
            return {"problem": problem, "seconds": now - start, "waited_s": start - began}
        time.sleep(0.1)


def delete_token(folder: str, name: str) -> None:
    """Remove what :func:`write_token` wrote. Raises SegrayError where that is refused."""
    storage.delete(storage.join(folder, name))
