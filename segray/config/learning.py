"""Settings of how a net learns: loss, augmentation, optimiser, and which slices it sees."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from segray.config.section import Count, NonNegative, Section, Share, setting

BlurSd = Annotated[float, Field(gt=0, le=32)]
Factor = Annotated[float, Field(ge=1)]
MOST_ELASTIC = 0.48
"""Displacement over spacing of knots up to which a cubic B-spline deformation folds nowhere: Choi & Lee 2000,
"Injectivity conditions of 2D and 3D uniform cubic B-spline functions"."""


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
    rotate: Share = setting(0.3, "probability of a rotation")
    rotate_degrees: NonNegative = setting(15.0, "its angle, up to plus or minus", "degrees")
    scale: Share = setting(0.3, "probability of a zoom")
    scale_factor: tuple[PositiveFloat, PositiveFloat] = setting((0.85, 1.2), "its factor, lowest and highest")
    shift: Share = setting(0.3, "probability of a shift")
    shift_share: Share = setting(0.05, "its length in x and in y, up to plus or minus", "of the side")
    flip_x: Share = setting(0.0, "probability of a left-right mirror; 0 where left and right are different labels")
    flip_y: Share = setting(0.0, "probability of a front-back mirror")
    flip_z: Share = setting(0.0, "probability of an up-down mirror of a 3D patch")
    space: bool = setting(
        False,
        "3D patches are rotated about all three axes, and zoomed and shifted along z too; else all slices of a patch "
        "alike, in-plane, as is right where slices are thicker than pixels are wide",
    )
    brightness: Share = setting(0.3, "probability of another brightness")
    brightness_share: NonNegative = setting(0.1, "the value added, up to plus or minus", "of the input range")
    contrast: Share = setting(0.3, "probability of another contrast")
    contrast_change: Annotated[float, Field(ge=0, lt=1)] = setting(0.2, "its factor is 1 plus or minus")
    gamma: Share = setting(0.3, "probability of a gamma curve")
    gamma_change: Annotated[float, Field(ge=0, lt=1)] = setting(0.2, "its exponent is 1 plus or minus")
    noise: Share = setting(0.3, "probability of Gaussian noise")
    noise_sd: NonNegative = setting(0.05, "its sd, at most", "of the input range")
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

    @field_validator("scale_factor", "blur_sd", "low_resolution_factor", "cutout_size", "window_scale")
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

    @property
    def mirrored(self) -> list[str]:
        """The axes (x, y, z) along which a training sees mirror images."""
        flips = {"x": self.flip_x, "y": self.flip_y, "z": self.flip_z}
        return [axis for axis, share in flips.items() if self.enabled and share > 0]


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
