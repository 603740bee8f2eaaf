"""Shards: one Parquet row an axial slice, pixels compressed inside a binary column, one part a case."""

from segray.errors import SegrayError


class ShardError(SegrayError):
    """A shard is damaged; the message names part, case and slice."""


__all__ = ["ShardError"]
