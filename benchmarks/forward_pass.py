"""Forward passes on one CPU: torch as it comes, segray's, OpenVINO's and torch.compile's, with the same weights.

    python benchmarks/forward_pass.py [--small] [--rounds 9] [--threads 0]

A U-Net of 32..512 features on slices of 256x256 and 512x512 that are normalised already, one at a time, as the
Predictor takes them. "torch float32" is the net as it was trained, "torch channels_last" the same in that memory
format, "segray" is ForwardPass (norms folded, activations inside the convolutions), "OpenVINO" is OpenVinoPass and
"compile" CompiledPass. All in turn in each round, in another order each round; medians of a round's milliseconds a
slice, ratios paired within a round. The net is trained for some steps on the phantom, so that masks mean something:
Dice over all foreground with the masks of torch float32. What is not installed, or only emulated here, is left out and
said.

Predicted before the first run on a quiet machine: OpenVINO bf16 1.2 to 1.4 times segray bf16, OpenVINO float32 1.0 to
1.1 times segray float32 (256x256, one thread of an AMX Xeon on a busy machine: 48 to 63 ms, and 281 to 315), compile
between them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from machine import write_result
from numpy.typing import NDArray
from predict_end_to_end import WINDOW, phantom, train_briefly
from torch import Tensor

from segray.config import Precision
from segray.engine.backend_contest import foreground_dice
from segray.engine.backends import BackendChoice, forward_pass
from segray.engine.compiled_pass import compiler_fault
from segray.engine.precision import computes_bf16
from segray.nets.bundle import Bundle

CPU = torch.device("cpu")
PLAIN = "torch float32"
TARGETS = {"dice of float32": 0.9999, "dice of bf16": 0.999, "OpenVINO bf16, times segray bf16": 1.2}
PAIRS = (
    ("segray float32", PLAIN), ("segray bf16", PLAIN), ("OpenVINO float32", PLAIN), ("OpenVINO bf16", PLAIN),
    ("OpenVINO float32", "segray float32"), ("OpenVINO bf16", "segray bf16"), ("compile bf16", "segray bf16"),
    ("compile float32", "segray float32"),
)  # fmt: skip

Forward = Callable[[Tensor], Tensor]


def passes(bundle: Bundle, *, small: bool) -> dict[str, Forward]:
    """All forward passes that there are on this machine, by name."""
    net, last = bundle.network(), bundle.network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found: dict[str, Forward] = {
        PLAIN: net,
        "torch channels_last": lambda images: last(images.contiguous(memory_format=torch.channels_last)),
    }
    precisions: list[Precision] = ["float32"]
    if computes_bf16(CPU):
        precisions.append("bf16")
    else:
        print("This CPU only emulates bf16: bf16 is left out.")
    choices = {"segray": "torch", "OpenVINO": "openvino", "compile": "compile"}
    if find_spec("openvino") is None:
        print("OpenVINO is not installed and is left out.")
        choices.pop("OpenVINO")
    if small:
        print("compile is left out of --small, for g++ takes half a minute.")
        choices.pop("compile")
    elif fault := compiler_fault(CPU):
        print(f"compile is left out: {fault}")
        choices.pop("compile")
    for name, backend in choices.items():
        for precision in precisions:
            choice = BackendChoice(backend, precision)  # type: ignore[arg-type]
            found[f"{name} {precision}"] = forward_pass(bundle.network(), CPU, precision, choice)
    return found


def labels_of(forward: Forward, slices: Sequence[Tensor]) -> NDArray[Any]:
    """(n, H, W) label indices of slices (1, 1, H, W)."""
    return np.concatenate([forward(images).float().argmax(1).numpy() for images in slices])


@torch.inference_mode()  # type: ignore[misc, no-untyped-call, untyped-decorator, unused-ignore]
def compare(side: int, slices: int, features: list[int], rounds: int, steps: int, *, small: bool) -> dict[str, Any]:
    """All passes on slices of one phantom case, in turn."""
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False):
        bundle = train_briefly(f"{folder}/bundle", features, side, steps)
        contenders = passes(bundle, small=small)
    voxels, _ = phantom(side, slices)
    normalised = WINDOW.apply(torch.from_numpy(voxels), torch.zeros(slices), torch.ones(slices))
    ready = normalised.split(1)  # type: ignore[no-untyped-call, unused-ignore]
    first, labels = {}, {}
    for name, forward in contenders.items():
        begin = time.perf_counter()
        forward(ready[0])
        first[name] = round(time.perf_counter() - begin, 2)
        labels[name] = labels_of(forward, ready)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        shift = number % len(contenders)
        for name in [*list(contenders)[shift:], *list(contenders)[:shift]]:
            begin = time.perf_counter()
            for images in ready:
                contenders[name](images)
            times[name].append(1000 * (time.perf_counter() - begin) / slices)
    ratios = {
        f"{name}, times {base}": [slow / fast for slow, fast in zip(times[base], times[name], strict=True)]
        for name, base in PAIRS
        if name in times and base in times
    }
    return {
        "slices": f"{slices} of {side}x{side}", "features": features, "seconds of the first call": first,
        "ms a slice": {name: round(statistics.median(values), 2) for name, values in times.items()},
        "ratios": {name: round(statistics.median(values), 3) for name, values in ratios.items()},
        "ratios, rounds": {name: [round(value, 3) for value in values] for name, values in ratios.items()},
        "dice": {
            name: round(foreground_dice(labels[PLAIN], found, overlapping=False), 5) for name, found in labels.items()
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small net and slices, for CI; nothing is written")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0, help="threads of each pass; 0: all cores")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    if options.small:
        cases = [compare(64, 4, [8, 16, 32], 3, 60, small=True)]
    else:
        features = [32, 64, 128, 256, 512]
        cases = [
            compare(side, slices, features, options.rounds, 100, small=False) for side, slices in ((256, 8), (512, 4))
        ]
    report = {"cases": cases}
    print(json.dumps(report, indent=1))
    for case in cases:
        for name, dice in case["dice"].items():
            if name.endswith("float32") and dice < TARGETS["dice of float32"]:
                raise SystemExit(f"The masks of {name} differ from those of {PLAIN}: Dice {dice}.")
    if not options.small:
        write_result("forward_pass", {"targets": TARGETS, "threads": torch.get_num_threads(), **report})


if __name__ == "__main__":
    main()
