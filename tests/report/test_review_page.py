from __future__ import annotations

import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from segray.evaluation.tables import csv_text
from segray.report.page import write_report
from segray.report.png import encode_png
from segray.report.review_page import MOST_CASES, write_review_page

sys.path.insert(0, str(Path(__file__).parent))

from made_up import write_predictions

EVIL = '"><script>alert(1)</script>'


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))


def write_review(folder: Path, cases: list[str], pictures: list[str]) -> None:
    (folder / "previews").mkdir(parents=True)
    rows = [
        {"rank": at, "case_id": case, "score": 1 - at / 1000, "structure": "liver", "reasons": f"why {at} & so"}
        for at, case in enumerate(cases, start=1)
    ]
    (folder / "review.csv").write_text(csv_text(rows, list(rows[0])))
    for case in pictures:
        (folder / "previews" / f"{case}.png").write_bytes(encode_png(np.zeros((30, 70, 3), np.uint8)))


def read(page: str) -> tuple[str, list[tuple[str, dict[str, str]]]]:
    text = Path(page).read_text(encoding="utf-8")
    parser = Tags()
    parser.feed(text)
    return text, parser.tags


def test_the_first_cases_of_the_list_with_their_previews(tmp_path: Path) -> None:
    cases = [f"case_{at}" for at in range(1, 251)]
    write_review(tmp_path / "here", cases, cases[:3])
    write_review_page(str(tmp_path / "here"))
    shutil.move(tmp_path / "here", tmp_path / "there")
    text, tags = read(str(tmp_path / "there" / "review.html"))
    assert re.findall(r">(case_\d+)</td>", text) == cases[:MOST_CASES]
    images = [attrs for tag, attrs in tags if tag == "img"]
    assert [image["src"] for image in images] == [f"previews/case_{at}.png" for at in (1, 2, 3)]
    assert all((tmp_path / "there" / image["src"]).is_file() for image in images)
    assert all((image["loading"], image["width"], image["height"]) == ("lazy", "70", "30") for image in images)
    assert "<dd>250</dd>" in text
    assert 'href="review.csv"' in text
    assert 'href="index.html"' not in text
    assert not [attrs for _, attrs in tags if "://" in attrs.get("src", attrs.get("href", ""))]


def test_texts_are_text_and_no_markup(tmp_path: Path) -> None:
    rows = [{"rank": 1, "case_id": EVIL, "score": EVIL, "structure": EVIL, "reasons": EVIL}]
    (tmp_path / "previews").mkdir()
    odd = "a ' b\" & <i>"
    rows.append({"rank": 2, "case_id": odd, "score": 0.5, "structure": "\udc80", "reasons": "x"})
    (tmp_path / "previews" / f"{odd}.png").write_bytes(b"no png")
    text, tags = read(write_review_page(str(tmp_path), rows))
    assert sum(tag == "script" for tag, _ in tags) == 1
    assert not [tag for tag, _ in tags if tag == "i"]
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 4
    image = next(attrs for tag, attrs in tags if tag == "img")
    assert unquote(image["src"]) == f"previews/{odd}.png"
    assert image["alt"] == f"Preview of {odd}"


def test_columns_sort_by_numbers_and_what_is_missing_is_a_dash(tmp_path: Path) -> None:
    rows = [
        {"rank": "1", "case_id": "a", "score": "0.75", "structure": "", "reasons": "one; two"},
        {"rank": 2, "case_id": "../../etc/passwd", "score": float("nan")},
    ]
    text, tags = read(write_review_page(str(tmp_path), rows))
    heads = [attrs for tag, attrs in tags if tag == "th"]
    assert [head["class"] for head in heads[:3]] == ["number", "word", "number"]
    assert sum(tag == "button" for tag, _ in tags) == 5
    cells = [attrs.get("data-key") for tag, attrs in tags if tag == "td"]
    assert cells[:6] == ["1.0", None, "0.75", "", None, ""]
    assert cells[8] == ""
    assert ">0.750</td>" in text
    assert not [tag for tag, _ in tags if tag == "img"]


def test_failed_cases_have_a_list_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "previews").mkdir()
    rows = [{"rank": 1, "case_id": "case_1", "status": "ok", "score": 0.5, "reasons": "odd"}]
    rows += [{"rank": at, "case_id": f"case_{at}", "status": "failed", "score": 1.0} for at in range(2, 5)]
    text, _ = read(write_review_page(str(tmp_path), rows, most=2))
    assert re.findall(r">(case_\d+)</td>", text) == ["case_1", "case_2", "case_3"]
    assert "Failed cases, which have no mask (3)" in text
    alone, _ = read(write_review_page(str(tmp_path), rows[1:], most=2))
    assert "No case has a mask." in alone


def test_an_empty_list_says_so(tmp_path: Path) -> None:
    text, tags = read(write_review_page(str(tmp_path / "new"), []))
    assert "No case needs a look." in text
    assert not [tag for tag, _ in tags if tag == "table"]


def test_the_report_leads_to_the_review_and_back(tmp_path: Path) -> None:
    names = ["liver", "spleen"]
    write_predictions(tmp_path, names, ["a1", "b2"], evaluated=False)
    assert 'id="review"' not in read(write_report(str(tmp_path)))[0]
    write_review(tmp_path, ["b2", "a1"], ["b2"])
    review, _ = read(write_review_page(str(tmp_path)))
    assert 'href="index.html"' in review
    text, tags = read(write_report(str(tmp_path)))
    section = text[text.index('id="review"') : text.index('id="overlays"')]
    assert 'href="review.html"' in section
    assert "b2: why 1 &amp; so" in section
    assert "previews/b2.png" in [attrs.get("src") for tag, attrs in tags if tag == "img"]


def test_a_review_in_another_folder_is_found_from_the_page(tmp_path: Path) -> None:
    write_predictions(tmp_path / "pred", ["liver"], ["a1"], evaluated=False)
    write_review(tmp_path / "pred", ["a1"], ["a1"])
    write_review_page(str(tmp_path / "pred"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 1\n")
    _, tags = read(write_report(str(tmp_path / "run"), predictions=str(tmp_path / "pred")))
    assert "../pred/review.html" in [attrs.get("href") for tag, attrs in tags if tag == "a"]
    assert "../pred/previews/a1.png" in [attrs.get("src") for tag, attrs in tags if tag == "img"]
