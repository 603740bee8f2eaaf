"""What the augmentation of a config makes of training slices, as one picture, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from segray import storage
from segray.config import Config
from segray.engine.draws import step_seed
from segray.engine.inputs import network_inputs
from segray.engine.mixup import mix
from segray.engine.trainer import Batch
from segray.errors import UsageError
from segray.nets.normalise import Normalisation
from segray.pipelines.live import holds_shards
from segray.pipelines.normalisation import normalisation_of
from segray.pipelines.run_tracking import middle_channel
from segray.report.augment_sheet import AugmentedSlice, augment_sheet
from segray.report.theme import save_png
from segray.shards.index import SliceIndex, Visit, load_index
from segray.shards.manifest import load_manifest
from segray.shards.reader import CompressedSlice, SliceBatch, decode_batch, read_visit, slices_of
from segray.shards.stacks import CompressedStack, PatchCutter, decode_stacks, stack_around


def preview_augment(config: Config, out: str, *, slices: int = 5, draws: int = 5) -> str:
    """Draw training slices beside what the training would make of them; returns the path of the PNG.

    Slices with structures are taken evenly over the training cases. A draw is the first step of epoch 1, 2, ... of
    worker 0 on these slices, by the code that the training runs; the same config gives the same picture. A 3D net is
    shown patches around these slices, of which the picture has the slice in the middle.

    Args:
        config: ``train.shards``, ``seed``, ``net``, ``intensity``, ``augment`` and ``sampling.foreground_share``.
        out: the PNG to write, a path or URI.
        slices: rows of the picture.
        draws: changed versions of each slice.

    Raises:
        UsageError: no shards, or no training slice with a structure.
    """
    folder = storage.absolute(config.train.shards) if config.train.shards else ""
    if not folder or not holds_shards(folder):
        raise UsageError(
            f"{folder} holds no shards." if folder else "No shards are named.",
            mend="Write shards by `segray ingest SRC DST` and give them by --shards.",
        )
    manifest = load_manifest(folder)
    beside = config.net.neighbours
    index = replace(load_index(folder, manifest), beside=beside)
    batch = _shown(config, folder, index, slices, manifest.label_map.ignored_index or 0)
    normalisation = normalisation_of(config, manifest)
    overlapping = manifest.label_map.overlapping
    calm = config.model_copy(update={"augment": config.augment.model_copy(update={"enabled": False})})
    given = Batch.from_arrays(batch.images, batch.labels, batch.mean, batch.sd, batch.case_ids)
    made = [_inputs(given, calm, normalisation, 1, overlapping=overlapping)]
    made += [_inputs(given, config, normalisation, epoch, overlapping=overlapping) for epoch in range(1, draws + 1)]
    shown = middle_channel(batch.images, beside) if beside else 0
    seen = [_picture(images, found, shown) for images, found in made]
    pictures = torch.stack([image for image, _ in seen], dim=1).numpy()
    labels = torch.stack([found for _, found in seen], dim=1).numpy()
    rows = [
        AugmentedSlice(f"{case_id}, slice {z}", pictures[number], labels[number])
        for number, (case_id, z) in enumerate(zip(batch.case_ids, batch.z, strict=True))
    ]
    spacing = manifest.grid.spacing or (1.0, 1.0)
    return save_png(augment_sheet(rows, manifest.label_map.names, spacing=spacing, overlapping=overlapping), out)


def _inputs(
    given: Batch, config: Config, normalisation: Normalisation, epoch: int, *, overlapping: bool
) -> tuple[Tensor, Tensor]:
    """What the net is shown in the first step of an epoch, and each slice's own labels."""
    with torch.no_grad():
        images, labels = network_inputs(
            given, config, normalisation, epoch=epoch, rank=0, step=0, overlapping=overlapping
        )
        images, _ = mix(images, labels, None, config.augment, step_seed(config.seed, epoch, 0, 0))
    return images, labels


def _picture(images: Tensor, labels: Tensor, channel: int) -> tuple[Tensor, Tensor]:
    """(n, H, W) of what is shown, of patches (n, c, D, H, W) the slice in the middle."""
    if labels.ndim == 3:
        return images[:, channel], labels
    middle = labels.shape[1] // 2
    return images[:, 0, middle], labels[:, middle]


def _shown(config: Config, folder: str, index: SliceIndex, count: int, ignored: int) -> SliceBatch:
    of_training = index.slices_of("train")
    labelled = of_training[index.foreground[of_training] > 0]
    if not labelled.size:
        raise UsageError(f"No training slice of {folder} shows a structure.")
    # The middle of equal parts, not their ends: those show a structure's first and last pixels.
    places = (np.arange(min(count, labelled.size)) + 0.5) * labelled.size / min(count, labelled.size)
    chosen = labelled[places.astype(np.int64)]
    if config.net.patch is None:
        return decode_batch(_read(folder, index.visits(chosen)))
    depth, *size = config.net.patch
    stacks = [stack_around(index, int(one), depth) for one in chosen]
    rng = np.random.default_rng(config.seed)
    cutter = PatchCutter((size[0], size[1]), config.sampling.foreground_share, rng, ignored)
    return decode_stacks([CompressedStack(tuple(_read(folder, one))) for one in stacks], 1, cutter)


def _read(folder: str, visits: Iterable[Visit]) -> list[CompressedSlice]:
    return [one for visit in visits for one in slices_of(read_visit(folder, visit))]
