"""Which cases are held out: by share of patients, or by the user's table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from segray.config import SplitConfig
from segray.errors import UsageError
from segray.shards.case_table import match_ids, read_case_table
from segray.shards.manifest import SPLITS

CUT_BY_FOLDER = "Give each patient one split in the CSV of ingest.split.patients, or leave ingest.split.pattern out."


@dataclass(frozen=True)
class _Table:
    """The user's CSV: its case ids in order, and case id to patient, and to split, where it says so."""

    cases: tuple[str, ...]
    patients: Mapping[str, str]
    splits: Mapping[str, str]


def match_table(known: Iterable[str], config: SplitConfig) -> list[str]:
    """What is to be said of the ids in the user's CSV that are no case; nothing where there is no CSV.

    Args:
        known: the ids of all cases, in order, also of those that cannot be used: for these the CSV is right.
        config: names the CSV.

    Raises:
        UsageError: none of its ids is a case, or it is wrong in itself (:func:`split_cases`).
    """
    if not config.patients:
        return []
    return match_ids(config.patients, _read_table(config.patients).cases, known)


def split_cases(
    patients: Mapping[str, str], config: SplitConfig, given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Case id to train, validation or test; all cases of a patient go the same way.

    The user's table decides for the patients whose cases it names, then what the folder itself gives. The others are
    drawn by the shares, but into no split that these have filled: who names the validation cases gets no other ones.

    Args:
        patients: case id to patient.
        config: shares, seed, and the user's CSV.
        given: case id to the split that the folder gives it; other cases are absent, or empty.

    Raises:
        UsageError: the CSV cannot be read, lacks its columns, names an unknown split, a case twice, or cuts a patient;
            the folder cuts a patient of whom the CSV says nothing.
    """
    table = _read_table(config.patients) if config.patients else _Table((), {}, {})
    owner = {case: table.patients.get(case, patient) for case, patient in patients.items()}
    fixed = _fixed(owner, table.splits, str(config.patients), "Give each patient one split.")
    open_cases = {case: split for case, split in (given or {}).items() if owner.get(case) not in fixed}
    fixed |= _fixed(owner, open_cases, "The folder", CUT_BY_FOLDER)
    chosen = set(fixed.values())
    drawn = _draw(
        sorted(set(owner.values()) - fixed.keys()),
        0.0 if "validation" in chosen else config.validation,
        0.0 if "test" in chosen else config.test,
        config.seed,
    )
    return {case: (fixed | drawn)[patient] for case, patient in owner.items()}


def _draw(patients: list[str], validation: float, test: float, seed: int) -> dict[str, str]:
    order = np.random.default_rng(seed).permutation(len(patients))
    held = _count(validation, len(patients))
    tested = max(min(_count(test, len(patients)), len(patients) - held - 1), 0)
    kinds = ["validation"] * held + ["test"] * tested + ["train"] * (len(patients) - held - tested)
    return {patients[number]: kind for number, kind in zip(order, kinds, strict=True)}


def _count(share: float, patients: int) -> int:
    """At least one patient where a share is asked for and two are there; never all of them."""
    if share <= 0 or patients < 2:
        return 0
    return min(max(1, round(share * patients)), patients - 1)


def _read_table(path: str) -> _Table:
    cells = read_case_table(path, ("patient", "split"))
    splits = {row["case_id"]: row["split"] for row in cells if row["split"]}
    unknown = sorted(set(splits.values()) - set(SPLITS))
    if unknown:
        raise UsageError(f"{path} names the split {unknown[0]!r}.", mend=f"A split is one of {', '.join(SPLITS)}.")
    cases = tuple(row["case_id"] for row in cells if row["case_id"])
    return _Table(cases, {row["case_id"]: row["patient"] for row in cells if row["patient"]}, splits)


def _fixed(owner: Mapping[str, str], splits: Mapping[str, str], who: str, mend: str) -> dict[str, str]:
    """Patient to the split that ``splits`` gives to a case of theirs."""
    fixed: dict[str, str] = {}
    for case, patient in owner.items():
        split = splits.get(case)
        if split and fixed.setdefault(patient, split) != split:
            raise UsageError(f"{who} puts patient {patient} into two splits.", mend=mend)
    return fixed
