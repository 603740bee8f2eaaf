"""Settings of the net, and of how voxels become its input."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from segray.config.section import Count, Section, Share, setting


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

    @property
    def strides(self) -> tuple[int, int, int]:
        """What the depth, rows and columns of a 3D patch are multiples of."""
        side = 2**self.halvings
        return 2 ** (self.halvings - self.flat_levels), side, side

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
        for side, least in zip(self.patch, self.strides, strict=True):
            if side % least:
                raise ValueError(
                    f"the patch {list(self.patch)} is halved {least.bit_length() - 1} times on a side, and {side} is "
                    f"no multiple of {least}"
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
