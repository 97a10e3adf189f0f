"""The measurements as plain text: one table for each size, and what of the targets was reached."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from cases import KINDS, THREADS, Case
from targets import TARGETS

QUANTITY = {"coefficients": "share", "overhead": "overhead", "tables": "overhead", "beside": "ratio"}
"""What a task measures, if not "seconds"."""

DISTURBED = 0.25
"""CPUs kept busy by others while a round was timed, from which on it is measured again, or at least marked."""


@dataclass
class Results:
    """The rounds measured of each case, and why some could not be."""

    rounds: dict[Case, list[dict[str, Any]]] = field(default_factory=dict)
    not_run: dict[Case, str] = field(default_factory=dict)
    failed: dict[Case, str] = field(default_factory=dict)

    def seconds(self, case: Case) -> float | None:
        """The median of the rounds' medians: of the time, or of what else the task measures."""
        rounds = self.rounds.get(case)
        if not rounds:
            return None
        return median(r[QUANTITY.get(case.task, "seconds")] for r in rounds)

    def to_dict(self) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = [
            {"case": case.to_dict(), "label": case.label, "seconds": self.seconds(case), "rounds": rounds}
            for case, rounds in self.rounds.items()
        ]
        lines += [{"case": case.to_dict(), "label": case.label, "not_run": why} for case, why in self.not_run.items()]
        return lines + [{"case": case.to_dict(), "label": case.label, "failed": why} for case, why in self.failed.items()]

    @classmethod
    def from_dict(cls, lines: Iterable[dict[str, Any]]) -> Results:
        results = cls()
        for line in lines:
            case = Case(**line["case"])
            if "rounds" in line:
                results.rounds[case] = line["rounds"]
            elif "not_run" in line:
                results.not_run[case] = line["not_run"]
            else:
                results.failed[case] = line["failed"]
        return results


def disturbed(results: Results) -> tuple[int, int]:
    """The number of rounds in which other processes were busy, and of all rounds."""
    rounds = [r for rounds in results.rounds.values() for r in rounds]
    return sum(r["others_busy"] > DISTURBED for r in rounds), len(rounds)


def counterpart(case: Case) -> Case:
    """What of unhot a case is compared with: the same rule, in the same form."""
    if case.task in ("fit", "arrays"):
        return replace(case, rival="unhot_keras")
    if case.task == "loop":
        variant = "adam" if "adam" in case.variant else case.variant
        return replace(case, rival="unhot_torch", variant=variant, threads=THREADS)
    rule = KINDS[case.rival, case.variant].rule
    if case.task == "lookup":
        variant = "fresh" if case.variant == "fresh" else "out"
    elif case.rival == "floor":
        variant = case.variant
    elif rule.startswith("adam"):
        variant = "adam_torch" if case.rival == "torch" else "adam"
    else:
        variant = "sgd" if rule == "sgd" else "adagrad"
    return replace(case, rival="unhot", variant=variant, threads=THREADS)


def groups(results: Results) -> dict[Any, list[Case]]:
    """The cases by size; those of the same size are compared with each other."""
    cases: dict[Any, list[Case]] = {}
    for case in [*results.rounds, *results.not_run, *results.failed]:
        if case.task not in QUANTITY:
            cases.setdefault(case.workload, []).append(case)
    return cases


def heading(workload: Any) -> str:
    task, rows, dim, ids, distribution = workload
    what = {
        "lookup": "lookup of settled rows",
        "fit": "a step of Keras's fit",
        "arrays": "a step of Keras's fit of arrays",
        "loop": "a step of torch's training loop",
    }.get(task, "lookup + step")
    return f"{what}: {rows:,} rows, dim {dim}, {ids:,} {distribution} ids"


def tables(results: Results) -> str:
    """For each size: milliseconds, their spread, the ratio to unhot's time, and the peak memory."""
    columns = f"  {'':38} {'ms':>9} {'quartiles':>17} {'of the rounds':>17} {'x unhot':>8} {'peak MiB':>9}"
    return "\n\n".join(
        "\n".join([heading(workload), columns, *(_line(results, case) for case in cases)])
        for workload, cases in groups(results).items()
    )


def _line(results: Results, case: Case) -> str:
    if case in results.failed:
        return f"  {case.label:38} FAILED: {results.failed[case].splitlines()[-1]}"
    if case in results.not_run:
        return f"  {case.label:38} not run: {results.not_run[case]}"
    rounds, seconds = results.rounds[case], results.seconds(case)
    assert seconds is not None
    middles = [r["seconds"] for r in rounds]
    spread = f"{milliseconds(min(middles))}-{milliseconds(max(middles))}" if len(rounds) > 1 else ""
    mark = "  (disturbed)" if median(r["others_busy"] for r in rounds) > DISTURBED else ""
    if case.rival == "floor":
        quartiles, peak = "", f"  at random rows {milliseconds(median(r['seconds_random_rows'] for r in rounds))} ms"
    else:
        quartiles = "-".join(milliseconds(median(r["quartiles"][i] for r in rounds)) for i in (0, 1))
        peak = f"{max(r['peak_bytes'] for r in rounds) >> 20:>9,}"
    head = f"  {case.label:38} {milliseconds(seconds):>9} {quartiles:>17} {spread:>17}"
    return f"{head} {ratio(results, case):>8} {peak}{mark}"


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3f}" if seconds < 0.1 else f"{1e3 * seconds:,.0f}"


def ratio(results: Results, case: Case) -> str:
    """How many times the time of unhot's counterpart this is, where that was measured."""
    seconds, ours = results.seconds(case), results.seconds(counterpart(case))
    if not seconds or not ours:
        return ""
    value = seconds / ours
    return f"{value:.0f}" if value >= 20 else f"{value:.2f}"


def targets(results: Results) -> str:
    """Each target, its bound and what was measured."""
    lines = [f"{'target':72} {'goal':>10} {'measured':>10}"]
    for target in TARGETS:
        value = target.measured(results.seconds)
        if value is None:
            lines.append(f"{target.text:72} {target.goal:>10} {'-':>10}  not measured")
        else:
            reached = "reached" if target.reached(value) else "NOT REACHED"
            lines.append(f"{target.text:72} {target.goal:>10} {target.written(value):>10}  {reached}")
    return "\n".join(lines)


def targets_to_dict(results: Results) -> list[dict[str, Any]]:
    lines = []
    for target in TARGETS:
        value = target.measured(results.seconds)
        reached = None if value is None else target.reached(value)
        written = "" if value is None else target.written(value)
        lines.append({"target": target.text, "goal": target.goal, "measured": value, "written": written, "reached": reached})
    return lines
