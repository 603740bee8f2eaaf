from __future__ import annotations

import subprocess
import sys

# In a process of its own, whose ru_maxrss is not below what this one holds: it is handed on when a process is started.
PROGRAM = """
import numpy as np
from segray.pipelines.peak_memory import forget_peak, peak_mib

forget_peak()
before = peak_mib()
held = np.ones(64 * 2**20, np.uint8)
full = peak_mib()
del held
forget_peak()
print(full - before, peak_mib() - before)
"""


def test_the_peak_is_that_since_it_was_forgotten() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    full, after = map(float, done.stdout.split())
    assert full >= 60
    assert after < 30
