"""The commands: parse, build the config, call one pipeline, print."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from segray import cli_privacy
from segray.cli_jobs import add_commands
from segray.errors import SegrayError, UsageError

if TYPE_CHECKING:
    from segray.config import Config

SOME_FAILED = 3
"""Exit code of a command that finished while some cases failed."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, that of a shell."""

TRACEBACK = "SEGRAY_TRACEBACK"
"""The variable that, set to 1, shows where an error came from that nobody foresaw."""

app = typer.Typer(
    name="segray",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="CT archives to trained U-Nets and to masks, on Ray.\n\n"
    "A whole way: `segray ingest scans shards`, `segray train config.yaml`, "
    "`segray predict runs/one scans predictions`, `segray evaluate predictions scans`, "
    "`segray report runs/one --predictions predictions`.\n\n"
    "Exit codes: 0 all done; 1 an error; 2 wrong usage; 3 finished, but some cases failed.",
)

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: --set train.epochs=20.")
]
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help="How the cases lie in the folder; overrides ingest.format."),
]
ConfigFile = Annotated[str | None, typer.Option("--config", metavar="FILE", help="A YAML config.")]


def _tell_version(asked: bool) -> None:
    if not asked:
        return
    from importlib.metadata import version
    from platform import python_version

    from segray import __version__

    parts = ", ".join(f"{name} {version(name)}" for name in ("ray", "torch"))
    typer.echo(f"segray {__version__} ({parts}, Python {python_version()})")
    raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the versions, and end.")
    ] = False,
) -> None:
    """What goes before any command."""


def _config(path: str | None, overrides: list[str] | None, **named: str | None) -> Config:
    from segray.config import load_config

    extra = [f"{key.replace('__', '.')}={value}" for key, value in named.items() if value is not None]
    return load_config(path, [*(overrides or []), *extra])


@app.command()
def doctor(
    source: Annotated[str | None, typer.Argument(metavar="[SRC]", help="The folder of cases.")] = None,
    out: Annotated[
        str, typer.Option(metavar="DIR", help="Where index.html, doctor.json and sheet.png go; empty: nowhere.")
    ] = "doctor",
    layout: Format = None,
    sheet: Annotated[int, typer.Option(min=0, max=200, help="Cases on the contact sheet.")] = 12,
    cluster: Annotated[bool, typer.Option("--cluster", help="Examine the nodes of the cluster, not data.")] = False,
    storage: Annotated[
        str | None, typer.Option("--storage", metavar="FOLDER", help="With --cluster: storage that all nodes share.")
    ] = None,
    config: ConfigFile = None,
    overrides: Set = None,
) -> None:
    """Examine a folder before anything is spent on it: what is there, what is wrong, what ingest would do and cost.

    Every finding is an error (ingest would lose data), a warning or a note, with its mend. Nothing of SRC is changed.
    Exit code 1 where there is an error, else 0.

    Example: `segray doctor scans --out doctor`

    The nodes of a cluster, their versions, disks, clocks, network, and storage that all should see, from a job on it:
    `segray doctor --cluster --storage /mnt/shared`
    """
    settings = _config(config, overrides, ingest__format=layout)

    if cluster:
        from segray.cli_cluster import print_cluster
        from segray.pipelines.cluster_doctor import cluster_doctor

        found = cluster_doctor(settings, storage)
        print_cluster(found)
        raise typer.Exit(found.exit_code)
    if source is None:
        raise UsageError("The doctor needs a folder of cases.", mend="Name it, or give --cluster.")

    from segray.cli_display import CaseLine
    from segray.cli_doctor import print_doctor
    from segray.pipelines.doctor import doctor as run

    with CaseLine("doctor") as line:
        diagnosis = run(source, settings, out=out or None, sheet=sheet, watcher=line)
    print_doctor(diagnosis)
    raise typer.Exit(diagnosis.exit_code)


@app.command()
def ingest(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The folder of cases.")],
    destination: Annotated[
        str, typer.Argument(metavar="DST", help="The folder of shards to write or bring up to date.")
    ],
    layout: Format = None,
    config: ConfigFile = None,
    overrides: Set = None,
) -> None:
    """Read cases and write shards: one Parquet part a case, and a manifest.

    Run again it writes only what is missing or changed. Broken cases are listed in DST/failures.csv.

    Example: `segray ingest scans shards --set ingest.grid.spacing=[1.5,1.5]`
    """
    settings = _config(config, overrides, ingest__format=layout)

    from segray.cli_display import CaseLine, print_ingest
    from segray.pipelines.ingest import ingest as run

    with CaseLine("ingest") as line:
        summary = run(source, destination, settings, watcher=line)
    print_ingest(summary)
    raise typer.Exit(SOME_FAILED if summary.failed else 0)


@app.command()
def train(
    config: Annotated[str | None, typer.Argument(metavar="CONFIG", help="A YAML config.")] = None,
    shards: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Shards, or cases; overrides train.shards.")
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="FOLDER", help="Run folder; overrides train.run.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with an interrupted run.")] = None,
    start_from: Annotated[
        str | None,
        typer.Option(metavar="BUNDLE", help="Start from a bundle, a run or a .pth file; overrides train.start_from."),
    ] = None,
    layout: Format = None,
    overrides: Set = None,
) -> None:
    """Train a U-Net on shards, or straight on a folder of labelled cases; leaves a run folder with a bundle.

    Example: `segray train examples/hippocampus2d.yaml --shards shards --run runs/one --set train.epochs=20`

    Go on after an interruption: `segray train --resume runs/one`

    Cross-validation, a run a fold, side by side where there is room: `--set train.folds=5`

    From the weights of another run: `segray train --start-from runs/one --shards others --run runs/two`

    Without ingest: `segray train --shards scans --run runs/one`; every epoch reads the scans again.
    """
    settings = _config(
        config, overrides, train__shards=shards, train__run=run, train__start_from=start_from, ingest__format=layout
    )

    if resume:
        from segray.cli_sweep import refuse_beside_resume

        named = {"CONFIG": config, "--shards": shards, "--run": run, "--start-from": start_from, "--format": layout}
        mend = (
            "Leave it out; settings of ray and privacy are taken, and a limit can be raised in the run's config.yaml."
        )
        refuse_beside_resume(named, overrides or [], "training", mend)

    from segray.cli_display import TrainLine, print_note, print_plan, print_train
    from segray.pipelines.live import Planner
    from segray.pipelines.train import train as start

    with TrainLine() as line:
        summary = start(
            settings, resume=resume, watcher=line, planner=Planner(line.plan_case, print_plan), say=print_note
        )
    print_train(summary)
    raise typer.Exit(SOME_FAILED if summary.failed else 0)


@app.command()
def tune(
    config: Annotated[str | None, typer.Argument(metavar="CONFIG", help="A YAML config that all trials share.")] = None,
    space: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A search space (Python), or one of segray's by name; overrides tune.space."),
    ] = None,
    shards: Annotated[str | None, typer.Option(metavar="FOLDER", help="Shards; overrides train.shards.")] = None,
    run: Annotated[str | None, typer.Option(metavar="FOLDER", help="The sweep's folder; overrides tune.run.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials in all; overrides tune.trials.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="No trial begins later; overrides tune.minutes.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="SWEEP", help="Go on with an interrupted sweep.")] = None,
    dry: Annotated[
        int, typer.Option("--dry-run", min=0, metavar="N", help="Print N examples of what trials get; train nothing.")
    ] = 0,
    overrides: Set = None,
) -> None:
    """Search the settings of a training: many trials, the poor ones ended early; leaves best.yaml and its bundle.

    Example: `segray tune my.yaml --space tune_spaces/unet2d.py --shards shards --run sweeps/one --trials 100`

    Go on after an interruption, or with more trials: `segray tune --resume sweeps/one --trials 200`

    Cases that the outcome is to be judged by have no part in it: ingest with `ingest.split.test`.
    """
    if resume:
        from segray.cli_sweep import refuse_beside_resume

        arguments = {"CONFIG": config, "--space": space, "--shards": shards, "--run": run}
        refuse_beside_resume(arguments, overrides or [])
    settings = _config(
        config,
        overrides,
        train__shards=shards,
        tune__run=run,
        tune__space=space,
        tune__trials=None if trials is None else str(trials),
        tune__minutes=None if minutes is None else str(minutes),
    )

    from segray.cli_display import console, print_note
    from segray.cli_sweep import SweepLive, print_draws, print_sweep
    from segray.pipelines.tune import dry_run
    from segray.pipelines.tune import tune as start

    if dry:
        print_draws(dry_run(settings, dry, resume=resume), console)
        return
    with SweepLive(resume or settings.tune.run or ".", console):
        summary = start(settings, resume=resume, trials=trials or 0, minutes=minutes, say=print_note)
    print_sweep(summary, console)
    raise typer.Exit(SOME_FAILED if summary.failed else 0)


@app.command("preview-augment")
def preview_augment(
    config: Annotated[str | None, typer.Argument(metavar="CONFIG", help="A YAML config.")] = None,
    shards: Annotated[str | None, typer.Option(metavar="FOLDER", help="Shards; overrides train.shards.")] = None,
    out: Annotated[str, typer.Option(metavar="FILE", help="The PNG to write.")] = "augment.png",
    slices: Annotated[int, typer.Option(min=1, max=50, help="Training slices, a row each.")] = 5,
    draws: Annotated[int, typer.Option(min=1, max=20, help="Changed versions of each.")] = 5,
    overrides: Set = None,
) -> None:
    """Draw training slices beside what the augmentation of a config makes of them, with the structures' outlines.

    Example: `segray preview-augment my.yaml --shards shards --set augment.elastic=0.5`
    """
    settings = _config(config, overrides, train__shards=shards)

    from segray.cli_display import print_paths
    from segray.pipelines.preview import preview_augment as draw

    print_paths(preview=draw(settings, out, slices=slices, draws=draws))


@app.command()
def watch(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a training or a sweep, a path or a URI.")],
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Time between looks.")] = 2.0,
) -> None:
    """Watch a training, from any machine that sees its run folder: progress, loss, Dice, speed, the log; or a sweep.

    Of a cross-validation it shows a line a fold.

    It ends with the training; Ctrl-C ends it before and leaves the training alone. Written to a pipe it gives a line
    whenever something has changed.

    Example: `segray watch runs/one`, or after the fact `segray watch runs/one --once`
    """
    from segray.cli_folds import watch_folds
    from segray.cli_sweep import watch_sweep
    from segray.cli_watch import watch as show
    from segray.pipelines.folds_view import is_cross_validation
    from segray.pipelines.sweep_view import is_sweep

    fitting = watch_sweep if is_sweep(run) else watch_folds if is_cross_validation(run) else show
    fitting(run, interval=interval, once=once)


@app.command()
def predict(
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="A bundle, the run folder that holds it, or a cross-validation.")
    ],
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help="A folder of cases, one file, a table of cases, or a pattern in quotes."),
    ],
    destination: Annotated[str, typer.Argument(metavar="DST", help="The prediction folder.")],
    further: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="BUNDLE", help="A further bundle: probabilities are averaged; may be repeated."),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try the cases again that failed.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Predict again what is there already.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Predict nothing: compare DST with its ledger and with SRC, and mend it.")
    ] = False,
    delete_orphans: Annotated[
        bool, typer.Option("--delete-orphans", help="With --verify: remove files of no row, and damaged masks.")
    ] = False,
    layout: Format = None,
    config: ConfigFile = None,
    overrides: Set = None,
) -> None:
    """Write a mask for every case, on the case's own grid, with tables of its structures and a list for review.

    Run again it does only what is missing. Example: `segray predict runs/one scans predictions`

    Only the cases held out in training: `--set predict.split=validation`; of a cross-validation these are all cases,
    each predicted by the fold that has not seen it.

    Is every mask whole, and what its row says? `segray predict runs/one scans predictions --verify`
    """
    flags = {"predict__retry_failed": retry_failed, "predict__overwrite": overwrite}
    settings = _config(config, overrides, ingest__format=layout, **{key: "true" for key, on in flags.items() if on})

    from segray.cli_display import CaseLine, print_note, print_predict, print_verify
    from segray.nets.bundle import find_bundles
    from segray.pipelines.predict import predict as run
    from segray.pipelines.verify import verify_on_ray

    if delete_orphans and not verify:
        raise UsageError("--delete-orphans is for --verify.", mend="Give both, or neither.")
    if verify:
        _refuse_beside_verify(**{"--with": further, "--retry-failed": retry_failed, "--overwrite": overwrite})
        find_bundles(bundle)
        checked = verify_on_ray(destination, source, settings, delete_orphans=delete_orphans)
        print_verify(checked)
        raise typer.Exit(0 if checked.clean else SOME_FAILED)
    with CaseLine("predict") as line:
        summary = run([bundle, *(further or [])], source, destination, settings, watcher=line, say=print_note)
    print_predict(summary)
    raise typer.Exit(SOME_FAILED if summary.failed else 0)


def _refuse_beside_verify(**named: object) -> None:
    """Raise UsageError where ``--verify``, which predicts nothing, is given what is for a prediction."""
    ignored = [name for name, value in named.items() if value]
    if ignored:
        raise UsageError(
            f"--verify predicts nothing, and {ignored[0]} would change nothing.",
            mend=f"Leave {ignored[0]} out; the same command without --verify takes it.",
        )


@app.command()
def export(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle, or the run folder that holds it.")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="The file to write.")],
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="onnx, torchscript, openvino or torch.export.")
    ] = "onnx",
) -> None:
    """Write the network of a bundle in another format, with a card of all that is needed to use it without segray.

    What was written is run and compared with the bundle before it lies anywhere.

    Example: `segray export runs/one model.onnx --to onnx`
    """
    from segray.cli_display import print_export
    from segray.engine.export import export_bundle
    from segray.nets.bundle import find_bundle, load_bundle

    print_export(export_bundle(load_bundle(find_bundle(bundle)), destination, to))


@app.command()
def evaluate(
    predictions: Annotated[str, typer.Argument(metavar="PREDICTIONS", help="A folder written by segray predict.")],
    truth: Annotated[str, typer.Argument(metavar="TRUTH", help="The folder of cases with their labels.")],
    layout: Format = None,
    config: ConfigFile = None,
    overrides: Set = None,
) -> None:
    """Compare masks with the true labels: Dice, IoU, precision, recall, volume error per structure and case.

    Example: `segray evaluate predictions scans`

    Several bundles as one: `segray predict runs/a scans together --with runs/b`, then `segray evaluate together scans`
    """
    settings = _config(config, overrides, ingest__format=layout)

    from segray.cli_display import CaseLine, print_evaluate
    from segray.pipelines.evaluate import evaluate as run

    with CaseLine("evaluate") as line:
        summary = run(predictions, truth, settings, watcher=line)
    print_evaluate(summary)
    raise typer.Exit(SOME_FAILED if summary.failed else 0)


@app.command()
def report(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="A run folder or a prediction folder.")],
    predictions: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="A prediction folder to show with the run.")
    ] = None,
) -> None:
    """Draw curves, Dice, volumes and overlays into FOLDER/plots and one FOLDER/index.html.

    Example: `segray report runs/one --predictions predictions`
    """
    from segray.cli_display import print_paths
    from segray.report.api import report as draw

    print_paths(report=draw(folder, predictions=predictions))


@app.command()
def phantoms(
    destination: Annotated[str, typer.Argument(metavar="DST", help="The folder to write.")],
    cases: Annotated[int, typer.Option(min=1, help="How many cases.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the anatomy.")] = 0,
) -> None:
    """Make CT phantoms as NIfTI files in the TotalSegmentator layout, to try segray without data.

    Example: `segray phantoms phantoms --cases 12`
    """
    from segray.cli_display import print_paths
    from segray.phantoms import make_phantoms

    made = make_phantoms(destination, cases=cases, seed=seed, broken=False)
    print_paths(cases=f"{len(made)} in {destination}")


@app.command()
def demo(
    data: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Your folder of labelled cases; empty: phantoms are made.")
    ] = None,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Where all results go.")] = "demo",
    overrides: Set = None,
) -> None:
    """The whole way on one machine: ingest, train, predict, evaluate, report.

    Example: `segray demo`, or on your own cases `segray demo --data scans --out demo-scans`
    """
    from segray.cli_display import run_demo

    raise typer.Exit(SOME_FAILED if run_demo(data, out, overrides or []) else 0)


@app.command()
def config(
    path: Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="Show the values of this YAML config.")] = None,
    overrides: Set = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print the resolved config as YAML.")] = False,
) -> None:
    """Print every setting with its value, unit and meaning.

    Example: `segray config`, or `segray config my.yaml --yaml`
    """
    from segray.cli_display import print_settings
    from segray.config import dump_config

    settings = _config(path, overrides)
    if as_yaml:
        typer.echo(dump_config(settings), nl=False)
    else:
        print_settings(settings)


add_commands(app)
cli_privacy.add_commands(app)


def main() -> None:
    """Run the command line; an error is one line on stderr and an exit code, never a traceback."""
    sys.exit(_guarded(app))


def _guarded(command: Callable[[], object]) -> int:
    try:
        command()
    except SegrayError as error:
        from segray.privacy import hide

        typer.echo(f"segray: {hide(str(error))}", err=True)
        return error.exit_code
    except KeyboardInterrupt:
        return _tell_interrupted()
    except SystemExit as end:
        # Typer makes an exit of Ctrl-C, without a word.
        if end.__context__ is not None and isinstance(end.__context__.__cause__, KeyboardInterrupt):
            return _tell_interrupted()
        raise
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        _tell_defect(error)
        return 1
    return 0


def _tell_interrupted() -> int:
    told = "What is finished is kept: the same command goes on, of train and tune with --resume and the run."
    typer.echo(f"segray: interrupted. {told}", err=True)
    return INTERRUPTED


def _tell_defect(error: Exception) -> None:
    """The last net: an error that nobody foresaw is a line too, since a traceback may hold what is to be hidden."""
    from segray.errors import without_secrets
    from segray.privacy import hide

    if os.environ.get(TRACEBACK) == "1":
        typer.echo(hide(without_secrets("".join(traceback.format_exception(error)).rstrip())), err=True)
    told = SegrayError(
        f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no words'])[0][:200].rstrip('. ')}.",
        mend=f"This is a defect of segray: please report it, with what the same command says under {TRACEBACK}=1.",
    )
    typer.echo(f"segray: {hide(str(told))}", err=True)
