from __future__ import annotations

import numpy as np

from segray.pipelines.peak_memory import forget_peak, peak_mib


def test_the_peak_is_that_since_it_was_forgotten() -> None:
    forget_peak()
    before = peak_mib()
    held = np.ones(64 * 2**20, np.uint8)
    held[:] = 2
    assert peak_mib() >= before + 60
    del held
    forget_peak()
    assert peak_mib() < before + 30
