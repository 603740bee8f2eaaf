"""A training from its last checkpoint to its end, as one worker sees it: stream, step, validate, checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.distributed as dist

from segray import __version__, storage
from segray.case import LabelMap
from segray.config import Config
from segray.engine.memory import take_peak_mib
from segray.engine.trainer import Batch, StepResult, Trainer
from segray.engine.validation import Validator
from segray.errors import SegrayError
from segray.evaluation.counting import Counts
from segray.evaluation.metrics import dice
from segray.nets.bundle import save_bundle
from segray.nets.unet import build_net
from segray.pipelines.checkpoints import restore_state, state_folder
from segray.pipelines.feed import EpochFeed, steps_a_worker
from segray.pipelines.folds import training_manifest
from segray.pipelines.live import data_folder, visit_reader
from segray.pipelines.log_file import Level
from segray.pipelines.normalisation import normalisation_of
from segray.pipelines.run_folder import BUNDLE, CONFIG, START, RunFolder
from segray.pipelines.run_tracking import RunTracking
from segray.pipelines.runtime import MIB
from segray.pipelines.seat import Seat, whereabouts
from segray.pipelines.train_metrics import TrainMetrics
from segray.shards import ShardError
from segray.shards.cache import shard_cache
from segray.shards.index import SliceIndex, load_index
from segray.shards.known_labels import KnownLabels
from segray.shards.manifest import Manifest
from segray.shards.reader import SliceBatch, iterate_batches
from segray.shards.tally import CountedVisits

LOWER_IS_BETTER = ("train_loss",)


@dataclass
class Position:
    """Where a run stands, as its checkpoint keeps it.

    Attributes:
        epoch: epochs finished.
        seconds: training seconds over all resumes.
        best: mean validation Dice of the bundle's epoch, or -1.
        best_epoch: the bundle's epoch: that of the best `train.metric`.
        stale: validations since the best.
        top: the best `train.metric`, negated where lower is better; None before the first.
        drops: how often the learning rate was lowered (schedule plateau).
        flat: validations since the best or the last drop.
        validation: seconds of the last validation.
        out_of_minutes: the `train.minutes` that left no time for a further epoch; 0 as long as there is some.
    """

    epoch: int = 0
    seconds: float = 0.0
    best: float = -1.0
    best_epoch: int = 0
    stale: int = 0
    top: float | None = None
    drops: int = 0
    flat: int = 0
    validation: float = 0.0
    out_of_minutes: float = 0.0


class Session:
    """One worker's run from the last checkpoint to the end, wherever it sits.

    Attributes:
        ended: the last epoch is trained.
    """

    def __init__(self, config: Config, seat: Seat) -> None:
        self.seat, self.rank, self.world = seat, seat.rank, seat.world
        self.config = config
        self.run = RunFolder(str(config.train.run))
        self.folder = data_folder(config)
        self.manifest: Manifest = training_manifest(config)
        self.index: SliceIndex = replace(load_index(self.folder, self.manifest), beside=config.net.neighbours)
        self.label_map: LabelMap = self.manifest.label_map
        self.device = seat.device
        self.normalisation = normalisation_of(config, self.manifest)
        torch.manual_seed(config.seed)
        net = build_net(config.net, self.manifest.in_channels, self.label_map.channels)
        if config.train.start_from:
            net.load_state_dict(safetensors.torch.load(storage.read_bytes(self.run.file(START))))
        self.trainer = Trainer(
            config,
            net,
            self.normalisation,
            device=self.device,
            rank=self.rank,
            wrap=seat.wrap,
            overlapping=self.label_map.overlapping,
            structures=self.label_map.names,
            ignored=self.label_map.ignored_index,
        )
        self.trainer.spare(self.run.history().get("spared") or {})
        if self.trainer.fallback:
            self._say(self.trainer.fallback)
        self.known = KnownLabels.of_manifest(self.manifest, config.loss.missing)
        self.position = Position()
        self.tracking: RunTracking | None = None
        self.metrics = TrainMetrics(config, self.run, first=self.rank == 0)
        self.ended = False
        self._start = 0
        self.steps = steps_a_worker(self.index, config, self.world)
        self._reading = CountedVisits(visit_reader(self.index, shard_cache(config.train)))
        self._noted: set[str] = set()
        self._at_once = 2 * config.train.slices_a_step
        self._of_update: list[tuple[Batch, int]] = []

    def restore(self) -> None:
        """Load the latest checkpoint, if there is one, and drop the rows of epochs that it does not hold."""
        state, passed = restore_state(self.run, self.seat.latest())
        if state is not None:
            self.trainer.load_state_dict(state["trainer"])
            self.position = Position(**state["position"])
        self._note_workers()
        if self.rank == 0:
            self.run.rewind(self.position.epoch)
            for words in passed:
                self.run.log(words)
            what = f"resume after epoch {self.position.epoch}" if state else "train from the beginning"
            self.run.log(f"{what}: {self.world} workers, {self.steps} steps an epoch, {self.trainer.precision}")
            self.tracking = RunTracking(self.config, self.run, self.label_map.names)

    def close(self, *, failed: bool) -> None:
        """Let go of the trackers, and tell the last numbers."""
        self.metrics.close()
        if self.tracking is not None:
            self.tracking.close(failed=failed)

    def _note_workers(self) -> None:
        mine = whereabouts(self.seat)
        everyone: list[Any] = [(mine, self.position.epoch)]
        if self.world > 1:
            everyone = [None] * self.world
            dist.all_gather_object(everyone, (mine, self.position.epoch))
        if len({epoch for _, epoch in everyone}) > 1:
            raise OSError("The workers could not read the same checkpoint.")
        if self.rank == 0:
            workers = [worker for worker, _ in everyone]
            starts = self.run.history().get("starts", [])
            starts.append({"after_epoch": self.position.epoch, "workers": workers})
            self.run.write_history(workers=workers, starts=starts, segray=__version__)
            self._start = len(starts)

    def train(self, stop_after: int = 0) -> Generator[dict[str, Any], None, None]:
        """Epochs until the last, ``stop_after``, the time limit or the end of patience; the row of each, once kept."""
        feed = EpochFeed(
            self.folder,
            self.index,
            self.config,
            self.rank,
            self.world,
            self.position.epoch,
            say=self._say,
            direct=self.seat.direct,
            ready=self.metrics.ready,
            ignored=self.label_map.ignored_index or 0,
        )
        try:
            yield from self._epochs(feed, stop_after)
        except GeneratorExit:
            # Between two epochs: nobody wants a further one, and no thread is reading now.
            feed.close()
            raise
        feed.close()

    def _epochs(self, feed: EpochFeed, stop_after: int) -> Iterator[dict[str, Any]]:
        train, position = self.config.train, self.position
        self.ended = self._is_over()
        clock = time.monotonic() - position.seconds
        for epoch in range(position.epoch + 1, train.epochs + 1) if not self.ended else ():
            began = time.monotonic()
            self.metrics.epoch(epoch)
            row = self._train_epoch(feed, epoch, clock)
            trained = time.monotonic()
            due, last = epoch % train.validate_every == 0, epoch in (train.epochs, stop_after)
            # Time that the next epoch needs, and the validations of this one and of that: the last epoch is validated.
            needed = trained - began + (1 + due) * position.validation
            late = not last and self._out_of_time(trained - clock + needed)
            if due or last or late:
                row |= self._validate()
                self._rate(epoch, row)
                position.validation = time.monotonic() - trained
                self.metrics.validation(row, position.validation)
                # The first validation takes a time that nobody knew before.
                needed = trained - began + position.validation
                late = late or (not last and self._out_of_time(time.monotonic() - clock + needed))
            row["read_mib"] = self._read_mib(feed)
            position.epoch, position.seconds = epoch, time.monotonic() - clock
            position.out_of_minutes = train.minutes if late else 0.0
            stop = last or late or self._out_of_patience()
            self._close_epoch(row)
            self.ended = bool(stop)
            yield row
            if stop:
                break

    def _is_over(self) -> bool:
        """Whether the limits of the config, which may be others now, had ended the run before; why is logged."""
        train, position = self.config.train, self.position
        limits = {
            "epochs": position.epoch >= train.epochs,
            "patience": self._out_of_patience(),
            "minutes": 0 < train.minutes <= position.out_of_minutes,
        }
        reached = [f"train.{name}={getattr(train, name):g}" for name, over in limits.items() if over]
        if reached and self.rank == 0:
            self.run.log(
                f"The training has ended already, by {' and '.join(reached)}: a larger limit in {CONFIG} lets it go on."
            )
        return bool(reached)

    def _train_epoch(self, feed: EpochFeed, epoch: int, clock: float) -> dict[str, Any]:
        sums = np.zeros(4)
        waited = stepped = 0.0
        result: StepResult | None = None
        for number, (batch, wait) in enumerate(self._batches(feed, epoch), start=1):
            step = (epoch - 1) * self.steps + number - 1
            begin = time.monotonic()
            result = self._step(batch, epoch, step, self._progress(step, clock), number)
            seconds = time.monotonic() - begin
            waited, stepped = waited + wait, stepped + seconds
            self.metrics.step(result, seconds, wait)
            if result.skipped:
                self._say(f"step {step} of epoch {epoch} skipped: {result.skipped}", "warning")
            elif math.isfinite(result.loss):
                sums += (
                    result.slices,
                    *(value * result.slices for value in (result.loss, result.dice_loss, result.cross_entropy)),
                )
            if self.rank == 0:
                self._note_step(epoch, number, step, result, seconds, wait)
        self._sum_over_workers(sums)
        if result is None or sums[0] == 0:
            raise SegrayError(
                "No step of the epoch had a finite loss.", mend="Lower optim.lr, or look at the intensities."
            )
        return self._epoch_row(epoch, sums, result.lr, stepped, waited, time.monotonic() - clock)

    def _step(self, batch: Batch, epoch: int, step: int, progress: float, number: int) -> StepResult:
        """A step, the ``number``-th of its epoch; where memory ran out again with less, and so those of its update."""
        before = (number - 1) // self.config.optim.accumulate * self.config.optim.accumulate
        last = min(before + self.config.optim.accumulate, self.steps)
        if number == before + 1:
            self._of_update.clear()
        self._of_update.append((batch, step))
        again = self._of_update[-1:]
        while True:
            try:
                for learnt, at in again:
                    result = self.trainer.step(
                        learnt,
                        epoch=epoch,
                        step=at,
                        progress=progress,
                        drops=self.position.drops,
                        update=number == last and at == step,
                        together=last - before,
                    )
                return result
            except torch.OutOfMemoryError:
                self._say(self.trainer.spare_memory(), "warning")
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                if self.world > 1:
                    # The other workers wait in the middle of a sum. All begin again from the last checkpoint.
                    self.run.write_history(spared=self.trainer.spared)
                    raise
                # The gradients of the batches before it went too.
                again = list(self._of_update)

    def _sum_over_workers(self, sums: np.ndarray[Any, Any]) -> None:
        """The sums over all workers, in place: where losses are the metric, they choose the same epoch everywhere."""
        if self.world > 1:
            total = torch.from_numpy(sums).to(self.device, torch.float32)
            dist.all_reduce(total)
            sums[:] = total.cpu().numpy()

    def _read_mib(self, feed: EpochFeed) -> float | str:
        """MiB that all workers read from the storage of the shards since the last call; "" where there are none."""
        mine = feed.taken()
        mine.add(self._reading.taken())
        for words in mine.notes:
            self._say_once(words)
        by_worker = np.zeros(self.world)
        by_worker[self.rank] = mine.bytes / MIB
        self._sum_over_workers(by_worker)
        if self.index.hollow:
            return ""
        if self.rank == 0 and self.world > 1:
            self.run.log(f"read of the shards by worker, MiB: {', '.join(f'{mib:.2f}' for mib in by_worker)}")
        return round(float(by_worker.sum()), 2)

    def _batches(self, feed: EpochFeed, epoch: int) -> Iterator[tuple[Batch, float]]:
        mark = time.monotonic()
        for arrays in feed.epoch(epoch):
            batch = Batch.from_arrays(
                arrays.images,
                arrays.labels,
                arrays.mean,
                arrays.sd,
                arrays.case_ids,
                known=None if self.known is None else self.known.of(arrays.case_ids),
                device=self.device,
            )
            yield batch, time.monotonic() - mark
            mark = time.monotonic()

    def _progress(self, step: int, clock: float) -> float:
        train = self.config.train
        share = step / (self.steps * train.epochs)
        if train.minutes:
            # The workers' clocks differ, and so would their learning rates, and bit by bit their weights.
            share = self._of_first(max(share, (time.monotonic() - clock) / (60.0 * train.minutes)))
        return min(share, 1.0)

    def _note_step(self, epoch: int, number: int, step: int, result: StepResult, seconds: float, wait: float) -> None:
        values = (result.loss, result.dice_loss, result.cross_entropy, result.grad_norm, result.lr)
        shown = [f"{value:.6g}" for value in values]
        self.run.add_step([epoch, step, *shown, result.slices, f"{seconds:.4f}", f"{wait:.4f}"])
        slices_per_s = self.world * result.slices / max(seconds + wait, 1e-9)
        if self.tracking is not None:
            self.tracking.step(result, slices_per_s=slices_per_s, data_wait_s=wait)
        self.run.show_progress(
            epoch=epoch,
            epochs=self.config.train.epochs,
            step=number,
            steps=self.steps,
            loss=result.loss,
            slices_per_s=slices_per_s,
            dice=self.position.best if self.position.best >= 0 else None,
            lr=result.lr,
            at=time.time(),
        )

    def _epoch_row(
        self, epoch: int, sums: np.ndarray[Any, Any], lr: float, stepped: float, waited: float, elapsed: float
    ) -> dict[str, Any]:
        slices, *losses = sums
        return {
            "epoch": epoch,
            "step": epoch * self.steps,
            "seconds": round(elapsed, 2),
            "lr": f"{lr:.6g}",
            "train_loss": round(losses[0] / slices, 5),
            "train_dice_loss": round(losses[1] / slices, 5),
            "train_cross_entropy": round(losses[2] / slices, 5),
            "step_s": round(stepped, 3),
            "data_wait_s": round(waited, 3),
            "slices_per_s": round(slices / max(stepped + waited, 1e-9), 2),
            "read_mib": "",
            "gpu_memory_mib": take_peak_mib(self.device),
            "val_dice": "",
            **{f"val_dice_{name}": "" for name in self.label_map.names},
        }

    def _validate(self) -> dict[str, Any]:
        cases = self.index.cases("validation")
        if not cases:
            return {}
        scores = self._validation_dice(cases)
        if self.tracking is not None:
            self.tracking.show(self.folder, self.index, self.trainer, self._reading)
        columns = {"val_dice": scores} | {
            f"val_dice_{name}": scores[:, number] for number, name in enumerate(self.label_map.names)
        }
        return {
            name: round(float(np.nanmean(column)), 5) if np.isfinite(column).any() else ""
            for name, column in columns.items()
        }

    def _rate(self, epoch: int, row: dict[str, Any]) -> None:
        """Is this epoch the best so far? As long as `train.metric` has no value, the last one is."""
        position, optim = self.position, self.config.optim
        found = row[self.config.train.metric]
        if found == "":
            if position.top is None:
                position.best_epoch = epoch
                if self.index.cases("validation"):
                    self._say_once(f"{self.config.train.metric} has no value: no held-out case shows what it rates.")
            return
        score = -float(found) if self.config.train.metric in LOWER_IS_BETTER else float(found)
        if position.top is None or score > position.top:
            position.top, position.best_epoch, position.stale, position.flat = score, epoch, 0, 0
            position.best = float(row["val_dice"]) if row["val_dice"] != "" else -1.0
            return
        position.stale, position.flat = position.stale + 1, position.flat + 1
        if optim.schedule == "plateau" and position.flat >= optim.plateau_patience:
            position.drops, position.flat = position.drops + 1, 0
            if self.rank == 0:
                self.run.log(f"epoch {epoch}: nothing better for {optim.plateau_patience} validations; lr is lowered")

    def _validation_dice(self, cases: list[str]) -> np.ndarray[Any, Any]:
        """(cases, structures): Dice of whole held-out cases on the shards' grid, each worker its part of the cases."""
        while True:
            try:
                counts = self._validation_counts(cases)
                break
            except torch.OutOfMemoryError:
                # A patch is as large as in a step, and a slice alone is no more than that.
                if self.config.net.patch or self._at_once == 1:
                    raise
                self._at_once = max(1, self._at_once // 2)
                self._say(f"Memory ran out: the validation looks at {self._at_once} slices at once from now on.")
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
        if self.world > 1:
            dist.all_reduce(counts)
        table = counts.cpu().numpy()
        scores = dice(Counts(table[..., 0], table[..., 1], table[..., 2]).structures())
        if self.known is not None:
            scores[~self.known.structures(cases)] = np.nan
        return scores

    def _validation_counts(self, cases: list[str]) -> torch.Tensor:
        """(cases, channels, 3) int64, of this worker's part of the cases; zeros for the others."""
        channels = len(self.label_map.names) + 1
        counts = torch.zeros(len(cases), channels, 3, dtype=torch.int64, device=self.device)
        number = {case: position for position, case in enumerate(cases)}
        validator = Validator(
            self.trainer.trained,
            self.normalisation,
            self.device,
            self.trainer.precision,
            overlapping=self.label_map.overlapping,
        )
        patch = self.config.net.patch
        for arrays in self._held_out(cases[self.rank :: self.world]):
            batch = Batch.from_arrays(
                arrays.images, arrays.labels, arrays.mean, arrays.sd, arrays.case_ids, device=self.device
            )
            if patch:
                validator.add_case(batch, patch, number[arrays.case_ids[0]], counts)
                continue
            which = torch.tensor([number[case] for case in arrays.case_ids], device=self.device)
            validator.add(batch, which, counts)
        return counts

    def _held_out(self, cases: list[str]) -> Iterator[SliceBatch]:
        """The slices of held-out cases, in batches; where the net is 3D, a case a batch."""
        sizes = {part.case_id: part.slices for part in self.index.parts}
        spare, patch = self.config.train.damaged == "skip", self.config.net.patch
        for run in [[case] for case in cases] if patch or spare else [cases] if cases else []:
            batches = iterate_batches(
                self.folder,
                self.index.visits_of(run),
                sizes[run[0]] if patch else self._at_once,
                threads=self.config.train.decode_threads,
                read=self._reading,
            )
            try:
                yield from list(batches) if spare else batches
            except ShardError as error:
                if not spare:
                    raise
                self._say(f"{run[0]} is left out of the validation: {error.message}", "warning", run[0])

    def _say(self, words: str, level: Level = "warning", case: str = "") -> None:
        self.run.log(f"rank {self.rank}: {words}", level, case)

    def _say_once(self, words: str) -> None:
        if words not in self._noted:
            self._say(words)
        self._noted.add(words)

    def _out_of_time(self, seconds: float) -> bool:
        """Whether ``seconds`` of training are more than there are, as rank 0 sees it."""
        minutes = self.config.train.minutes
        return bool(self._of_first(float(bool(minutes) and seconds > 60.0 * minutes)))

    def _of_first(self, number: float) -> float:
        """The number that rank 0 has: what steers the weights must be the same on all workers."""
        if self.world == 1:
            return number
        told = torch.tensor([number], dtype=torch.float64, device=self.device)
        dist.broadcast(told, 0)
        return float(told.item())

    def _out_of_patience(self) -> bool:
        patience = self.config.train.patience
        return patience > 0 and self.position.stale >= patience

    def _close_epoch(self, row: dict[str, Any]) -> None:
        """Bundle, tables, checkpoint; every worker reports, since that is a barrier."""
        if self.rank != 0:
            self.seat.report(None)
            return
        self._refuse_to_be_second()
        if self.position.best_epoch == self.position.epoch:
            self._write_bundle(row)
        self.run.add_epoch(row)
        if self.tracking is not None:
            self.tracking.epoch(row, self.trainer)
        self.run.log(f"epoch {self.position.epoch}: loss {row['train_loss']}, validation Dice {row['val_dice']}")
        state = {"trainer": self.trainer.state_dict(), "position": asdict(self.position)}
        with state_folder(state) as folder:
            self.seat.report(folder)

    def _refuse_to_be_second(self) -> None:
        """Raises OSError where the run was begun anew elsewhere, as on a host that its head does not reach any more.

        It is no fatal error: none may be noted in a run that is another's now.
        """
        if len(self.run.history().get("starts", [])) > self._start:
            raise OSError(f"{self.run.path} goes on elsewhere; what this process has trained since is dropped.")

    def _write_bundle(self, row: dict[str, Any]) -> None:
        best = self.position.best if self.position.best >= 0 and math.isfinite(self.position.best) else None
        save_bundle(
            self.run.file(BUNDLE),
            self.trainer.trained,
            net=self.config.net,
            label_map=self.label_map,
            grid=self.manifest.grid,
            normalisation=self.normalisation,
            in_channels=self.manifest.in_channels,
            channels=self.manifest.channels,
            metrics={"validation_dice": best, "epoch": self.position.epoch},
            split={name: self.index.cases(name) for name in ("train", "validation", "test")},
            provenance={
                "shards": self.config.train.shards,
                "seed": self.config.seed,
                "seconds": row["seconds"],
                "mirrored": self.config.augment.mirrored,
            },
        )
        self.run.write_history(best={"epoch": self.position.epoch, "dice": best})
