"""Settings of mask generation, and of measuring masks against true labels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from segray.config.section import Choice, Count, NonNegative, Precision, Section, Share, setting

ALL = "all"
"""In place of the name of a structure: every structure."""

_Several = (
    BeforeValidator(lambda told: [told] if isinstance(told, str) else told),
    AfterValidator(lambda told: sorted(set(told))),
)
Names = Annotated[list[str], *_Several]
"""Structures, each once, in the order of their names; a single name, or all, may stand without brackets."""
Axis = Literal["x", "y", "z"]
Axes = Annotated[list[Axis], *_Several]
Degrees = Annotated[float, Field(gt=0, le=45)]
FurtherKind = Literal["nifti", "png", "dicom-seg", "rtstruct", "structures", "probabilities", "overlays", "preview"]
Further = Annotated[list[FurtherKind], *_Several]
"""Files of a case beside its mask."""


class PredictConfig(Section):
    """Mask generation."""

    split: Literal["all", "train", "validation", "test"] = setting(
        "all", "predict all cases of the folder, or those that the bundle's training put into this split"
    )
    batch_slices: Count = setting(
        0, "slices a forward pass, of a 3D net in whole patches; 0: as many as fit `slab_mib`", "slices"
    )
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
    patch: tuple[PositiveInt, Count, Count] | None = setting(
        None,
        "3D: patches of so many slices, rows and columns, at most those of the case; 0 rows or columns: all of them; "
        "larger ones than the trained net.patch are faster, and may find less; empty: as trained",
        "voxels",
    )
    mirror: Axes = setting(
        [],
        "axes (x, y, z) along which each case is mirrored too; the probabilities of all combinations are averaged, so "
        "that each axis doubles the time; only where training mirrored along them (augment.flip_*) or the anatomy is "
        "symmetric: a net that never saw a liver on the other side finds none there",
    )
    turn: dict[Axis, Degrees] = setting(
        {},
        "axes and the angle by which each slice, or 3D patch, is turned about them too, once each way, such as {z: 7}; "
        "the probabilities are averaged, so that each axis adds two passes; no more than training turned "
        "(augment.rotate_degrees); x and y: 3D nets, best trained with augment.space",
        "degrees",
    )
    zoom: Annotated[float, Field(ge=0, lt=0.5)] = setting(
        0.0,
        "share by which each slice, or 3D patch, is enlarged and made smaller too; adds two passes to the average; no "
        "more than training did (augment.scale_factor); 0: not",
    )
    threshold: dict[str, Share] = setting(
        {},
        "structure names and the probability t from which they take a voxel that they share with one other label, such "
        "as {tumour: 0.3} for more voxels, 0.7 for fewer; the largest of the probabilities, each times (1 - t) / t, "
        "takes the voxel, so that 0.5 is as without; where labels overlap: in place of 0.5",
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
        "tell how sure the net is of each structure of a case: margin, entropy, and how far bundles, mirrors or "
        "turns disagree; changes no mask",
    )
    predictors: Count = setting(0, "Predictor actors; 0: one a GPU; without GPUs one for every 8 CPUs of a node")
    cpus_per_predictor: NonNegative = setting(
        0.0, "CPUs a Predictor takes; 0: what a node has, less a share for reading", "CPUs"
    )
    gpu: Choice = setting("auto", "predict on GPUs; auto: where the cluster has them")
    output: Literal["auto", "nifti", "png", "dicom-seg", "structures", "rtstruct"] = setting(
        "auto",
        "masks as NIfTI, as PNG (pictures), as DICOM SEG or RTSTRUCT that refers to the series (DICOM), or as "
        "structures (a folder a case, a NIfTI file a structure); auto: PNG for pictures, else NIfTI",
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
                *("window", "overlap", "patch", "mirror", "turn", "zoom", "threshold"),
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
