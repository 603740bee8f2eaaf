"""Weights of other programs compute in a segray net what they computed at home.

The nets here have the layers, the order and the names in the state dict that their authors published.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from segray.case import LabelMap
from segray.config import NetConfig
from segray.errors import UsageError
from segray.nets.foreign import read_foreign
from segray.nets.start import load_start, net_of_start, started_net
from segray.nets.unet import build_net


class DoubleConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, between: int, bias: bool) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(inputs, between, 3, padding=1, bias=bias), nn.BatchNorm2d(between), nn.ReLU(),
            nn.Conv2d(between, outputs, 3, padding=1, bias=bias), nn.BatchNorm2d(outputs), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.double_conv(x)
        return out


class Up(nn.Module):
    def __init__(self, inputs: int, outputs: int, bilinear: bool, bias: bool) -> None:
        super().__init__()
        self.up: nn.Module = (
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            if bilinear
            else nn.ConvTranspose2d(inputs, inputs // 2, 2, stride=2)
        )
        self.conv = DoubleConv(inputs, outputs, inputs // 2 if bilinear else outputs, bias)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        out: Tensor = self.conv(torch.cat([skip, self.up(x)], dim=1))
        return out


class Milesial(nn.Module):
    def __init__(self, channels: int, classes: int, bilinear: bool, bias: bool, width: int = 8) -> None:
        super().__init__()
        factor = 2 if bilinear else 1
        w = [width * 2**level for level in range(5)]
        self.inc = DoubleConv(channels, w[0], w[0], bias)
        for level in range(1, 5):
            outputs = w[level] // (factor if level == 4 else 1)
            down = nn.Module()
            down.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(w[level - 1], outputs, outputs, bias))
            setattr(self, f"down{level}", down)
        for number in range(1, 5):
            outputs = w[4 - number] // (factor if number < 4 else 1)
            setattr(self, f"up{number}", Up(w[5 - number], outputs, bilinear, bias))
        self.outc = nn.Module()
        self.outc.conv = nn.Conv2d(w[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = [self.inc(x)]
        for level in range(1, 5):
            kept.append(getattr(self, f"down{level}").maxpool_conv(kept[-1]))
        x = kept.pop()
        for number in range(1, 5):
            x = getattr(self, f"up{number}")(x, kept.pop())
        out: Tensor = self.outc.conv(x)
        return out


class SwanLab(nn.Module):
    """Its bottleneck has dropout too, which holds no weights and rests in inference."""

    def __init__(self, n_channels: int = 3, n_classes: int = 1, n_filters: int = 4) -> None:
        super().__init__()
        w = [n_filters * 2**level for level in range(6)]
        inputs = n_channels
        for name, outputs in (*((f"down{level + 1}", w[level]) for level in range(5)), ("bottleneck", w[5])):
            setattr(self, name, self._block(inputs, outputs))
            inputs = outputs
        for number in range(1, 6):
            block = self._block(2 * w[5 - number], w[5 - number])
            block.up = nn.ConvTranspose2d(w[6 - number], w[5 - number], 2, stride=2)
            setattr(self, f"up{number}", block)
        self.outc = nn.Conv2d(w[0], n_classes, 1)

    def _block(self, inputs: int, outputs: int) -> nn.Module:
        block = nn.Module()
        block.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        block.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        return block

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for level in range(1, 6):
            kept.append(self._run(getattr(self, f"down{level}"), x))
            x = functional.max_pool2d(kept[-1], 2)
        x = self._run(self.bottleneck, x)
        for number in range(1, 6):
            block = getattr(self, f"up{number}")
            x = self._run(block, torch.cat([block.up(x), kept.pop()], dim=1))
        return torch.sigmoid(self.outc(x))

    def _run(self, block: Any, x: Tensor) -> Tensor:
        return functional.relu(block.conv2(functional.relu(block.conv1(x))))


def lived(net: nn.Module, channels: int) -> nn.Module:
    """The net with running statistics of its own, as training leaves them, and biases that are no zeros."""
    for parameter in net.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(2, channels, 64, 64) * 2 + 1)
    return net.eval()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("bilinear", [False, True])
def test_a_net_of_milesial_gives_equal_outputs(bilinear: bool, bias: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = lived(Milesial(3, 2, bilinear, bias), 3)
    path = tmp_path / "checkpoint_epoch5.pth"
    torch.save(theirs.state_dict() | {"mask_values": [0, 255]}, path)
    found = read_foreign(str(path))
    assert (found.in_channels, found.outputs) == (3, 2)
    assert found.net.features == [8, 16, 32, 64, 128]
    ours = build_net(found.net, 3, 2)
    ours.load_state_dict(found.weights)
    x = torch.randn(2, 3, 48, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs(x), atol=1e-4, rtol=1e-4)


def test_the_net_of_the_swanlab_tutorial_gives_equal_probabilities(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = SwanLab().eval()
    path = tmp_path / "best_model.pth"
    torch.save(theirs.state_dict(), path)
    start = load_start(str(path))
    net, said = started_net(
        start, net_of_start(start, NetConfig()), 3, ("red", "green", "blue"), LabelMap({"tumour": 1})
    )
    assert not said
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        probability = torch.softmax(net.eval()(x), dim=1)[:, 1:]
        expected = theirs(x)
        assert float(expected.std()) > 1e-4
        torch.testing.assert_close(probability, expected, atol=1e-5, rtol=1e-5)
        overlapping, _ = started_net(start, start.net, 3, (), LabelMap({"tumour": 1}, overlapping=True))
        torch.testing.assert_close(torch.sigmoid(overlapping.eval()(x)), expected, atol=1e-5, rtol=1e-5)


class Pickled:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run!",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (Pickled(), "no plain weights"),
        ({"fc.weight": torch.zeros(2, 2)}, "no weights of a known net"),
        ([1, 2], "no weights of a known net"),
        ({"inc.double_conv.0.weight": torch.zeros(4, 1, 3, 3)}, "incomplete"),
    ],
)
def test_other_files_are_refused_in_words_and_nothing_in_them_is_run(
    content: object, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=words):
        read_foreign(str(tmp_path / "w.pth"))
    assert "run!" not in capsys.readouterr().out


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut", b"\x80\x02}q\x00."])
def test_damaged_files_are_refused_in_words(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(UsageError):
        read_foreign(str(tmp_path / "w.pth"))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="is not there"):
        load_start("/nowhere/w.pth")
