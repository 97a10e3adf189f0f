"""The comparison as a picture: time and memory against the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from unhot.comparison import Comparison, Cost, Costs
from unhot.comparison.results import in_bytes, in_seconds

TABLE, DENSE = "#0072B2", "#D55E00"
"""Blue and vermilion of Okabe and Ito's palette, which colour-blind readers tell apart."""

Figures = Callable[[Cost], float | None]
Place = tuple[int, float]


def draw(found: Comparison, path: Path) -> None:
    """Write the picture; the format is by the path's ending.

    Args:
        found: what `unhot.compare` gave.
        path: .png, .svg or .pdf.

    Errors: OSError if it cannot be written.
    """
    figure = Figure(figsize=(12, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    panel(left, found, lambda cost: cost.seconds and 1e3 * cost.seconds, lambda ms: in_seconds(ms / 1e3))
    left.set_title("Time of a training step", fontweight="bold")
    left.set_ylabel("milliseconds (median)")
    panel(right, found, lambda cost: cost.peak_bytes and cost.peak_bytes / 2**20, lambda mib: in_bytes(int(mib * 2**20)))
    right.set_title("Peak memory", fontweight="bold")
    right.set_ylabel("MiB above Python with NumPy and unhot")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    s, m = found.settings, found.machine
    ids = f"{s.batch:,} uniform ids in a step" if found.growth.points else f"{s.batch:,} ids of {found.column.name} in a step"
    setting = f"{s.optimizer.partition('(')[0]}, float32, {ids}, dim {s.dim}"
    where = f"{m.processor}, {m.cores} cores, kernels: {m.kernels}"
    figure.suptitle(f"One-hot x Dense against the table, as the vocabulary grows\n{setting}; {where}", fontsize="medium")
    figure.savefig(path, dpi=130)


def panel(axes: Axes, found: Comparison, value: Figures, show: Callable[[float], str]) -> None:
    """Both routes against the vocabulary, both axes logarithmic; `show` writes the figure beside the last points."""
    points = found.growth.points or (found.costs,)
    dense = curve(axes, points, lambda point: value(point.dense), label="one-hot x Dense", color=DENSE, marker="s")
    table = curve(axes, points, lambda point: value(point.table), label="table (unhot)", color=TABLE, marker="o")
    missing = [point.vocabulary for point in points if point.dense.not_run]
    if missing:
        style: dict[str, Any] = {"marker": "x", "markersize": 8, "linestyle": "", "color": DENSE}
        top = axes.get_xaxis_transform()
        axes.plot(missing, [0.95] * len(missing), transform=top, label="one-hot x Dense not run", **style)
    for x, y in (*dense[-1:], *table[-1:]):
        axes.annotate(show(y), (x, y), xytext=(9, 0), textcoords="offset points", va="center", fontsize="small")
    axes.set(xscale="log", yscale="log", xlabel="vocabulary (number of different ids)")
    values = [y for _, y in (*dense, *table)] or [1.0]
    axes.set_ylim(10 ** floor(log10(min(values) / 2)), 10 ** ceil(log10(max(values) * 3)))
    axes.margins(x=0.2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda number, place: f"{number:,.0f}" if number >= 1 else f"{number:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)


def curve(axes: Axes, points: tuple[Costs, ...], value: Callable[[Costs], float | None], **style: Any) -> list[Place]:
    """Draw one route where it ran; the points drawn."""
    ran = [(point.vocabulary, y) for point in points if (y := value(point)) is not None]
    axes.plot([x for x, _ in ran], [y for _, y in ran], linewidth=2, **style)
    return ran
