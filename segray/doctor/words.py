"""The diagnosis in words, for the terminal and the page."""

from __future__ import annotations

from segray.doctor.diagnosis import Diagnosis
from segray.doctor.findings import counts


def verdict(diagnosis: Diagnosis) -> str:
    """One sentence: may it be ingested?"""
    found = counts(diagnosis.findings)
    if found["error"]:
        lost = len({one.case for one in diagnosis.findings if one.grade == "error"})
        return f"Ingest would lose data: errors in {lost} case{'s' * (lost != 1)} or files."
    if found["warning"]:
        return "Ingest would lose no labels; look at the warnings before you train."
    return "Nothing is wrong."


def plan_facts(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """What ingest will do, in words and numbers."""
    plan = diagnosis.plan
    if not plan.cases:
        return []
    split = ", ".join(f"{count} {name}" for name, count in plan.split.items() if count)
    facts = [("cases", f"{plan.cases} ({split})"), ("slices", f"{plan.slices:,}")]
    if plan.grid:
        height, width = plan.grid["size"]
        facts.append(("canvas (y, x)", f"{height} x {width}"))
        if plan.grid["spacing"]:
            facts.append(("pixel", " x ".join(f"{one:.3g}" for one in plan.grid["spacing"]) + " mm"))
    else:
        return facts
    facts += [
        ("disk", f"{_bytes(plan.shard_bytes)}, of {_bytes(plan.voxel_bytes)} of voxels"),
        ("memory of the largest task", _bytes(plan.task_bytes)),
        ("time", f"about {_minutes(plan.minutes)} with {plan.tasks} cases at once on {plan.cpus:g} CPUs"),
    ]
    return facts


def _bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _minutes(minutes: float) -> str:
    if minutes < 1:
        seconds = max(round(60 * minutes), 1)
        return "a second" if seconds == 1 else f"{seconds} seconds"
    return f"{minutes:.1f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
