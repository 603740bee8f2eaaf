"""`train.batch_size: auto`, answered by steps on the device of a worker before the training begins."""

from __future__ import annotations

from typing import Any

import ray
import torch
from ray.train.torch import get_devices

from segray.config import Config, parse_config
from segray.engine.batch_sizes import BatchRate, MadeSlices, best_batch, measure_rates, now
from segray.engine.trainer import Trainer
from segray.errors import SegrayError
from segray.nets.unet import build_net
from segray.pipelines.feed import items_of_epoch
from segray.pipelines.folds import training_manifest
from segray.pipelines.live import data_folder
from segray.pipelines.net_cost import patch_of, training_cost
from segray.pipelines.normalisation import normalisation_of
from segray.pipelines.runtime import KEEP_MEMORY, WorkerShape, nodes
from segray.shards.index import load_index
from segray.shards.manifest import Manifest

LARGEST = 64
STEPS_AN_EPOCH = 10
"""An epoch has at least so many, for the weights to get on."""
SHARE_OF_MEMORY = 0.5
"""Of a node's memory without GPU, for the batches of its workers."""


def with_batch_size(config: Config, shape: WorkerShape) -> tuple[Config, list[str]]:
    """The config with a number for ``train.batch_size``, and a sentence on how it was found, if it was.

    Raises:
        SegrayError: not even a single slice, or patch, could be learnt.
    """
    if config.train.batch_size != "auto":
        return config, []
    manifest = training_manifest(config)
    most = largest_batch(config, manifest, shape)
    task = ray.remote(num_cpus=shape.cpus, num_gpus=shape.gpus, max_retries=0, max_calls=1)(_measure)
    try:
        rates: list[BatchRate] = ray.get(
            task.options(runtime_env={"env_vars": KEEP_MEMORY}).remote(
                config.model_dump(mode="json"), manifest, shape.threads, shape.gpus > 0, most
            )
        )
    except ray.exceptions.RayError as error:
        raise SegrayError(
            f"No batch size was found ({str(error).strip().splitlines()[-1]}).", mend="Name train.batch_size."
        ) from error
    if not rates:
        raise SegrayError(
            "A single slice, or patch, does not fit into the memory of the device.",
            mend="Take fewer net.features, or a smaller net.patch.",
        )
    size = best_batch(rates)
    seen = ", ".join(f"{rate.batch}: {rate.rate:.3g}" for rate in rates)
    train = config.train.model_copy(update={"batch_size": size})
    what = "patches" if config.net.patch else "slices"
    return config.model_copy(update={"train": train}), [
        f"train.batch_size is {size} {what} (trained a second by batches of {seen})."
    ]


def largest_batch(config: Config, manifest: Manifest, shape: WorkerShape) -> int:
    """The largest batch to try: by the steps of an epoch and, without a GPU, by the memory of a node."""
    index = load_index(data_folder(config), manifest)
    count = items_of_epoch(index, config) // (STEPS_AN_EPOCH * config.train.most_workers)
    if shape.gpus:
        return max(1, min(LARGEST, count))
    one, two = (training_cost(config, manifest, on_gpu=False, batch=batch).training_bytes for batch in (1, 2))
    node = min(nodes(), key=lambda node: node.memory)
    share = SHARE_OF_MEMORY * node.memory / max(1, int(node.cpus // shape.cpus))
    room = 1 + int((share - one) // max(two - one, 1)) if node.memory else LARGEST
    return max(1, min(LARGEST, count, room))


def _measure(table: dict[str, Any], manifest: Manifest, threads: int, on_gpu: bool, most: int) -> list[BatchRate]:
    """Runs in a task with the resources of a worker."""
    config = parse_config(table)
    torch.set_num_threads(threads)
    channels, overlapping = manifest.label_map.channels, manifest.label_map.overlapping
    trainer = Trainer(
        config,
        build_net(config.net, manifest.in_channels, channels),
        normalisation_of(config, manifest),
        device=get_devices()[0] if on_gpu else "cpu",
        overlapping=overlapping,
        structures=manifest.label_map.names,
    )
    slices = MadeSlices(
        manifest.in_channels * (2 * config.net.neighbours + 1),
        manifest.in_channels,
        patch_of(config, manifest) if config.net.patch else tuple(manifest.grid.size),
        2**channels if overlapping else channels,
    )
    return measure_rates(trainer, slices, most, now)
