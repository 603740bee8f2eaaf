"""Label values to bit fields, for readers whose labels exclude each other."""

from __future__ import annotations

from segray.case import LabelMap, Volume
from segray.errors import CaseError
from segray.formats.source import CaseSource


def as_bits(labels: Volume, source: CaseSource, label_map: LabelMap | None) -> Volume:
    """Label values (z, y, x) as a bit field (``ingest.overlap=keep``): bit k where structure k of the map is.

    The values that ``source.dropped`` names become background. Raises CaseError on other values without a name.
    """
    if label_map is None:
        raise CaseError("Overlapping labels need a label map.", mend="Give the structures as ingest.labels.")
    for value in source.dropped:
        labels[labels == value] = 0
    return label_map.to_bits(labels)
