"""A run whose checkpoints were damaged goes on from one that is whole, or says that there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from ends_alike import assert_same_end

from segray.config import Config, load_config
from segray.engine.trainer import load_state
from segray.errors import SegrayError
from segray.phantoms import make_phantoms
from segray.pipelines.ingest import ingest
from segray.pipelines.train import train

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]

SETTINGS = (
    "net.features=[8,16]",
    "train.batch_size=8",
    "train.epochs=4",
    "train.cpus_per_worker=1.5",
    "train.precision=float32",
    "ingest.split.validation=0.3",
    "ingest.grid.spacing=[9,9]",
    "ingest.structures=[liver,body]",
)


@pytest.fixture
def halted(tmp_path: Path) -> tuple[Path, Config]:
    """A run of which three epochs of four are done."""
    make_phantoms(str(tmp_path / "scans"), cases=3, seed=3, broken=False)
    places = [f"train.shards={tmp_path / 'shards'}", f"train.run={tmp_path / 'run'}"]
    config = load_config(None, [*SETTINGS, *places])
    ingest(str(tmp_path / "scans"), str(tmp_path / "shards"), config)
    train(config, stop_after=3)
    return tmp_path / "run", config


def _states(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("checkpoint_*/state.pt"))


def _flip(path: Path) -> None:
    """One bit in the middle, where a tensor lies."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_one_before_is_used_where_the_newest_is_damaged(halted: tuple[Path, Config], tmp_path: Path) -> None:
    run, config = halted
    states = _states(run)
    assert [load_state(str(path))["position"]["epoch"] for path in states] == [2, 3]
    _flip(states[-1])
    summary = train(config, resume=str(run))
    assert summary.epochs == 4
    log = (run / "run.log").read_text()
    assert "is damaged" in log
    assert "resume after epoch 2" in log
    train(load_config(None, [*SETTINGS, f"train.shards={config.train.shards}", f"train.run={tmp_path / 'whole'}"]))
    assert_same_end(run, tmp_path / "whole", 4)


def test_without_a_whole_one_the_run_says_so(halted: tuple[Path, Config]) -> None:
    run, config = halted
    for path in _states(run):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SegrayError, match=r"No checkpoint in .* is whole"):
        train(config, resume=str(run))
    assert (run / "bundle" / "bundle.json").exists()
