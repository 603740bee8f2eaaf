"""Words in pictures that are drawn without matplotlib."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import ImageDraw, ImageFont

Colour = tuple[int, int, int]


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib, of that many pixels."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def one_line(text: str) -> str:
    """``text`` without breaks, and with a question mark for half a surrogate pair, which no font draws."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def fitted(text: str, size: int, width: float) -> str:
    """``text`` in one line of at most ``width`` pixels; the middle gives way to three dots, since ends tell more."""
    shown, letters = one_line(text)[:400], font(size)
    if letters.getlength(shown) <= width:
        return shown
    fewest, most = 0, len(shown)
    while fewest < most:
        kept = (fewest + most + 1) // 2
        if letters.getlength(_without_middle(shown, kept)) <= width:
            fewest = kept
        else:
            most = kept - 1
    return _without_middle(shown, fewest)


def _without_middle(text: str, kept: int) -> str:
    ending = kept // 3
    return text[: kept - ending].rstrip() + "\N{HORIZONTAL ELLIPSIS}" + (text[-ending:].lstrip() if ending else "")


def write(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, colour: Colour, anchor: str = "lm"
) -> None:
    """Write a line; ``anchor`` is Pillow's: left, middle or right, then top, middle or baseline."""
    draw.text(at, text, fill=colour, font=font(size), anchor=anchor)


def write_over(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, colour: Colour, anchor: str = "lm"
) -> None:
    """Write a line as :func:`write` does, with a black rim, so that it can be read over a bright picture."""
    draw.text(at, text, fill=colour, font=font(size), anchor=anchor, stroke_width=1, stroke_fill=(0, 0, 0))
