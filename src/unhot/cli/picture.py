"""The comparison as a picture: time and memory against the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from unhot.comparison import Comparison, Cost, Costs
from unhot.comparison.results import in_bytes, in_seconds

TABLE, DENSE = "#0072B2", "#D55E00"
"""Blue and vermilion of Okabe and Ito's palette, which colour-blind readers tell apart."""

Figures = Callable[[Cost], float | None]


def draw(found: Comparison, path: Path) -> None:
    """Write the picture; the format is by the path's ending.

    Args:
        found: what `unhot.compare` gave.
        path: .png, .svg or .pdf.

    Errors: OSError if it cannot be written.
    """
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    panel(left, found, lambda cost: cost.seconds and 1e3 * cost.seconds, lambda ms: in_seconds(ms / 1e3))
    left.set(title="Time of a training step", ylabel="milliseconds (median)")
    panel(right, found, lambda cost: cost.peak_bytes and cost.peak_bytes / 2**20, lambda mib: in_bytes(int(mib * 2**20)))
    right.set(title="Peak memory", ylabel="MiB above Python with NumPy")
    s, m = found.settings, found.machine
    figure.suptitle("One-hot x Dense against the table, as the vocabulary grows", fontweight="bold")
    rule = s.optimizer.partition("(")[0]
    setting = f"{rule}, float32, {s.batch:,} uniform ids in a step, dim {s.dim}"
    figure.supxlabel(f"{setting}; {m.processor}, {m.cores} cores, kernels: {m.kernels}", fontsize="small")
    figure.savefig(path, dpi=130)


def panel(axes: Axes, found: Comparison, value: Figures, show: Callable[[float], str]) -> None:
    """Both routes against the vocabulary, both axes logarithmic, with the figures of the first and the last point."""
    points = found.growth.points or (found.costs,)
    dense = curve(axes, points, lambda p: value(p.dense), label="one-hot x Dense", color=DENSE, marker="s")
    table = curve(axes, points, lambda p: value(p.table), label="table (unhot)", color=TABLE, marker="o")
    for (x, y), below in zip((*dense[-1:], *table[-1:]), (False, True), strict=False):
        place: dict[str, Any] = {"xytext": (0, -9 if below else 7), "va": "top" if below else "bottom"}
        axes.annotate(show(y), (x, y), textcoords="offset points", ha="center", fontsize="small", **place)
    for point in points:
        if point.dense.not_run:
            where = {"transform": axes.get_xaxis_transform(), "rotation": 90, "ha": "right", "va": "top", "fontsize": "small"}
            axes.axvline(point.vocabulary, color=DENSE, linestyle=":")
            axes.text(point.vocabulary, 0.97, "one-hot x Dense not run", color=DENSE, **where)
    axes.set(xscale="log", yscale="log", xlabel="vocabulary (number of different ids)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.grid(alpha=0.3)
    axes.margins(0.1, 0.15)
    axes.legend(loc="upper left")


def curve(
    axes: Axes, points: tuple[Costs, ...], value: Callable[[Costs], float | None], **style: Any
) -> list[tuple[int, float]]:
    """Draw one route where it ran; the points drawn."""
    ran = [(point.vocabulary, y) for point in points if (y := value(point)) is not None]
    axes.plot([x for x, _ in ran], [y for _, y in ran], linewidth=2, **style)
    return ran
