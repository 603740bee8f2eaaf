"""Settings that change nothing in a training: said before it, so that nobody believes to have measured them."""

from __future__ import annotations

from collections.abc import Iterator

from segray.config import Config, OptimConfig, TrainConfig
from segray.shards.manifest import Manifest


def idle_settings(config: Config, manifest: Manifest) -> list[str]:
    """What the settings ask for and the shards or other settings give no occasion for, a sentence each."""
    return [
        *_of_the_shards(config, manifest),
        *_of_the_net(config),
        *_of_the_augmentation(config),
        *_of_the_losses(config, manifest),
        *_of_the_course(config),
    ]


def _of_the_shards(config: Config, manifest: Manifest) -> Iterator[str]:
    if config.loss.missing == "mask" and not any(part.missing for part in manifest.parts):
        yield "loss.missing=mask changes nothing: no case of the shards is known to lack a mask file."
    if config.net.neighbours and all(part.slices == 1 for part in manifest.parts):
        yield "net.neighbours costs time and shows nothing new: every case of the shards is a single slice."
    if config.train.metric != "train_loss" and all(part.split != "validation" for part in manifest.parts):
        without = f"changes nothing: the shards have no validation cases, and so no {config.train.metric}."
        if config.train.patience:
            yield f"train.patience {without}"
        if config.optim.schedule == "plateau":
            yield f"optim.schedule=plateau {without}"


def _of_the_net(config: Config) -> Iterator[str]:
    net = config.net
    if net.name != "unet" and config.train.checkpointing:
        yield f"train.checkpointing changes nothing: it is of the unet, and net.name is {net.name}."
    if net.name == "mednext" and net.dropout:
        yield "net.dropout changes nothing: mednext has none."


def _of_the_augmentation(config: Config) -> Iterator[str]:
    augment = config.augment
    if not augment.enabled:
        return
    if config.net.patch is None and augment.flip_z:
        yield "augment.flip_z changes nothing: the net sees slices, and only patches (net.patch) have a z axis."
    if config.net.patch is None and augment.space:
        yield "augment.space changes nothing: the net sees slices, and only patches (net.patch) have a z axis."
    if augment.mixup and config.train.batch_size == 1:
        yield "augment.mixup changes nothing: a batch of one has nothing to be mixed with."


def _of_the_course(config: Config) -> Iterator[str]:
    if config.optim.schedule == "one_cycle" and config.optim.warmup_steps != OptimConfig().warmup_steps:
        yield "optim.warmup_steps changes nothing: one_cycle begins low by itself."
    chosen = config.train.histograms_every not in (0, TrainConfig().histograms_every)
    if chosen and "tensorboard" not in config.train.trackers:
        yield "train.histograms_every changes nothing: TensorBoard shows them, and train.trackers does not name it."


def _of_the_losses(config: Config, manifest: Manifest) -> Iterator[str]:
    loss = config.loss
    if loss.dice_background and manifest.label_map.overlapping:
        yield "loss.dice_background changes nothing: structures of the shards overlap, so there is no background."
    if loss.class_weights and not (loss.cross_entropy or loss.bce or loss.focal):
        yield "loss.class_weights changes nothing: cross_entropy, bce and focal, which they weigh, are all 0."
