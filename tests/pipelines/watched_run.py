"""Ingest, train, predict and evaluate by the command line on a Ray of its own, with names hidden; run by a test.

It is a process of its own: once a process hides names it goes on, and so do the workers of its Ray.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
import urllib.request
from pathlib import Path

import ray

from segray.cli import _guarded, app

METRICS_S = 60.0


def run(words: list[str]) -> dict[str, object]:
    """A command, with what it says."""
    said = io.StringIO()

    def command() -> None:
        codes.append(app(words, standalone_mode=False))

    codes: list[object] = []
    from segray.cli_display import console

    console.file = said
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = _guarded(command)
    return {"words": words, "code": code or (codes[0] if codes else 0) or 0, "said": said.getvalue()}


def scraped(port: int, wanted: list[str]) -> str:
    """The page of Ray's agent, once all of ``wanted`` stand in it."""
    deadline, page = time.monotonic() + METRICS_S, ""
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        if all(name in page for name in wanted):
            return page
        time.sleep(1.0)
    return page


def main(folder: Path, port: int, wanted: list[str]) -> None:
    """Run the commands that ``folder``/commands.json lists; leave what they said, Ray's page and where its logs lie."""
    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=200_000_000,
        include_dashboard=False,
        log_to_driver=False,
        _metrics_export_port=port,
        _system_config={"metrics_report_interval_ms": 1000},
    )
    done = []
    for words in json.loads((folder / "commands.json").read_text()):
        if words[0] == "damage":
            part = min(Path(words[1]).glob("part-*.parquet"))
            part.write_bytes(part.read_bytes()[:-2000] + bytes(2000))
            continue
        done.append(run(words))
    (folder / "metrics.txt").write_text(scraped(port, wanted))
    logs = ray._private.worker._global_node.get_logs_dir_path()
    (folder / "done.json").write_text(json.dumps({"commands": done, "logs": logs}))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","))
