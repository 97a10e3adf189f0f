"""The costs of both routes, on the column and over vocabularies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from unhot.comparison.cost import Job, measure_cost, too_large
from unhot.comparison.results import Cost, Costs, Growth


def measure_costs(job: Job, slow_at: int | None = None) -> Costs:
    """The costs of both routes for one vocabulary.

    Args:
        job: what to measure; both routes, whichever it names.
        slow_at: a smaller vocabulary at which the dense route was too slow; it is then not tried.

    Errors: those of `measure_cost`.
    """
    table, dense = replace(job, route="table"), replace(job, route="dense")
    if slow_at is not None and not too_large(dense):
        return Costs(job.rows, measure_cost(table), Cost(not_run=f"too slow already at {slow_at:,}"))
    return Costs(job.rows, measure_cost(table), measure_cost(dense))


def measure_growth(job: Job, vocabularies: Sequence[int], done: Callable[[int], None] = lambda rows: None) -> Growth:
    """The costs of both routes for every vocabulary, with ids drawn uniformly, which touch the most rows.

    Args:
        job: the rest of what to measure.
        vocabularies: the numbers of rows.
        done: told each vocabulary that was measured.

    Errors: those of `measure_cost`.
    """
    points: list[Costs] = []
    for rows in sorted(vocabularies):
        slow_at = next((point.vocabulary for point in points if point.dense.not_run), None)
        points.append(measure_costs(replace(job, rows=rows, ids=None), slow_at))
        done(rows)
    return Growth(tuple(points))
