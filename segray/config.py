"""Every setting of segray: typed, with default, unit and a line of explanation; YAML in, resolved YAML out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from segray.errors import UsageError

Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Precision = Literal["auto", "bf16", "fp16", "float32"]
YAML_WORDS = {True: "yes", False: "no"}
Choice = Annotated[
    Literal["auto", "yes", "no"],
    BeforeValidator(lambda told: YAML_WORDS[told] if isinstance(told, bool) else told),
]
"""YAML reads the words yes and no as true and false."""

ALL = "all"
"""In place of the name of a structure: every structure."""

_Several = (
    BeforeValidator(lambda told: [told] if isinstance(told, str) else told),
    AfterValidator(lambda told: sorted(set(told))),
)
Names = Annotated[list[str], *_Several]
"""Structures, each once, in the order of their names; a single name, or all, may stand without brackets."""
Axes = Annotated[list[Literal["x", "y", "z"]], *_Several]
FurtherKind = Literal["nifti", "png", "dicom-seg", "rtstruct", "structures", "probabilities", "overlays", "preview"]
Further = Annotated[list[FurtherKind], *_Several]
"""Files of a case beside its mask."""

MOST_LEVEL = 65535
BlurSd = Annotated[float, Field(gt=0, le=32)]
Factor = Annotated[float, Field(ge=1)]
MOST_ELASTIC = 0.48
"""Displacement over spacing of knots up to which a cubic B-spline deformation folds nowhere: Choi & Lee 2000,
"Injectivity conditions of 2D and 3D uniform cubic B-spline functions"."""


def setting(default: Any, meaning: str, unit: str = "") -> Any:
    """A field with its meaning and unit, as ``segray config`` prints them."""
    return Field(default=default, description=meaning, json_schema_extra={"unit": unit}, validate_default=True)


def colour_table(told: dict[str, int | str]) -> dict[str, int | str]:
    """Names to ``#rrggbb`` in small letters, or to grey levels. Raises ValueError: no colour, or one of two names."""
    table: dict[str, int | str] = {}
    for name, colour in told.items():
        key = colour.lower() if isinstance(colour, str) else colour
        if isinstance(key, str) and not re.fullmatch(r"#[0-9a-f]{6}", key):
            raise ValueError(f"{colour!r} is no colour; write '#ff0000', or a grey level or palette index such as 255")
        if isinstance(key, int) and not 0 <= key <= MOST_LEVEL:
            raise ValueError(f"{colour} is no grey level or palette index from 0 to {MOST_LEVEL}")
        if key in table.values():
            raise ValueError(f"the colour {colour} has two names")
        table[name] = key
    if not set(table) - {"background"}:
        raise ValueError("no structure is named, such as {liver: '#ff0000'}")
    return table


class Section(BaseModel):
    """A group of settings; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class GridConfig(Section):
    """The in-plane grid that all slices of a shard set share."""

    mode: Literal["spacing", "size", "native"] = setting(
        "spacing",
        "spacing: resample to mm a pixel, then pad or crop around the body; size: bring the field of view to `size`; "
        "native: the slices agree already",
    )
    spacing: tuple[PositiveFloat, PositiveFloat] | None = setting(
        None, "pixel spacing (y, x) in mode spacing; empty: the median over the cases", "mm"
    )
    size: tuple[PositiveInt, PositiveInt] | None = setting(
        None, "canvas (y, x); empty: what the largest case needs, at most `max_size`", "pixels"
    )
    max_size: PositiveInt = setting(768, "the largest side of a canvas that segray chooses by itself", "pixels")
    multiple: PositiveInt = setting(16, "a canvas chosen by segray is rounded up to a multiple of this", "pixels")


class SplitConfig(Section):
    """Which cases are held out; a patient is never cut."""

    validation: Share = setting(0.2, "share of patients held out for validation")
    test: Share = setting(0.0, "share of patients kept for a final test, unseen by training")
    patients: str | None = setting(
        None, "CSV with the column case_id and any of patient, split (train, validation, test); overrules the shares"
    )
    pattern: str | None = setting(
        None,
        "regular expression on the case id whose first group, or whole match, is the patient, such as '^(g[0-9]+)_'; "
        "`patients` overrules it",
    )
    seed: Count = setting(0, "seed of the drawing")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"{pattern!r} is no regular expression ({error})") from None
        return pattern


class IngestConfig(Section):
    """From a folder of cases to shards."""

    format: Literal["auto", "totalseg", "pairs", "images", "frames", "coco", "dicom", "table"] = setting(
        "auto",
        "totalseg: a folder a case with ct.nii.gz and segmentations/; pairs: images/ and labels/ (or imagesTr/, "
        "labelsTr/); images: scans without labels; frames: pictures in frames/ or imgs/ and masks/; coco: pictures "
        "with COCO annotations; dicom: DICOM series anywhere below; table: a CSV or Parquet file that names the "
        "files; auto: seen from the folder",
    )
    labels: dict[str, PositiveInt] | None = setting(
        None, "structure names and label values, such as {liver: 1}; empty: taken from the folder, and printed"
    )
    structures: list[str] | None = setting(None, "keep only these structures; empty: all")
    ignore: Annotated[int, Field(ge=0, le=65535)] = setting(
        0,
        "label value of voxels that nobody judged: they neither teach nor measure; 0: none, or what dataset.json calls "
        "ignore",
    )
    overlap: Literal["smallest", "refuse", "keep"] = setting(
        "smallest",
        "a voxel in several masks goes to the smallest structure, or the case is refused, or it keeps all of them: "
        "labels overlap, and the net learns each structure by itself (sigmoid); at most 32 structures",
    )
    mask_colours: dict[str, int | str] | None = setting(
        None,
        "structure names and what shows them in mask pictures: a colour, grey level or palette index, such as "
        "{lung: '#00ff00'} or {lung: 128}; `background` may be named too; empty: masks are black and white",
    )
    picture_channels: Literal["auto", "grey", "rgb"] = setting(
        "auto", "pictures as one grey channel, or red, green and blue; auto: colours where most pictures have them"
    )
    unannotated: Literal["background", "leave_out"] = setting(
        "background",
        "COCO pictures without any annotation: nothing but background, or left out of training and evaluation, since "
        "nobody may have looked at them",
    )
    grid: GridConfig = GridConfig()
    split: SplitConfig = SplitConfig()
    rows_per_group: PositiveInt = setting(32, "slices a Parquet row group", "slices")
    codec: Literal["zstd", "lz4"] = setting("zstd", "blosc2 codec of the pixels")
    level: Annotated[int, Field(ge=1, le=9)] = setting(1, "compression level of the codec")

    @field_validator("mask_colours")
    @classmethod
    def _are_colours(cls, table: dict[str, int | str] | None) -> dict[str, int | str] | None:
        return None if table is None else colour_table(table)


class NetConfig(Section):
    """The U-Net."""

    name: Literal["unet", "dynunet", "segresnet", "swinunetr", "mednext"] = setting(
        "unet",
        "unet: segray's own; the others are MONAI's (segray[monai]) and take features, norm, dropout, neighbours and "
        "patch; segresnet, swinunetr and mednext take the first of `features` as width, segresnet and mednext their "
        "number as levels",
    )
    features: Annotated[list[PositiveInt], Field(min_length=2, max_length=8)] = setting(
        [32, 64, 128, 256, 512], "channels a level, from full resolution down", "channels"
    )
    neighbours: Annotated[int, Field(ge=0, le=8)] = setting(
        0,
        "slices below, and as many above, that the net sees as further channels (2.5D); at the ends of a case its last "
        "slice stands in",
        "slices",
    )
    patch: tuple[PositiveInt, Count, Count] | None = setting(
        None,
        "3D: the net sees patches of so many slices, rows and columns; 0 rows or columns: all of them; empty: slices",
        "voxels",
    )
    flat_levels: Count = setting(
        0,
        "3D: levels, from full resolution down, that look in-plane only and are not halved along z; for slices that "
        "are much thicker than pixels are wide",
        "levels",
    )
    norm: Literal["batch", "instance", "group", "none"] = setting("batch", "normalisation after each convolution")
    activation: Literal["relu", "leaky_relu", "silu"] = setting("leaky_relu", "activation after each normalisation")
    upsampling: Literal["transposed", "bilinear", "interpolated"] = setting(
        "transposed",
        "how the decoder doubles the resolution: by a transposed convolution; bilinear: a 1x1 convolution, then "
        "bilinear; interpolated: bilinear alone, of half as many channels (milesial's Pytorch-UNet with bilinear=True)",
    )
    dropout: Share = setting(0.0, "probability of spatial dropout at the two lowest levels")
    blocks: Literal["plain", "residual"] = setting(
        "plain", "the encoder: two convolutions a level, or residual blocks as nnU-Net's ResEnc has them"
    )
    attention: bool = setting(False, "attention gates on the skips (Oktay et al. 2018)")
    deep_supervision: bool = setting(False, "heads on the lower decoder levels too, in training; four levels or more")

    @model_validator(mode="after")
    def _deep_enough(self) -> NetConfig:
        if self.deep_supervision and len(self.features) < 4:
            raise ValueError(f"deep_supervision needs four levels or more; features is {self.features}")
        return self

    @property
    def halvings(self) -> int:
        """How often the net halves a side of its input."""
        return 5 if self.name == "swinunetr" else len(self.features) - 1

    @model_validator(mode="after")
    def _is_known_to_monai(self) -> NetConfig:
        if self.name == "unet":
            return self
        for name in ("activation", "upsampling", "blocks", "attention", "deep_supervision", "flat_levels"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is a setting of the unet, and name is {self.name}; leave it out")
        if self.norm == "none" or (self.name == "mednext" and self.norm != "batch"):
            raise ValueError(f"{self.name} has no norm {self.norm!r}; leave it out")
        return self

    @model_validator(mode="after")
    def _fits_the_patch(self) -> NetConfig:
        if self.patch is None:
            if self.flat_levels:
                raise ValueError("flat_levels is for 3D; name a patch, or leave it out")
            return self
        if self.neighbours:
            raise ValueError("neighbours is for slices, and patch for 3D; leave one of them out")
        if self.flat_levels >= len(self.features):
            raise ValueError(f"flat_levels is {self.flat_levels}, and features has {len(self.features)} levels")
        steps = self.halvings
        for side, halvings in zip(self.patch, (steps - self.flat_levels, steps, steps), strict=True):
            if side % 2**halvings:
                raise ValueError(
                    f"the patch {list(self.patch)} is halved {halvings} times on a side, and {side} is no multiple of "
                    f"{2**halvings}"
                )
        return self


class IntensityConfig(Section):
    """How voxel values become the net's input."""

    mode: Literal["window", "foreground", "case"] = setting(
        "window",
        "window: `window` to [-1, 1], clipped; foreground: clip to the 0.5 and 99.5 percentiles of the foreground, "
        "then z-score by it (as nnU-Net for CT); case: z-score by the case's own mean and sd (MR)",
    )
    window: tuple[float, float] = setting((-1000.0, 1000.0), "lowest and highest value in mode window", "HU")

    @model_validator(mode="after")
    def _ordered(self) -> IntensityConfig:
        if self.window[0] >= self.window[1]:
            raise ValueError(f"the window {list(self.window)} must rise")
        return self


class LossConfig(Section):
    """Weighted sum of losses."""

    dice: NonNegative = setting(1.0, "weight of the soft Dice loss")
    cross_entropy: NonNegative = setting(1.0, "weight of the cross entropy")
    dice_background: bool = setting(False, "count the background as a structure in the Dice, Tversky and Lovasz losses")
    bce: NonNegative = setting(
        0.0, "weight of the binary cross entropy of each label against the rest; of labels that overlap: cross_entropy"
    )
    focal: NonNegative = setting(0.0, "weight of the focal loss (Lin et al. 2017)")
    focal_gamma: NonNegative = setting(2.0, "how much less the focal loss counts pixels that are right; 0: all alike")
    tversky: NonNegative = setting(0.0, "weight of the Tversky loss (Salehi et al. 2017)")
    tversky_alpha: NonNegative = setting(0.3, "what the Tversky loss charges for pixels found where nothing is")
    tversky_beta: NonNegative = setting(0.7, "what the Tversky loss charges for pixels missed")
    lovasz: NonNegative = setting(
        0.0, "weight of the Lovasz-softmax loss (Berman et al. 2018), over the pixels of the whole batch"
    )
    class_weights: dict[str, NonNegative] = setting(
        {},
        "structure names and their weights in cross_entropy, bce and focal, such as {lesion: 5}; `background` may be "
        "named too; a structure without a weight has 1",
    )
    missing: Literal["background", "mask"] = setting(
        "background",
        "what a structure is in a case that has no mask file of it: background; mask: unknown there, neither taught "
        "nor counted in the validation",
    )

    @model_validator(mode="after")
    def _something(self) -> LossConfig:
        weights = ("dice", "cross_entropy", "bce", "focal", "tversky", "lovasz")
        if not any(getattr(self, name) for name in weights):
            raise ValueError(f"{', '.join(weights[:-1])} and {weights[-1]} of the loss cannot all be 0")
        if self.tversky and not self.tversky_alpha + self.tversky_beta:
            raise ValueError("tversky_alpha and tversky_beta cannot both be 0")
        return self


class AugmentConfig(Section):
    """Random changes of a training batch, made on the device; all spatial parts in one resampling."""

    enabled: bool = setting(True, "augment the training slices")
    spatial: Share = setting(0.5, "probability that a slice is rotated, scaled and shifted")
    rotate: NonNegative = setting(15.0, "rotation, up to plus or minus", "degrees")
    scale: tuple[PositiveFloat, PositiveFloat] = setting((0.85, 1.2), "zoom, lowest and highest factor")
    shift: Share = setting(0.05, "shift, up to plus or minus this share of the side")
    flip_x: Share = setting(0.0, "probability of a left-right mirror; 0 where left and right are different labels")
    flip_y: Share = setting(0.0, "probability of a front-back mirror")
    flip_z: Share = setting(0.0, "probability of an up-down mirror of a 3D patch")
    intensity: Share = setting(0.5, "probability that brightness, contrast, gamma and noise are changed")
    brightness: NonNegative = setting(0.1, "added value, up to plus or minus", "of the input range")
    contrast: Annotated[float, Field(ge=0, lt=1)] = setting(0.2, "contrast factor 1 plus or minus")
    gamma: Annotated[float, Field(ge=0, lt=1)] = setting(0.2, "gamma exponent 1 plus or minus")
    noise: NonNegative = setting(0.05, "sd of Gaussian noise, at most", "of the input range")
    elastic: Share = setting(0.0, "probability of an elastic deformation")
    elastic_spacing: Annotated[float, Field(ge=2)] = setting(32.0, "distance of its knots", "pixels")
    elastic_shift: NonNegative = setting(8.0, "displacement at a knot, up to plus or minus, in x and in y", "pixels")
    blur: Share = setting(0.0, "probability of a Gaussian blur")
    blur_sd: tuple[BlurSd, BlurSd] = setting((0.5, 1.0), "its sd, lowest and highest", "pixels")
    low_resolution: Share = setting(0.0, "probability that a slice is brought to fewer pixels and back")
    low_resolution_factor: tuple[Factor, Factor] = setting((1.0, 2.0), "times fewer a side, lowest and highest")
    cutout: Share = setting(0.0, "probability that rectangles are hidden under the slice's lowest value")
    mixup: Share = setting(0.0, "probability that the slices of a batch are mixed in pairs (Zhang et al. 2018)")
    mixup_alpha: PositiveFloat = setting(0.4, "their shares are drawn from Beta(alpha, alpha)")
    cutout_count: Annotated[int, Field(ge=1, le=64)] = setting(1, "rectangles a slice", "rectangles")
    cutout_size: tuple[Share, Share] = setting((0.1, 0.3), "their height and width, lowest and highest", "of the side")
    window: Share = setting(0.0, "probability of a window of its own; only where intensity.mode is window")
    window_shift: Share = setting(0.05, "its shift, up to plus or minus", "of the window")
    window_scale: tuple[PositiveFloat, PositiveFloat] = setting((0.9, 1.1), "its width, lowest and highest factor")

    @field_validator("blur_sd", "low_resolution_factor", "cutout_size", "window_scale")
    @classmethod
    def _rise(cls, limits: tuple[float, float]) -> tuple[float, float]:
        if limits[0] > limits[1]:
            raise ValueError(f"the lowest of {list(limits)} is above the highest")
        return limits

    @model_validator(mode="after")
    def _nothing_folds(self) -> AugmentConfig:
        if self.elastic > 0 and self.elastic_shift > MOST_ELASTIC * self.elastic_spacing:
            most = MOST_ELASTIC * self.elastic_spacing
            raise ValueError(
                f"elastic_shift {self.elastic_shift:g} would fold a slice over itself; with elastic_spacing "
                f"{self.elastic_spacing:g} it may be {most:g} at most"
            )
        return self


class OptimConfig(Section):
    """Optimiser and schedule."""

    name: Literal["adamw", "sgd", "rmsprop"] = setting("adamw", "AdamW, SGD with Nesterov momentum, or RMSprop")
    lr: PositiveFloat = setting(1e-3, "peak learning rate")
    weight_decay: NonNegative = setting(1e-2, "weight decay")
    momentum: Share = setting(0.99, "momentum of SGD and RMSprop")
    schedule: Literal["polynomial", "cosine", "one_cycle", "plateau", "constant"] = setting(
        "polynomial",
        "after the warm-up: polynomial or cosine decay to 0 at the end of the run; one_cycle: a rise over the first "
        "30 % and a cosine fall, in place of the warm-up; plateau: times `plateau_factor` whenever `plateau_patience` "
        "validations brought nothing better; constant",
    )
    warmup_steps: Count = setting(50, "steps of linear warm-up", "steps")
    power: NonNegative = setting(0.9, "exponent of the polynomial decay to 0")
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = setting(0.3, "schedule plateau: factor of a drop")
    plateau_patience: PositiveInt = setting(5, "schedule plateau: validations without a better score before a drop")
    clip_norm: NonNegative = setting(12.0, "largest gradient norm; 0: no clipping")
    accumulate: PositiveInt = setting(1, "batches whose gradients are averaged for one update", "batches")
    average: Annotated[float, Field(ge=0, lt=1)] = setting(
        0.0, "decay of the moving average of the weights, such as 0.999, which is then validated and kept; 0: none"
    )


class SamplingConfig(Section):
    """Which slices an epoch visits."""

    mode: Literal["all", "foreground", "balanced"] = setting(
        "foreground",
        "all: every slice once; foreground: background-only slices are thinned out, drawn anew each epoch; "
        "balanced: slices with rare structures come more often",
    )
    foreground_share: Share = setting(0.8, "mode foreground: at least this share of slices shows a structure")


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


class PredictConfig(Section):
    """Mask generation."""

    split: Literal["all", "train", "validation", "test"] = setting(
        "all", "predict all cases of the folder, or those that the bundle's training put into this split"
    )
    batch_slices: Count = setting(0, "slices a forward pass; 0: as many as fit `slab_mib`", "slices")
    slab_mib: PositiveInt = setting(384, "memory for the scores of a slab of slices", "MiB")
    precision: Precision = setting(
        "auto", "arithmetic of the forward pass (autocast); auto: bf16 where the device has it, else float32"
    )
    backend: Literal["auto", "torch", "openvino", "compile"] = setting(
        "auto",
        "who computes the forward pass: torch, OpenVINO (CPUs) or torch.compile; auto: of torch and OpenVINO, where it "
        "is installed, the faster one on the first case whose mask agrees with float32's (Dice 0.999)",
    )
    window: tuple[Count, Count] | None = setting(
        None,
        "2D and 2.5D: slices are seen by overlapping windows of so many rows and columns of the grid; 0: all of them; "
        "empty: whole slices, and windows of 512x512 where the activations of one take more than 1 GiB in 16 bits",
        "pixels",
    )
    overlap: Annotated[float, Field(ge=0, lt=1)] = setting(
        0.5, "share of their sides that neighbouring windows, or 3D patches, have in common at least"
    )
    mirror: Axes = setting(
        [],
        "axes (x, y, z) along which each case is mirrored too; the probabilities of all combinations are averaged, so "
        "that each axis doubles the time; only where training mirrored along them (augment.flip_*) or the anatomy is "
        "symmetric: a net that never saw a liver on the other side finds none there",
    )
    threshold: dict[str, Share] = setting(
        {},
        "structure names and the probability from which a voxel may be theirs, such as {tumour: 0.7}; below it the "
        "next most probable label that may be takes the voxel, at last the background; where labels overlap: in place "
        "of 0.5",
    )
    largest_component: Names = setting(
        [],
        "structures, or all, that keep only their largest component (26-connected); the rest becomes background",
    )
    smallest_ml: dict[str, NonNegative] = setting(
        {},
        "structure names and the volume below which a component of theirs (26-connected) becomes background, such as "
        "{all: 1, tumour: 0.05}; a name overrules `all`",
        "ml",
    )
    fill_holes: Names = setting(
        [],
        "structures, or all, whose holes are filled: background (6-connected) that a single structure encloses on all "
        "sides, after components were removed",
    )
    confidence: bool = setting(
        False,
        "tell how sure the net is of each structure of a case: margin, entropy, and how far bundles, or mirrors, "
        "disagree; changes no mask",
    )
    predictors: Count = setting(0, "Predictor actors; 0: one a GPU, or one a CPU node")
    cpus_per_predictor: NonNegative = setting(
        0.0, "CPUs a Predictor takes; 0: what a node has, less a share for reading", "CPUs"
    )
    gpu: Choice = setting("auto", "predict on GPUs; auto: where the cluster has them")
    output: Literal["auto", "nifti", "png", "dicom-seg"] = setting(
        "auto",
        "masks as NIfTI, as PNG (pictures), or as DICOM SEG that refers to the series (DICOM); auto: PNG for pictures, "
        "else NIfTI",
    )
    further: Further = setting(
        [],
        "beside the mask, for each case: nifti, png, dicom-seg or rtstruct (DICOM); structures (a NIfTI file each), "
        "probabilities (cropped), overlays (a PNG a slice), preview (one PNG)",
    )
    probabilities: Literal["uint8", "uint16"] = setting(
        "uint8",
        "how `further` keeps a probability: a byte, in steps of 1/255, or two bytes, in steps of 1/65535 (NIfTI knows "
        "no float16, which is coarser above 0.03)",
    )
    review: Count = setting(100, "cases at the top of the review list that get a preview; 0: no review list", "cases")
    retry_failed: bool = setting(False, "try the cases again that failed before")
    overwrite: bool = setting(False, "predict again what is there already")

    @property
    def of_masks(self) -> dict[str, Any]:
        """The settings that decide, beside the bundle, what a mask is; as JSON has them."""
        return self.model_dump(
            mode="json",
            include={
                *("window", "overlap", "mirror", "threshold"),
                *("largest_component", "smallest_ml", "fill_holes"),
            },
        )


class EvaluateConfig(Section):
    """Masks against true labels."""

    split: Literal["held-out", "all", "train", "validation", "test"] = setting(
        "held-out",
        "measure the cases that training has not seen (where all were seen: all of them, and it is said), all cases, "
        "or one split",
    )


class TuneConfig(Section):
    """A sweep: many trainings, each with settings that a search space draws."""

    space: str | None = setting(None, "Python module with `space(trial)`, which draws settings by Optuna's suggestions")
    run: str | None = setting(None, "folder of the sweep, to create")
    bundle: str | None = setting(
        None,
        "a bundle, or the run folder that holds it: trials train nothing, but predict the validation cases of the "
        "shards with it; the space then draws settings of predict",
    )
    trials: PositiveInt = setting(50, "trainings, pruned and failed ones counted too", "trials")
    minutes: NonNegative = setting(0.0, "no trial begins after this; 0: no limit", "minutes")
    sampler: Literal["tpe", "cmaes", "random", "grid", "nsga2"] = setting(
        "tpe",
        "how trials are drawn: tpe (multivariate, grouped); cmaes: CMA-ES, for numbers without conditions; random; "
        "grid: every combination of a space whose floats have steps; nsga2: for several objectives",
    )
    startup_trials: PositiveInt = setting(10, "trials drawn at random before tpe or cmaes learn from them", "trials")
    objectives: Annotated[list[str], Field(min_length=1)] = setting(
        ["val_dice"],
        "what is to be best: val_dice, val_dice_<structure>, train_loss, parameters (millions), gflops (of a slice), "
        "latency (ms of a slice), seconds (of training); Dice is maximised, the others are minimised",
    )
    pruner: Literal["asha", "median", "none"] = setting(
        "asha",
        "ends trials that fall behind, by their first objective after each validation: asha: asynchronous successive "
        "halving (Li et al. 2020); median: below the median of the others at that epoch; with several objectives no "
        "trial is ended",
    )
    grace: PositiveInt = setting(2, "epochs that every trial may train", "epochs")
    reduction: Annotated[int, Field(ge=2)] = setting(3, "asha: one of so many goes on at each rung")
    concurrent: Count = setting(0, "trials at once; 0: as many as find room", "trials")
    defaults_first: bool = setting(True, "try the settings of the config itself first")
    storage: str | None = setting(
        None,
        "where the Optuna study lies; empty: study.journal, a file in `run`; sqlite: study.db there; a database such "
        "as postgresql://user@host/db, or a file .journal or .db, for the studies of many sweeps",
    )
    earlier: list[str] = setting([], "folders of earlier sweeps of this space, whose trials the sampler learns from")

    @model_validator(mode="after")
    def _one_objective_or_nsga2(self) -> TuneConfig:
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives {self.objectives} has one twice")
        if len(self.objectives) > 1 and self.sampler == "cmaes":
            raise ValueError("sampler cmaes has one objective; take nsga2 or tpe for several")
        return self


class RayConfig(Section):
    """The cluster."""

    address: str | None = setting(
        None, "a running cluster (auto, or host:6379); empty: RAY_ADDRESS, else an embedded Ray"
    )
    cpus: Count = setting(0, "CPUs of an embedded Ray; 0: all", "CPUs")
    object_store_mib: Count = setting(
        0, "object store of an embedded Ray; 0: a fifth of the memory, at most 4096", "MiB"
    )
    dashboard: bool = setting(False, "start Ray's dashboard (on loopback) with an embedded Ray")
    preflight: bool = setting(
        True, "where there are several nodes, look at their versions, disks and storage before train, tune and predict"
    )


class PrivacyConfig(Section):
    """What logs, terminal and trackers say of patients; results always have the ids in clear."""

    hash_ids: bool = setting(
        False,
        "logs, terminal and trackers name cases, patients and their files by pseudonyms (HMAC-SHA256); masks and "
        "tables keep the ids; `segray pseudonyms` maps back for who has the key",
    )
    key_file: str | None = setting(
        None,
        "file with the key of the pseudonyms, at least 16 bytes, at the same path on all nodes; empty: `key_variable`",
    )
    key_variable: str = setting(
        "SEGRAY_PRIVACY_KEY",
        "environment variable with the key; not set: a random key for each run, kept as privacy.key in its folder, "
        "for its owner alone",
    )


class Config(Section):
    """All settings of segray."""

    seed: Count = setting(0, "seed of order, augmentation and initial weights")
    ingest: IngestConfig = IngestConfig()
    net: NetConfig = NetConfig()
    intensity: IntensityConfig = IntensityConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    sampling: SamplingConfig = SamplingConfig()
    train: TrainConfig = TrainConfig()
    predict: PredictConfig = PredictConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tune: TuneConfig = TuneConfig()
    ray: RayConfig = RayConfig()
    privacy: PrivacyConfig = PrivacyConfig()

    @model_validator(mode="after")
    def _window_can_move(self) -> Config:
        if self.augment.window > 0 and self.intensity.mode != "window":
            raise ValueError(f"augment.window moves a window, and intensity.mode={self.intensity.mode} has none")
        return self


# A sweep writes a config a trial, which takes libyaml 3 ms and PyYAML's own writer 12.
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The config of a YAML file (or the defaults) with ``key=value`` overrides applied.

    Raises:
        UsageError: no such file, bad YAML, an unknown key (with the nearest known one) or a value out of range.
    """
    tree = _read_yaml(Path(path)) if path is not None else {}
    _fill_sections(tree, Config)
    for override in overrides:
        put_override(tree, override)
    return parse_config(tree)


def parse_config(tree: dict[str, Any]) -> Config:
    """Build the typed config of a nested dictionary. Raises UsageError as :func:`load_config`."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UsageError(_explain(error)) from None


def dump_config(config: Config) -> str:
    """The resolved config as YAML that :func:`load_config` reads back to an equal config."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, width=120)


def put_setting(tree: dict[str, Any], key: str, value: Any) -> None:
    """Put ``value`` at a dotted key of a nested dictionary. Raises UsageError where the key leads through a value."""
    *parents, last = key.split(".")
    node = tree
    for name in parents:
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            raise UsageError(_unknown(key))
        node = child
    node[last] = value


def put_override(tree: dict[str, Any], override: str) -> None:
    """Put a ``key=value`` of the command line into a nested dictionary. Raises UsageError as :func:`load_config`."""
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise UsageError(f"--set needs key=value, such as --set train.epochs=20; found {override!r}.")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # a date that is none is a ValueError
        raise UsageError(f"--set {key}: {text!r} is not a YAML value.") from error
    put_setting(tree, key.strip(), value)


def known_keys(section: type[Section] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All dotted keys in order, each with its pydantic field."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from known_keys(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The config {path} cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        place = f" at line {where.line + 1}" if where is not None else ""
        raise UsageError(f"The config {path} is not valid YAML{place}.") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UsageError(f"The config {path} must be a table of settings, such as 'train: {{epochs: 20}}'.")
    return tree


def _fill_sections(tree: dict[str, Any], section: type[Section]) -> None:
    """A section with nothing below it, which YAML reads as null, names no setting."""
    for name, field in section.model_fields.items():
        inner = field.annotation
        if name in tree and isinstance(inner, type) and issubclass(inner, Section):
            if tree[name] is None:
                tree[name] = {}
            if isinstance(tree[name], dict):
                _fill_sections(tree[name], inner)


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return _unknown(key)
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and not key:
        return f"Settings that do not go together: {reason}."
    if first["type"] == "value_error":
        return f"Setting {key}: {reason}."
    return f"Setting {key}: {reason[:1].lower()}{reason[1:]}; found {first['input']!r}."


def _unknown(key: str) -> str:
    known = [name for name, _ in known_keys()]
    sections = sorted({name.rsplit(".", depth)[0] for name in known for depth in range(1, name.count(".") + 1)})
    near = difflib.get_close_matches(key, known + sections, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else " `segray config` prints all settings."
    return f"Unknown setting {key}.{hint}"
