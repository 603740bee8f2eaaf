"""Training on cases without ingest: the rows, batches and order that shards would give. No Ray here."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow as pa
import pytest

from segray import formats, storage
from segray.config import Config, load_config
from segray.errors import CaseError, SegrayError, UsageError
from segray.pipelines import feed as feed_module
from segray.pipelines import live
from segray.pipelines.feed import EpochFeed
from segray.pipelines.headers import Planned
from segray.pipelines.ingest import Recipe, _close, _label_map, _recipe, ingest_case
from segray.pipelines.live import CaseCache, find_cases, read_live_visit, visit_reader
from segray.pipelines.stream import Span, cause_of, read_span, spans_of
from segray.shards import ShardError
from segray.shards.annotated import Annotated
from segray.shards.index import SliceIndex, Visit, load_index
from segray.shards.manifest import load_manifest
from segray.shards.order import plan_epoch
from segray.shards.reader import iterate_batches, read_visit, slices_of
from segray.shards.writer import read_part_facts

SETTINGS = (
    "ingest.grid.spacing=[1.5,1.5]",
    "ingest.labels={liver: 1, lesion: 2}",
    "train.batch_size=7",
    "ingest.split.validation=0.25",
)


@dataclass
class Folders:
    """The same cases as shards and as a plan."""

    scans: Path
    shards: str
    plan: str


def write_folder(scans: Path, folder: str, config: Config, *, pixels: bool) -> None:
    """What ingest writes, case after case in this process."""
    discovery = formats.discover(str(scans), config.ingest)
    planned = []
    for source in discovery.cases:
        header = formats.read_header(source)
        planned.append(Planned(source, header.size, header.spacing, header.voxel_bytes))
    label_map, _ = _label_map(discovery.label_map, planned)
    recipe: Recipe = replace(_recipe(config, label_map, planned), pixels=pixels)
    for case in planned:
        assert ingest_case(case.source, recipe, folder)
        assert not ingest_case(case.source, recipe, folder)
    facts = [read_part_facts(folder, case.source.case_id) for case in planned]
    _close(folder, [fact for fact in facts if fact is not None], planned, recipe, label_map, config, Annotated())


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for number in range(4):
        rng = np.random.default_rng(number)
        shape = (44 + number, 40, 17 + 4 * number)
        voxels = rng.normal(40, 300, shape).round().astype(np.int16)
        labels = np.zeros(shape, np.uint8)
        labels[8:30, 9:25, 4:12] = 1
        labels[20:22, 14:17, 6 : 8 + number] = 2
        affine = np.diag([-1.1, -1.1, 3.0 + number, 1.0])
        for name, array in (("images", voxels), ("labels", labels)):
            (folder / name).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, affine), folder / name / f"c{number}.nii.gz")
    return folder


def both(scans: Path, to: Path, *settings: str) -> Folders:
    config = load_config(None, [*SETTINGS, *settings])
    found = Folders(scans, str(to / "shards"), str(to / "plan"))
    write_folder(scans, found.shards, config, pixels=True)
    write_folder(scans, found.plan, config, pixels=False)
    return found


@pytest.fixture(scope="module")
def folders(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return both(scans, tmp_path_factory.mktemp("many_groups"), "ingest.rows_per_group=8")


@pytest.fixture(scope="module")
def lone_groups(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return both(scans, tmp_path_factory.mktemp("lone_groups"), "ingest.rows_per_group=500")


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "CASES", CaseCache(live.CACHE_BYTES))


def index_of(folder: str) -> SliceIndex:
    return load_index(folder, load_manifest(folder))


def test_a_plan_is_an_ingest_without_pixels(folders: Folders) -> None:
    shards, plan = load_manifest(folders.shards), load_manifest(folders.plan)
    assert (plan.label_map, plan.grid, plan.intensity) == (shards.label_map, shards.grid, shards.intensity)
    assert [(p.case_id, p.split, p.slices, p.fingerprint) for p in plan.parts] == [
        (p.case_id, p.split, p.slices, p.fingerprint) for p in shards.parts
    ]
    a, b = index_of(folders.shards), index_of(folders.plan)
    for name in ("part", "group", "row", "z", "foreground"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert all(np.array_equal(x, y) for x, y in zip(a.present, b.present, strict=True))
    assert (a.hollow, b.hollow) == (False, True)
    rows = [row for visit in a.visits(np.arange(a.part.size)) for row in slices_of(read_visit(folders.shards, visit))]
    assert b.pixel_bytes == sum(row.bytes for row in rows)
    for part, stored in zip(plan.parts, shards.parts, strict=True):
        assert part.bytes < stored.bytes
        assert part.memory > 0 == stored.memory


def test_every_visit_gives_the_very_rows_of_the_part(folders: Folders) -> None:
    ours, theirs = index_of(folders.plan), index_of(folders.shards)
    everything = np.arange(ours.part.size)
    visits = list(zip(ours.visits(everything), theirs.visits(everything), strict=True))
    assert len(visits) >= 3 * len(ours.parts)
    for mine, stored in visits:
        assert read_live_visit(folders.plan, mine).equals(read_visit(folders.shards, stored))
    mine, stored = visits[1]
    some = (3, 0, 3)
    live_rows = read_live_visit(folders.plan, replace(mine, rows=some))
    assert live_rows.equals(read_visit(folders.shards, replace(stored, rows=some)))


def test_held_out_cases_come_as_from_shards(folders: Folders) -> None:
    ours, theirs = index_of(folders.plan), index_of(folders.shards)
    cases = ours.cases("validation")
    assert cases
    pairs = zip(
        iterate_batches(folders.plan, ours.visits_of(cases), 5, read=visit_reader(ours)),
        iterate_batches(folders.shards, theirs.visits_of(cases), 5, read=visit_reader(theirs)),
        strict=True,
    )
    for a, b in pairs:
        assert_same(a, b)


def assert_same(a: Any, b: Any) -> None:
    assert a.case_ids == b.case_ids
    for name in ("images", "labels", "mean", "sd", "z"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype
        assert np.array_equal(x, y), name


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> list[Span]:
    """Read spans in this process; what was read is in the list."""
    seen: list[Span] = []

    def tables(folder: str, spans: Sequence[Span], *, read: Any, **other: object) -> Generator[pa.Table, None, None]:
        for span in spans:
            seen.append(span)
            yield read_span(folder, span, read)

    monkeypatch.setattr(feed_module, "stream_tables", tables)
    monkeypatch.setattr(feed_module, "memory_at_most", lambda wanted: wanted)
    return seen


@pytest.mark.parametrize("mode", ["all", "foreground", "balanced"])
@pytest.mark.usefixtures("without_ray")
def test_the_same_batches_as_from_shards(lone_groups: Folders, mode: str) -> None:
    """One row group a case: the order is the same too, and with it every batch of every epoch of every worker."""
    found = lone_groups
    config = load_config(None, [*SETTINGS, "train.epochs=2", f"sampling.mode={mode}", "train.mix_mib=1"])
    for rank in (0, 1):
        ours = EpochFeed(found.plan, index_of(found.plan), config, rank, 2, 0)
        theirs = EpochFeed(found.shards, index_of(found.shards), config, rank, 2, 0)
        for epoch in (1, 2):
            count = 0
            for a, b in zip(ours.epoch(epoch), theirs.epoch(epoch), strict=True):
                assert_same(a, b)
                count += 1
            assert count > 2


def test_with_several_groups_only_the_order_differs(folders: Folders, without_ray: list[Span]) -> None:
    """The order of a plan, given to shards, gives the same batches; no case is read by two tasks in an epoch."""
    config = load_config(None, [*SETTINGS, "train.epochs=1", "sampling.mode=all"])
    index = index_of(folders.plan)
    ours = list(EpochFeed(folders.plan, index, config, 0, 1, 0).epoch(1))
    assert len({part for span in without_ray for part in {v.part for v in span.visits}}) == len(index.cases("train"))
    theirs_index = index_of(folders.shards)
    object.__setattr__(theirs_index, "parts", [replace(part, left_out=1) for part in theirs_index.parts])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed_module, "visit_reader", lambda index, cache: read_visit)
        theirs = list(EpochFeed(folders.shards, theirs_index, config, 0, 1, 0).epoch(1))
    for a, b in zip(ours, theirs, strict=True):
        assert_same(a, b)


def test_groups_of_a_case_stay_together_and_cases_move(folders: Folders) -> None:
    index = index_of(folders.plan)
    config = load_config()
    orders = []
    for epoch in range(1, 9):
        visits = plan_epoch(index, config.sampling, 0, epoch, together=True)
        apart = plan_epoch(index, config.sampling, 0, epoch)
        assert sorted(map(repr, visits)) == sorted(map(repr, apart))
        cases = [visit.part for visit in visits]
        runs = [case for number, case in enumerate(cases) if number == 0 or case != cases[number - 1]]
        assert len(runs) == len(set(runs)) == len(index.cases("train"))
        orders.append(tuple(runs))
    assert len(set(orders)) > 3


def test_spans_cut_no_case() -> None:
    visits = [Visit(f"part-{case}.parquet", group, tuple(range(10))) for case in "abcd" for group in range(3)]
    spans = spans_of(visits, 1.0, 40, whole=True)
    assert [visit for span in spans for visit in span.visits] == visits
    assert [span.rows for span in spans] == [60, 60]


def broken_later(folders: Folders, to: Path) -> tuple[str, Visit, Path]:
    """A plan of its own for cases that may be broken: the folder, a visit, the image that it reads."""
    shutil.copytree(folders.scans, to / "scans")
    config = load_config(None, list(SETTINGS))
    write_folder(to / "scans", str(to / "plan"), config, pixels=False)
    (visit, *_) = index_of(str(to / "plan")).visits(np.arange(4))
    return str(to / "plan"), visit, to / "scans" / "images" / "c0.nii.gz"


def test_a_case_that_vanished_is_named_in_one_sentence(folders: Folders, tmp_path: Path) -> None:
    plan, visit, image = broken_later(folders, tmp_path)
    image.unlink()
    with pytest.raises(CaseError, match=r"^The case c0 cannot be read any more: .*No such file") as caught:
        read_live_visit(plan, visit)
    assert "\n" not in str(caught.value)


def test_a_case_that_broke_is_named(folders: Folders, tmp_path: Path) -> None:
    plan, visit, image = broken_later(folders, tmp_path)
    image.write_bytes(image.read_bytes()[:2000])
    with pytest.raises(CaseError, match="The case c0 cannot be read any more"):
        read_live_visit(plan, visit)


def test_a_case_that_changed_is_refused_and_one_that_was_touched_is_not(folders: Folders, tmp_path: Path) -> None:
    plan, visit, path = broken_later(folders, tmp_path)
    before = read_live_visit(plan, visit)
    live.CASES = CaseCache(0)
    os.utime(path, (time.time() + 9, time.time() + 9))
    assert read_live_visit(plan, visit).equals(before)
    image = nibabel.load(path)
    voxels = np.asarray(image.dataobj).copy()
    voxels[3:5, 3:5, 3] += 500
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.int16), image.affine), path)
    live.CASES = CaseCache(0)
    with pytest.raises(CaseError, match="The case c0 has changed since the training was planned"):
        read_live_visit(plan, visit)


def test_a_hollow_part_is_no_shard(folders: Folders) -> None:
    (visit, *_) = index_of(folders.plan).visits(np.arange(4))
    with pytest.raises(ShardError, match="holds no pixels"):
        read_visit(folders.plan, visit)


def test_the_cache_reads_a_case_once_and_stays_small() -> None:
    table = pa.table({"image": [b"x" * 1000]})
    made: list[str] = []
    cache = CaseCache(2 * table.nbytes)

    def get(key: str) -> None:
        def make() -> tuple[pa.Table, int]:
            made.append(key)
            return table, 1

        cache.get(key, make)

    for key in "aabacab":
        get(key)
    assert "".join(made) == "abcb"
    huge = CaseCache(1)
    assert huge.get("a", lambda: (table, 1))[0] is huge.get("a", lambda: (table, 2))[0]


def config_for(folder: Path) -> Config:
    return load_config(None, [f"train.shards={folder}"])


def test_what_is_neither_shards_nor_cases_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("nothing")
    for folder in ("notes", "missing"):
        with pytest.raises(UsageError, match="is neither a folder of shards nor of labelled cases: ") as caught:
            find_cases(config_for(tmp_path / folder))
        assert "segray ingest SRC DST" in caught.value.mend


def test_lone_images_are_no_training_cases(scans: Path, tmp_path: Path) -> None:
    for image in sorted((scans / "images").iterdir()):
        shutil.copy(image, tmp_path / image.name)
    with pytest.raises(UsageError, match="no case in it has labels"):
        find_cases(config_for(tmp_path))


def test_half_an_ingest_is_no_folder_of_cases(folders: Folders, tmp_path: Path) -> None:
    part = load_manifest(folders.shards).parts[0].file
    shutil.copy(Path(folders.shards) / part, tmp_path / part)
    with pytest.raises(UsageError, match="has not ended"):
        find_cases(config_for(tmp_path))


def test_shards_go_before_a_plan(folders: Folders, tmp_path: Path) -> None:
    """A plan that was made before the user ingested is not what the next training reads."""
    run = tmp_path / "run"
    shutil.copytree(folders.plan, run / "live")
    config = load_config(None, [f"train.run={run}", f"train.shards={folders.shards}"])
    assert live.data_folder(config) == folders.shards
    assert find_cases(config) is None
    config = load_config(None, [f"train.run={run}", f"train.shards={folders.scans}"])
    assert live.data_folder(config) == storage.join(str(run), "live")
    found = find_cases(config)
    assert found is not None
    assert len(found.cases) == 4


def test_the_error_of_a_task_is_found_in_its_wrapping() -> None:
    from ray.exceptions import RayTaskError

    inner = CaseError("The case a is gone.", mend="Put it back.")
    wrapped = RayTaskError("read", "a long traceback", inner)
    outer = RayTaskError("coordinator", "a longer one", wrapped.as_instanceof_cause())
    assert cause_of(outer) is inner
    assert cause_of(RayTaskError("read", "text", OSError("the disk"))) is None
    assert isinstance(inner, SegrayError)
