"""Which structures there are and which label values they have: never guessed in silence."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from segray import storage
from segray.case import LabelMap
from segray.config import IngestConfig
from segray.errors import SegrayError, UsageError

_SAFE = re.compile(r"\w[\w .+()-]{0,63}")

FEW = 8
"""Names that a note lists."""

MEND = "Give the structures as ingest.labels, such as {liver: 1}."
CHANNELS_MEND = 'Write it as "channel_names": {"0": "T1", "1": "T2"}.'


def is_safe(name: str) -> bool:
    """True for a structure name that can stand in file names, tables and pages."""
    return bool(_SAFE.fullmatch(name)) and ".." not in name


def dataset_labels(folder: str) -> dict[str, int] | None:
    """Structure to value from ``dataset.json`` of MSD and nnU-Net v1 ({"1": "liver"}) or v2 ({"liver": 1}).

    The result may hold the name ``ignore`` of nnU-Net v2. None where there is no such file.

    Raises:
        UsageError: damaged, regions of several values, or names that cannot be used.
    """
    path = storage.join(folder, "dataset.json")
    if not storage.exists(path):
        return None
    try:
        table = json.loads(storage.read_text(path))
        pairs = [_pair(str(key), value) for key, value in dict(table["labels"]).items()]
    except (SegrayError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} has no table of labels that segray understands.", mend=MEND) from error
    labels = {name: value for name, value in pairs if value != 0}
    for name in labels:
        if not is_safe(name):
            raise UsageError(f"{path} names a structure {name!r}, which cannot be a name.", mend=MEND)
    return labels or None


def dataset_channels(folder: str) -> tuple[str, ...]:
    """The names of the channels in ``dataset.json``: ``channel_names`` (nnU-Net v2) or ``modality`` (MSD, v1).

    () where there is no such file, or it names none. Raises UsageError where it is damaged.
    """
    path = storage.join(folder, "dataset.json")
    if not storage.exists(path):
        return ()
    try:
        table = json.loads(storage.read_text(path))
        told = table.get("channel_names", table.get("modality", {}))
        pairs = sorted((int(number), str(name)) for number, name in dict(told).items())
    except (SegrayError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} has no table of channels that segray understands.", mend=CHANNELS_MEND) from error
    names = tuple(name if is_safe(name) else f"channel_{number}" for number, name in pairs)
    if [number for number, _ in pairs] != list(range(len(pairs))) or len(set(names)) != len(names):
        raise UsageError(f"{path} does not number its channels 0, 1, 2, ..., each with a name.", mend=CHANNELS_MEND)
    return names


def _pair(key: str, value: Any) -> tuple[str, int]:
    if isinstance(value, str) and key.isdigit():
        return value, int(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a label value is no integer")
    return key, value


def volume_labels(
    dataset: dict[str, int] | None, config: IngestConfig, notes: list[str]
) -> tuple[LabelMap | None, tuple[int, ...]]:
    """The label map of label volumes, and the values that become background.

    Raises:
        UsageError: ``ingest.structures`` names what is not there.
    """
    values = dict(config.labels or dataset or {})
    marked = 0 if config.labels else values.pop("ignore", 0)
    if config.labels:
        notes.append("Label values come from ingest.labels.")
    elif dataset:
        notes.append(f"Label values come from dataset.json: {len(values)} structures.")
    ignored = config.ignore or marked
    if ignored and config.overlap == "keep":
        notes.append(f"Voxels of the value {ignored} count as background: where labels overlap, none can be ignored.")
    elif ignored:
        notes.append(f"Voxels of the value {ignored} are ignored: they neither teach nor measure.")
    if not values:
        if config.structures:
            raise UsageError("ingest.structures needs names, and this folder gives its labels none.", mend=MEND)
        notes.append("No names of the labels were found; they are named after the values in the files.")
        if config.ignore:
            raise UsageError("ingest.ignore needs names of the other labels.", mend=MEND)
        return None, (marked,) if marked else ()
    kept = _kept(values, config)
    dropped = [value for name, value in values.items() if name not in kept]
    if config.overlap == "keep":
        return LabelMap({name: values[name] for name in kept}), (*dropped, *([ignored] if ignored else []))
    return LabelMap({name: values[name] for name in kept}, ignored=ignored), tuple(dropped)


def mask_labels(found: Iterable[str], config: IngestConfig, notes: list[str]) -> LabelMap | None:
    """The label map of binary masks: ``ingest.labels``, or all names sorted and numbered from 1.

    Raises:
        UsageError: settings name a structure of which no case has a mask.
    """
    names = sorted(set(found))
    if not names:
        return None
    if not config.labels:
        shown = f": {', '.join(names)}" if len(names) <= FEW else ""
        notes.append(f"{len(names)} structure{'s' * (len(names) > 1)} with masks, numbered by sorted names{shown}.")
        return LabelMap.of_names(_kept(names, config))
    notes.append("Label values come from ingest.labels.")
    kept = _kept(config.labels, config)
    absent = [name for name in kept if name not in names]
    if len(absent) == len(kept):
        raise UsageError(f"No case has a mask of {', '.join(kept[:5])}.", mend=_nearest(kept[0], names))
    if absent:
        notes.append(f"No case has a mask of {', '.join(absent[:5])}.")
    others = len(set(names) - set(kept))
    if others:
        notes.append(f"{others} other structures have masks and are left out.")
    return LabelMap({name: config.labels[name] for name in kept})


def _kept(known: Iterable[str], config: IngestConfig) -> list[str]:
    names = list(known)
    if config.structures is None:
        return names
    for name in config.structures:
        if name not in names:
            raise UsageError(f"ingest.structures names {name}, which is not there.", mend=_nearest(name, names))
    return [name for name in names if name in config.structures]


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]}?"
    return f"There are: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}."
