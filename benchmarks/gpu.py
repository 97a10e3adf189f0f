"""Checks and measures `unhot.torch` on one NVIDIA GPU, in about ten minutes.

    PYTHONPATH=src python benchmarks/gpu.py [--minutes 10] [--output DIR]

It needs PyTorch with CUDA, NumPy, and this source tree: nothing is built or installed. Copy the tree to the machine with the
GPU (`git archive HEAD | ssh HOST tar x -C unhot`, say), and run the line above in it. The native kernels need not be there: the
NumPy kernels then keep the histories (`UNHOT_KERNELS` need not be set), and the file says which it was. Close other programs.

Three parts come one after the other, on a GPU each in a process of its own, since some errors end all work of their process:

1. conformance: every optimizer against dense float64 training on the GPU (on_gpu/conformance.py).
2. waits: how often the host waits for the GPU in a step, and how many kernels a step launches (on_gpu/waits.py).
3. times: milliseconds per step by rows, of unhot's Adam, dense fused Adam and SparseAdam by turns (on_gpu/times.py).

Each result is written to `gpu.json` as soon as it is there, and each part prints its table. `--show FILE` prints the tables
again, in the form that docs/performance.md shows. The exit status is 1 if a result is wrong or a part has failed.

Without a GPU, or with `--device cpu`, the same code runs at small sizes on CPU tensors, which then take the way of other
devices. That takes less than a minute, checks the script and says nothing about a GPU. It writes `gpu-on-cpu.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from on_gpu import tables

HERE = Path(__file__).resolve().parent
SHARES = {"conformance": 0.35, "waits": 0.45, "times": 0.95}
"""When each part begins nothing more, as a share of the whole time. What one part leaves, the next has."""

GRACE = 45.0
"""Seconds after which a part that has not ended in time is stopped."""

ROWS = {"cuda": [10**5, 10**6, 10**7, 10**8], "cpu": [1_000, 10_000]}
IDS = {"cuda": 4096, "cpu": 256}
ROUNDS = {"cuda": 5, "cpu": 2}
STEPS = {"cuda": 40, "cpu": 10}
CASES = {"cuda": None, "cpu": 20}


def main() -> int:
    arguments = parsed()
    if arguments.show:
        data = json.loads(arguments.show.read_text())
        print("\n\n".join(getattr(tables, part)(data[part]) for part in SHARES if part in data))
        return 0
    if arguments.parts:
        return run_parts(arguments)
    device = arguments.device or found_device()
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / ("gpu-on-cpu.json" if device == "cpu" else "gpu.json")
    path.unlink(missing_ok=True)
    begun, status = time.monotonic(), 0
    for group in [list(SHARES)] if device == "cpu" else [[part] for part in SHARES]:
        spent = time.monotonic() - begun
        command = [sys.executable, str(HERE / "gpu.py"), *sys.argv[1:], "--device", device, "--parts", *group]
        command += ["--spent", str(spent), "--file", str(path)]
        left = max(0.0, seconds_until_end(arguments, group[-1]) - spent) + GRACE
        try:
            status |= subprocess.run(command, check=False, timeout=left).returncode != 0
        except subprocess.TimeoutExpired:
            print(f"{', '.join(group)}: stopped after {left:.0f} seconds", file=sys.stderr)
            status = 1
    print(f"written to {path} in {time.monotonic() - begun:.0f} seconds")
    return status


def seconds_until_end(arguments: argparse.Namespace, part: str) -> float:
    """From the beginning of the first part."""
    return float(60 * arguments.minutes * SHARES[part])


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="cuda, cuda:1 or cpu; by default cuda if there is one")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all parts together")
    output = os.environ.get("OUT") or HERE / "results"
    parser.add_argument("--output", type=Path, default=output, help="the folder for the JSON; by default $OUT or results")
    parser.add_argument("--rows", type=int, nargs="+", help="the sizes of the tables that are timed")
    parser.add_argument("--ids", type=int, help="ids in a step")
    parser.add_argument("--rounds", type=int, help="turns of each rival")
    parser.add_argument("--cases", type=int, help="cases of part 1 at most")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the tables of an earlier run")
    # What the process of a part is given.
    parser.add_argument("--parts", nargs="+", choices=SHARES, help=argparse.SUPPRESS)
    parser.add_argument("--spent", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def found_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def run_parts(arguments: argparse.Namespace) -> int:
    """Some parts, in this process."""
    begun = time.monotonic() - arguments.spent
    device: str = arguments.device
    if device == "cpu":
        os.environ["UNHOT_TORCH_KERNELS"] = "torch"  # the way of other devices
    sys.path.insert(0, str(HERE.parent / "tests"))  # for the first part
    import torch
    from on_gpu import conformance, times, waits
    from on_gpu.record import Budget, Record, describe

    if device == "cpu":
        torch.set_num_threads(1)  # on such small arrays, more would only wait for each other
    else:
        torch.cuda.set_device(torch.device(device).index or 0)
    kind = "cpu" if device == "cpu" else "cuda"
    rows, ids = arguments.rows or ROWS[kind], arguments.ids or IDS[kind]
    rounds, most = arguments.rounds or ROUNDS[kind], arguments.cases or CASES[kind]
    parts: dict[str, Callable[[Budget], bool]] = {
        "conformance": lambda budget: conformance.run(record, device, budget, most),
        "waits": lambda budget: waits.run(record, device, budget, min(rows), ids),
        "times": lambda budget: times.run(record, device, budget, rows, ids, rounds, STEPS[kind]),
    }
    record, good = Record(arguments.file), True
    record.data.setdefault("begun", time.strftime("%Y-%m-%dT%H:%M:%S"))
    record.data["machine"] = describe(device)
    for part in arguments.parts:
        good &= parts[part](Budget(seconds_until_end(arguments, part) - (time.monotonic() - begun)))
        record.save()
        print(getattr(tables, part)(record.data[part]), flush=True)
        print(flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
