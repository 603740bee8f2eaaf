"""What a note tells of stays with its sentence, on every way that notes go."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
from made_dicoms import ramp, save_series

from segray import formats
from segray.config import IngestConfig
from segray.formats.note import Note, kind_of


def test_a_note_is_its_sentence_and_knows_its_kind() -> None:
    note = Note("2 contours are left out.", "lost")
    assert note == "2 contours are left out."
    assert json.dumps([note]) == '["2 contours are left out."]'
    for same in (note, copy.deepcopy(note), pickle.loads(pickle.dumps(note))):
        assert kind_of(same) == "lost"
    assert kind_of("A plain sentence.") == "odd"


def test_slices_that_lie_there_twice_are_a_note_of_their_own(tmp_path: Path) -> None:
    save_series(tmp_path, ramp())
    save_series(tmp_path, ramp()[:2], names=lambda number: f"again{number}")
    (source,) = formats.discover(str(tmp_path), IngestConfig()).cases
    case = formats.read_image(source)
    assert [kind_of(note) for note in case.notes] == ["twice"]
    assert np.array_equal(case.voxels, formats.read_image(source).voxels)
