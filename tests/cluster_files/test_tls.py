"""cluster/tls.sh with the real openssl, and what it makes in Ray's own gRPC."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NODES = ("127.0.0.1", "10.1.2.3", "gpu1.example.org", "fd00::7")


def run_tls(folder: Path, *nodes: str, days: str = "365") -> subprocess.CompletedProcess[str]:
    """Run the script."""
    return subprocess.run(
        ["bash", str(ROOT / "cluster" / "tls.sh"), str(folder), *nodes],
        env=os.environ | {"TLS_DAYS": days},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def openssl(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run openssl."""
    return subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, timeout=30, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for four nodes."""
    folder = tmp_path_factory.mktemp("tls") / "certificates"
    done = run_tls(folder, *NODES)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("node", NODES)
def test_the_chain_of_a_node_holds_for_its_address_and_no_other(made: Path, node: str) -> None:
    crt = made / node / "node.crt"
    kind = "-verify_hostname" if node.endswith(".org") else "-verify_ip"
    for name, good in ((node, True), ("127.0.0.1", True), ("10.9.9.9", False)):
        flag = "-verify_ip" if name[0].isdigit() else kind
        told = openssl("verify", "-x509_strict", "-CAfile", made / "ca" / "ca.crt", flag, name, crt)
        assert (told.returncode == 0) is good, (name, told.stdout + told.stderr)
    text = openssl("x509", "-in", crt, "-noout", "-text").stdout
    assert "TLS Web Server Authentication, TLS Web Client Authentication" in text
    assert (made / node / "ca.crt").read_bytes() == (made / "ca" / "ca.crt").read_bytes()


def test_a_node_cannot_sign_for_others(made: Path, tmp_path: Path) -> None:
    node = made / NODES[1]
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", tmp_path / "key")
    openssl("req", "-new", "-key", tmp_path / "key", "-subj", "/CN=x", "-out", tmp_path / "csr")
    words = ("-CA", node / "node.crt", "-CAkey", node / "node.key", "-set_serial", "1", "-days", "30")
    assert openssl("x509", "-req", "-in", tmp_path / "csr", *words, "-out", tmp_path / "crt").returncode == 0
    chain = ("-CAfile", made / "ca" / "ca.crt", "-untrusted", node / "node.crt")
    assert openssl("verify", *chain, tmp_path / "crt").returncode != 0


def test_keys_are_readable_by_their_owner_alone(made: Path) -> None:
    keys = [made / "ca" / "ca.key", *(made / node / "node.key" for node in NODES)]
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert not list(made.rglob(".new"))
    assert {path.name for path in (made / NODES[0]).iterdir()} == {"ca.crt", "node.crt", "node.key"}


def test_a_second_run_changes_nothing_and_a_new_node_leaves_the_others(tmp_path: Path) -> None:
    assert run_tls(tmp_path, "10.0.0.1", "10.0.0.2").returncode == 0
    before = contents(tmp_path)
    again = run_tls(tmp_path, "10.0.0.1", "10.0.0.2")
    assert (again.returncode, again.stdout) == (0, "")
    assert contents(tmp_path) == before
    more = run_tls(tmp_path, "10.0.0.1", "10.0.0.2", "10.0.0.3")
    assert more.stdout.splitlines() == [f"made {tmp_path}/10.0.0.3"]
    assert before.items() <= contents(tmp_path).items()


def test_what_is_bad_is_made_anew(tmp_path: Path) -> None:
    assert run_tls(tmp_path, "10.0.0.1", "10.0.0.2", "10.0.0.3").returncode == 0
    (tmp_path / "10.0.0.1" / "node.crt").write_text("no certificate")
    shutil.copy(tmp_path / "10.0.0.3" / "node.key", tmp_path / "10.0.0.2" / "node.key")
    kept = (tmp_path / "10.0.0.3" / "node.crt").read_bytes()
    done = run_tls(tmp_path, "10.0.0.1", "10.0.0.2", "10.0.0.3")
    assert done.stdout.splitlines() == [f"made {tmp_path}/10.0.0.1", f"made {tmp_path}/10.0.0.2"]
    assert (tmp_path / "10.0.0.3" / "node.crt").read_bytes() == kept
    for node in ("10.0.0.1", "10.0.0.2"):
        assert openssl("verify", "-CAfile", tmp_path / "ca" / "ca.crt", tmp_path / node / "node.crt").returncode == 0


def test_a_certificate_that_ends_soon_is_renewed(tmp_path: Path) -> None:
    assert run_tls(tmp_path, "10.0.0.1", days="29").returncode == 0
    assert run_tls(tmp_path, "10.0.0.1").stdout == f"made {tmp_path}/10.0.0.1\n"
    assert run_tls(tmp_path, "10.0.0.1").stdout == ""


def test_a_lost_authority_renews_all_that_are_named_and_says_so(tmp_path: Path) -> None:
    assert run_tls(tmp_path, "10.0.0.1").returncode == 0
    (tmp_path / "ca" / "ca.key").unlink()
    done = run_tls(tmp_path, "10.0.0.1")
    assert "anew: name all nodes, and copy their folders again" in done.stdout
    assert f"made {tmp_path}/10.0.0.1" in done.stdout


@pytest.mark.parametrize("node", ["../escape", "a b", "ca", "-x", ""])
def test_a_name_that_is_none_is_refused_before_anything_is_made(tmp_path: Path, node: str) -> None:
    done = run_tls(tmp_path / "new", "10.0.0.1", node)
    assert done.returncode == 1
    assert "is no address; name an IP or a DNS name." in done.stderr
    assert not (tmp_path / "new").exists()


def test_days_that_are_none_are_refused(tmp_path: Path) -> None:
    assert "TLS_DAYS is 0;" in run_tls(tmp_path, "10.0.0.1", days="0").stderr


def test_rays_grpc_takes_the_certificates_and_refuses_strangers(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server and the client are made by the functions that Ray makes its own with."""
    import grpc
    from ray._common.tls_utils import add_port_to_grpc_server
    from ray._private.grpc_utils import init_grpc_channel

    def settings(folder: Path, use: str = "1") -> None:
        monkeypatch.setenv("RAY_USE_TLS", use)
        for name, file in (("SERVER_CERT", "node.crt"), ("SERVER_KEY", "node.key"), ("CA_CERT", "ca.crt")):
            monkeypatch.setenv(f"RAY_TLS_{name}", str(folder / file))

    def reaches() -> bool:
        channel = init_grpc_channel(f"127.0.0.1:{port}")
        try:
            grpc.channel_ready_future(channel).result(timeout=3)
        except grpc.FutureTimeoutError:
            return False
        finally:
            channel.close()
        return True

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert run_tls(tmp_path / "strange", "127.0.0.1").returncode == 0
    server = grpc.server(ThreadPoolExecutor(2))
    settings(made / "127.0.0.1")
    port = add_port_to_grpc_server(server, "127.0.0.1:0")
    server.start()
    try:
        settings(made / "10.1.2.3")
        assert reaches(), "another node of the same authority"
        settings(tmp_path / "strange" / "127.0.0.1")
        assert not reaches(), "a node of another authority"
        settings(made / "10.1.2.3", use="0")
        channel = init_grpc_channel(f"127.0.0.1:{port}")
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/any/Call")(b"", timeout=3)
        channel.close()
    finally:
        server.stop(None).wait(5)
