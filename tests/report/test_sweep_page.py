"""The page of a sweep and the data that its plots show."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))

from made_up_sweep import DICE, GFLOPS, HOSTS, IMPORTANCES, sweep

from segray.report.sweep_axes import param_axis, qualities, shown_parameters, told_apart, value_limits
from segray.report.sweep_curves import best_so_far, learning_curves, optimisation_history
from segray.report.sweep_front import front_plot
from segray.report.sweep_page import write_sweep_page
from segray.report.sweep_params import bent_lines, importance_bars, parallel_axes, slices
from segray.report.sweep_plots import sweep_plots
from segray.report.sweep_timeline import pack_lanes, placed, time_line
from segray.report.theme import png_bytes
from segray.tuning.pareto import pareto_front
from segray.tuning.ranking import best_of, measured
from segray.tuning.records import Objective, TrialRecord

LOSS = Objective("train_loss")
ODD = "x$1$ <script>alert('p')</script> & \udc80" + "y" * 200


class Page(HTMLParser):
    """The elements of a page that the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str]] = []
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append({name: value or "" for name, value in attrs})
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._cell = tag in ("td", "th", "button")

    def handle_endtag(self, tag: str) -> None:
        self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data


def trial(number: int, *values: float, **more: Any) -> TrialRecord:
    return replace(TrialRecord(number, "finished", {}, {}, values or None), **more)


def with_param(*values: Any) -> list[TrialRecord]:
    return [trial(number, 0.5, params={"p": value}) for number, value in enumerate(values)]


def written(tmp_path: Path, records: list[TrialRecord], *objectives: Objective, answer: str = "It went well.") -> Page:
    path = write_sweep_page(tmp_path, "a sweep", records, objectives, IMPORTANCES, answer)
    assert path == tmp_path / "index.html"
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_holds_its_answer_pictures_and_trials(tmp_path: Path) -> None:
    records = sweep(60)
    page = written(tmp_path, records, DICE, GFLOPS)
    names = {"history", "curves", "front", "importances", "timeline", "parallel", "slices"}
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == names
    assert len(page.images) == len(names)
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.images)
    assert all(len(image["alt"]) > 20 for image in page.images)
    assert page.tags.count("figcaption") == len(names)
    assert "It went well." in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.tags.count("script") == 1


def test_the_table_has_all_trials_best_first(tmp_path: Path) -> None:
    records = sweep(60)
    head, *rows = written(tmp_path, records, DICE, GFLOPS).rows
    assert head == ["trial", "state", "val_dice", "gflops", *IMPORTANCES, "optim.momentum", *head[-4:]]
    assert head[-4:] == ["epochs", "minutes", "host", "reason"]
    best = best_of(records, [DICE, GFLOPS])
    assert best is not None
    assert best.values is not None
    assert best.ended is not None
    assert best.began is not None
    assert sorted(int(row[0]) for row in rows) == list(range(60))
    assert rows[0][:3] == [str(best.number), "finished", f"{best.values[0]:.4f}"]
    assert rows[0][-4:] == ["20", f"{(best.ended - best.began) / 60:.1f}", best.host, "-"]
    finished = [float(row[2]) for row in rows if row[1] == "finished"]
    assert finished == sorted(finished, reverse=True)
    states = [row[1] for row in rows]
    assert states == sorted(states, key=lambda state: {"finished": 0, "pruned": 1}.get(state, 2))
    assert {"failed", "out of memory"} <= set(states)
    small = next(row for row in rows if float(row[head.index("optim.lr")]) < 5e-4)
    of_small = next(record for record in records if record.number == int(small[0]))
    assert float(small[head.index("optim.lr")]) == pytest.approx(of_small.params["optim.lr"], rel=1e-3)


def test_all_texts_are_escaped(tmp_path: Path) -> None:
    records = [
        replace(one, params={ODD: ODD, **one.params}, host=ODD, reason=ODD, state=state)
        for one, state in zip(sweep(12), ["finished", "failed"] * 6, strict=True)
    ]
    path = write_sweep_page(tmp_path, ODD, records, [Objective(f"val_dice_{ODD}")], {ODD: 1.0}, ODD)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("script") == 1
    assert "<script>alert" not in text
    assert "('p')" not in text
    # title and heading, answer, heads and cells of the table, alternative texts
    assert text.count("x$1$ &lt;script&gt;") > 24
    assert not any('"' in image["alt"] for image in page.images)


def test_many_parameters_are_cut_to_the_most_important(tmp_path: Path) -> None:
    records = sweep(20, more=40)
    names, known = shown_parameters(records, {"further.parameter_33": 0.9, "optim.lr": 0.1, "gone": 0.5})
    assert (len(names), known) == (12, 47)
    assert names[:2] == ["further.parameter_33", "optim.lr"]
    for figure in (parallel_axes(records, [DICE], IMPORTANCES), slices(records, [DICE], IMPORTANCES)):
        title = figure.axes[0].get_title(loc="left") + (figure.get_suptitle() or "")
        assert "(12 of 47 shown)" in title
    head = written(tmp_path, records, DICE).rows[0]
    assert "other parameters" in head
    bars = importance_bars({f"p{at}": 1 / (at + 1) for at in range(40)}, [DICE])
    assert "(12 of 40 shown)" in bars.axes[0].get_title(loc="left")


def test_importances_are_sorted_bars() -> None:
    axes = importance_bars({"low": 0.1, "none": math.nan, "high": 0.7}, [DICE]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["high", "low"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([70, 10])


def test_few_trials_show_no_importances(tmp_path: Path) -> None:
    def names(count: int) -> set[str]:
        records = [trial(number, 0.5, params={"optim.lr": 0.1}) for number in range(count)]
        return {plot.name for plot in sweep_plots(records, [DICE], IMPORTANCES)}

    assert "importances" not in names(9)
    assert "importances" in names(10)
    written(tmp_path, [trial(0, 0.5)], DICE)
    assert "fewer than 10 trials have finished" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_history_steps_up_with_dice_and_down_with_a_loss() -> None:
    values = [0.5, 0.4, 0.7, 0.6, 0.9]
    assert best_so_far(values, DICE) == [0.5, 0.5, 0.7, 0.7, 0.9]
    assert best_so_far(values, LOSS) == [0.5, 0.4, 0.4, 0.4, 0.4]
    records = [trial(number, value) for number, value in enumerate(values)]
    line = optimisation_history(records[::-1], [DICE]).axes[0].lines[0]
    assert list(line.get_xdata()) == [0, 1, 2, 3, 4]
    assert list(line.get_ydata()) == [0.5, 0.5, 0.7, 0.7, 0.9]
    assert line.get_drawstyle() == "steps-post"


def test_history_marks_the_pruned_the_failed_and_what_lies_far_off() -> None:
    records = [trial(number, 0.90 + 0.001 * number) for number in range(10)]
    records += [
        trial(10, 0.01),
        trial(11, state="pruned", curve=((1, 0.3), (2, 0.905))),
        trial(12, state="failed"),
        trial(13, math.nan),
        trial(14, state="failed", infeasible=True),
        trial(15, state="running"),
    ]
    axes = optimisation_history(records, [DICE]).axes[0]
    found = {str(one.get_label()): np.asarray(one.get_offsets()) for one in axes.collections}
    assert found["pruned"].tolist() == [[11, 0.905]]
    assert found["finished"][:, 0].tolist() == list(range(10))
    assert found["failed, or no value"][:, 0].tolist() == [12, 13]
    assert found["out of memory"][:, 0].tolist() == [14]
    assert found["beyond the axis"][:, 0].tolist() == [10]
    assert axes.get_ylim()[0] > 0.8


def test_limits_cut_the_bad_end_only() -> None:
    values = [*np.linspace(1.0, 2.0, 20), 1e9]
    assert value_limits(values, LOSS)[1] < 10
    assert value_limits(values, DICE)[1] > 1e9
    assert value_limits([math.nan, math.inf], DICE) == (0.0, 1.0)
    low, high = value_limits([3.0], LOSS)
    assert low < 3.0 < high
    assert qualities([1.0, 2.0, 1e9], LOSS)[0] > qualities([1.0, 2.0, 1e9], LOSS)[2]


def test_learning_curves_are_collections_with_the_best_apart() -> None:
    records = sweep(200)
    axes = learning_curves(records, [DICE]).axes[0]
    best = best_of(records, [DICE])
    assert best is not None
    lines = {
        str(one.get_label()): len(one.get_segments()) for one in axes.collections if isinstance(one, LineCollection)
    }
    assert lines["finished"] == sum(one.state == "finished" for one in records)
    assert lines["pruned, failed or running"] == sum(one.state == "pruned" for one in records)
    (thick,) = axes.lines
    assert np.array_equal(thick.get_ydata(), [value for _, value in best.curve])
    assert thick.get_linewidth() > 2


def test_axes_are_logarithmic_where_values_are_drawn_by_decades() -> None:
    log = param_axis("p", with_param(*np.geomspace(1e-4, 1e-2, 21).tolist()))
    assert log.kind == "log"
    assert [log.place({"p": value}) for value in (1e-4, 1e-3, 1e-2)] == pytest.approx([0, 0.5, 1])
    assert [text for _, text in log.ticks(4, 9)] == ["0.0001", "0.001", "0.01"]
    assert param_axis("p", with_param(1, 100)).kind == "log"
    assert param_axis("p", with_param(1, 99)).kind == "linear"
    assert param_axis("p", with_param(0, 1, 1000)).kind == "linear"
    assert param_axis("p", with_param(-1e-4, 1.0)).kind == "linear"


def test_an_even_draw_near_zero_makes_no_axis_logarithmic() -> None:
    even = [0.05, *np.linspace(1.0, 30.0, 60).tolist()]
    assert max(even) / min(even) > 100
    assert param_axis("p", with_param(*even)).kind == "linear"


def test_axes_of_categories_bools_lists_and_mixtures() -> None:
    bools = param_axis("p", with_param(True, False, True))
    assert bools.categories == ("false", "true")
    assert [bools.place({"p": value}) for value in (False, True)] == [0.25, 0.75]
    lists = param_axis("p", with_param([32, 64, 128], [32, 64], [8, 16]))
    assert lists.categories == ("[8, 16]", "[32, 64]", "[32, 64, 128]")
    assert param_axis("p", with_param(None, 10, "a", 9)).categories == ("9", "10", "a", "none")
    many = param_axis("p", with_param(*["common"] * 3, *map(str, range(20))))
    assert len(many.categories) == 8
    assert many.categories[-1] == "others"
    assert many.place({"p": "19"}) == many.place({"p": "18"})
    assert math.isnan(many.place({}))


def test_numbers_that_are_none_and_constants() -> None:
    axis = param_axis("p", with_param(math.nan, 2.0, math.inf, 3.0))
    assert (axis.low, axis.high) == (2.0, 3.0)
    assert math.isnan(axis.place({"p": math.inf}))
    assert param_axis("p", with_param(7, 7)).place({"p": 7}) == 0.5
    assert param_axis("p", with_param(0)).place({"p": 0}) == 0.5
    assert param_axis("p", with_param(math.nan)).place({"p": math.nan}) != 0.5


def test_few_numbers_are_ticks_themselves() -> None:
    assert [text for _, text in param_axis("p", with_param(16, 32, 64)).ticks(4, 9)] == ["16", "32", "64"]


def test_long_categories_are_told_apart() -> None:
    texts = [f"a very long beginning {name} and a very long end" for name in ("one", "two")]
    assert told_apart(texts, 12) == ["\u2026one\u2026", "\u2026two\u2026"]
    assert told_apart(["one", "two"], 12) == ["one", "two"]
    assert told_apart(["same" * 9], 8) == ["same\u2026ame"]


def test_parallel_lines_go_through_the_values_and_past_what_was_not_drawn() -> None:
    records = [
        trial(0, 0.2, params={"a": 0.0, "b": 1.0}),
        trial(1, 0.9, params={"a": 10.0}),
        trial(2, 0.5, params={"a": 5.0, "b": 3.0}),
        trial(3, state="pruned", params={"a": 1.0, "b": 2.0}),
    ]
    axes = parallel_axes(records, [DICE], {"a": 0.6, "b": 0.4}).axes[0]
    lines = next(one for one in axes.collections if len(one.get_segments()) == 3)
    # from the worst to the best, so that the best lie on top
    stops = np.array([[path[np.isclose(path[:, 1], row)][0, 0] for row in (0, 1)] for path in lines.get_segments()])
    assert stops[:, 0] == pytest.approx([0, 0.5, 1])
    assert stops[[0, 1], 1] == pytest.approx([0, 1])
    assert stops[2, 1] > 1
    thick = max(axes.lines, key=lambda line: line.get_linewidth())
    assert np.allclose(np.asarray(thick.get_xydata()), lines.get_segments()[2])
    texts = [text.get_text() for text in axes.texts]
    assert texts.count("not drawn") == 1
    assert {"a", "b", "validation Dice (higher is better)"} <= set(texts)


def test_bent_lines_pass_each_row_at_its_place() -> None:
    stops = np.random.default_rng(0).random((5, 4))
    lines = bent_lines(stops)
    for row in range(4):
        at = np.isclose(lines[0, :, 1], row)
        assert lines[:, at, 0].ravel() == pytest.approx(stops[:, row])
    assert bent_lines(stops[:, :1]).shape == (5, 1, 2)


def test_slices_show_values_against_the_objective() -> None:
    records = [trial(number, 0.5 + 0.1 * number, params={"a": float(number)}) for number in range(4)]
    records += [trial(4, 0.7, params={"b": "x"})]
    panels = {axes.get_title(loc="left"): axes for axes in slices(records, [DICE], {"a": 1.0}).axes}
    points = np.asarray(panels["a"].collections[0].get_offsets())
    assert points[:, 0] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert points[:, 1] == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert "not drawn in 1" in [text.get_text() for text in panels["a"].texts]
    assert [label.get_text() for label in panels["b"].get_xticklabels()] == ["x"]


def test_the_front_is_joined_over_the_dominated() -> None:
    records = [trial(0, 0.9, 10.0), trial(1, 0.8, 5.0), trial(2, 0.85, 10.0), trial(3, 0.95, 20.0)]
    axes = front_plot(records, [DICE, GFLOPS]).axes[0]
    assert np.asarray(axes.lines[0].get_xydata()).tolist() == [[0.8, 5.0], [0.9, 10.0], [0.95, 20.0]]
    assert len(axes.collections[0].get_offsets()) == 4
    assert [text.get_text() for text in axes.texts] == ["1", "3", "0"]
    assert axes.get_yscale() == "linear"
    records += [trial(4, 0.7, 0.1)]
    assert front_plot(records, [DICE, GFLOPS]).axes[0].get_yscale() == "log"
    with pytest.raises(ValueError, match="two objectives"):
        front_plot(records, [DICE])


def test_a_diverged_trial_does_not_stretch_the_front_but_one_on_it_is_shown() -> None:
    records = [trial(number, 1.0 + 0.1 * number, 20.0 - number) for number in range(12)]
    beaten, kept = trial(12, 1e9, 30.0), trial(13, 1e3, 1.0)
    axes = front_plot([*records, beaten], [LOSS, GFLOPS]).axes[0]
    assert axes.get_xscale() == "linear"
    assert axes.get_xlim()[1] < 10
    assert front_plot([*records, kept], [LOSS, GFLOPS]).axes[0].get_xlim()[1] >= 1e3


def test_lanes_hold_what_does_not_overlap_and_are_as_few_as_can_be() -> None:
    generator = np.random.default_rng(1)
    begins = generator.uniform(0, 100, 300)
    spans = [
        (float(began), float(began + length))
        for began, length in zip(begins, generator.exponential(5, 300), strict=True)
    ]
    lanes = pack_lanes(spans)
    for one, other in combinations(range(300), 2):
        if lanes[one] == lanes[other]:
            assert spans[one][1] <= spans[other][0] or spans[other][1] <= spans[one][0]
    most = max(sum(began <= moment < ended for began, ended in spans) for moment, _ in spans)
    assert max(lanes) + 1 == most
    assert pack_lanes([(0, 5), (5, 9), (2, 3)]) == [0, 0, 1]
    assert pack_lanes([]) == []


def test_the_time_line_gives_each_host_its_lanes() -> None:
    records = sweep(60)
    spans, rows = placed(records)
    assert list(rows) == list(HOSTS)
    assert [len(lanes) for lanes in rows.values()] == [2, 2]
    assert all(span.lane in rows[span.record.host] for span in spans)
    for one, other in combinations(spans, 2):
        if one.lane == other.lane:
            assert one.ended <= other.began or other.ended <= one.began
    axes = time_line(records).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(HOSTS)
    assert axes.get_xlabel().startswith("hours")
    assert len(axes.collections[0].get_paths()) == 60


def test_what_still_runs_is_drawn_up_to_the_last_known_moment() -> None:
    records = [
        trial(0, 0.5, began=1000.0, ended=1060.0, host="a"),
        trial(1, state="running", began=1010.0, host="b"),
        trial(2, state="waiting"),
        trial(3, state="failed", began=1050.0, ended=1040.0),
    ]
    spans, rows = placed(records)
    assert {span.record.number: (span.began, span.ended) for span in spans} == {0: (0, 60), 1: (10, 60), 3: (50, 50)}
    assert list(rows) == ["a", "b", "host not known"]


def _odd_values() -> list[TrialRecord]:
    odd = [math.nan, math.inf, -math.inf, 1e300, 0.5, 0.5]
    return [
        trial(
            number,
            value,
            value,
            params={ODD: [ODD + str(number)], "n": value, "mixed": [None, 1, "a", True, [1], 1e-300][number]},
            curve=((1, value), (2, 0.3), (3, value)),
            began=value,
            ended=value,
            host=ODD,
        )
        for number, value in enumerate(odd)
    ]


CASES: dict[str, Callable[[], list[TrialRecord]]] = {
    "none": list,
    "one": lambda: sweep(1),
    "two equal": lambda: [trial(0, 0.5, 1.0), trial(1, 0.5, 1.0)],
    "none finished": lambda: [replace(one, state="failed", values=None, curve=()) for one in sweep(5)],
    "waiting": lambda: [TrialRecord(number, "waiting", {}, {}) for number in range(3)],
    "running": lambda: [replace(one, state="running", values=None, ended=None) for one in sweep(3)],
    "no parameters": lambda: [replace(one, params={}) for one in sweep(5)],
    "odd values": _odd_values,
}


@pytest.mark.parametrize("objectives", [[DICE], [LOSS, GFLOPS]], ids=["one objective", "two objectives"])
@pytest.mark.parametrize("name", list(CASES))
def test_every_sweep_can_be_drawn(name: str, objectives: list[Objective], tmp_path: Path) -> None:
    records = CASES[name]()
    page = write_sweep_page(tmp_path, name, records, objectives, {}, "Nothing.")
    assert page.is_file()
    # what the page leaves out, because it would be empty, can be drawn all the same
    of_all: dict[str, Callable[[], Figure]] = {
        "history": lambda: optimisation_history(records, objectives),
        "importances": lambda: importance_bars({}, objectives),
        "parallel": lambda: parallel_axes(records, objectives, {}),
        "slices": lambda: slices(records, objectives, {}),
        "curves": lambda: learning_curves(records, objectives),
        "timeline": lambda: time_line(records),
    }
    if len(objectives) > 1:
        of_all["front"] = lambda: front_plot(records, objectives)
    for plot, draw in of_all.items():
        if not (tmp_path / "plots" / f"{plot}.png").is_file():
            assert png_bytes(draw()).startswith(b"\x89PNG")


def test_a_thousand_trials_of_forty_parameters_take_seconds(tmp_path: Path) -> None:
    records = sweep(1000, more=33)
    began = time.process_time()
    page = written(tmp_path, records, DICE, GFLOPS)
    assert time.process_time() - began < 10
    assert len(page.rows) == 1001
    assert len(pareto_front(records, [DICE, GFLOPS])) < len(measured(records, [DICE, GFLOPS]))
