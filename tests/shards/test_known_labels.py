"""What the manifest says of structures that nobody drew, as a table beside a batch."""

from __future__ import annotations

import json
from dataclasses import replace

from segray import storage
from segray.case import LabelMap
from segray.shards.known_labels import KnownLabels
from segray.shards.manifest import MANIFEST, Manifest, load_manifest

from .conftest import Folder


def _with_missing(manifest: Manifest, *, overlapping: bool = False, field: str = "missing") -> Manifest:
    label_map = LabelMap({"liver": 1, "lesion": 2}, overlapping=overlapping)
    first, *others = manifest.parts
    return replace(manifest, label_map=label_map, parts=[replace(first, **{field: ["lesion"]}), *others])


def test_the_background_is_always_known(folder: Folder) -> None:
    manifest = _with_missing(folder.manifest)
    storage.write_text(storage.join(folder.path, MANIFEST), manifest.to_json())
    known = KnownLabels.of_manifest(load_manifest(folder.path), "mask")
    assert known is not None
    first, second = (part.case_id for part in manifest.parts[:2])
    assert known.of([second, first, first]).tolist() == [[True, True, True], [True, True, False], [True, True, False]]
    assert known.structures([first, second]).tolist() == [[True, False], [True, True]]


def test_overlapping_structures_have_no_background(folder: Folder) -> None:
    known = KnownLabels.of_manifest(_with_missing(folder.manifest, overlapping=True), "mask")
    assert known is not None
    first = folder.manifest.parts[0].case_id
    assert known.of([first]).tolist() == known.structures([first]).tolist() == [[True, False]]


def test_shards_of_an_older_version_know_all(folder: Folder) -> None:
    path = storage.join(folder.path, MANIFEST)
    table = json.loads(storage.read_text(path))
    for part in table["parts"]:
        del part["missing"], part["unannotated"]
    storage.write_text(path, json.dumps(table))
    assert KnownLabels.of_manifest(load_manifest(folder.path), "mask") is None


def test_a_structure_without_a_mask_file_is_background_unless_told_otherwise(folder: Folder) -> None:
    assert KnownLabels.of_manifest(_with_missing(folder.manifest), "background") is None


def test_what_nobody_looked_for_is_never_known(folder: Folder) -> None:
    known = KnownLabels.of_manifest(_with_missing(folder.manifest, field="unannotated"), "background")
    assert known is not None
    first, second = (part.case_id for part in folder.manifest.parts[:2])
    assert known.structures([first, second]).tolist() == [[True, False], [True, True]]
