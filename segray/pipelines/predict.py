"""Mask generation on Ray Data: read (CPU) -> Predictor actors with the net resident -> write (CPU), streamed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from segray import __version__, formats, storage
from segray.config import Config, IngestConfig, PredictConfig
from segray.errors import UsageError
from segray.formats.source import CaseSource
from segray.nets.bundle import Bundle
from segray.pipelines.admission import memory_classes
from segray.pipelines.ensemble import Ensemble, load_ensemble
from segray.pipelines.headers import Planned, read_headers
from segray.pipelines.ledger import Ledger, Row, to_line
from segray.pipelines.pace import paced_context
from segray.pipelines.predict_stages import PredictStage, WriteStage, read_stage
from segray.pipelines.runtime import MIB, READ_TASK_CPUS, WorkerShape, nodes, ray_session, worker_shape

Watcher = Callable[[Row, int, int], None]
"""Called with the row of a finished case, the number done and the number to do."""

PREDICTION = "prediction.json"


@dataclass(frozen=True)
class PredictSummary:
    """What a prediction left.

    Attributes:
        folder: the prediction folder.
        cases: cases asked for.
        done: cases with a mask, now or before.
        new: masks written by this call.
        failed: (case id, reason) of cases without a mask.
    """

    folder: str
    cases: int
    done: int
    new: int
    failed: list[tuple[str, str]]


def predict(
    bundle: str | Sequence[str],
    source: str,
    destination: str,
    config: Config | None = None,
    *,
    watcher: Watcher | None = None,
) -> PredictSummary:
    """Write a mask for every case of ``source`` that has none yet.

    Args:
        bundle: a bundle folder, a run folder that holds one, or a cross-validation; or several of them, whose
            probabilities are averaged. With ``predict.split`` validation or test each case is predicted by the bundles
            that held it out.
        source: a folder of cases, or one NIfTI file.
        destination: the prediction folder, created or gone on with.
        config: the settings, section ``predict``; None: the defaults.
        watcher: told of every finished case.

    Raises:
        UsageError: no bundle, bundles that do not go together, no cases, or the folder holds the masks of another
            bundle.
    """
    config = config or Config()
    folder = storage.absolute(destination)
    ensemble = load_ensemble([bundle] if isinstance(bundle, str) else bundle, config.predict.split)
    cases, problems = _cases(source, config, ensemble)
    _claim(folder, ensemble, config)
    ledger = Ledger(folder)
    for case_id, reason in problems:
        ledger.add(to_line({"case_id": case_id, "status": "failed", "reason": reason, "image": ""}))
    todo = [case for case in cases if _is_missing(case, ledger, folder, config)]
    new = 0
    if todo:
        with ray_session(config.ray):
            for count, line in enumerate(_run(todo, ensemble, folder, config), start=1):
                row = ledger.add(line)
                new += row["status"] == "ok"
                if watcher is not None:
                    watcher(row, count, len(todo))
    ledger.write_tables()
    wanted = {case.case_id for case in cases} | {case_id for case_id, _ in problems}
    rows = [row for row in ledger.rows if row["case_id"] in wanted]
    failed = [(row["case_id"], row["reason"]) for row in rows if row["status"] != "ok"]
    return PredictSummary(folder, len(wanted), len(rows) - len(failed), new, failed)


def _as_trained(ingest: IngestConfig, bundle: Bundle) -> IngestConfig:
    """Pictures become the channels of the training, whatever most of the new ones look like."""
    if ingest.picture_channels != "auto":
        return ingest
    return ingest.model_copy(update={"picture_channels": "grey" if bundle.in_channels == 1 else "rgb"})


def _cases(source: str, config: Config, ensemble: Ensemble) -> tuple[list[CaseSource], list[tuple[str, str]]]:
    discovery = formats.discover(source, _as_trained(config.ingest, ensemble.first), labelled=False)
    cases, problems = discovery.cases, discovery.problems
    if config.predict.split != "all":
        chosen = ensemble.cases(config.predict.split)
        cases = [case for case in cases if case.case_id in chosen]
        problems = [problem for problem in problems if problem[0] in chosen]
        if not cases:
            raise UsageError(
                f"None of the cases in {source} is in the {config.predict.split} split of the bundle.",
                mend="Name the folder that was ingested, or use predict.split=all.",
            )
    return cases, problems


def _claim(folder: str, ensemble: Ensemble, config: Config) -> None:
    """Note whose masks the folder holds; another bundle's masks are never mixed in."""
    path = storage.join(folder, PREDICTION)
    if storage.exists(path):
        before = json.loads(storage.read_text(path)).get("bundle_id")
        if before != ensemble.identity and not config.predict.overwrite:
            raise UsageError(
                f"{folder} holds masks of another bundle ({before}).",
                mend="Name another folder, or give --set predict.overwrite=true.",
            )
    facts = {
        "bundle_id": ensemble.identity,
        "bundle": ", ".join(ensemble.folders),
        "split": ensemble.split,
        "segray": __version__,
        "predict": config.predict.model_dump(mode="json"),
    }
    storage.write_text(path, json.dumps(facts, indent=1))
    storage.write_text(storage.join(folder, "label_map.json"), ensemble.first.label_map.to_json())


def _is_missing(case: CaseSource, ledger: Ledger, folder: str, config: Config) -> bool:
    row = ledger.row(case.case_id)
    if row is None or config.predict.overwrite:
        return True
    if row["status"] != "ok":
        return config.predict.retry_failed
    return not storage.exists(storage.join(folder, row["mask"])) or row.get("fingerprint") != case.fingerprint()


def _run(cases: list[CaseSource], ensemble: Ensemble, folder: str, config: Config) -> Iterator[str]:
    """Ledger lines of all cases, as they finish."""
    planned, broken = read_headers(cases)
    for source, reason in broken:
        yield to_line({"case_id": source.case_id, "status": "failed", "reason": reason, "image": source.image})
    settings = config.predict
    count = settings.predictors or _predictors(settings.gpu)
    shape = worker_shape(count, settings.cpus_per_predictor, settings.gpu)
    label_map = ensemble.first.label_map.to_json()
    for members in dict.fromkeys(ensemble.members(case.source.case_id) for case in planned):
        theirs = [case for case in planned if ensemble.members(case.source.case_id) == members]
        for declared, group in memory_classes(theirs, bytes_needed):
            yield from _run_class(
                group, declared, min(count, len(group)), shape, members, label_map, folder, config.predict
            )


def _predictors(gpu: str) -> int:
    gpus = sum(int(node.gpus) for node in nodes()) if gpu != "no" else 0
    return gpus or len(nodes())


def bytes_needed(case: Planned) -> int:
    """Memory of one stage for a case: the file and its voxels while they are read, or voxels and labels."""
    return case.voxel_bytes * 3 + 256 * MIB


def _run_class(
    group: list[Planned],
    declared: int,
    predictors: int,
    shape: WorkerShape,
    members: tuple[str, ...],
    label_map: str,
    folder: str,
    config: PredictConfig,
) -> Iterator[str]:
    context = paced_context()
    with DataContext.current(context):
        items = [{"source": case.source.to_json()} for case in group]
        dataset = ray.data.from_items(items, override_num_blocks=len(items))
        dataset = dataset.map_batches(
            read_stage, batch_size=1, batch_format="pyarrow", num_cpus=READ_TASK_CPUS, memory=declared
        )
        dataset = dataset.map_batches(
            PredictStage,
            fn_constructor_args=(members, config, shape.threads),
            compute=ActorPoolStrategy(size=predictors),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=shape.cpus,
            num_gpus=shape.gpus,
        )
        dataset = dataset.map_batches(
            WriteStage(folder, label_map, config.output),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=READ_TASK_CPUS,
            memory=declared,
        )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from lines_of(batch)


def lines_of(table: pa.Table) -> list[str]:
    """The ledger lines of a result table."""
    lines: list[str] = table.column("row").to_pylist()
    return lines
