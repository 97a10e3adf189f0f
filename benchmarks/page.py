"""Prints a run of `make bench` as Markdown: the tables of docs/performance.md, then all that was measured.

python benchmarks/page.py benchmarks/results/bench.json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import report
from cases import CHART, FRONT_ENDS, ROWS, Case


def times(run: dict[str, Any]) -> str:
    """Each front end and what it replaces, by rows: milliseconds of a step."""
    found = report.Results.from_dict(run["results"])
    head = "| | | " + " | ".join(f"{rows:,} rows" for rows in ROWS) + " |\n| --- | --- |" + " ---: |" * len(ROWS)
    lines = []
    for name, (stock, ours) in FRONT_ENDS.items():
        for label, case in (("stock", stock), ("unhot", ours)):
            cells = [_time(found, replace(case, rows=rows)) for rows in ROWS]
            lines.append(f"| {name if case is stock else ''} | {label} | {' | '.join(cells)} |")
    return "\n".join([head, *lines])


def pays(run: dict[str, Any]) -> str:
    """Each front end by rows: how many times as long a step takes with what it replaces."""
    found = report.Results.from_dict(run["results"])
    head = "| | " + " | ".join(f"{rows:,} rows" for rows in ROWS) + " |\n| --- |" + " ---: |" * len(ROWS)
    lines = []
    for name, pair in FRONT_ENDS.items():
        cells = []
        for rows in ROWS:
            stock, ours = (found.seconds(replace(case, rows=rows)) for case in pair)
            cells.append(_times_as_long(stock / ours) if stock and ours else "-")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([head, *lines])


def headline(run: dict[str, Any]) -> list[str]:
    """Milliseconds at the main size of each line of the chart, as the README says them."""
    found = report.Results.from_dict(run["results"])
    return [_time(found, case) for case in CHART]


def results(run: dict[str, Any]) -> str:
    """How the run was made, the targets, then one table for each size."""
    found = report.Results.from_dict(run["results"])
    machine = run["machine"]
    disturbed, rounds = report.disturbed(found)
    parts = [
        "# Results",
        f"From a run of `benchmarks/bench.py` that began on {run['begun'][:10]}, written by `python benchmarks/page.py results"
        " benchmarks/results/bench.json`. [earlier.md](earlier.md) has older figures; [../README.md](../README.md) says how"
        " it is measured.",
        f"{machine.get('processor') or machine['architecture']}, {machine['cpus']} CPUs, float32. Times are medians of the"
        " rounds' medians; *x unhot* is this time over unhot's for the same rule. Each round is a new process, and the rivals"
        f" take turns. Other processes kept more than a quarter of a CPU busy in {disturbed} of {rounds} rounds.",
        "## Targets",
        "| target | goal | measured | |\n| --- | --- | --- | --- |\n" + "\n".join(map(_target, run["targets"])),
        "## Times",
    ]
    for workload, cases in report.groups(found).items():
        head = "| | ms | rounds | x unhot | peak MiB |\n| --- | --- | --- | --- | --- |\n"
        parts += [f"### {report.heading(workload)}", head + "\n".join(_row(found, case) for case in cases)]
    return "\n\n".join(parts)


def _time(found: report.Results, case: Case) -> str:
    seconds = found.seconds(case)
    if seconds is None:
        return "-"
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.02 else f"{1e3 * seconds:.1f}"


def _times_as_long(ratio: float) -> str:
    return f"{ratio:,.0f} x" if ratio >= 10 else f"{ratio:.1f} x"


def _target(line: dict[str, Any]) -> str:
    state = {True: "reached", False: "missed", None: "not measured"}[line["reached"]]
    return f"| {line['target']} | {line['goal']} | {line['written']} | {state} |"


def _row(found: report.Results, case: Case) -> str:
    if case not in found.rounds:
        return f"| {case.label} | {'failed' if case in found.failed else 'not run: ' + found.not_run[case]} | | | |"
    rounds, seconds = found.rounds[case], found.seconds(case)
    assert seconds is not None
    time, peak = report.milliseconds(seconds), ""
    if case.rival == "floor":
        time += f" ({report.milliseconds(median(r['seconds_random_rows'] for r in rounds))} at random rows)"
    else:
        peak = f"{max(r['peak_bytes'] for r in rounds) >> 20:,}"
    return f"| {case.label} | {time} | {len(rounds)} | {report.ratio(found, case)} | {peak} |"


PARTS = {"times": times, "pays": pays, "results": results}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("run", type=Path)
    given = parser.parse_args()
    print(PARTS[given.part](json.loads(given.run.read_text())))
