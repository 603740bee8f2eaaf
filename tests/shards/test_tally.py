from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from segray import storage
from segray.shards import ShardError
from segray.shards.cache import ShardCache
from segray.shards.index import Visit
from segray.shards.manifest import case_intensity
from segray.shards.reader import (
    case_spacing,
    case_statistics,
    decode_batch,
    lost_rows,
    read_case_volume,
    read_visit,
    slices_of,
)
from segray.shards.tally import READ_BYTES, READ_NOTES, CountedVisits, Tally, counting, note, with_tally
from segray.shards.writer import CaseSlices, PartFacts, read_part_facts, write_part
from tests.shards.conftest import Folder

SLICES, GROUP = 24, 8
FOOTER = 70_000
"""More than what pyarrow reads at the end of a file when it opens it."""


def noise(case_id: str, seed: int) -> CaseSlices:
    """A case that does not compress, so that its part is as large as its voxels."""
    images = np.random.default_rng(seed).integers(-32768, 32767, (SLICES, 128, 96)).astype("int16")
    labels = np.zeros(images.shape, "uint8")
    labels[:, 20:40, 20:40] = 1
    stats = [case_intensity(images, labels, seed)]
    return CaseSlices(case_id, images, labels, (5.0, 1.0, 1.5), 0.0, [0.0], [1.0], stats, "print", "recipe", [])


def visits_of(facts: PartFacts, beside: int = 0) -> list[Visit]:
    return [
        Visit(facts.file, group, tuple(range(GROUP)), facts.bytes, beside, facts.content)
        for group in range(SLICES // GROUP)
    ]


@pytest.fixture
def part(tmp_path: Path) -> PartFacts:
    return write_part(str(tmp_path / "shards"), noise("a", 1), rows_per_group=GROUP)


def test_what_is_read_is_counted_and_nothing_else(part: PartFacts, tmp_path: Path) -> None:
    with counting() as all_of_it:
        for visit in visits_of(part):
            read_visit(str(tmp_path / "shards"), visit)
    assert part.bytes - 10_000 < all_of_it.bytes < part.bytes + FOOTER
    with counting() as group:
        read_visit(str(tmp_path / "shards"), visits_of(part)[0])
    assert group.bytes == pytest.approx(GROUP * 128 * 96 * 2, rel=0.05)
    assert Tally() == Tally(0, [])


def test_a_neighbour_in_the_same_row_group_is_not_read_twice(part: PartFacts, tmp_path: Path) -> None:
    first, second, _ = visits_of(part, beside=1)
    inner = replace(second, rows=(2, 3))
    with counting() as tally:
        for visit in (replace(first, rows=(1, 2)), inner):
            read_visit(str(tmp_path / "shards"), visit)
    assert tally.bytes < part.bytes * 2 * GROUP / SLICES + FOOTER


def test_what_threads_read_is_summed(part: PartFacts, tmp_path: Path) -> None:
    read = CountedVisits(read_visit)
    with ThreadPoolExecutor(2) as pool:
        tables = list(pool.map(lambda visit: read(str(tmp_path / "shards"), visit), visits_of(part)))
    assert sum(one.num_rows for one in tables) == SLICES
    assert part.bytes - 10_000 < read.taken().bytes < part.bytes + 2 * FOOTER
    assert read.taken() == Tally()


def test_the_columns_of_a_tally_survive_cutting_and_joining() -> None:
    visit = Visit("part-a.parquet", 0, (0, 1, 2))
    tables = [with_tally(lost_rows(visit), Tally(size, notes)) for size, notes in ((5, ["a", "b"]), (7, []))]
    joined = pa.concat_tables(tables)
    pieces = [joined.slice(0, 2), joined.slice(2)]
    assert sum(sum(piece[READ_BYTES].to_pylist()) for piece in pieces) == 12
    assert joined[READ_NOTES].to_pylist() == ["a\nb", None, None, None, None, None]


def test_notes_reach_the_innermost_counting() -> None:
    note("nobody listens")
    with counting() as outer:
        with counting() as inner:
            note("here")
        note("there")
    assert (outer.notes, inner.notes) == (["there"], ["here"])


def cache_of(tmp_path: Path) -> ShardCache:
    return ShardCache(str(tmp_path / "cache"), 10**8)


@pytest.mark.parametrize("beside", [0, 2])
def test_visits_from_the_cache_are_those_of_the_parts(beside: int, folder: Folder, tmp_path: Path) -> None:
    index = replace(folder.index, beside=beside)
    visits = index.visits(np.array([1, 1, 3, 6, 9, 12, 17]))
    plain = [read_visit(folder.path, visit) for visit in visits]
    cache = cache_of(tmp_path)
    for _ in range(2):
        with counting() as tally:
            found = [read_visit(folder.path, visit, cache) for visit in visits]
        assert all(left.equals(right) for left, right in zip(plain, found, strict=True))
    assert tally.bytes == 0


def test_whole_cases_come_from_the_cache(folder: Folder, tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    for _ in range(2):
        with counting() as tally:
            images, labels = read_case_volume(folder.path, folder.index, "a", cache=cache)
            spacing = case_spacing(folder.path, folder.index, "a", cache)
            statistics = case_statistics(folder.path, folder.index, "a", cache)
    assert (images == folder.cases["a"].images).all()
    assert (labels == folder.cases["a"].labels).all()
    assert spacing == pytest.approx((5.0, 1.0, 1.5))
    assert statistics == (pytest.approx(list(folder.cases["a"].mean)), pytest.approx(list(folder.cases["a"].sd)))
    assert tally.bytes == 0


def test_a_copy_of_the_shards_has_the_same_cache(part: PartFacts, tmp_path: Path) -> None:
    write_part(str(tmp_path / "copy"), noise("a", 1), rows_per_group=GROUP)
    cache = cache_of(tmp_path)
    read_visit(str(tmp_path / "shards"), visits_of(part)[0], cache)
    with counting() as tally:
        read_visit(str(tmp_path / "copy"), visits_of(part)[0], cache)
    assert tally.bytes == 0


def test_shards_written_anew_are_not_mistaken(part: PartFacts, tmp_path: Path) -> None:
    shards, cache = str(tmp_path / "shards"), cache_of(tmp_path)
    before = read_visit(shards, visits_of(part)[1], cache)
    anew = write_part(shards, noise("a", 2), rows_per_group=GROUP)
    assert anew.content != part.content
    after = read_visit(shards, replace(visits_of(anew)[1], bytes=0), cache)
    assert after.equals(read_visit(shards, visits_of(anew)[1]))
    assert not after.equals(before)
    # A manifest that tells of other rows than the part has is no ground to keep them under its name.
    with pytest.raises(ShardError, match="holds other rows than the manifest says"):
        read_visit(shards, replace(visits_of(part)[2], bytes=0), cache)


def test_a_damaged_slice_is_not_kept_beyond_its_mending(part: PartFacts, tmp_path: Path) -> None:
    shards, cache = str(tmp_path / "shards"), cache_of(tmp_path)
    file = tmp_path / "shards" / part.file
    sound = file.read_bytes()
    visit = visits_of(part)[0]
    (first, *_) = slices_of(read_visit(shards, visit))
    at = sound.index(bytes(first.image)) + len(first.image) // 2
    file.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
    with pytest.raises(ShardError, match="case a, slice 0: The checksum is wrong"):
        decode_batch(list(slices_of(read_visit(shards, visit, cache))))
    file.write_bytes(sound)
    assert len(decode_batch(list(slices_of(read_visit(shards, visit, cache)))).images) == GROUP


def test_parts_that_do_not_tell_their_content_are_known_by_their_time(part: PartFacts, tmp_path: Path) -> None:
    shards, cache = str(tmp_path / "shards"), cache_of(tmp_path)
    visit = replace(visits_of(part)[0], content="", bytes=0)
    first = read_visit(shards, visit, cache)
    with counting() as tally:
        assert read_visit(shards, visit, cache).equals(first)
    assert tally.bytes == 0
    write_part(shards, noise("a", 2), rows_per_group=GROUP)
    assert not read_visit(shards, visit, cache).equals(first)


def test_the_content_of_a_part_is_in_its_footer(part: PartFacts, tmp_path: Path) -> None:
    found = read_part_facts(str(tmp_path / "shards"), "a")
    assert found is not None
    assert found.content == part.content
    assert len(part.content) == 32
    other = write_part(str(tmp_path / "other"), noise("a", 1), rows_per_group=GROUP // 2)
    assert other.content != part.content


def test_a_store_is_read_once(s3: str, tmp_path: Path) -> None:
    facts = write_part(f"{s3}/shards", noise("a", 1), rows_per_group=GROUP)
    cache = cache_of(tmp_path)
    with counting() as first:
        before = [read_visit(f"{s3}/shards", visit, cache) for visit in visits_of(facts)]
    assert facts.bytes - 10_000 < first.bytes < facts.bytes + FOOTER
    storage.delete(f"{s3}/shards/{facts.file}")
    with counting() as second:
        after = [read_visit(f"{s3}/shards", visit, cache) for visit in visits_of(facts)]
    assert second == Tally()
    assert all(left.equals(right) for left, right in zip(before, after, strict=True))
    assert len([row for rows in after for row in slices_of(rows)]) == SLICES
