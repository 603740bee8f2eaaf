"""The review page as a browser shows it: it fits the screen, loads pictures late, and sorts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from segray.report.png import encode_png
from segray.report.review_page import write_review_page

pytestmark = pytest.mark.browser

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
ODD = "n$1$ <i>x</i> " + "long" * 30


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("review")
    (folder / "previews").mkdir()
    rows = [
        {"rank": at, "case_id": f"c{at:03d}", "score": 1 / at, "structure": f"s{at % 3}", "reasons": f"{at}: {ODD}"}
        for at in range(1, 61)
    ]
    for row in rows[:50]:
        shade = np.full((400, 1280, 3), 40, np.uint8)
        (folder / "previews" / f"{row['case_id']}.png").write_bytes(encode_png(shade))
    return write_review_page(str(folder), rows)


@pytest.mark.parametrize("size", list(SIZES))
def test_it_fits_the_screen_and_loads_pictures_when_they_come_near(
    size: str, page: str, open_page: Callable[..., Any]
) -> None:
    driver = open_page(page, SIZES[size])
    seen = driver.execute_async_script(
        """
        const done = arguments[arguments.length - 1], root = document.documentElement;
        const images = [...document.querySelectorAll('img')];
        setTimeout(() => done({
            wide: root.scrollWidth, room: root.clientWidth, images: images.length,
            loaded: images.filter(image => image.naturalWidth).length, markup: document.querySelectorAll('i').length,
            shape: images[0].clientWidth / images[0].clientHeight}), 1500);
        """
    )
    assert seen["wide"] <= seen["room"] <= SIZES[size][0]
    assert seen["images"] == 50
    assert 0 < seen["loaded"] < 50
    assert seen["markup"] == 0
    assert seen["shape"] == pytest.approx(3.2, rel=0.02)
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_click_on_a_head_sorts_the_cases(page: str, open_page: Callable[..., Any]) -> None:
    driver = open_page(page, SIZES["desktop"])

    def click(name: str) -> list[str]:
        cells: list[str] = driver.execute_script(
            """
            const heads = [...document.querySelectorAll('table.sortable th')];
            heads.find(head => head.textContent === arguments[0]).firstElementChild.click();
            return [...document.querySelectorAll('table.sortable tbody tr')].map(row => row.cells[1].textContent);
            """,
            name,
        )
        return cells

    ranked = [f"c{at:03d}" for at in range(1, 61)]
    assert click("score") == ranked
    assert click("score") == ranked[::-1]
    assert click("case") == ranked
    assert click("structure")[:20] == ranked[2::3]
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
