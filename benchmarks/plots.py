"""The picture: time against rows, and how far each target was reached."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

from cases import ROWS, Case
from report import Results
from targets import TARGETS

CURVES = (
    ("keras", "torch", "tab:red"),
    ("torch", "adam", "tab:orange"),
    ("keras", "tensorflow", "tab:pink"),
    ("keras", "jax", "tab:purple"),
    ("torch", "sparse_adam", "tab:blue"),
    ("unhot", "adam", "black"),
    ("floor", "adam", "tab:gray"),
)


def draw(results: Results, path: Path) -> Path | None:
    """Write the picture; None where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(15, 6), layout="constrained", width_ratios=(1.1, 1))
    _curves(left, results)
    _bars(right, results)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _curves(axes: Any, results: Results) -> None:
    for rival, variant, colour in CURVES:
        cases = [Case(rival, variant, rows=rows, distribution="uniform") for rows in ROWS]
        points = [(case.rows, 1e3 * seconds) for case in cases if (seconds := results.seconds(case)) is not None]
        if points:
            style: dict[str, Any] = {"linestyle": ":"} if rival == "floor" else {"marker": "o", "markersize": 4}
            width = 2.5 if rival == "unhot" else 1.5
            label = cases[0].label + (" (another algorithm)" if variant == "sparse_adam" else "")
            axes.plot(*zip(*points, strict=True), color=colour, label=label, linewidth=width, **style)
    axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="milliseconds for lookup and step")
    axes.set_title("Adam: 4,096 uniform ids, dim 64, float32, 2 threads")
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend(fontsize=8)


def _bars(axes: Any, results: Results) -> None:
    measured = [(target, target.measured(results.seconds)) for target in TARGETS]
    shown = [(target, value) for target, value in measured if value is not None][::-1]
    for place, (target, value) in enumerate(shown):
        margin = target.margin(value)
        axes.barh(place, margin - 1, left=1, color="tab:green" if target.reached(value) else "tab:red", alpha=0.75)
        text = f" {target.written(value)} (goal {target.goal}) "
        axes.text(margin, place, text, va="center", ha="left" if margin >= 1 else "right", fontsize=8)
    axes.set_yticks(range(len(shown)), [fill(target.text, 40) for target, _ in shown], fontsize=8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    margins = [target.margin(value) for target, value in shown] or [1.0]
    axes.set_xlim(min(0.25, min(margins) / 3), max(4.0, max(margins) * 3))
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("measured against the goal (right of 1: reached)")
    axes.set_title("Targets (10^6 rows, dim 64, 4,096 Zipf ids if not said otherwise)", fontsize=11)
