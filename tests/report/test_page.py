from __future__ import annotations

import math
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import segray.report
from segray.errors import SegrayError, UsageError
from segray.evaluation.tables import write_table
from segray.report.page import write_report

sys.path.insert(0, str(Path(__file__).parent))

from made_up import write_predictions, write_run

NAMES = ["liver", "spleen", "lung $x$ <i>"]


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.images: list[tuple[str, str]] = []
        self.targets: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if tag == "img":
            self.images.append((unquote(found["src"]), found["alt"]))
        if tag == "a" and not found["href"].startswith("#"):
            self.targets.append(unquote(found["href"]))


def parse(page: str) -> tuple[str, Links]:
    text = Path(page).read_text(encoding="utf-8")
    links = Links()
    links.feed(text)
    for target in [*(source for source, _ in links.images), *links.targets]:
        assert (Path(page).parent / target).is_file(), target
    assert all(alt for _, alt in links.images)
    return text, links


def drawn(links: Links) -> set[str]:
    return {Path(source).stem for source, _ in links.images}


@pytest.fixture(scope="module")
def whole_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a run with its predictions, drawn once."""
    base = tmp_path_factory.mktemp("report")
    write_run(base / "run", NAMES)
    write_predictions(base / "pred", NAMES, ["a1", "b2", "c3", "d4"])
    return write_report(str(base / "run"), predictions=str(base / "pred"))


def test_run_and_predictions_on_one_page(whole_page: str) -> None:
    text, links = parse(whole_page)
    curves = {"loss", "validation_dice", "learning_rate", "data_wait"}
    plots = {"structure_ranking", "dice_distribution", "volume_agreement", "volume_difference", "case_volumes"}
    assert drawn(links) == curves | plots | {"overlay_a1", "overlay_c3", "overlay_d4"}
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert "Not in this report" not in text


def test_texts_of_files_are_escaped(whole_page: str) -> None:
    text, links = parse(whole_page)
    assert "script" not in links.tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&lt;script&gt;x&lt;/script&gt; &amp; no NIfTI" in text
    assert not {"i", "b"} & set(links.tags)
    assert "x&lt;y" in text


def test_worst_cases_come_first(whole_page: str) -> None:
    text, _ = parse(whole_page)
    worst = text[text.index('id="worst"') : text.index('id="failed"')]
    order = re.findall(r'<td class="text">([abcd]\d)</td>', worst)
    assert order == ["d4", "c3", "b2", "a1"]


def test_a_run_alone_names_the_next_command(tmp_path: Path) -> None:
    write_run(tmp_path, NAMES)
    text, links = parse(write_report(str(tmp_path)))
    assert drawn(links) == {"loss", "validation_dice", "learning_rate", "data_wait"}
    assert "segray predict BUNDLE SRC DST" in text


def test_a_run_before_its_first_epoch(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    text, links = parse(write_report(str(tmp_path)))
    assert links.images == []
    assert "segray train --resume" in text


def test_predictions_without_an_evaluation(tmp_path: Path) -> None:
    write_predictions(tmp_path, NAMES, ["a1", "b2"], evaluated=False)
    text, links = parse(write_report(str(tmp_path)))
    assert drawn(links) == {"case_volumes", "overlay_a1", "overlay_b2"}
    assert "segray evaluate" in text
    assert "median volume (ml)" in text


def test_nothing_but_failed_cases(tmp_path: Path) -> None:
    write_predictions(tmp_path, NAMES, [], evaluated=False)
    text, links = parse(write_report(str(tmp_path)))
    assert links.images == []
    assert "no NIfTI" in text


def test_an_image_that_is_gone_costs_only_its_overlay(tmp_path: Path) -> None:
    write_predictions(tmp_path, NAMES, ["a1", "b2"])
    (tmp_path / "in" / "b2.nii.gz").unlink()
    text, links = parse(write_report(str(tmp_path)))
    assert "overlay_a1" in drawn(links)
    assert "overlay_b2" not in drawn(links)
    assert "No overlay of b2" in text


def test_sixty_structures(tmp_path: Path) -> None:
    names = [f"structure_{index}" for index in range(60)]
    write_run(tmp_path, names, epochs=2)
    write_predictions(tmp_path, names, ["a1", "b2"])
    text, links = parse(write_report(str(tmp_path)))
    assert {"structure_ranking", "validation_dice", "overlay_a1"} <= drawn(links)
    assert all(f">{name}<" in text for name in names)


def test_an_evaluated_prediction_folder_is_no_run(tmp_path: Path) -> None:
    write_predictions(tmp_path, NAMES, ["a1"])
    assert (tmp_path / "metrics.csv").is_file()
    _, links = parse(write_report(str(tmp_path)))
    assert "loss" not in drawn(links)


def test_structures_of_no_case_are_named_below_the_table(tmp_path: Path) -> None:
    write_predictions(tmp_path, NAMES, ["a1"])
    rows = [
        {"case_id": "a1", "structure": name, "dice": value} for name, value in (("liver", 0.5), ("spleen", math.nan))
    ]
    write_table(str(tmp_path), "metrics", rows)
    text, _ = parse(write_report(str(tmp_path)))
    assert "neither in truth nor mask (2): spleen, lung $x$ &lt;i&gt;." in text


def test_the_folder_can_be_moved(tmp_path: Path) -> None:
    write_predictions(tmp_path / "here", NAMES, ["a1"])
    write_report(str(tmp_path / "here"))
    shutil.move(tmp_path / "here", tmp_path / "there")
    parse(str(tmp_path / "there" / "index.html"))


def test_a_folder_of_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a training run nor predictions"):
        write_report(str(tmp_path))
    write_run(tmp_path / "run", NAMES)
    with pytest.raises(UsageError, match="segray predict"):
        write_report(str(tmp_path / "run"), predictions=str(tmp_path))


def test_damaged_json_is_an_error_in_words(tmp_path: Path) -> None:
    write_run(tmp_path, NAMES)
    (tmp_path / "history.json").write_text("{")
    with pytest.raises(SegrayError, match=r"history\.json is no valid JSON"):
        write_report(str(tmp_path))


def test_the_room_is_the_public_function_too(tmp_path: Path) -> None:
    write_run(tmp_path, NAMES)
    assert segray.report(str(tmp_path)) == str(tmp_path / "index.html")
