"""Settings of a training run: where it reads and writes, how long, on what, and what it does when something fails."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from segray.config.section import Choice, Count, NonNegative, Precision, Section, setting


class TrainConfig(Section):
    """A training run."""

    shards: str | None = setting(
        None, "shards written by segray ingest; or a folder of labelled cases, which every epoch reads again (slower)"
    )
    run: str | None = setting(None, "run folder to create")
    start_from: str | None = setting(
        None,
        "weights to start from: a bundle, the run folder that holds one, or a .pth file of milesial's Pytorch-UNet or "
        "of the SwanLab tutorial; settings of the net that are not named are then those of the weights",
    )
    folds: Annotated[int, Field(ge=0, le=100)] = setting(
        0,
        "cross-validation: train and validation cases dealt into so many folds, a run each; 0: the split of the shards",
    )
    fold: Annotated[int, Field(ge=0)] | None = setting(None, "train this fold alone, from 0; empty: all of them")
    epochs: PositiveInt = setting(50, "passes over the training slices", "epochs")
    minutes: NonNegative = setting(
        0.0, "wall-clock limit: the last epoch ends before it, and the schedule fits it; 0: no limit", "minutes"
    )
    batch_size: PositiveInt | Literal["auto"] = setting(
        16,
        "slices (3D: patches) a worker and step; auto: up to 64, the most that a step learns at the full speed of the "
        "device, found by steps before the training",
        "slices",
    )
    precision: Precision = setting(
        "auto", "arithmetic of the forward pass (autocast); auto: bf16 where the device has it, else float32"
    )
    checkpointing: bool = setting(
        False,
        "compute activations again in the backward pass: less memory, about a third more time; where memory runs out "
        "it is switched on by itself, and after that the batch is halved; not with compile, where the batch is halved",
    )
    compile: bool = setting(False, "torch.compile: slow first steps, then faster ones, on GPUs above all")
    workers: PositiveInt | tuple[PositiveInt, PositiveInt] = setting(
        1,
        "training workers; each takes a GPU where there is one; [2, 8]: as many as there is room for, at least 2; "
        "fewer after a node is lost, more when one comes",
    )
    cpus_per_worker: NonNegative = setting(
        0.0, "CPUs a worker takes; 0: what a node has, less a share for reading", "CPUs"
    )
    gpu: Choice = setting("auto", "train on GPUs; auto: where the cluster has them")
    validate_every: PositiveInt = setting(1, "epochs between validations on the held-out cases", "epochs")
    metric: str = setting(
        "val_dice",
        "column of metrics.csv that chooses the best weights and stops a run: val_dice, val_dice_<structure>, or "
        "train_loss (lower is better)",
    )
    patience: Count = setting(0, "stop after this many validations without a better `metric`; 0: never")
    max_failures: Count = setting(3, "how often a lost worker or node is replaced from the last checkpoint")
    damaged: Literal["stop", "skip"] = setting(
        "stop",
        "what a damaged slice of the shards does: stop the training, which names it; or it is left out, named in "
        "run.log, and another one of its batch comes twice",
    )
    mix_mib: PositiveInt = setting(128, "compressed slices kept to be mixed, a worker", "MiB")
    decode_threads: PositiveInt = setting(2, "threads that decompress slices, a worker", "threads")
    cache_gib: NonNegative = setting(
        0.0,
        "what a node may keep of the shards on its own disk, for all trainings and trials there, so that they are read "
        "once from a store or a shared folder; 0: nothing",
        "GiB",
    )
    cache_folder: str | None = setting(
        None, "folder of each node in which that lies, from the root; empty: its folder for temporary files"
    )
    trackers: list[Literal["tensorboard", "mlflow", "wandb", "swanlab"]] = setting(
        ["tensorboard"],
        "where curves and pictures go besides the CSV files of the run folder: any of tensorboard, mlflow, wandb, "
        "swanlab; []: nowhere",
    )
    histograms_every: Count = setting(
        10, "epochs between histograms of weights and gradients in TensorBoard; 0: none", "epochs"
    )

    @field_validator("cache_folder")
    @classmethod
    def _is_on_the_node(cls, folder: str | None) -> str | None:
        if folder and not folder.startswith(("/", "~")):
            raise ValueError(f"{folder!r} is no folder on the disk of a node; name it from the root, such as /scratch")
        return folder

    @model_validator(mode="after")
    def _fold_is_there(self) -> TrainConfig:
        if self.folds == 1:
            raise ValueError("folds is 1, and a fold is tested on by the others; 0 trains on the split of the shards")
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold is {self.fold}, and there are {self.folds} folds, counted from 0")
        return self

    @model_validator(mode="after")
    def _is_traced(self) -> TrainConfig:
        if self.compile and self.checkpointing:
            raise ValueError("compile cannot trace what checkpointing computes again; leave one of them out")
        return self

    @model_validator(mode="after")
    def _workers_grow(self) -> TrainConfig:
        if self.most_workers < self.fewest_workers:
            raise ValueError(f"workers are [fewest, most], and {self.fewest_workers} is more than {self.most_workers}")
        return self

    @property
    def fewest_workers(self) -> int:
        """Workers that a training needs."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """Workers that a training makes use of."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def elastic(self) -> bool:
        """Whether a training may go on with fewer workers than it makes use of."""
        return self.fewest_workers < self.most_workers

    @property
    def slices_a_step(self) -> int:
        """``batch_size``, found already where it was auto. Raises ValueError where it was not."""
        if self.batch_size == "auto":
            raise ValueError("train.batch_size is auto and was not found yet")
        return self.batch_size
