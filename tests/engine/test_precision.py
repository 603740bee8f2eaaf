"""What precision `auto` means."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segray.engine.precision import resolve_precision


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_auto_on_a_cpu_is_bf16_only_where_its_instructions_have_it(
    able: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert resolve_precision("auto", "cpu") == expected


@pytest.mark.parametrize("supported", [True, False])
def test_auto_on_a_gpu_does_not_count_emulation(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **kwargs: asked.update(kwargs) or supported)
    assert resolve_precision("auto", "cuda") == ("bf16" if supported else "float32")
    assert asked == {"including_emulation": False}


@pytest.mark.parametrize("named", ["bf16", "float32"])
def test_what_is_named_is_obeyed(named: Any) -> None:
    assert resolve_precision(named, "cpu") == named
