"""Less memory: activations computed again, batches in pieces, and what an out-of-memory error leaves behind."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segray.config import Config, parse_config
from segray.engine.trainer import Batch, Trainer
from segray.errors import SegrayError, UsageError
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net


def _config(norm: str = "instance", **train: Any) -> Config:
    return parse_config(
        {
            "net": {"features": [4, 8], "norm": norm, "dropout": 0.2 if norm == "batch" else 0.0},
            "optim": {"name": "sgd", "lr": 0.1, "warmup_steps": 0},
            "loss": {"dice": 0.0},
            "train": {"precision": "float32", **train},
        }
    )


def _trainer(config: Config) -> Trainer:
    torch.manual_seed(0)
    return Trainer(config, build_net(config.net, 1, 2), Normalisation("window"), device="cpu")


def _batch(seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    images = rng.integers(-500, 500, (8, 16, 16)).astype(np.int16)
    ones = np.ones(8, np.float32)
    return Batch.from_arrays(images, (images > 0).astype(np.uint8), ones, ones, list("abcdefgh"))


def _weights_after(trainer: Trainer, steps: int = 3) -> dict[str, torch.Tensor]:
    for step in range(steps):
        trainer.step(_batch(step), epoch=1, step=step, progress=0.0)
    return {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}


def _same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    for name, tensor in one.items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(tensor, two[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_activations_computed_again_are_the_same(norm: str) -> None:
    """With dropout and running statistics, which must see a batch once."""
    plain, again = _config(norm), _config(norm, checkpointing=True)
    _same(_weights_after(_trainer(plain)), _weights_after(_trainer(again)))


def test_a_batch_in_pieces_has_the_gradient_of_the_whole() -> None:
    whole, pieces = _trainer(_config()), _trainer(_config())
    pieces.spare({"pieces": 4})
    _same(_weights_after(whole), _weights_after(pieces))


class _Narrow:
    """A device whose memory holds so many slices: what does not fit raises what CUDA raises."""

    def __init__(self, trainer: Trainer, most: int) -> None:
        self.calls = 0
        self._most = most
        trainer.network.decoder[0].register_forward_pre_hook(self._look)

    def _look(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.calls += 1
        if len(inputs[0]) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory.")


def test_after_an_out_of_memory_error_the_batch_goes_on_in_pieces() -> None:
    untroubled, trainer = _trainer(_config()), _trainer(_config())
    _Narrow(trainer, most=2)
    said = []
    for step in range(3):
        for _ in range(9):
            try:
                trainer.step(_batch(step), epoch=1, step=step, progress=0.0)
                break
            except torch.OutOfMemoryError:
                said.append(trainer.spare_memory())
    assert [words.split(": ")[1][:20] for words in said] == [
        "activations are comp",
        "every batch is learn",
        "every batch is learn",
    ]
    assert trainer.spared == {"checkpointing": True, "pieces": 4}
    _same(_weights_after(untroubled), {**trainer.network.state_dict()})


def test_no_batch_of_an_update_counts_twice_where_memory_runs_out_before_the_net(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a batch is augmented: what the batches before it have taught is forgotten too, for they come again."""
    trainer, untroubled = _trainer(_config()), _trainer(_config())
    made = Trainer._inputs

    def update(trained: Trainer, first: int) -> None:
        for step in range(first, 2):
            trained.step(_batch(step), epoch=1, step=step, progress=0.0, update=step == 1, together=2)

    def short(self: Trainer, batch: Batch, epoch: int, step: int) -> Any:
        if step == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return made(self, batch, epoch, step)

    monkeypatch.setattr(Trainer, "_inputs", short)
    with pytest.raises(torch.OutOfMemoryError):
        update(trainer, 0)
    monkeypatch.setattr(Trainer, "_inputs", made)
    assert "activations" in trainer.spare_memory()
    assert "2 pieces" in trainer.spare_memory()
    update(trainer, 0)
    update(untroubled, 0)
    _same({**untroubled.network.state_dict()}, {**trainer.network.state_dict()})


def test_the_error_changes_nothing() -> None:
    trainer = _trainer(_config("batch"))
    before = copy.deepcopy(trainer.network.state_dict())
    _Narrow(trainer, most=0)
    with pytest.raises(torch.OutOfMemoryError):
        trainer.step(_batch(), epoch=1, step=0, progress=0.0)
    for name, tensor in trainer.network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, before[name]), name


def test_a_slice_that_does_not_fit_ends_in_words() -> None:
    trainer = _trainer(_config())
    _Narrow(trainer, most=0)

    def learn() -> None:
        for _ in range(9):
            try:
                trainer.step(_batch(), epoch=1, step=0, progress=0.0)
            except torch.OutOfMemoryError:
                trainer.spare_memory()

    with pytest.raises(SegrayError, match="A single slice, or patch, does not fit"):
        learn()


def test_a_compiled_net_is_not_told_to_compute_again() -> None:
    """torch.compile cannot trace what keeps the running statistics of a second pass."""
    with pytest.raises(UsageError, match=r"compile.*checkpointing"):
        _config(compile=True, checkpointing=True)
    trainer = _trainer(_config(compile=True))
    trainer._largest = 4
    assert "2 pieces" in trainer.spare_memory()


def test_without_a_compiler_the_net_learns_the_same_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    with inductor.patch({"cpp.cxx": (str(tmp_path / "no-g++"),)}):
        trainer = _trainer(_config(compile=True))
        assert "torch.compile does not work here" in trainer.fallback
        _same(_weights_after(_trainer(_config()), 1), _weights_after(trainer, 1))
    assert _trainer(_config()).fallback == ""


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler is installed")
def test_a_compiled_net_learns_the_same() -> None:
    _same(_weights_after(_trainer(_config()), 1), _weights_after(_trainer(_config(compile=True)), 1))
