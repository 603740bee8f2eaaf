"""Settings of the way from a folder of cases to shards."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from segray.config.section import Count, Section, Share, setting

MOST_LEVEL = 65535
"""Of a grey level or palette index in a mask picture."""


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
    annotated: str | None = setting(
        None,
        "CSV with the columns case_id and structures, names with ; between them: what was looked for in a case, where "
        "that differs between cases; the case's other structures are unknown, neither taught nor measured; a case "
        "that is not named has all that its files tell of",
    )
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
