"""Prints a run of `make bench` as Markdown, for docs/performance.md: python benchmarks/page.py bench-results/bench-....json"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import report


def page(run: dict[str, Any]) -> str:
    """The targets, then one table for each size."""
    results = report.Results.from_dict(run["results"])
    machine = run["machine"]
    parts = [
        f"{machine.get('processor') or machine['architecture']}, {machine['cpus']} CPUs, float32. Medians of the rounds'"
        " medians; *x unhot*: this time over unhot's for the same rule.",
        "| target | goal | measured | |\n| --- | --- | --- | --- |\n" + "\n".join(map(_target, run["targets"])),
    ]
    for workload, cases in report.groups(results).items():
        head = "| | ms | x unhot | peak MiB |\n| --- | --- | --- | --- |\n"
        parts += [f"### {report.heading(workload)}", head + "\n".join(_row(results, case) for case in cases)]
    return "\n\n".join(parts)


def _target(line: dict[str, Any]) -> str:
    state = {True: "reached", False: "missed", None: "not measured"}[line["reached"]]
    return f"| {line['target']} | {line['goal']} | {line['written']} | {state} |"


def _row(results: report.Results, case: Any) -> str:
    if case not in results.rounds:
        return f"| {case.label} | {'failed' if case in results.failed else 'not run: ' + results.not_run[case]} | | |"
    rounds, seconds = results.rounds[case], results.seconds(case)
    assert seconds is not None
    time, peak = report.milliseconds(seconds), ""
    if case.rival == "floor":
        time += f" ({report.milliseconds(median(r['seconds_random_rows'] for r in rounds))} at random rows)"
    else:
        peak = f"{max(r['peak_bytes'] for r in rounds) >> 20:,}"
    return f"| {case.label} | {time} | {report.ratio(results, case)} | {peak} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    print(page(json.loads(parser.parse_args().run.read_text())))
