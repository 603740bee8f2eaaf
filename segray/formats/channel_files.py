"""Which image files are channels of one case: nnU-Net's ``_0000``, ``_0001``, ... at the end of their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segray.formats.findings import Findings

_CHANNEL = re.compile(r"(.+)_(\d{4})")

NAMES = "channels"
"""The key of :attr:`CaseSource.details` under which the names of the channels lie, in the order of the files."""


@dataclass(frozen=True)
class Channels:
    """The image of one case: its files in the order of the channels, and for the readers what they are called."""

    files: tuple[str, ...]
    details: Mapping[str, Any]


def group_channels(
    images: Mapping[str, str], labels: set[str], names: Sequence[str], found: Findings
) -> dict[str, Channels]:
    """Case id to image.

    Args:
        images: file name without ending to path.
        labels: the ids of label files; an image with the full name of one is that case, whatever it ends in.
        names: of the channels, from dataset.json; () where nothing names them.
        found: takes the cases with a gap among their channels as problems.
    """
    numbered: dict[str, dict[int, str]] = {}
    cases: dict[str, Channels] = {}
    for name, path in images.items():
        match = _CHANNEL.fullmatch(name)
        if match and name not in labels and (f"{match[1]}_0000" in images or len(names) > 1):
            numbered.setdefault(match[1], {})[int(match[2])] = path
        else:
            cases[name] = Channels((path,), _details(names))
    due = max([len(names), *(max(files) + 1 for files in numbered.values())]) if numbered else 0
    told = list(names) or [f"channel_{number}" for number in range(due)]
    for case_id, files in numbered.items():
        gaps = [number for number in range(due) if number not in files]
        if gaps:
            shown = ", ".join(f"_{number:04d}" for number in gaps[:4])
            found.problems.append((case_id, f"The case lacks the channels {shown} that others or dataset.json have."))
        else:
            cases[case_id] = Channels(tuple(files[number] for number in sorted(files)), _details(told))
    if due > 1:
        found.notes.append(f"Files that end in _0000, _0001, ... are channels of one case: {', '.join(told)}.")
    return dict(sorted(cases.items()))


def _details(names: Sequence[str]) -> dict[str, Any]:
    return {NAMES: list(names)} if len(names) > 1 else {}
