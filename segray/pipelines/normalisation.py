"""The recipe from voxel values to the input of a net, for a config and a shard set."""

from __future__ import annotations

from segray.config import Config
from segray.nets.normalise import Normalisation
from segray.shards.manifest import Manifest


def normalisation_of(config: Config, manifest: Manifest) -> Normalisation:
    """The recipe from voxel values to the net's input, with the statistics of the shards."""
    found = manifest.intensity
    if len(found) == 1:
        (stats,) = found
        return Normalisation.from_config(config.intensity, lo=stats.p005, hi=stats.p995, mean=stats.mean, sd=stats.sd)
    return Normalisation.from_config(
        config.intensity,
        lo=tuple(stats.p005 for stats in found),
        hi=tuple(stats.p995 for stats in found),
        mean=tuple(stats.mean for stats in found),
        sd=tuple(stats.sd for stats in found),
    )
