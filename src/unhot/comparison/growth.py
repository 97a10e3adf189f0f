"""Measures the costs of all routes, for one vocabulary and for a range of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from unhot.comparison.cost import Job, Route, measure_cost, too_large
from unhot.comparison.results import Cost, Costs, Growth

ROUTES: tuple[Route, ...] = ("table", "gather", "dense")


def measure_costs(job: Job, slow_at: Mapping[Route, int] | None = None) -> Costs:
    """The costs of each route for one vocabulary.

    Args:
        job: what to measure. All routes are measured, whichever it names.
        slow_at: for each route, a smaller vocabulary at which it was too slow. Such a route is not tried.

    Raises: what `measure_cost` raises.
    """
    found: dict[Route, Cost] = {}
    for route in ROUTES:
        this, slow = replace(job, route=route), (slow_at or {}).get(route)
        too_slow = slow is not None and not too_large(this)
        found[route] = Cost(not_run=f"too slow already at {slow:,}") if too_slow else measure_cost(this)
    return Costs(job.rows, found["table"], found["gather"], found["dense"])


def measure_growth(job: Job, vocabularies: Sequence[int], done: Callable[[int], None] = lambda rows: None) -> Growth:
    """The costs of each route for every vocabulary, with uniform ids, which touch the most rows.

    Args:
        job: everything else about what to measure.
        vocabularies: the numbers of rows.
        done: called with each vocabulary that has been measured.

    Raises: what `measure_cost` raises.
    """
    points: list[Costs] = []
    slow_at: dict[Route, int] = {}
    for rows in sorted(vocabularies):
        point = measure_costs(replace(job, rows=rows, ids=None), slow_at)
        points.append(point)
        if point.gather.not_run:
            slow_at.setdefault("gather", rows)
        if point.dense.not_run:
            slow_at.setdefault("dense", rows)
        done(rows)
    return Growth(tuple(points))
