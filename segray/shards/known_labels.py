"""Which labels of each case are known: a structure that nobody drew may be anywhere in the case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segray.shards.manifest import Manifest


class KnownLabels:
    """The labels that each case tells of, as a net has its outputs.

    Args:
        of_case: case to (L) bool: background and structures, or structures alone where they overlap.
        structures: how many of the last outputs are structures.
    """

    def __init__(self, of_case: Mapping[str, NDArray[np.bool_]], structures: int) -> None:
        self._of_case, self._structures = of_case, structures

    @classmethod
    def of_manifest(cls, manifest: Manifest, missing: Literal["background", "mask"]) -> KnownLabels | None:
        """What the manifest says; None where all labels of all cases are known, as in shards of older versions.

        Args:
            manifest: of the shards.
            missing: what a structure without a mask file is (``loss.missing``); what nobody looked for is never known.
        """
        unknown = {
            part.case_id: {*part.unannotated, *(part.missing if missing == "mask" else ())} for part in manifest.parts
        }
        if not any(unknown.values()):
            return None
        names = manifest.label_map.names
        background = [] if manifest.label_map.overlapping else [True]
        table = {
            case_id: np.array([*background, *(name not in lacking for name in names)], dtype=np.bool_)
            for case_id, lacking in unknown.items()
        }
        return cls(table, len(names))

    def of(self, case_ids: Sequence[str]) -> NDArray[np.bool_]:
        """(n, L) of the cases, which may come several times."""
        return np.stack([self._of_case[case_id] for case_id in case_ids])

    def structures(self, case_ids: Sequence[str]) -> NDArray[np.bool_]:
        """(n, structures): as :meth:`of`, without background."""
        return self.of(case_ids)[:, -self._structures :]
