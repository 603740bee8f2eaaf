"""Fuzz a reader with atheris: ``python tests/fuzz/fuzz_readers.py TARGET FOLDER [libFuzzer options]``.

TARGET is a key of ``TARGETS``; FOLDER keeps what was found and is started from. A crash is written as ``crash-...``
into the working directory; put it into ``tests/fuzz/corpus/TARGET/`` once it is mended. atheris is no dependency:
``pip install atheris`` (CPython 3.11 on Linux). Such as ``... nifti /tmp/nifti -max_total_time=60 -max_len=4096``.

Last run by hand: 2026-11-24, from the kept corpus, 69 s a target and 10.4 minutes in all, 33,000 (mha) to 358,000
(manifest) inputs each, nothing found. Earlier runs found what ``corpus/*/crash-*`` holds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(include=["segray", "nibabel"]):
    from targets import TARGETS, seeds


def main() -> None:
    """Run one target until libFuzzer ends."""
    name, folder = sys.argv[1:3]
    target = TARGETS[name]
    corpus = Path(folder)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds()[name]):
        (corpus / f"seed-{number}").write_bytes(data)
    atheris.Setup([sys.argv[0], *sys.argv[3:], folder], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
