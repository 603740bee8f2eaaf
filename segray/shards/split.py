"""Which cases are held out: by share of patients, or by the user's table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

import numpy as np

from segray import storage
from segray.config import SplitConfig
from segray.errors import UsageError
from segray.shards.manifest import SPLITS


def split_cases(patients: Mapping[str, str], config: SplitConfig) -> dict[str, str]:
    """Case id to train, validation or test; all cases of a patient go the same way.

    Args:
        patients: case id to patient.
        config: shares, seed, and the user's CSV.

    Raises:
        UsageError: the CSV lacks its columns or names an unknown split.
    """
    given_patient, given_split = _table(config.patients) if config.patients else ({}, {})
    owner = {case: given_patient.get(case, patient) for case, patient in patients.items()}
    drawn = _draw(sorted({owner[case] for case in owner if case not in given_split}), config)
    return {case: given_split.get(case) or drawn[owner[case]] for case in owner}


def _draw(patients: list[str], config: SplitConfig) -> dict[str, str]:
    order = np.random.default_rng(config.seed).permutation(len(patients))
    held = _count(config.validation, len(patients))
    test = min(_count(config.test, len(patients)), len(patients) - held - 1) if config.test else 0
    kinds = ["validation"] * held + ["test"] * test + ["train"] * (len(patients) - held - test)
    return {patients[number]: kind for number, kind in zip(order, kinds, strict=True)}


def _count(share: float, patients: int) -> int:
    """At least one patient where a share is asked for and two are there; never all of them."""
    if share <= 0 or patients < 2:
        return 0
    return min(max(1, round(share * patients)), patients - 1)


def _table(path: str) -> tuple[dict[str, str], dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(storage.read_text(path))))
    if not rows or "case_id" not in rows[0] or not {"patient", "split"} & rows[0].keys():
        raise UsageError(f"{path} needs the column case_id and one of patient, split.")
    splits = {row["case_id"]: row["split"].strip() for row in rows if (row.get("split") or "").strip()}
    unknown = sorted(set(splits.values()) - set(SPLITS))
    if unknown:
        raise UsageError(f"{path} names the split {unknown[0]!r}.", mend=f"A split is one of {', '.join(SPLITS)}.")
    owners = {row["case_id"]: row["patient"].strip() for row in rows if (row.get("patient") or "").strip()}
    _refuse_cut_patients(owners, splits, path)
    return owners, splits


def _refuse_cut_patients(owners: Mapping[str, str], splits: Mapping[str, str], path: str) -> None:
    seen: dict[str, str] = {}
    for case, patient in owners.items():
        if case in splits and seen.setdefault(patient, splits[case]) != splits[case]:
            raise UsageError(f"{path} puts patient {patient} into two splits.", mend="Give each patient one split.")
