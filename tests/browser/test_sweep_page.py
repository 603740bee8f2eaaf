"""The page of a sweep as a browser shows it: pictures load, the table sorts, nothing is wider than the screen."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from segray.report.sweep_page import write_sweep_page

pytestmark = pytest.mark.browser

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
ODD = "n$1$ <i>x</i> " + "long" * 30


def _made_up() -> ModuleType:
    path = Path(__file__).parents[1] / "report" / "made_up_sweep.py"
    spec = importlib.util.spec_from_file_location("made_up_sweep_for_pages", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = _made_up()
    records = [replace(one, params={**one.params, ODD: ODD}) for one in made.sweep(40)]
    folder, objectives = tmp_path_factory.mktemp("sweep"), [made.DICE, made.GFLOPS]
    return str(write_sweep_page(folder, ODD, records, objectives, made.IMPORTANCES, f"It went well. {ODD}"))


@pytest.mark.parametrize("size", list(SIZES))
def test_it_fits_the_screen_and_shows_all_its_pictures(size: str, page: str, open_page: Callable[..., Any]) -> None:
    driver = open_page(page, SIZES[size])
    seen = driver.execute_async_script(
        """
        const done = arguments[arguments.length - 1], root = document.documentElement;
        const images = [...document.querySelectorAll('img')];
        Promise.all(images.map(image => image.decode().catch(() => null))).then(() => done({
            wide: root.scrollWidth, room: root.clientWidth, images: images.length,
            broken: images.filter(image => !image.naturalWidth).map(image => image.alt),
            markup: document.querySelectorAll('i').length}));
        """
    )
    assert seen["wide"] <= seen["room"] <= SIZES[size][0]
    assert seen["images"] == 7
    assert seen["broken"] == []
    assert seen["markup"] == 0
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_click_on_a_head_sorts_the_table(page: str, open_page: Callable[..., Any]) -> None:
    driver = open_page(page, SIZES["desktop"])

    def click(name: str) -> list[str]:
        cells: list[str] = driver.execute_script(
            """
            const heads = [...document.querySelectorAll('table.sortable th')];
            const at = heads.findIndex(head => head.textContent === arguments[0]);
            heads[at].firstElementChild.click();
            return [...document.querySelectorAll('table.sortable tbody tr')].map(row => row.cells[at].textContent);
            """,
            name,
        )
        return cells

    by_number = click("trial")
    assert [int(cell) for cell in by_number] == list(range(40))
    assert [int(cell) for cell in click("trial")] == list(range(39, -1, -1))
    dice = click("val_dice")
    present = [float(cell) for cell in dice if cell != "-"]
    assert present == sorted(present, reverse=True)
    assert dice[len(present) :] == ["-"] * (40 - len(present))
    assert 0 < len(present) < 40
    rising = click("val_dice")
    assert [float(cell) for cell in rising[: len(present)]] == sorted(present)
    assert set(rising[len(present) :]) == {"-"}
    names = click("optim.name")
    assert names == sorted(names)
    assert len(set(names)) > 1
    sorted_heads = "return [...document.querySelectorAll('th[aria-sort]')].map(head => head.textContent)"
    assert driver.execute_script(sorted_heads) == ["optim.name"]
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
