"""What ``segray report`` and ``segray.report`` call."""

from __future__ import annotations

from segray.report.page import write_report


def report(folder: str, *, predictions: str | None = None, run: str | None = None) -> str:
    """Draw a run folder, a prediction folder or both into ``<folder>/index.html``; returns its path.

    Raises UsageError where neither lies there. See :func:`segray.report.page.write_report`.
    """
    return write_report(folder, run=run, predictions=predictions)
