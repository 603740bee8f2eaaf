"""The stage of mask generation that computes: an actor with the nets, which alone of the three needs torch."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import numpy as np
import pyarrow as pa

from segray.case import Volume
from segray.config import PredictConfig
from segray.engine.backends import BackendChoice
from segray.engine.confidence import Confidence
from segray.engine.predictor import Predictor
from segray.engine.stage_clock import STAGES
from segray.formats.probability_files import ProbabilityCrop
from segray.nets.bundle import load_bundle
from segray.pipelines.case_batches import rows_of
from segray.pipelines.failures import reason_for
from segray.pipelines.peak_memory import forget_peak, peak_mib
from segray.pipelines.predict_rows import Row, grid_of, voxels_of, with_values


class PredictStage:
    """An actor that keeps the nets resident: rows with voxels in, rows with label indices out.

    Small cases come several at a time, and go through the nets together.
    """

    def __init__(self, bundles: Sequence[str], config: PredictConfig, threads: int, backend: str = "") -> None:
        choice = BackendChoice.from_json(backend) if backend else None
        loaded = [load_bundle(bundle) for bundle in bundles]
        self._predictor = Predictor(loaded, config, threads=threads, backend=choice)
        if self._predictor.device.type == "cuda":
            # While the first cases are read; a CPU would only compute a slice more. What fails here is the reason of a
            # case later, not the end of all.
            with suppress(Exception):
                self._predictor.warm_up()
        self._label_map = loaded[0].label_map
        self._crops, self._stored = "probabilities" in config.further, config.probabilities

    def __call__(self, table: pa.Table) -> pa.Table:
        """Predict the cases of a table; rows with a reason pass through."""
        rows = list(rows_of(table))
        forget_peak()
        ready = [number for number, row in enumerate(rows) if row.column("reason")[0].as_py() is None]
        for number, found in zip(ready, self._predict([rows[number] for number in ready]), strict=True):
            rows[number] = with_values(rows[number], found)
        return pa.concat_tables(rows) if rows else table

    def _predict(self, rows: Sequence[pa.Table]) -> list[Row]:
        """What becomes of each case; together where there are several and none of them is refused."""
        if len(rows) > 1 and not self._crops:
            # Alone, the case that it was gets its reason, and the others their masks.
            with suppress(Exception):
                return self._together(rows)
        return [self._alone(row) for row in rows]

    def _together(self, rows: Sequence[pa.Table]) -> list[Row]:
        grids = [grid_of(row) for row in rows]
        cases = [(voxels_of(row, grid), grid.spacing) for row, grid in zip(rows, grids, strict=True)]
        begin = time.perf_counter()
        labels = self._predictor.predict_many(cases, [grid.voxel_ml for grid in grids])
        seconds, confidences = time.perf_counter() - begin, self._predictor.last_confidences
        sizes = [float(one.size) for one in labels]
        return [
            self._row(one, confidences[number] if confidences else None, seconds, sizes[number] / sum(sizes))
            for number, one in enumerate(labels)
        ]

    def _alone(self, table: pa.Table) -> Row:
        geometry = grid_of(table)
        crop = ProbabilityCrop(self._label_map.names, geometry.size, stored=self._stored) if self._crops else None
        begin = time.perf_counter()
        try:
            sink = None if crop is None else partial(_keep, crop, len(self._label_map.names))
            labels = self._predictor.predict(
                voxels_of(table, geometry), geometry.spacing, probabilities=sink, voxel_ml=geometry.voxel_ml
            )
        except Exception as error:
            return {
                "reason": reason_for(error),
                "seconds_predict": time.perf_counter() - begin,
                "host": socket.gethostname(),
            }
        row = self._row(labels, self._predictor.last_confidence, time.perf_counter() - begin)
        if crop is not None:
            values, offset = crop.join()
            crop_facts = {"shape": values.shape, "offset": offset, "dtype": values.dtype.str}
            row |= {"probabilities": values, "crop": json.dumps(crop_facts)}
        return row

    def _row(self, labels: Volume, confidence: Confidence | None, seconds: float, share: float = 1.0) -> Row:
        """The columns of a case that took ``share`` of the time of the last call."""
        last = self._predictor.last_seconds
        return {
            "labels": np.ascontiguousarray(labels),
            "labels_dtype": labels.dtype.str,
            "confidence": json.dumps(confidence.as_rows(self._label_map)) if confidence else None,
            "seconds_predict": share * seconds,
            **{f"seconds_{stage}": share * last[stage] for stage in STAGES},
            "host": socket.gethostname(),
            "peak_mib_predict": peak_mib(),
        }


def _keep(crop: ProbabilityCrop, structures: int, start: int, slab: Volume) -> None:
    """Give the probabilities of the structures, without the background, to the crop."""
    crop.add(start, slab[:, slab.shape[1] - structures :])
