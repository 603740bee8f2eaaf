"""The picture of an augmentation shows what the training would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segray import cli
from segray.config import Config, load_config
from segray.engine.trainer import Batch, Trainer
from segray.errors import UsageError
from segray.nets.unet import build_net
from segray.phantoms import make_phantoms
from segray.pipelines import preview
from segray.pipelines.ingest import ingest
from segray.pipelines.normalisation import normalisation_of
from segray.report.augment_sheet import AugmentedSlice
from segray.shards.index import load_index
from segray.shards.manifest import load_manifest
from segray.shards.reader import iterate_batches

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]

GRID = ("ingest.grid.spacing=[9,9]", "ingest.structures=[liver,body]", "net.features=[4,8]")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> Path:
    folder = tmp_path_factory.mktemp("preview")
    make_phantoms(str(folder / "scans"), cases=2, seed=3, broken=False)
    ingest(str(folder / "scans"), str(folder / "shards"), load_config(None, list(GRID)))
    return folder / "shards"


def drawn(config: Config, monkeypatch: pytest.MonkeyPatch, out: Path) -> list[AugmentedSlice]:
    caught: list[AugmentedSlice] = []
    sheet = preview.augment_sheet

    def catch(rows: list[AugmentedSlice], *rest: Any, **named: Any) -> Any:
        caught.extend(rows)
        return sheet(rows, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(preview, "augment_sheet", catch)
        preview.preview_augment(config, str(out), slices=3, draws=2)
    return caught


def test_a_draw_is_what_the_net_of_a_training_is_shown(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (*GRID, f"train.shards={shards}", "seed=7", "augment.rotate=1", "augment.elastic=1", "augment.window=1")
    settings += ("augment.mixup=1",)
    config = load_config(None, list(settings))
    rows = drawn(config, monkeypatch, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert len(rows) == 3

    manifest = load_manifest(str(shards))
    index = load_index(str(shards), manifest)
    trainer = Trainer(
        config, build_net(config.net, 1, 3), normalisation_of(config, manifest), device="cpu",
        structures=manifest.label_map.names,
    )  # fmt: skip
    shown: list[torch.Tensor] = []
    trainer.network.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].clone()))
    (case,) = index.cases("train")
    (whole,) = iterate_batches(str(shards), index.visits_of([case]), 1000)
    chosen = [int(row.title.rpartition(" ")[2]) for row in rows]
    assert all((whole.labels[z] > 0).any() for z in chosen)
    for epoch in (1, 2):
        batch = Batch.from_arrays(
            whole.images[chosen], whole.labels[chosen], whole.mean[chosen], whole.sd[chosen], [case] * 3
        )
        trainer.step(batch, epoch=epoch, step=0, progress=0.0)
        for number, row in enumerate(rows):
            np.testing.assert_array_equal(row.pictures[epoch], shown[-1][number, 0].numpy())
            assert not np.array_equal(row.pictures[epoch], row.pictures[0])
    for row, z in zip(rows, chosen, strict=True):
        np.testing.assert_array_equal(row.labels[0], whole.labels[z])


def test_of_a_3d_net_patches_are_shown_turned_about_all_axes(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = [f"augment.{name}=0" for name in ("scale", "shift", "brightness", "contrast", "gamma", "noise")]
    settings = [*GRID, f"train.shards={shards}", "net.features=[4,8]", "net.patch=[8,16,16]", *calm, "augment.rotate=1"]
    flat = drawn(load_config(None, settings), monkeypatch, tmp_path / "flat.png")
    space = drawn(load_config(None, [*settings, "augment.space=true"]), monkeypatch, tmp_path / "space.png")
    assert flat[0].pictures.shape == (3, 16, 16)
    assert any((row.labels > 0).any() for row in flat)
    for one, other in zip(flat, space, strict=True):
        np.testing.assert_array_equal(one.pictures[0], other.pictures[0])
        assert not np.array_equal(one.pictures[1], other.pictures[1])
    # Above one another: mirrored along z the slice in the middle of eight is the one below it.
    turned = drawn(
        load_config(None, [*settings, "augment.rotate=0", "augment.flip_z=1"]), monkeypatch, tmp_path / "z.png"
    )
    assert all(not np.array_equal(row.pictures[1], row.pictures[0]) for row in turned)


def test_the_command_writes_the_picture_and_the_same_one_again(shards: Path, tmp_path: Path) -> None:
    made = []
    for name in ("a.png", "b.png"):
        cli.preview_augment(None, str(shards), str(tmp_path / name), slices=2, draws=1, overrides=[])
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize(("folder", "words"), [("", "No shards are named"), ("empty", "holds no shards")])
def test_without_shards_the_way_to_them_is_named(folder: str, words: str, tmp_path: Path) -> None:
    config = load_config(None, [f"train.shards={tmp_path / folder}"] if folder else [])
    with pytest.raises(UsageError, match=f"{words}.*segray ingest"):
        preview.preview_augment(config, str(tmp_path / "sheet.png"))
