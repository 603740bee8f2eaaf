from __future__ import annotations

import math

import numpy as np
import pytest

from segray.report import curves, distributions, html, theme, volumes


def test_few_structures_get_the_colour_blind_safe_scheme() -> None:
    assert list(theme.structure_colours(["a", "b"]).values()) == list(theme.FEW_COLOURS[:2])


def test_a_hundred_structures_get_a_hundred_colours() -> None:
    colours = theme.structure_colours([f"s{index}" for index in range(100)])
    assert len(set(colours.values())) == 100
    assert all(len(colour) == 7 for colour in colours.values())


def test_ranking_sorts_by_mean_and_drops_the_unmeasured() -> None:
    figure = distributions.structure_ranking({"low": [0.2, 0.4], "none": [math.nan], "high": [0.9, math.nan]})
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["high", "low"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.9, 0.3])


def test_structures_of_no_case_take_no_row() -> None:
    figure = distributions.dice_distribution({"none": [math.nan], "liver": [0.5]})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["liver"]
    figure = volumes.case_volumes({"none": [0.0, math.nan], "liver": [3.0]})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["liver"]


def test_listing_grows_with_the_structures() -> None:
    many = {f"structure_{index}": [0.5, 0.6] for index in range(100)}
    assert distributions.structure_ranking(many).get_figheight() > 20
    assert distributions.dice_distribution(many).get_figheight() > 20


def test_strips_are_thinned_for_thousands_of_cases() -> None:
    figure = distributions.dice_distribution({"liver": np.linspace(0, 1, 5000).tolist()})
    points = max(figure.axes[0].collections, key=lambda found: len(found.get_offsets()))
    assert len(points.get_offsets()) == 400


def test_loss_curve_shows_what_is_there() -> None:
    epochs = [{"epoch": "1", "step": "4", "train_loss": "1.5", "train_dice_loss": ""}]
    figure = curves.loss_curve(epochs, [{"step": "1", "loss": "2.0"}])
    assert [line.get_label() for line in figure.axes[0].lines] == ["a step", "an epoch, mean"]


def test_dice_curve_joins_the_epochs_that_were_validated() -> None:
    told = ["", "0.2", "", "0.4", "", "0.5"]
    rows = [{"epoch": str(at), "val_dice": dice, "val_dice_liver": dice} for at, dice in enumerate(told, start=1)]
    for line in curves.dice_curve(rows).axes[0].lines:
        assert list(line.get_xdata()) == [2, 4, 6]
        assert list(line.get_ydata()) == [0.2, 0.4, 0.5]


def test_dice_curve_names_few_structures_only() -> None:
    few = curves.dice_curve([{"epoch": "1", "val_dice": "0.5", "val_dice_liver": "0.5"}])
    assert [line.get_label() for line in few.axes[0].lines] == ["liver", "mean"]
    row = {"epoch": "1", "val_dice": "0.5", **{f"val_dice_s{index}": "0.5" for index in range(60)}}
    legend = curves.dice_curve([row]).axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["mean"]


def test_wait_share() -> None:
    assert curves.wait_share(1.0, 3.0) == 0.25
    assert math.isnan(curves.wait_share(0.0, 0.0))
    axes = curves.data_wait_curve([{"epoch": "1", "data_wait_s": "1", "step_s": "3"}]).axes[0]
    assert axes.lines[0].get_ydata()[0] == 25.0


def test_bias_of_the_volumes() -> None:
    figure = volumes.volume_difference({"liver": [(100.0, 110.0), (100.0, 110.0)], "gut": [(0.0, 0.0)]})
    lines = [line.get_ydata()[0] for line in figure.axes[0].lines]
    assert lines[0] == pytest.approx(100 * 10 / 105)


def test_missed_structures_stay_on_the_logarithmic_axes() -> None:
    figure = volumes.volume_agreement({"liver": [(10.0, 0.0), (20.0, 25.0)]})
    assert figure.axes[0].collections[0].get_offsets().min() > 0


@pytest.mark.parametrize("found", [{}, {"liver": []}, {"liver": [], "gut": []}, {"liver": [math.nan, 0.0]}])
def test_plots_of_nothing_are_drawn(found: dict[str, list[float]]) -> None:
    pairs = {name: [(0.0, 0.0)] for name in found}
    for figure in (
        distributions.dice_distribution(found),
        distributions.structure_ranking(found),
        volumes.case_volumes(found),
        volumes.volume_agreement(pairs),
        volumes.volume_difference(pairs),
        curves.dice_curve([]),
    ):
        assert theme.png_bytes(figure).startswith(b"\x89PNG")


def test_links_keep_no_foreign_scheme() -> None:
    assert html.link("x", "javascript:alert(1)").html == '<a href="javascript%3Aalert%281%29">x</a>'
    assert html.link("x", "s3://b/a b").html == '<a href="s3://b/a%20b">x</a>'
    assert '"' not in html.address('a"b')
