"""Mask generation on Ray Data: read (CPU) -> Predictor actors with the net resident -> write (CPU), streamed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.util.annotations import RayDeprecationWarning

from segray import __version__, formats, ledger_parts, privacy, storage
from segray.config import Config, IngestConfig, PredictConfig
from segray.engine.backends import BackendChoice
from segray.engine.predictor import check_settings
from segray.errors import SegrayError, UsageError
from segray.formats.overlooked import PASSED_OVER
from segray.formats.source import CaseSource
from segray.ledger_parts import PREDICTION
from segray.nets.bundle import Bundle
from segray.outage import patient
from segray.pipelines.admission import memory_ceiling, memory_classes
from segray.pipelines.backend_choice import choose_backend, kept_choice, never_measured, unlike_choice
from segray.pipelines.case_batches import SOURCES, EachRow, grouped, sources_of
from segray.pipelines.case_outputs import can_have, check_further, check_output, why_no_output
from segray.pipelines.case_watch import CaseWatch, Watcher
from segray.pipelines.claims import Claim
from segray.pipelines.cluster_doctor import preflight_notes
from segray.pipelines.crew import Crew
from segray.pipelines.earlier_files import EarlierFiles
from segray.pipelines.ensemble import Ensemble, load_ensemble
from segray.pipelines.failures import stopped
from segray.pipelines.headers import Planned, read_headers
from segray.pipelines.idle_predict import idle_predict, unlearnt_mirrors, without_windows
from segray.pipelines.ledger import Ledger, to_line
from segray.pipelines.lone_cases import TRIES, LoneCase, allow_losses, predict_lost
from segray.pipelines.pace import paced_context
from segray.pipelines.predict_memory import PredictorMemory, StageMemory
from segray.pipelines.predict_rows import RESULT_SCHEMA
from segray.pipelines.predict_stages import WriteStage, read_stage
from segray.pipelines.predict_todo import find_todo
from segray.pipelines.predictor_stage import PredictStage
from segray.pipelines.review_list import write_review_list
from segray.pipelines.runtime import BRIEF_SPIN, READ_TASK_CPUS, WorkerShape, nodes, ray_session
from segray.report.review_page import REVIEW_PAGE

Say = Callable[[str], None]
"""Called with a sentence that the user should read before the work begins."""

NO_CASE = "no case"
"""In place of a fingerprint: whatever is a case of that name later on is not what failed."""

THRESHOLDS = "odds"
"""By which rule thresholds give voxels where labels exclude each other; masks by the rule before it are others."""

GO_ON = "Bundles and cases have to lie where all nodes see them; what is finished stays, and the same command goes on."
"""What mends most of what ends the whole stream, such as a net that no node can load."""


@dataclass(frozen=True)
class PredictSummary:
    """What a prediction left.

    Attributes:
        folder: the prediction folder.
        masks: the folder of the masks, which the output names.
        cases: cases asked for.
        done: cases with a mask, now or before.
        new: masks written by this call.
        failed: (case id, reason) of cases without a mask.
        review: the page of the cases to look at first; empty where none is wanted.
    """

    folder: str
    masks: str
    cases: int
    done: int
    new: int
    failed: list[tuple[str, str]]
    review: str = ""


class NoFactsError(SegrayError):
    """A prediction folder does not tell whose masks it holds."""


def predict(
    bundle: str | Sequence[str],
    source: str,
    destination: str,
    config: Config | None = None,
    *,
    watcher: Watcher | None = None,
    say: Say | None = None,
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
        say: told which cases are done again and why, which are left, and who computes.

    Raises:
        UsageError: no bundle, bundles or settings that do not go together, no cases, or the folder holds masks of
            another bundle, or masks made with other settings.
        FolderTakenError: another run works on the folder.
    """
    config = config or Config()
    folder = storage.absolute(destination)
    ensemble = load_ensemble([bundle] if isinstance(bundle, str) else bundle, config.predict.split)
    config = privacy.with_privacy(config, folder)
    cases, problems, passed = _cases(source, config, ensemble)
    for members in dict.fromkeys(ensemble.members(case.case_id) for case in cases):
        check_settings(ensemble.at(members), config.predict)
    check_further(config.predict.further, cases, ensemble.first.label_map)
    check_output(config.predict.output, config.predict.further, cases, ensemble.first.label_map)
    with Claim(folder, "predict") as claim, CaseWatch(folder, "predict", watcher, say) as watch:
        _declare(folder, ensemble, config, cases)
        with Ledger(folder, run=claim.run, bundle_id=ensemble.identity) as ledger:
            claim.beat = ledger.tick
            beside = _note_problems(problems, {case.case_id for case in cases}, ledger, watch)
            todo = find_todo(cases, ledger, folder, config.predict, ensemble.first.label_map)
            doubts = [check(config.predict, ensemble.bundles) for check in (idle_predict, unlearnt_mirrors)]
            for note in [*chain(*doubts), *passed, *beside, *todo.notes]:
                watch.say(note)
            with patient(), ray_session(config.ray) if todo.cases else nullcontext():
                new = _work(todo.cases, ensemble, folder, config, ledger, claim, watch)
                ledger.write_tables()
                for note in write_review_list(folder, config):
                    watch.say(note)
                if todo.cases:
                    watch.note(f"{new} masks are new")
                watch.close()
    wanted = {case.case_id for case in cases} | {case_id for case_id, _ in problems}
    found = {case_id: entry for case_id in sorted(wanted) if (entry := ledger.entry(case_id)) is not None}
    failed = [(case_id, entry.reason) for case_id, entry in found.items() if not entry.done]
    review = storage.join(folder, REVIEW_PAGE) if config.predict.review else ""
    masks = storage.join(folder, formats.mask_folder(config.predict.output))
    return PredictSummary(folder, masks, len(wanted), len(found) - len(failed), new, failed, review)


def _note_problems(problems: Sequence[tuple[str, str]], cases: set[str], ledger: Ledger, watch: CaseWatch) -> list[str]:
    """Add a row for each case that cannot even be tried, unless it is there already; sentences on the others.

    A problem of a case that can be tried tells of what lies beside it, such as the same scan under another ending.
    """
    for case_id, reason in problems:
        entry = ledger.entry(case_id)
        if case_id not in cases and (entry is None or entry.done or entry.reason != reason):
            row = {"case_id": case_id, "status": "failed", "reason": reason, "image": "", "fingerprint": NO_CASE}
            ledger.add(to_line(row))
            watch.failed([(case_id, reason)])
    return [f"{case_id}: {reason}" for case_id, reason in problems if case_id in cases]


def _work(
    cases: list[CaseSource],
    ensemble: Ensemble,
    folder: str,
    config: Config,
    ledger: Ledger,
    claim: Claim,
    watch: CaseWatch,
) -> int:
    """Predict the cases, a row each; returns the number of masks."""
    new = 0
    earlier = EarlierFiles(folder, replaced=config.predict.overwrite)
    for count, line in enumerate(_run(cases, ensemble, folder, config, watch) if cases else (), start=1):
        found = json.loads(line)
        # What is stale goes before the row is there: a run that is killed in between does the case again.
        row = ledger.add(earlier.settle(found, ledger.entry(found["case_id"])))
        new += row["status"] == "ok"
        claim.check()
        watch(row, count, len(cases))
    return new


def _as_trained(ingest: IngestConfig, bundle: Bundle) -> IngestConfig:
    """Pictures become the channels of the training, whatever most of the new ones look like."""
    if ingest.picture_channels != "auto":
        return ingest
    return ingest.model_copy(update={"picture_channels": "grey" if bundle.in_channels == 1 else "rgb"})


def _cases(
    source: str, config: Config, ensemble: Ensemble
) -> tuple[list[CaseSource], list[tuple[str, str]], list[str]]:
    """The cases of the run, what is wrong with others, and sentences on what was passed over."""
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
    return cases, problems, [note for note in discovery.notes if note.startswith(PASSED_OVER)]


def _declare(folder: str, ensemble: Ensemble, config: Config, cases: Sequence[CaseSource]) -> None:
    """Note whose masks the folder holds; those of another bundle, or of other settings, are never mixed in."""
    path = storage.join(folder, PREDICTION)
    before: dict[str, Any] = {}
    if storage.exists(path):
        try:
            before = _facts(path)
            other = _other_masks(before, ensemble, config.predict, cases)
        except NoFactsError:
            if not config.predict.overwrite:
                raise
            other = "of an unknown bundle"
        if other and not config.predict.overwrite:
            raise UsageError(f"{folder} holds masks {other}.", mend="Name another folder, or give --overwrite.")
        if other:
            # If this run is cut off, the next one must not take for its own what it has not reached.
            ledger_parts.clear(folder)
            before = {}
    facts = {
        "bundle_id": ensemble.identity,
        "bundle": ", ".join(ensemble.folders),
        "split": ensemble.split,
        "segray": __version__,
        "predict": config.predict.model_dump(mode="json"),
        "thresholds": THRESHOLDS,
        # Also for who overwrites: cut off, the run leaves masks of before, and a folder holds those of one backend.
        "backend": before.get("backend"),
    }
    storage.write_text(path, json.dumps(facts, indent=1))
    storage.write_text(storage.join(folder, "label_map.json"), ensemble.first.label_map.to_json())


def _facts(path: str) -> dict[str, Any]:
    """What ``prediction.json`` tells of a folder. Raises NoFactsError where it is damaged."""
    try:
        facts = json.loads(storage.read_text(path))
    except ValueError as error:
        raise _no_facts(path, str(error)) from error
    if not isinstance(facts, dict):
        raise _no_facts(path, "it is no table")
    return facts


def _no_facts(path: str, reason: str) -> NoFactsError:
    return NoFactsError(
        f"{path} is damaged ({reason}), so it does not tell by which bundle the masks are.",
        mend="Copy it back from where it is whole, name another folder, or begin this one anew by --overwrite.",
    )


def _other_masks(
    facts: dict[str, Any], ensemble: Ensemble, settings: PredictConfig, cases: Sequence[CaseSource]
) -> str:
    """What sets the masks of a folder apart from those that would be made now; empty: nothing."""
    if facts.get("bundle_id") != ensemble.identity:
        return f"of another bundle ({facts.get('bundle_id')})"
    # Folders from before a setting was there have its default.
    before = PredictConfig().of_masks | facts.get("predict", {})
    changed = [f"predict.{name}" for name, value in settings.of_masks.items() if before[name] != value]
    if before["window"] == [0, 0] and without_windows(settings, ensemble.bundles):
        changed = [name for name in changed if name != "predict.overlap"]
    if settings.threshold and facts.get("thresholds") != THRESHOLDS and not ensemble.first.label_map.overlapping:
        changed.append("rule of predict.threshold")
    outputs = (str(before.get("output", "auto")), settings.output)
    if any(len({formats.mask_place(output, case) for output in outputs}) > 1 for case in cases):
        changed.append("predict.output")
    kept = "probabilities" in settings.further and "probabilities" in before.get("further", ())
    if kept and before.get("probabilities", "uint8") != settings.probabilities:
        changed.append("predict.probabilities")
    changed += [f"predict.{name}" for name in unlike_choice(settings, kept_choice(facts))]
    return f"made with another {', '.join(changed)}" if changed else ""


def _run(cases: list[CaseSource], ensemble: Ensemble, folder: str, config: Config, watch: CaseWatch) -> Iterator[str]:
    """Ledger lines of all cases, as they finish."""
    for sentence in preflight_notes(config, folder):
        watch.say(sentence)
    output = config.predict.output
    planned, broken = read_headers([case for case in cases if can_have(output, case)])
    broken += [(case, why_no_output(output, case)) for case in cases if not can_have(output, case)]
    watch.expect(planned)
    for source, reason in broken:
        row = {"case_id": source.case_id, "status": "failed", "reason": reason, "image": source.image}
        yield to_line(row | {"source": source.to_json(), "fingerprint": source.image_only.fingerprint()})
    if not planned:
        return
    settings, crew = config.predict, Crew.of(config.predict, ensemble.bundles, planned)
    of_members: dict[tuple[str, ...], list[Planned]] = {}
    for case in planned:
        of_members.setdefault(ensemble.members(case.source.case_id), []).append(case)
    most = max(map(len, of_members.values()))
    for sentence in crew.check(most):
        watch.say(sentence)
    largest = crew.shape(most)
    backend = _backend(planned, ensemble, folder, config, largest, watch.say)
    write = WriteStage(folder, ensemble.first.label_map.to_json(), settings.output, tuple(settings.further))
    stages = StageMemory.of(settings, ensemble.first.label_map)
    on_a_node = -(-crew.predictors(most) // len(nodes()))
    share = memory_ceiling() // on_a_node
    memory = PredictorMemory.of(settings, ensemble.bundles, share, on_gpu=bool(largest.gpus))
    for members, theirs in of_members.items():
        for declared, group in memory_classes(theirs, stages, beside=memory.declared(theirs) * on_a_node):
            shape = crew.shape(len(group))
            pool = _Pool(min(crew.predictors(len(group)), len(group)), shape, memory.declared(group))
            stage = (members, _on(shape, settings), shape.threads, backend.to_json())
            left = {case.source.case_id: case for case in group}
            for case_id, line in _run_class(group, declared, pool, stage, write):
                left.pop(case_id, None)
                yield line
            if left:
                watch.say(f"Cases that lost their worker again and again, each tried once more by itself: {len(left)}.")
                yield from predict_lost(list(left.values()), LoneCase(stage, write), shape, declared + pool.memory)


def _on(shape: WorkerShape, settings: PredictConfig) -> PredictConfig:
    """The settings of a Predictor that has no GPU of its own: Ray hides none from it, and several would share one."""
    return settings if shape.gpus else settings.model_copy(update={"gpu": "no"})


def _backend(
    planned: list[Planned], ensemble: Ensemble, folder: str, config: Config, shape: WorkerShape, say: Say
) -> BackendChoice:
    """Who computes, noted in ``prediction.json`` so that a later run goes on alike."""
    path = storage.join(folder, PREDICTION)
    facts = _facts(path)
    members = ensemble.members(planned[0].source.case_id) if planned else ()
    asked = (planned, members, config.predict, shape, kept_choice(facts))
    if sentence := never_measured(*asked):
        say(sentence)
    choice = choose_backend(*asked)
    if choice.reason and facts.get("backend") is None:
        say(choice.reason)
    storage.write_text(path, json.dumps(facts | {"backend": json.loads(choice.to_json())}, indent=1))
    return choice


@dataclass(frozen=True)
class _Pool:
    """Predictor actors: how many, what each takes, and the bytes that each holds with a case of its class."""

    actors: int
    shape: WorkerShape
    memory: int


def _run_class(
    group: list[Planned],
    declared: int,
    pool: _Pool,
    stage: tuple[tuple[str, ...], PredictConfig, int, str],
    write: WriteStage,
) -> Iterator[tuple[str, str]]:
    """Case id and ledger line of the cases as they finish; those whose process died time and again are left out."""
    workers = max(pool.actors, int(sum(node.cpus for node in nodes())))
    groups = grouped(group, lambda case: case.voxel_bytes, workers=workers)
    context = allow_losses(paced_context())
    with DataContext.current(context), warnings.catch_warnings():
        # Without a number of tries Ray Data 2.60 tries for ever, and it has no named argument for one.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        items = [{SOURCES: [case.source.to_json() for case in cases]} for cases in groups]
        dataset = ray.data.from_items(items, override_num_blocks=len(items))
        dataset = dataset.map_batches(
            privacy.discreet(EachRow(read_stage, sources_of)),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=READ_TASK_CPUS,
            memory=declared,
            max_retries=TRIES,
        )
        dataset = dataset.map_batches(
            PredictStage,
            fn_constructor_args=stage,
            compute=ActorPoolStrategy(size=pool.actors),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=pool.shape.cpus,
            num_gpus=pool.shape.gpus,
            memory=pool.memory,
            max_task_retries=TRIES,
            runtime_env={"env_vars": BRIEF_SPIN},
        )
        dataset = dataset.map_batches(
            privacy.discreet(EachRow(write)),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=READ_TASK_CPUS,
            memory=declared,
            max_retries=TRIES,
        )
    batches = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    try:
        for batch in batches:
            yield from zip(*(batch.column(name).to_pylist() for name in RESULT_SCHEMA.names), strict=True)
    except Exception as error:
        raise stopped(error, "The prediction", mend=GO_ON) from error
