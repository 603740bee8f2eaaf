"""config: YAML and overrides in, typed settings or one clear sentence out; the surface of settings is frozen."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from segray.config import Config, Section, dump_config, known_keys, load_config, parse_config
from segray.errors import UsageError

GOLDEN = Path(__file__).parent / "golden" / "settings.txt"


def surface() -> str:
    """Every setting with its default, a line each."""
    return "".join(f"{key} = {json.dumps(field.get_default())}\n" for key, field in known_keys())


def test_the_surface_of_settings_changes_only_on_purpose() -> None:
    """Users have these keys in their files: update tests/golden/settings.txt only with a line in the changelog."""
    if os.environ.get("UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(surface(), encoding="utf-8")
    assert surface() == GOLDEN.read_text(encoding="utf-8")


def test_every_setting_says_what_it_means() -> None:
    for key, field in known_keys():
        assert field.description, key
        assert len(field.description) >= 8, key
        assert isinstance(field.json_schema_extra, dict), key
        assert "unit" in field.json_schema_extra, key


def test_every_section_refuses_unknown_keys() -> None:
    sections = {Config} | {type(value) for _, value in Config() if isinstance(value, Section)}
    assert all(section.model_config["extra"] == "forbid" for section in sections)


def test_defaults_need_no_file() -> None:
    assert load_config() == Config()


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("# nothing set\n", encoding="utf-8")
    assert load_config(path) == Config()


def test_a_file_and_its_overrides(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("train: {epochs: 5, batch_size: 4}\nnet: {features: [8, 16]}\n", encoding="utf-8")
    config = load_config(
        path, ["train.epochs=20", "ingest.labels={liver: 1, spleen: 5}", "ingest.grid.spacing=[1.5, 2]"]
    )
    assert config.train.epochs == 20
    assert config.train.batch_size == 4
    assert config.net.features == [8, 16]
    assert config.ingest.labels == {"liver": 1, "spleen": 5}
    assert config.ingest.grid.spacing == (1.5, 2.0)


def test_a_later_override_wins_and_empty_means_none() -> None:
    assert load_config(None, ["train.epochs=2", "train.epochs=3"]).train.epochs == 3
    assert load_config(None, ["ingest.grid.size=[64, 64]", "ingest.grid.size="]).ingest.grid.size is None


def test_an_override_may_hold_an_equals_sign() -> None:
    assert load_config(None, ["train.run=runs/lr=1"]).train.run == "runs/lr=1"


def test_a_resolved_config_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(
        None, ["train.epochs=7", "ingest.labels={liver: 3}", "ingest.grid.size=[64, 96]", "optim.lr=0.001"]
    )
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config


@settings(deadline=None)
@given(
    epochs=st.integers(1, 10**6),
    features=st.lists(st.integers(1, 2048), min_size=2, max_size=8),
    window=st.tuples(st.floats(-2000, 0), st.floats(1, 4000)),
    labels=st.none() | st.dictionaries(st.text(min_size=1, max_size=12), st.integers(1, 65535), min_size=1, max_size=4),
)
def test_any_valid_config_survives_yaml(
    epochs: int, features: list[int], window: tuple[float, float], labels: dict[str, int] | None
) -> None:
    config = parse_config(
        {
            "train": {"epochs": epochs},
            "net": {"features": features},
            "intensity": {"window": window},
            "ingest": {"labels": labels},
        }
    )
    assert parse_config(yaml.safe_load(dump_config(config))) == config


def test_a_config_is_written_as_one_piece_would_be() -> None:
    """Also after others, of which a section is kept; to Python True is 1, and to YAML it is not."""
    for told in (
        {},
        {"augment": {"rotate_degrees": 1}},
        {"augment": {"rotate_degrees": 1.0}},
        {"net": {"features": [4, 8]}},
        {},
    ):
        config = parse_config(told)
        whole = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=120)
        assert dump_config(config) == whole
        assert dump_config(config) == whole


def test_a_key_that_stands_twice_counts_as_it_stands_last(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("seed: 1\nseed: 2\n", encoding="utf-8")
    assert load_config(path).seed == 2


@pytest.mark.parametrize(
    ("text", "line"), [("seed: 1\ntrain: [1, 2\nnet: 3\n", 3), ("seed: 1\n\ttrain: 2\n", 2), ("a: b: c\n", 1)]
)
def test_the_line_of_bad_yaml_is_the_one_that_pyyaml_names(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=f"not valid YAML at line {line}"):
        load_config(path)


def test_a_config_of_nothing_but_brackets_does_not_end_the_process(tmp_path: Path) -> None:
    """As it does where libyaml reads it."""
    path = tmp_path / "config.yaml"
    path.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises((UsageError, RecursionError)):
        load_config(path)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("train.epoch", "train.epochs"),
        ("train.batchsize", "train.batch_size"),
        ("ingest.grid.spacin", "ingest.grid.spacing"),
        ("nett", "net"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=rf"Unknown setting {key}\. Did you mean {nearest}\?"):
        load_config(None, [f"{key}=1"])


def test_an_unknown_section_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Unknown setting trian\. Did you mean train\?"):
        load_config(None, ["trian.epochs=1"])


def test_an_unknown_key_of_a_file_is_named_in_full(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("ingest: {grid: {sizes: [1, 1]}}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"ingest\.grid\.sizes\. Did you mean ingest\.grid\.size\?"):
        load_config(path)


def test_a_key_like_no_other_points_to_the_list() -> None:
    with pytest.raises(UsageError, match="`segray config` prints all settings"):
        load_config(None, ["qqqqzzzz=1"])


def test_a_key_below_a_value_is_unknown() -> None:
    with pytest.raises(UsageError, match=r"Unknown setting train\.epochs\.more"):
        load_config(None, ["train.epochs=3", "train.epochs.more=1"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epochs=0", "train.epochs"),
        ("train.epochs=many", "'many'"),
        ("train.epochs=2.5", "train.epochs"),
        ("ingest.split.validation=1.5", "1.5"),
        ("ingest.level=10", "ingest.level"),
        ("ingest.grid.spacing=[0, 1]", "ingest.grid.spacing"),
        ("ingest.grid.mode=fit", "'fit'"),
        ("ingest.labels={liver: 0}", "ingest.labels"),
        ("net.features=[32]", "net.features"),
        ("intensity.window=[100, -100]", "must rise"),
        ("loss={dice: 0, cross_entropy: 0}", "cannot all be 0"),
        ("loss={tversky: 1, tversky_alpha: 0, tversky_beta: 0}", "tversky_alpha and tversky_beta cannot both be 0"),
        ("loss.class_weights={liver: -1}", "loss.class_weights.liver"),
        ("ray.cpus=-1", "ray.cpus"),
        ("seed=-1", "seed"),
    ],
)
def test_a_value_out_of_range_is_shown_with_its_setting(override: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(None, [override])
    assert said in str(caught.value)
    assert str(caught.value).startswith("Setting ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["train.epochs", "=3", " =3"])
def test_an_override_without_key_or_value_is_explained(override: str) -> None:
    with pytest.raises(UsageError, match="--set needs key=value"):
        load_config(None, [override])


def test_an_override_that_is_no_yaml_is_shown() -> None:
    with pytest.raises(UsageError, match="is not a YAML value"):
        load_config(None, ["net.features=[32, "])


def test_bad_yaml_is_shown_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("train:\n  epochs: 3\n net: [\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"config\.yaml is not valid YAML at line 3"):
        load_config(path)


def test_a_list_or_binary_file_is_no_config(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("- train\n", encoding="utf-8")
    with pytest.raises(UsageError, match="must be a table of settings"):
        load_config(path)
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UsageError, match="not valid YAML"):
        load_config(path)


def test_a_missing_config_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml cannot be read \(No such file or directory\)"):
        load_config(tmp_path / "none.yaml")


def test_a_yaml_tag_builds_no_object(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("train: !!python/object/apply:os.system ['true']\n", encoding="utf-8")
    with pytest.raises(UsageError, match="not valid YAML"):
        load_config(path)


def test_settings_cannot_be_changed_after_they_are_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().train.epochs = 3


def test_yes_and_no_are_words_although_yaml_reads_them_as_truth_values(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("train: {gpu: no}\npredict: {gpu: yes}\n")
    config = load_config(str(path), [])
    assert (config.train.gpu, config.predict.gpu) == ("no", "yes")
    assert load_config(None, ["train.gpu=no"]).train.gpu == "no"
    with pytest.raises(UsageError, match=r"train\.gpu"):
        load_config(None, ["train.gpu=1"])


def test_names_and_axes_stand_once_in_order_and_a_single_one_without_brackets() -> None:
    told = ["predict.mirror=[z, x, z]", "predict.largest_component=all", "predict.fill_holes=[liver, aorta, liver]"]
    predict = load_config(None, told).predict
    assert (predict.mirror, predict.largest_component) == (["x", "z"], ["all"])
    assert predict.fill_holes == ["aorta", "liver"]
    assert load_config(None, ["predict.mirror=y"]).predict.mirror == ["y"]


@pytest.mark.parametrize(
    "override",
    ["predict.mirror=w", "predict.mirror={x: 1}", "predict.threshold={liver: 1.5}", "predict.smallest_ml=1",
     "predict.smallest_ml={liver: -1}", "predict.largest_component=[1]", "predict.threshold=0.7"],
)  # fmt: skip
def test_quality_settings_out_of_range_are_shown(override: str) -> None:
    with pytest.raises(UsageError, match=rf"^Setting {override.partition('=')[0]}"):
        load_config(None, [override])


def test_windows_and_their_overlap() -> None:
    predict = load_config(None, ["predict.window=[512, 0]", "predict.overlap=0"]).predict
    assert (predict.window, predict.overlap) == ((512, 0), 0.0)
    assert predict.of_masks | {"window": [512, 0], "overlap": 0.0} == predict.of_masks
    for override in ("predict.overlap=1", "predict.overlap=-0.1", "predict.window=[-16, 16]", "predict.window=512"):
        with pytest.raises(UsageError, match=rf"^Setting {override.partition('=')[0]}"):
            load_config(None, [override])


def test_a_section_with_nothing_below_it_names_no_setting(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("train:\ningest:\n  grid:\nnet: {dropout: 0.5}\n")
    assert load_config(path).train == Config().train
    config = load_config(path, ["train.epochs=3", "ingest.grid.multiple=32"])
    assert (config.train.epochs, config.ingest.grid.multiple, config.net.dropout) == (3, 32, 0.5)
