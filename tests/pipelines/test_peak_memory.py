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


SHARED = """
import mmap
from segray.pipelines.peak_memory import forget_peak, peak_mib

first = mmap.mmap(-1, 64 * 2**20)
first.write(b"x" * len(first))
forget_peak()
before = peak_mib()
second = mmap.mmap(-1, 32 * 2**20)
second.write(b"x" * len(second))
print(before, peak_mib() - before)
"""


def test_what_earlier_cases_left_mapped_is_not_counted_again() -> None:
    done = subprocess.run([sys.executable, "-c", SHARED], capture_output=True, text=True, check=True)
    before, since = map(float, done.stdout.split())
    assert before < 60
    # The bytes that are written from are held for a moment too.
    assert 30 <= since < 70
