"""The tables of a run of gpu.py, as Markdown."""

from __future__ import annotations

from typing import Any

from on_gpu.names import KINDS, PARTS, RIVALS


def conformance(result: dict[str, Any]) -> str:
    """The outcome by optimizer, and whatever did not agree."""
    lines = [
        "## Against dense training",
        "",
        "| optimizer | cases that agree | float32: largest part of the bound | float64: largest relative distance |",
        "| --- | ---: | ---: | ---: |",
    ]
    for optimizer in dict.fromkeys(case["optimizer"] for case in result["cases"]):
        found = [case for case in result["cases"] if case["optimizer"] == optimizer]
        parts = [case["float32"]["distance"] / case["float32"]["allowed"] for case in found if "float32" in case]
        distances = [case["float64"]["distance"] for case in found if "float64" in case]
        agree = sum(case["agrees"] for case in found)
        cells = [f"{max(parts):.2f}" if parts else "-", f"{max(distances):.1e}" if distances else "-"]
        lines.append(f"| {optimizer} | {agree} of {len(found)} | {' | '.join(cells)} |")
    more = [f"- {case['case']}: {case.get('error', '')}" for case in result["cases"] if not case["agrees"]]
    if result["not_run"]:
        more.append(f"- {len(result['not_run'])} cases were not run.")
    return "\n".join(lines + [""] * bool(more) + more)


def waits(result: dict[str, Any]) -> str:
    """Waits, launches and operators of a step; then what a GPU did meanwhile, and the lines at which the host waits for it."""
    lines = [
        f"## What a step of {result['ids']:,} ids does, with {result['rows']:,} rows",
        "",
        f"| | {' | '.join(KINDS.values())} |",
        "| --- |" + " ---: |" * len(KINDS),
    ]
    more = []
    for name, found in result["rivals"].items():
        label = RIVALS[name].label
        if "error" in found:
            more.append(f"- {label} failed: {found['error']}")
            continue
        lines.append(f"| {label} | {_counts(found)} |")
        if name == "unhot":
            lines += [f"| - {part} | {_counts(found['parts'][part])} |" for part in PARTS]
        if found["on_device"]:
            done = ", ".join(f"{kind} {count:g}" for kind, count in found["on_device"].items())
            more.append(f"- {label}, on the GPU: {done}; busy for {found['device_busy_milliseconds']:.3g} ms")
    for part, of_part in result["rivals"].get("unhot", {}).get("lines", {}).items():
        more += [f"- unhot waits in the {part}, {line}: {count:g}" for line, count in of_part.items()]
    return "\n".join(lines + [""] * bool(more) + more)


def _counts(found: dict[str, Any]) -> str:
    return " | ".join(f"{found[kind]:.3g}" if kind in found else "-" for kind in KINDS)


def times(result: dict[str, Any]) -> str:
    """The table of docs/performance.md under a heading; then what was not measured, and why."""
    more = []
    for told in result["sizes"]:
        for name, found in [("", told), *told["rivals"].items()]:
            what = f"- {told['rows']:,} rows{', ' + RIVALS[name].label if name else ''}"
            why = found.get("error") or found.get("not_run")
            if why:
                more.append(f"{what}: {why}")
            elif name and len(found["medians"]) < result["rounds"]:
                more.append(f"{what}: only {len(found['medians'])} of {result['rounds']} rounds")
        whole = told["rivals"].get("unhot", {}).get("settle_all_milliseconds")
        if whole is not None:
            more.append(f"- {told['rows']:,} rows: unhot brings all rows up to date in {whole:.3g} ms, as for saving them")
    return "\n".join([f"## Milliseconds per step of {result['ids']:,} ids", "", milliseconds(result), "", *more])


def milliseconds(result: dict[str, Any]) -> str:
    """The table of docs/performance.md."""
    sizes = result["sizes"]
    head = "| | " + " | ".join(f"{told['rows']:,} rows" for told in sizes) + " |\n| --- |" + " ---: |" * len(sizes)
    lines = [f"| {rival.label} | {' | '.join(_cell(told, name) for told in sizes)} |" for name, rival in RIVALS.items()]
    return "\n".join([head, *lines])


def _cell(told: dict[str, Any], name: str) -> str:
    found = told["rivals"].get(name, {})
    if "error" in found:
        return "failed"
    return f"{found['milliseconds']:.2f}" if "milliseconds" in found else "-"
