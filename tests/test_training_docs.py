"""The YAML of docs/training.md says what the text around it claims."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from segray.config import LossConfig, parse_config

PAGE = Path(__file__).resolve().parents[1] / "docs" / "training.md"

SAID = {
    "The default is Dice + cross entropy": LossConfig(),
    "0.6 Dice + 0.4 binary cross entropy": LossConfig(dice=0.6, cross_entropy=0, bce=0.4),
    "Dice + focal": LossConfig(cross_entropy=0, focal=1),
    "Tversky, for small structures": LossConfig(dice=0, cross_entropy=0, tversky=1),
    "Cross entropy + Lovász": LossConfig(dice=0, lovasz=1, class_weights={"lesion": 5, "background": 0.5}),
    "By default both are background": LossConfig(missing="mask"),
}
"""What stands before a block, and the losses that the block must give."""


def _blocks() -> list[tuple[str, LossConfig]]:
    """Every block of YAML with the text between it and the block before."""
    parts = re.split(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    texts, blocks = parts[:-1:2], parts[1::2]
    return [(text, parse_config(yaml.safe_load(block)).loss) for text, block in zip(texts, blocks, strict=True)]


def test_every_preset_is_the_loss_that_it_is_called() -> None:
    found = _blocks()
    assert len(found) == len(SAID)
    for (text, config), (words, expected) in zip(found, SAID.items(), strict=True):
        assert words in text
        assert config == expected
