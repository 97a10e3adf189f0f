"""The chart, time of a step against rows, and how far each target was reached.

python benchmarks/plots.py benchmarks/results/bench.json docs/time-per-step.svg
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from textwrap import fill
from typing import Any

from cases import CHART, MAIN_DIM, MAIN_IDS, ROWS
from report import Results
from targets import TARGETS

LINES = (
    ("torch.optim.Adam (dense)", "#c0392b", "o"),
    ("torch.optim.SparseAdam (different weights)", "#2471a3", "s"),
    ("unhot.torch.Adam (same weights as dense Adam)", "#1a1a1a", "D"),
)
"""How the lines of CHART are named and drawn."""

SETTINGS = {"svg.hashsalt": "unhot", "font.size": 11, "axes.spines.top": False, "axes.spines.right": False}


def chart(results: Results, path: Path) -> Path | None:
    """Write the chart, on a white ground, so that it can be read on light and dark pages; None without matplotlib."""
    plt = _pyplot()
    if plt is None:
        return None
    with plt.rc_context(SETTINGS):
        figure, axes = plt.subplots(figsize=(8.2, 4.4), layout="constrained")
        for case, (label, colour, marker) in zip(CHART, LINES, strict=True):
            sizes = [replace(case, rows=rows) for rows in ROWS]
            points = [(each.rows, 1e3 * seconds) for each in sizes if (seconds := results.seconds(each)) is not None]
            if not points:
                continue
            width = 2.6 if case.rival == "unhot_torch" else 1.8
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=5, linewidth=width, label=label)
            axes.annotate(
                _milliseconds(points[-1][1]), points[-1], (8, 0), textcoords="offset points", va="center", color=colour
            )
        axes.set(xscale="log", yscale="log", xlabel="rows of the table", ylabel="milliseconds per training step")
        axes.set_xlim(ROWS[0] / 1.4, ROWS[-1] * 4)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(f"nn.Embedding of dim {MAIN_DIM}, {MAIN_IDS:,} ids per step, 2 CPU threads", fontsize=12, loc="left")
        axes.grid(alpha=0.25)
        if axes.has_data():
            axes.legend(frameon=False, loc="upper left")
        figure.savefig(path, dpi=130, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)
    return path


def targets(results: Results, path: Path) -> Path | None:
    """Write a picture of the targets; None without matplotlib."""
    plt = _pyplot()
    if plt is None:
        return None
    figure, axes = plt.subplots(figsize=(9, 8), layout="constrained")
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
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _milliseconds(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 20 else f"{value:.1f} ms"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the JSON of a run")
    parser.add_argument("picture", type=Path, help=".svg or .png")
    given = parser.parse_args()
    chart(Results.from_dict(json.loads(given.run.read_text())["results"]), given.picture)
