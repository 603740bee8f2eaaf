"""The pages as a browser shows them, on a desktop and on a phone."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from segray.report.page import write_report

pytestmark = pytest.mark.browser

NAMES = ["liver", "spleen", "a_structure_with_a_rather_long_name_that_no_phone_shows_in_one_line", "lung $x$ <i>"]
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


def _made_up() -> ModuleType:
    path = Path(__file__).parents[1] / "report" / "made_up.py"
    spec = importlib.util.spec_from_file_location("made_up_for_pages", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made, base = _made_up(), tmp_path_factory.mktemp("pages")
    made.write_run(base / "run", NAMES)
    made.write_predictions(base / "predictions", NAMES, ["a1", "b2", "c3", "d4"])
    return {
        "run": write_report(str(base / "run")),
        "predictions": write_report(str(base / "predictions")),
    }


@pytest.mark.parametrize("size", list(SIZES))
@pytest.mark.parametrize("name", ["run", "predictions"])
def test_a_page_fits_the_screen_and_shows_all_its_pictures(
    name: str, size: str, pages: dict[str, str], open_page: Callable[..., Any]
) -> None:
    driver = open_page(pages[name], SIZES[size])
    seen = driver.execute_script(
        """
        const root = document.documentElement;
        const small = [...document.querySelectorAll('p, td, li, figcaption, dd')]
            .filter(e => e.textContent.trim() && parseFloat(getComputedStyle(e).fontSize) < 12);
        const images = [...document.querySelectorAll('img')];
        images.forEach(image => image.loading = 'eager');
        return {wide: root.scrollWidth, room: root.clientWidth, title: document.title,
                small: small.length, images: images.length};
        """
    )
    assert seen["wide"] <= seen["room"] <= SIZES[size][0]
    assert seen["title"]
    assert seen["small"] == 0
    assert seen["images"] > 3
    driver.implicitly_wait(0)
    broken = driver.execute_async_script(
        """
        const done = arguments[arguments.length - 1];
        const images = [...document.querySelectorAll('img')];
        Promise.all(images.map(image => image.decode().catch(() => null)))
            .then(() => done(images.filter(image => !image.naturalWidth).map(image => image.src)));
        """
    )
    assert broken == []
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_structure_name_is_text_and_no_markup(pages: dict[str, str], open_page: Callable[..., Any]) -> None:
    driver = open_page(pages["predictions"], SIZES["desktop"])
    assert "lung $x$ <i>" in driver.execute_script("return document.body.innerText")
    assert driver.execute_script("return document.querySelectorAll('td i').length") == 0


def test_the_links_within_a_page_lead_somewhere(pages: dict[str, str], open_page: Callable[..., Any]) -> None:
    driver = open_page(pages["predictions"], SIZES["phone"])
    lost = driver.execute_script(
        """
        return [...document.querySelectorAll('a[href^="#"]')].map(a => a.getAttribute('href'))
            .filter(target => !document.getElementById(decodeURIComponent(target.slice(1))));
        """
    )
    assert lost == []
    assert driver.execute_script("return document.querySelectorAll('a[href^=\"#\"]').length") > 0
