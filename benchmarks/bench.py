"""Runs every rival in a process of its own, checks the results, and writes ratios, JSON and a picture.  See README.md."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import machine
import plots
import report
from cases import KINDS, Case, bytes_needed, full, quick

HERE = Path(__file__).resolve().parent
MODULES = {
    "unhot": "unhot_", "unhot_masked": "unhot_masked", "unhot_torch": "unhot_torch", "unhot_jax": "unhot_jax",
    "torch": "torch_", "fbgemm": "fbgemm_", "keras": "keras_", "unhot_keras": "unhot_keras", "keras_fit": "unhot_keras",
    "keras_empty": "unhot_keras", "numpy": "numpy_", "floor": "floor",
}  # fmt: skip

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}
"""glibc goes on holding what was freed.  Left to itself, it returns some of it to the system and asks for it again in the next
step, how much is chance: from none to as much as takes a twentieth of a step of many tables."""

ATTEMPTS = 3
TIMEOUT = 1800.0


def main() -> int:
    arguments = _arguments()
    wanted = list(full() if arguments.full else quick())
    if arguments.only:
        wanted = [(case, rounds) for case, rounds in wanted if any(word in _name(case) for word in arguments.only)]
    if arguments.rounds:
        wanted = [(case, arguments.rounds) for case, _ in wanted]
    if arguments.list:
        print("\n".join(f"{_name(case)} x {rounds}" for case, rounds in wanted))
        return 0

    results = report.Results()
    if arguments.resume:
        results = report.Results.from_dict(json.loads(arguments.resume.read_text())["results"])
        wanted = [(case, rounds) for case, rounds in wanted if case not in results.rounds]
    begun = time.strftime("%Y-%m-%dT%H:%M:%S")
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"bench-{begun.replace(':', '')}.json"

    patience = machine.Patience(arguments.patience)
    groups: dict[Any, list[tuple[Case, int]]] = {}
    for case, rounds in wanted:
        groups.setdefault(case.workload, []).append((case, rounds))
    for group in groups.values():
        # The rivals take turns, so that a slow minute of the machine does not fall on one of them alone.
        for round_ in range(max(rounds for _, rounds in group)):
            for case, rounds in group:
                if round_ < rounds:
                    _measure(results, case, round_, arguments, patience)
            _write(path, results, begun, arguments)
    print("\n" + report.tables(results) + "\n\n" + report.targets(results))
    disturbed, rounds = report.disturbed(results)
    if disturbed:
        print(f"\n{disturbed} of {rounds} rounds were disturbed by other processes; close them and measure again.")
    pictures = plots.chart(results, path.with_suffix(".svg")), plots.targets(results, path.with_suffix(".png"))
    print("\nwritten: " + ", ".join(str(written) for written in (path, *pictures) if written))
    for case, why in results.failed.items():
        print(f"\nFAILED {_name(case)}\n{why}", file=sys.stderr)
    missed = any(line["reached"] is False for line in report.targets_to_dict(results))
    return 1 if results.failed or (arguments.strict and missed) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="every rival on every size; hours")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only cases whose name contains one of these words")
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parser.add_argument("--rounds", type=int, help="processes for each case, instead of 1 to 3")
    parser.add_argument("--seconds", type=float, default=2.0, help="timed at most in each process")
    parser.add_argument("--patience", type=float, default=180.0, help="seconds to wait in all for a quiet machine")
    parser.add_argument("--strict", action="store_true", help="exit with 1 also if a target is missed")
    parser.add_argument("--resume", type=Path, metavar="JSON", help="keep the results of this file, measure what it lacks")
    parser.add_argument("--output", type=Path, default=Path("bench-results"), metavar="FOLDER")
    parser.add_argument("--fbgemm-python", default="", metavar="PYTHON", help="the interpreter that has FBGEMM")
    return parser.parse_args()


def _name(case: Case) -> str:
    parts = (case.rival, case.variant, case.task, case.rows, f"dim{case.dim}", f"ids{case.ids}", case.distribution)
    return "/".join(map(str, parts)) + f"/threads{case.threads}"


def _measure(
    results: report.Results, case: Case, round_: int, arguments: argparse.Namespace, patience: machine.Patience
) -> None:
    """Measure one round of one case, again if the machine was disturbed; keep the least disturbed."""
    why = _unable(case, arguments)
    if why:
        results.not_run[case] = why
        return
    if case in results.failed:
        return
    measured: list[dict[str, Any]] = []
    while not measured or (measured[-1]["others_busy"] > report.DISTURBED and len(measured) < ATTEMPTS and patience.left > 0):
        patience.wait()
        result = _run(case, round_, arguments)
        if isinstance(result, str):
            results.failed[case] = result
            print(f"{_name(case)} FAILED", flush=True)
            return
        measured.append(result)
    best = min(measured, key=lambda result: float(result["others_busy"]))
    results.rounds.setdefault(case, []).append({"round": round_, **best})
    share = f", coefficients {100 * best['share']:.1f} %" if "share" in best else ""
    for name, over in (("overhead", "the core by hand"), ("over_without_torch", "the same without torch")):
        share += f", {1e6 * best[name]:.0f} us over {over}" if name in best else ""
    share += f", the stock layer {best['ratio']:.3f} (+- {best['error']:.3f}) times that" if "ratio" in best else ""
    share += f" (an empty loop of torch's: {1e6 * best['empty']:.0f} us)" if "empty" in best else ""
    print(f"{_name(case)} round {round_ + 1}: {1e3 * best['seconds']:.3f} ms{share}", flush=True)


def _unable(case: Case, arguments: argparse.Namespace) -> str:
    """Why a case cannot be run here, if it cannot."""
    if case.rival == "fbgemm" and not arguments.fbgemm_python:
        return "no --fbgemm-python"
    if case.rival == "fbgemm" and not Path(arguments.fbgemm_python).exists():
        return "its environment is not there"
    if case.threads > (os.cpu_count() or 1):
        return f"it would need {case.threads} CPUs"
    available = machine.memory_available()
    need = bytes_needed(case)
    if available is not None and need > 0.9 * available:
        return f"it needs about {need / 2**30:.1f} GiB of memory; {0.9 * available / 2**30:.1f} GiB can be had"
    return ""


def _run(case: Case, round_: int, arguments: argparse.Namespace) -> dict[str, Any] | str:
    """What the rival's process printed, or the error it ended with."""
    python = arguments.fbgemm_python if case.rival == "fbgemm" else sys.executable
    environment = dict(os.environ)
    environment.pop("OPENBLAS_CORETYPE", None)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        environment[name] = str(case.threads)
    environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if case.task in ("overhead", "tables"):
        environment |= KEEP_MEMORY
    environment["KERAS_BACKEND"] = case.variant if "keras" in case.rival else ""
    request = json.dumps({"case": case.to_dict(), "round": round_, "seconds": arguments.seconds})
    command = [str(Path(python).absolute()), "-m", f"rivals.{MODULES[case.rival]}", request]
    try:
        ended = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"it took longer than {TIMEOUT:.0f} s"
    if ended.returncode < 0:
        return f"{KINDS[case.rival, case.variant].label} was killed by signal {-ended.returncode}"
    lines = ended.stdout.strip().splitlines()
    if ended.returncode or not lines:
        return ended.stderr.strip()[-4000:] or "it printed nothing"
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def _write(path: Path, results: report.Results, begun: str, arguments: argparse.Namespace) -> None:
    content = {
        "begun": begun,
        "arguments": {
            name: str(value) for name, value in vars(arguments).items() if name in ("full", "only", "rounds", "seconds")
        },
        "machine": machine.describe(),
        "targets": report.targets_to_dict(results),
        "results": results.to_dict(),
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
