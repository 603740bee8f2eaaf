"""Settings of what a command runs in: the cluster, and who may read what it says."""

from __future__ import annotations

from segray.config.section import Count, Section, setting


class RayConfig(Section):
    """The cluster."""

    address: str | None = setting(
        None, "a running cluster (auto, or host:6379); empty: RAY_ADDRESS, else an embedded Ray"
    )
    cpus: Count = setting(0, "CPUs of an embedded Ray; 0: all", "CPUs")
    object_store_mib: Count = setting(
        0, "object store of an embedded Ray; 0: a fifth of the memory, at most 4096", "MiB"
    )
    dashboard: bool = setting(False, "start Ray's dashboard (on loopback) with an embedded Ray")
    preflight: bool = setting(
        True, "where there are several nodes, look at their versions, disks and storage before train, tune and predict"
    )


class PrivacyConfig(Section):
    """What logs, terminal and trackers say of patients; results always have the ids in clear."""

    hash_ids: bool = setting(
        False,
        "logs, terminal and trackers name cases, patients and their files by pseudonyms (HMAC-SHA256); masks and "
        "tables keep the ids; `segray pseudonyms` maps back for who has the key",
    )
    key_file: str | None = setting(
        None,
        "file with the key of the pseudonyms, at least 16 bytes, at the same path on all nodes; empty: `key_variable`",
    )
    key_variable: str = setting(
        "SEGRAY_PRIVACY_KEY",
        "environment variable with the key; not set: a random key for each run, kept as privacy.key in its folder, "
        "for its owner alone",
    )
