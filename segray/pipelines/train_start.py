"""A training that starts from the weights of another."""

from __future__ import annotations

import safetensors.torch
import torch

from segray import storage
from segray.config import Config
from segray.nets.bundle import plain_weights
from segray.nets.start import Start, load_start, net_of_start, started_net
from segray.pipelines.live import data_folder
from segray.pipelines.normalisation import normalisation_of
from segray.pipelines.run_folder import START, RunFolder
from segray.shards.manifest import load_manifest


def with_net_of_start(config: Config) -> tuple[Config, Start | None]:
    """The config with the net to train, and the weights to start from. Raises UsageError where they do not fit."""
    if not config.train.start_from:
        return config, None
    start = load_start(config.train.start_from)
    return config.model_copy(update={"net": net_of_start(start, config.net)}), start


def begin_from(start: Start, config: Config, run: RunFolder) -> list[str]:
    """Leave the net to start from in the run folder, for every worker; what there is to say of it.

    Raises UsageError where the net of the config is not that of the weights.
    """
    manifest = load_manifest(data_folder(config))
    torch.manual_seed(config.seed)
    wanted = net_of_start(start, config.net)
    net, said = started_net(start, wanted, manifest.in_channels, manifest.channels, manifest.label_map)
    storage.write_bytes(run.file(START), safetensors.torch.save(plain_weights(net)))
    normalisation = normalisation_of(config, manifest)
    if start.normalisation is not None and start.normalisation != normalisation:
        said.append(f"The weights learnt on {start.normalisation.words}, and now see {normalisation.words}.")
    before, now = start.spacing, manifest.grid.spacing
    if before is not None and now is not None and before != now:
        said.append(
            f"The weights learnt on pixels of {before[0]:g} x {before[1]:g} mm, and now see {now[0]:g} x {now[1]:g} mm."
        )
    return [f"The training starts from {start.words}.", *said]
