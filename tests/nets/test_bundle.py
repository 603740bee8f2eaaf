"""Bundles: round trip, identity, and damaged folders told in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from segray.case import LabelMap
from segray.config import NetConfig
from segray.errors import UsageError
from segray.grid import Grid
from segray.nets.bundle import find_bundles, load_bundle, save_bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net

NET = NetConfig(features=[4, 8])
LABELS = LabelMap({"liver": 5, "spleen": 9})
GRID = Grid("native", (16, 16), None, -1024.0)
SPLIT = {"train": ["a", "b"], "validation": ["c"], "test": []}


def _save(folder: Path, seed: int = 0) -> tuple[str, torch.nn.Module]:
    torch.manual_seed(seed)
    network = build_net(NET, 1, LABELS.channels)
    bundle_id = save_bundle(
        str(folder), network, net=NET, label_map=LABELS, grid=GRID, normalisation=Normalisation("window"),
        metrics={"dice": 0.9}, split=SPLIT, provenance={"run": "r"},
    )  # fmt: skip
    return bundle_id, network


def test_round_trip(tmp_path: Path) -> None:
    bundle_id, network = _save(tmp_path)
    bundle = load_bundle(str(tmp_path))
    assert (bundle.net, bundle.label_map, bundle.grid, bundle.split) == (NET, LABELS, GRID, SPLIT)
    assert (bundle.metrics, bundle.provenance, bundle.plane) == ({"dice": 0.9}, {"run": "r"}, "axial")
    assert bundle.bundle_id == bundle_id
    assert bundle.version
    x = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(bundle.network()(x), network.eval()(x))


def test_channels_last_weights_are_saved(tmp_path: Path) -> None:
    network = build_net(NET, 1, 3).to(memory_format=torch.channels_last)
    save_bundle(str(tmp_path), network, net=NET, label_map=LABELS, grid=GRID, normalisation=Normalisation("window"))
    found = load_bundle(str(tmp_path)).weights
    assert all(torch.equal(found[name], tensor) for name, tensor in network.state_dict().items())


def test_identity_follows_the_weights(tmp_path: Path) -> None:
    assert _save(tmp_path / "a")[0] == _save(tmp_path / "b")[0]
    assert _save(tmp_path / "a")[0] != _save(tmp_path / "c", seed=1)[0]


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors"])
def test_missing_file_is_told(tmp_path: Path, name: str) -> None:
    _save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UsageError, match=f"no bundle: it holds no {name}"):
        load_bundle(str(tmp_path))


def test_weights_of_another_bundle_are_refused(tmp_path: Path) -> None:
    _save(tmp_path / "a")
    _save(tmp_path / "b", seed=1)
    (tmp_path / "a" / "weights.safetensors").write_bytes((tmp_path / "b" / "weights.safetensors").read_bytes())
    with pytest.raises(UsageError, match="damaged"):
        load_bundle(str(tmp_path / "a"))


@pytest.mark.parametrize("text", ["", "[]", "{}", "\udcff", '{"schema_version": 1}'])
def test_damaged_description_is_told(tmp_path: Path, text: str) -> None:
    _save(tmp_path)
    (tmp_path / "bundle.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match="damaged"):
        load_bundle(str(tmp_path))


def test_missing_entry_and_newer_schema_are_told(tmp_path: Path) -> None:
    _save(tmp_path)
    path = tmp_path / "bundle.json"
    table = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in table.items() if k != "grid"}))
    with pytest.raises(UsageError, match="grid"):
        load_bundle(str(tmp_path))
    path.write_text(json.dumps(table | {"schema_version": 99}))
    with pytest.raises(UsageError, match="newer"):
        load_bundle(str(tmp_path))


def test_weights_that_do_not_fit_the_network_are_told(tmp_path: Path) -> None:
    _save(tmp_path)
    path = tmp_path / "bundle.json"
    table = json.loads(path.read_text())
    table["net"]["features"] = [8, 8]
    path.write_text(json.dumps(table))
    with pytest.raises(UsageError, match="do not fit"):
        load_bundle(str(tmp_path)).network()


def test_a_bundle_says_that_its_structures_overlap(tmp_path: Path) -> None:
    label_map = LabelMap({"liver": 5, "lesion": 9}, overlapping=True)
    network = build_net(NET, 1, label_map.channels)
    save_bundle(
        str(tmp_path), network, net=NET, label_map=label_map, grid=GRID, normalisation=Normalisation("case")
    )  # fmt: skip
    bundle = load_bundle(str(tmp_path))
    assert bundle.label_map == label_map
    assert bundle.network().out_channels == 2


def test_a_bundle_without_the_word_is_exclusive(tmp_path: Path) -> None:
    network = build_net(NET, 1, LABELS.channels)
    save_bundle(str(tmp_path), network, net=NET, label_map=LABELS, grid=GRID, normalisation=Normalisation("case"))
    path = tmp_path / "bundle.json"
    table = json.loads(path.read_text())
    del table["overlapping"]
    path.write_text(json.dumps(table))
    assert load_bundle(str(tmp_path)).label_map == LABELS


def test_a_bundle_of_a_net_without_newer_settings_loads(tmp_path: Path) -> None:
    _, network = _save(tmp_path)
    path = tmp_path / "bundle.json"
    table = json.loads(path.read_text())
    table["net"] = {key: table["net"][key] for key in ("features", "norm", "activation", "upsampling", "dropout")}
    path.write_text(json.dumps(table))
    x = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(load_bundle(str(tmp_path)).network()(x), network.eval()(x))


def test_a_bundle_keeps_all_heads(tmp_path: Path) -> None:
    config = NetConfig(features=[4, 8, 8, 8], blocks="residual", attention=True, deep_supervision=True)
    network = build_net(config, 1, LABELS.channels)
    save_bundle(
        str(tmp_path), network, net=config, label_map=LABELS, grid=GRID, normalisation=Normalisation("case")
    )  # fmt: skip
    loaded = load_bundle(str(tmp_path)).network()
    x = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(x), network.eval()(x))
        for mine, theirs in zip(loaded.train()(x), network.train()(x), strict=True):
            assert torch.equal(mine, theirs)


def test_folds_that_are_still_trained_are_no_ensemble(tmp_path: Path) -> None:
    """Each fold has a bundle from its first epoch on, and one that has not begun has not even a folder."""
    for fold in (0, 1):
        bundle = tmp_path / "run" / f"fold_{fold}" / "bundle"
        bundle.mkdir(parents=True)
        (bundle / "bundle.json").write_text("{}")
    (tmp_path / "run" / "history.json").write_text(json.dumps({"finished": False}))
    with pytest.raises(UsageError, match="has not ended"):
        find_bundles(str(tmp_path / "run"))
    (tmp_path / "run" / "history.json").write_text(json.dumps({"finished": True}))
    assert len(find_bundles(str(tmp_path / "run"))) == 2
