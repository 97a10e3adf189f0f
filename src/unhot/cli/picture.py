"""The comparison as a picture: time and memory against the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from unhot.comparison import Comparison, Cost
from unhot.comparison.results import in_bytes, in_seconds

ROUTES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("dense", "one-hot x Dense", {"color": "#D55E00", "marker": "s"}),
    ("gather", "gather, dense optimizer", {"color": "#009E73", "marker": "^"}),
    ("table", "table (unhot)", {"color": "#0072B2", "marker": "o"}),
)
"""Their names in `Costs` and for readers; vermilion, green and blue of Okabe and Ito's palette, which colour-blind readers tell
apart."""

DOUBTFUL = "?: other processes kept CPUs busy meanwhile; the time is not to be trusted"

Figures = Callable[[Cost], float | None]
Place = tuple[int, float]


def draw(found: Comparison, path: Path) -> None:
    """Write the picture; the format is by the path's ending.

    Args:
        found: what `unhot.compare` gave.
        path: .png, .svg or .pdf.

    Raises: OSError if it cannot be written.
    """
    figure(found).savefig(path, dpi=130)


def figure(found: Comparison) -> Figure:
    """The picture, before it is written."""
    picture = Figure(figsize=(12, 5.4), layout="constrained")
    left, right = picture.subplots(1, 2)
    panel(left, found, lambda cost: cost.seconds and 1e3 * cost.seconds, lambda ms: in_seconds(ms / 1e3), timed=True)
    if any(getattr(point, route).doubtful for point in found.growth.points or (found.costs,) for route, _, _ in ROUTES):
        left.text(0.02, 0.02, DOUBTFUL, transform=left.transAxes, fontsize="small")
    left.set_title("Time of a training step", fontweight="bold")
    left.set_ylabel("milliseconds (median)")
    panel(right, found, mebibytes, lambda mib: in_bytes(int(mib * 2**20)), timed=False)
    right.set_title("Peak memory", fontweight="bold")
    right.set_ylabel("MiB above Python with NumPy and unhot")
    picture.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    s, m = found.settings, found.machine
    ids = f"{s.batch:,} uniform ids in a step" if found.growth.points else f"{s.batch:,} ids of {found.column.name} in a step"
    setting = f"{s.optimizer.partition('(')[0]}, float32, {ids}, dim {s.dim}"
    where = f"{m.processor}, {m.cores} cores, kernels: {m.kernels}"
    picture.suptitle(
        f"One-hot x Dense, gather with a dense optimizer, and the table, as the vocabulary grows\n{setting}; {where}",
        fontsize="medium",
    )
    return picture


def mebibytes(cost: Cost) -> float | None:
    """The peak of memory, if it is known."""
    return None if cost.peak_bytes is None else cost.peak_bytes / 2**20


def panel(axes: Axes, found: Comparison, value: Figures, show: Callable[[float], str], *, timed: bool) -> None:
    """Each route against the vocabulary, both axes logarithmic; `show` writes the figure beside the last points.

    A figure that is `timed` has a ? where it is not to be trusted.
    """
    points = found.growth.points or (found.costs,)
    drawn: list[Place] = []
    for number, (route, name, style) in enumerate(ROUTES):
        costs = [(point.vocabulary, getattr(point, route)) for point in points]
        ran = [(x, y) for x, cost in costs if (y := value(cost)) is not None]
        axes.plot([x for x, _ in ran], [y for _, y in ran], linewidth=2, label=name, **style)
        missing = [x for x, cost in costs if cost.not_run]
        if missing:
            height = [0.95 - 0.05 * number] * len(missing)
            cross: dict[str, Any] = {"marker": "x", "markersize": 8, "linestyle": "", "color": style["color"]}
            axes.plot(missing, height, transform=axes.get_xaxis_transform(), label=f"{name} not run", **cross)
        for x, y in ran[-1:]:
            axes.annotate(
                show(y), (x, y), xytext=(9, 5 * (1 - number)), textcoords="offset points", va="center", fontsize="small"
            )
        for x, y in [(x, value(cost)) for x, cost in costs if timed and cost.doubtful]:
            if y is not None:
                axes.annotate("?", (x, y), xytext=(0, 6), textcoords="offset points", ha="center", color=style["color"])
        drawn += ran
    axes.set(xscale="log", yscale="log", xlabel="vocabulary (number of different ids)")
    values = [y for _, y in drawn] or [1.0]
    axes.set_ylim(10 ** floor(log10(min(values) / 2)), 10 ** ceil(log10(max(values) * 3)))
    axes.margins(x=0.2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda number, place: f"{number:,.0f}" if number >= 1 else f"{number:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
