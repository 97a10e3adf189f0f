"""A training step of a sharded table at 2 to 1,024 ranks, simulated from what one machine measures.

python benchmarks/scale.py measure      # a few minutes: what this machine can measure, to benchmarks/results/scale.json
python benchmarks/scale.py simulate     # a table, for any network: see --help
python benchmarks/scale.py all          # minutes: the simulations that docs/scale.md shows, to the same file
python benchmarks/scale.py page         # writes the tables of docs/scale.md, and docs/scale.svg
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from at_scale import tables
from at_scale.model import FAST, ORDERS, Network, Work, load

from unhot.layouts import LAYOUTS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "scale.json"
PAGE, PICTURE = ROOT / "docs" / "scale.md", ROOT / "docs" / "scale.svg"

RANKS = [2**k for k in range(1, 11)]
MODES = [(layout, dedup) for layout in LAYOUTS for dedup in (False, True)]


def standard() -> list[tuple[Work, int]]:
    """What docs/scale.md shows, in every layout and mode."""
    found = [(Work(), ranks) for ranks in RANKS]
    found += [(Work(order=order), 64) for order in ORDERS if order != "frequency"]
    found += [(Work(exponent=exponent), 256) for exponent in (0.0, 1.2, 1.5)]
    return found + [(Work(rows=rows), 256) for rows in (10**8, 10**10)]


def simulated(work: Work, ranks: int) -> list[dict[str, Any]]:
    """The loads of a step, in every layout and mode."""
    modes = [(layout, dedup, load(work, layout, ranks, dedup)) for layout, dedup in MODES]
    return [{"work": asdict(work), "layout": layout, "dedup": dedup, "load": asdict(found)} for layout, dedup, found in modes]


def measure(given: argparse.Namespace) -> None:
    """Measure, and write it down beside what has been simulated."""
    from at_scale.measure import PARTS
    from at_scale.measure import measure as measured
    from machine import describe

    begun = time.strftime("%Y-%m-%d")
    run = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found = measured(given.dim, given.only or PARTS, run.get("measured"))
    write({**run, "measured": {**found, "begun": begun, "machine": describe()}})


def simulate_all(given: argparse.Namespace) -> None:
    """Simulate what the page shows, and write it down beside what has been measured."""
    run = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found: list[dict[str, Any]] = []
    for work, ranks in standard():
        found += simulated(work, ranks)
        print(f"{ranks} ranks: {work}", flush=True)
    write({**run, "simulated": found})


def write(run: dict[str, Any]) -> None:
    """Write what was found."""
    RESULTS.write_text(as_lines(run) + "\n")


def as_lines(value: Any, depth: int = 0) -> str:
    """JSON with a case in a line."""
    if isinstance(value, list):
        return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
    if isinstance(value, dict) and depth < 2:
        return "{\n" + ",\n".join(f"{json.dumps(name)}: {as_lines(each, depth + 1)}" for name, each in value.items()) + "\n}"
    return json.dumps(value)


def simulate(given: argparse.Namespace) -> None:
    """Print a table for one network."""
    measured = json.loads(RESULTS.read_text())["measured"]
    network = Network("given", given.latency_us, given.bandwidth_gbs, given.latency)
    work = Work(given.rows, given.ids, given.exponent, given.order, given.seed)
    cases = [case for ranks in given.ranks for case in simulated(replace(work), ranks) if case["layout"] in given.layout]
    print(tables.phases(measured, cases, network))


def page(given: argparse.Namespace) -> None:
    """Write what is generated of the page, and the picture."""
    run = json.loads(RESULTS.read_text())
    PAGE.write_text(tables.filled(PAGE.read_text(), run))
    tables.picture(run, PICTURE)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(required=True)
    made = {run: modes.add_parser(name) for name, run in (("measure", measure), ("all", simulate_all), ("page", page))}
    made[measure].add_argument("--dim", type=int, default=64)
    made[measure].add_argument("--only", choices=("route", "own", "together"), nargs="+", help="measure this part again")
    made[simulate] = one = modes.add_parser("simulate", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    one.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    one.add_argument("--rows", type=int, default=10**9)
    one.add_argument("--ids", type=int, default=4096, help="of each rank")
    one.add_argument("--exponent", type=float, default=1.05, help="of the Zipf law; 0 for uniform ids; else above 1")
    one.add_argument("--order", choices=ORDERS, default="frequency")
    one.add_argument("--layout", choices=LAYOUTS, nargs="+", default=list(LAYOUTS))
    one.add_argument("--latency-us", type=float, default=FAST.latency_us, help="of a message (an assumption)")
    one.add_argument("--bandwidth-gbs", type=float, default=FAST.bandwidth_gbs, help="gigabits per second (an assumption)")
    one.add_argument("--latency", choices=("pairwise", "log2"), default="pairwise", help="see docs/scale.md")
    one.add_argument("--seed", type=int, default=0)
    for run, made_parser in made.items():
        made_parser.set_defaults(run=run)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    given = parsed()
    given.run(given)
