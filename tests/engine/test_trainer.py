"""The train step: learning, exact resume, skipped batches, optimiser groups."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segray.config import Config, TrainConfig, parse_config
from segray.engine.trainer import Batch, StepResult, Trainer, load_state, save_state
from segray.errors import SegrayError, UsageError
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net


def _config(**optim: Any) -> Config:
    return parse_config(
        {"net": {"features": [8, 16], "dropout": 0.1}, "optim": {"lr": 0.01, "warmup_steps": 3, **optim}, "seed": 5}
    )


def _batch(seed: int, count: int = 4) -> Batch:
    """Discs of 200 HU on -100 HU with noise; label 1 is the disc."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    centre = rng.uniform(5, 11, (count, 2, 1, 1))
    labels = ((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 < 16).astype(np.uint16)
    images = (-100 + 300 * labels.astype(np.int32) + rng.normal(0, 30, labels.shape)).astype(np.int16)
    ones = np.ones(count, np.float32)
    return Batch.from_arrays(images, labels, ones, ones, [f"case{i}" for i in range(count)])


def _trainer(config: Config, **kwargs: Any) -> Trainer:
    torch.manual_seed(config.seed)
    net = build_net(config.net, 1, 2)
    return Trainer(config, net, Normalisation("window", -200.0, 300.0), device="cpu", **kwargs)


def _epochs(trainer: Trainer, first: int, last: int, steps: int = 5) -> list[StepResult]:
    return [
        trainer.step(_batch(epoch * steps + n), epoch=epoch, step=epoch * steps + n, progress=epoch / 4)
        for epoch in range(first, last)
        for n in range(steps)
    ]


@pytest.mark.parametrize("name", ["adamw", "sgd", "rmsprop"])
def test_it_learns(name: str) -> None:
    results = _epochs(
        _trainer(_config(name=name, momentum=0.9, lr=0.001 if name == "rmsprop" else 0.01)), 0, 4, steps=10
    )
    assert results[-1].loss < 0.5 * results[0].loss
    assert results[0].slices == 4
    assert all(result.skipped == () for result in results)


@pytest.mark.parametrize("name", ["adamw", "sgd", "rmsprop"])
@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_resume_continues_exactly(tmp_path: Path, name: str, precision: str) -> None:
    config = _config(name=name, average=0.9).model_copy(update={"train": TrainConfig(precision=precision)})
    whole = _trainer(config)
    _epochs(whole, 0, 4)
    half = _trainer(config)
    _epochs(half, 0, 2)
    save_state(str(tmp_path / "state.pt"), {"trainer": half.state_dict(), "position": {"epoch": 2}})
    torch.rand(13)
    resumed = _trainer(config)
    state = load_state(str(tmp_path / "state.pt"))
    assert state["position"] == {"epoch": 2}
    resumed.load_state_dict(state["trainer"])
    _epochs(resumed, 2, 4)
    for net, other in ((whole.network, resumed.network), (whole.trained, resumed.trained)):
        for name_, tensor in net.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name_]), name_


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_structure_that_nobody_drew_is_not_unlearnt(overlapping: bool) -> None:
    config = _config()
    torch.manual_seed(0)
    net = build_net(config.net, 1, 1 if overlapping else 2)
    trainer = Trainer(config, net, Normalisation("window", -200.0, 300.0), device="cpu", overlapping=overlapping)
    drawn = _batch(0)
    blank = replace(drawn, labels=torch.zeros_like(drawn.labels))
    known = torch.tensor([not overlapping] + [False] * (not overlapping)).expand(4, -1)
    hidden = trainer.step(replace(blank, known=known), epoch=0, step=0, progress=0.0)
    taught = trainer.step(blank, epoch=0, step=1, progress=0.0)
    assert hidden.loss == pytest.approx(0, abs=1e-6)
    assert hidden.grad_norm == pytest.approx(0, abs=1e-6)
    assert taught.loss > 0.1
    assert taught.grad_norm > 0.01


def test_the_terms_of_the_config_are_trained_with_the_names_of_the_structures() -> None:
    tree = {"loss": {"dice": 0, "cross_entropy": 0, "tversky": 1, "focal": 1, "class_weights": {"disc": 3}}}
    config = parse_config({**_config().model_dump(), **tree})
    results = _epochs(_trainer(config, structures=["disc"]), 0, 4, steps=10)
    assert results[-1].loss < 0.5 * results[0].loss
    with pytest.raises(UsageError, match="names disc, which is no structure"):
        _trainer(config, structures=["liver"])


@pytest.mark.parametrize("deep", [False, True])
def test_what_lies_under_ignored_pixels_is_not_learnt(deep: bool) -> None:
    config = parse_config(
        {
            "net": {"features": [4, 4, 8, 8], "deep_supervision": deep},
            "augment": {"enabled": False},
            "train": {"precision": "float32"},
        }
    )
    weights = []
    for value in (0, 1):
        batch = _batch(0)
        hidden = batch.labels.clone()
        hidden[:, :, :6] = value
        step = _trainer(config, ignored=2)
        ignoring = hidden.clone()
        ignoring[:, :, :6] = 2
        step.step(replace(batch, labels=ignoring), epoch=1, step=0, progress=0.0)
        weights.append(torch.cat([one.detach().flatten() for one in step.network.parameters()]))
        told = _trainer(config)
        told.step(replace(batch, labels=hidden), epoch=1, step=0, progress=0.0)
        assert not torch.equal(weights[-1], torch.cat([one.detach().flatten() for one in told.network.parameters()]))
    assert torch.equal(*weights)


def test_a_batch_of_ignored_pixels_alone_teaches_nothing() -> None:
    config = parse_config({"net": {"features": [8, 16]}, "augment": {"enabled": False}, "optim": {"weight_decay": 0.0}})
    trainer = _trainer(config, ignored=2)
    before = copy.deepcopy(trainer.network.state_dict())
    batch = _batch(0)
    result = trainer.step(replace(batch, labels=torch.full_like(batch.labels, 2)), epoch=1, step=0, progress=0.0)
    assert result.loss == 0
    for name, parameter in trainer.network.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_not_finite_batch_is_skipped_with_its_cases_and_changes_nothing() -> None:
    trainer = _trainer(_config())
    trainer.step(_batch(0), epoch=0, step=0, progress=0.0)
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    images = np.full((2, 16, 16), np.nan, np.float32)
    ones = np.ones(2, np.float32)
    bad = Batch.from_arrays(images, np.zeros((2, 16, 16), np.uint8), ones, ones, ["x", "y"])
    result = trainer.step(bad, epoch=0, step=1, progress=0.0)
    assert result.skipped == ("x", "y")
    after = trainer.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if "num_batches" not in name)
    assert trainer.step(_batch(2), epoch=0, step=2, progress=0.0).skipped == ()


def test_clipping_bounds_the_update() -> None:
    config = _config(name="sgd", momentum=0.0, clip_norm=1e-3, weight_decay=0.0, warmup_steps=0)
    trainer = _trainer(config)
    before = [p.detach().clone() for p in trainer.network.parameters()]
    result = trainer.step(_batch(0), epoch=0, step=0, progress=0.0)
    moved = sum(((p - q) ** 2).sum() for p, q in zip(trainer.network.parameters(), before, strict=True)) ** 0.5
    assert result.grad_norm > 1e-3
    assert float(moved.detach()) == pytest.approx(result.lr * 1e-3, rel=1e-2)


def test_norms_and_biases_are_not_decayed() -> None:
    groups = _trainer(_config()).state_dict()["optimiser"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0]
    net = build_net(_config().net, 1, 2)
    assert len(groups[1]["params"]) == sum(p.ndim == 1 for p in net.parameters())


def test_wrap_is_what_the_forward_pass_calls() -> None:
    calls = []

    class Wrapped(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(x.shape)
            return self.inner(x)

    trainer = _trainer(_config(), wrap=Wrapped)
    trainer.step(_batch(0), epoch=0, step=0, progress=0.0)
    assert calls == [(4, 1, 16, 16)]
    assert all(not name.startswith("inner") for name in trainer.state_dict()["network"])


def test_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(str(path), _trainer(_config()).state_dict())
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(SegrayError, match="damaged"):
        load_state(str(path))
    path.write_bytes(b"junk")
    with pytest.raises(SegrayError, match="damaged"):
        load_state(str(path))


def test_checkpoint_of_another_network_is_told() -> None:
    other = Trainer(
        _config(),
        build_net(parse_config({"net": {"features": [4, 4]}}).net, 1, 2),
        Normalisation("window"),
        device="cpu",
    )
    with pytest.raises(SegrayError, match="does not fit"):
        _trainer(_config()).load_state_dict(other.state_dict())


def test_read_only_arrays_and_wide_labels_make_a_batch() -> None:
    images = np.frombuffer(np.zeros(8, np.int16).tobytes(), np.int16).reshape(2, 2, 2)
    labels = np.full((2, 2, 2), 300, np.uint16)
    batch = Batch.from_arrays(images, labels, np.zeros(2), np.ones(2), ["a", "b"])
    assert batch.images.dtype == torch.int16
    assert int(batch.labels.max()) == 300
    assert batch.mean.dtype == torch.float32


def test_it_learns_a_disc_within_a_disc() -> None:
    config = _config()
    torch.manual_seed(0)
    net = build_net(config.net, 1, 2)
    trainer = Trainer(config, net, Normalisation("window", -200.0, 300.0), device="cpu", overlapping=True)
    results = []
    for number in range(40):
        batch = _batch(number)
        disc = batch.labels > 0
        inner = disc & (torch.nn.functional.avg_pool2d(disc.float(), 3, 1, 1) > 0.99)
        fields = disc.to(torch.uint8) + 2 * inner.to(torch.uint8)
        results.append(trainer.step(replace(batch, labels=fields), epoch=1, step=number, progress=0.0))
    assert results[-1].loss < 0.5 * results[0].loss


def test_it_learns_from_the_second_channel() -> None:
    config = _config()
    torch.manual_seed(0)
    net = build_net(config.net, 2, 2)
    trainer = Trainer(config, net, Normalisation("case"), device="cpu")
    results = []
    for number in range(40):
        one = _batch(number)
        noise = np.random.default_rng(number).normal(0, 30, one.images.shape).astype(np.int16)
        batch = Batch.from_arrays(
            np.stack([noise, one.images.numpy()], axis=1), one.labels.numpy(), np.zeros((4, 2)), np.full((4, 2), 90.0),
            one.case_ids,
        )  # fmt: skip
        results.append(trainer.step(batch, epoch=1, step=number, progress=0.0))
    assert results[-1].loss < 0.5 * results[0].loss


def _joined(*batches: Batch) -> Batch:
    parts = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("images", "labels", "mean", "sd"))
    return Batch(*parts, case_ids=tuple(case for batch in batches for case in batch.case_ids))


def test_accumulated_batches_move_the_weights_like_one_batch_of_all() -> None:
    tree = {
        "net": {"features": [8, 16], "norm": "instance"},
        "augment": {"enabled": False},
        "loss": {"dice": 0},
        "train": {"precision": "float32"},
    }
    settings = {"name": "sgd", "momentum": 0.0, "lr": 0.1, "warmup_steps": 0}
    split = _trainer(parse_config({**tree, "optim": {**settings, "accumulate": 2}}))
    whole = _trainer(parse_config({**tree, "optim": settings}))
    first, second = _batch(0), _batch(1)
    before = [p.detach().clone() for p in split.network.parameters()]
    held = split.step(first, epoch=0, step=0, progress=0.0, update=False)
    assert all(torch.equal(p, q) for p, q in zip(split.network.parameters(), before, strict=True))
    split.step(second, epoch=0, step=1, progress=0.0)
    result = whole.step(_joined(first, second), epoch=0, step=0, progress=0.0)
    assert result.slices == 2 * held.slices
    for ours, theirs in zip(split.network.parameters(), whole.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_last_update_of_fewer_batches_has_their_mean_gradient(name: str) -> None:
    settings = {"name": name, "momentum": 0.0, "weight_decay": 0.0, "warmup_steps": 0, "clip_norm": 0.0}
    alone, last = _trainer(_config(**settings)), _trainer(_config(**settings, accumulate=4))
    results = [
        alone.step(_batch(1), epoch=1, step=0, progress=0.0),
        last.step(_batch(1), epoch=1, step=0, progress=0.0, together=1),
    ]
    assert results[1].grad_norm == pytest.approx(results[0].grad_norm, rel=1e-5)
    for one, other in zip(alone.network.parameters(), last.network.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_a_bad_batch_before_the_last_of_an_update_is_named(precision: str) -> None:
    config = _config(accumulate=2).model_copy(update={"train": TrainConfig(precision=precision)})
    trainer = _trainer(config)
    bad = replace(
        _batch(1), images=torch.full_like(_batch(1).images, 0, dtype=torch.float32) / 0, case_ids=("bad",) * 4
    )
    assert trainer.step(bad, epoch=1, step=0, progress=0.0, update=False).skipped == ()
    skipped = trainer.step(_batch(2), epoch=1, step=1, progress=0.0).skipped
    assert "bad" in skipped


def test_a_bad_batch_takes_its_whole_update_with_it_and_all_its_cases_are_named() -> None:
    trainer = _trainer(_config(accumulate=2))
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    images, ones = np.full((2, 16, 16), np.nan, np.float32), np.ones(2, np.float32)
    bad = Batch.from_arrays(images, np.zeros((2, 16, 16), np.uint8), ones, ones, ["x", "y"])
    trainer.step(_batch(0, count=1), epoch=0, step=0, progress=0.0, update=False)
    assert trainer.step(bad, epoch=0, step=1, progress=0.0).skipped == ("case0", "x", "y")
    after = trainer.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if "num_batches" not in name)


def test_the_average_of_the_weights_follows_its_formula() -> None:
    trainer = _trainer(_config(average=0.5))
    expected = [p.detach().clone() for p in trainer.network.parameters()]
    for step in range(6):
        trainer.step(_batch(step), epoch=0, step=step, progress=0.0)
        decay = min(0.5, (2 + step) / (11 + step))
        weights = list(trainer.network.parameters())
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, weights, strict=True)]
    for ours, theirs in zip(trainer.trained.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, theirs.detach())
    for ours, theirs in zip(trainer.trained.buffers(), trainer.network.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_gradient_too_large_for_fp16_lowers_the_scale_and_blames_no_case() -> None:
    config = _config().model_copy(update={"train": TrainConfig(precision="fp16")})
    trainer = _trainer(config)
    state = trainer.state_dict()
    state["scaler"]["scale"] = 2.0**30
    trainer.load_state_dict(state)
    before = [p.detach().clone() for p in trainer.network.parameters()]
    assert trainer.step(_batch(0), epoch=0, step=0, progress=0.0).skipped == ()
    assert all(torch.equal(p, q) for p, q in zip(trainer.network.parameters(), before, strict=True))
    assert trainer.state_dict()["scaler"]["scale"] == 2.0**29
    _epochs(trainer, 0, 4)
    assert not all(torch.equal(p, q) for p, q in zip(trainer.network.parameters(), before, strict=True))


def test_deep_supervision_learns_and_resumes_exactly() -> None:
    net = {"features": [4, 8, 8, 8], "deep_supervision": True, "attention": True, "blocks": "residual"}
    config = _config(lr=0.01).model_copy(update={"net": parse_config({"net": net}).net})
    trainer = _trainer(config)
    results = _epochs(trainer, 0, 2, steps=10)
    assert results[-1].loss < 0.7 * results[0].loss
    resumed = _trainer(config)
    resumed.load_state_dict(copy.deepcopy(trainer.state_dict()))
    assert _epochs(resumed, 2, 3) == _epochs(trainer, 2, 3)
