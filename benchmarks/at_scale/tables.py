"""The tables of docs/scale.md, from benchmarks/results/scale.json, and its picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from plots import SETTINGS, _pyplot

from at_scale.model import FAST, ORDERS, SLOW, Load, Network, Work, load, memory, times

PHASES = ("route", "ids", "vectors", "gradients", "rows")


def table(head: Sequence[str], lines: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table in Markdown; the first columns hold words, the others numbers."""
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def number(value: float) -> str:
    """Two figures, or all of a large number."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def size(count: float) -> str:
    """Bytes in a unit that suits them."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{number(count / factor)} {unit}"
    return f"{count:.0f} B"


def mode(layout: str, dedup: bool) -> str:
    """A layout, and whether ids are sent once."""
    return f"{layout}, dedup" if dedup else layout


def loads(run: dict[str, Any], **wanted: Any) -> dict[tuple[str, bool, int], Load]:
    """What was simulated of a workload, by layout, mode and number of ranks."""
    of = {**Work(**wanted).__dict__}
    cases = [case for case in run["simulated"] if case["work"] == of]
    return {(case["layout"], case["dedup"], case["load"]["ranks"]): Load(**case["load"]) for case in cases}


def step(run: dict[str, Any], found: Load, dedup: bool, network: Network) -> float:
    """Simulated milliseconds of a step."""
    measured = run["measured"]
    return sum(times(found, measured["dim"], dedup, measured["costs"], network).values())


def phases(measured: dict[str, Any], cases: Sequence[dict[str, Any]], network: Network) -> str:
    """The milliseconds of each phase, for the command line."""
    lines = []
    for case in cases:
        found = Load(**case["load"])
        spent = times(found, measured["dim"], case["dedup"], measured["costs"], network)
        cells = [f"{spent[phase]:.2f}" for phase in PHASES]
        sent = [size(found.id_bytes()), size(found.vector_bytes(measured["dim"]))]
        lines.append([mode(case["layout"], case["dedup"]), f"{found.ranks:,}", *cells, f"{sum(spent.values()):.2f}", *sent])
    return table(["simulated ms", "ranks", *PHASES, "step", "sent: ids", "vectors"], lines)


# ---------------------------------------------------------------------- of the page


def constants(run: dict[str, Any]) -> str:
    """What was measured, as the model takes it."""
    costs = run["measured"]["costs"]
    plain, once, own, exchange = (costs[name] for name in ("route", "route_dedup", "own", "exchange"))
    lines = [
        ["a rank's own ids: each lookup and step", f"{plain['fixed_us']:,.0f} us", f"{once['fixed_us']:,.0f} us"],
        ["for each rank that there is", f"{plain['rank_us']:.1f} us", f"{once['rank_us']:.1f} us"],
        ["for each id", f"{1e3 * plain['id_us']:,.0f} ns", f"{1e3 * once['id_us']:,.0f} ns"],
        ["for each distinct id", "-", f"{1e3 * once['distinct_us']:,.0f} ns"],
        ["for each number in a message of ids", f"{1e3 * plain['word_us']:.1f} ns", f"{1e3 * once['word_us']:.1f} ns"],
    ]
    both = [
        ["a rank's rows: each lookup and step", f"{own['fixed_us']:,.0f} us"],
        ["for each id that it is asked for", f"{1e3 * own['id_us']:,.0f} ns"],
        ["for each distinct row", f"{1e3 * own['row_us']:,.0f} ns"],
        ["an exchange on loopback: each", f"{exchange['fixed_us']:,.0f} us"],
        ["for each message", f"{exchange['message_us']:,.0f} us"],
        ["of that, processor time", f"{exchange['cpu_message_us']:,.0f} us"],
        ["bandwidth", f"{exchange['loopback_gbs']:.1f} Gb/s"],
    ]
    return table(["measured", "", "with `dedup`"], [*lines, *[[*line, "the same"] for line in both]])


def compared(run: dict[str, Any]) -> dict[tuple[str, bool, int], list[tuple[float, float]]]:
    """What steps of 2 and 4 processes took and should have taken: processor time and time of each number of processes."""
    measured = run["measured"]
    costs, dim, processors = measured["costs"], measured["dim"], measured["machine"]["cpus"]
    exchange = costs["exchange"]
    worked = {**costs, "exchange": {"fixed_us": exchange["cpu_fixed_us"]}}
    processor = Network("processor", exchange["cpu_message_us"], 8e-3 / exchange["cpu_byte_us"])
    found: dict[tuple[str, bool, int], list[tuple[float, float]]] = {}
    for case in measured["steps"]:
        dedup, ranks = case["dedup"], case["ranks"]
        busiest = load(Work(measured["rows"], case["ids"], seed=20), case["layout"], ranks, dedup)
        share = max(1.0, ranks / processors)
        waited = {**costs, "exchange": {"fixed_us": share * exchange["fixed_us"]}}
        loopback = Network("loopback", share * exchange["message_us"], exchange["loopback_gbs"])
        work = sum(times(busiest, dim, dedup, worked, processor).values())
        wall = sum(times(busiest, dim, dedup, waited, loopback, processors).values())
        pairs = [(case["cpu_ms"], work), (case["ms"], wall)]
        found.setdefault((case["layout"], dedup, case["ids"]), []).extend(pairs)
    return found


def validation(run: dict[str, Any]) -> str:
    """Steps of 2 and 4 processes: measured / simulated."""
    lines = [
        [mode(layout, dedup), f"{ids:,}", *[f"{measured:.1f} / {simulated:.1f}" for measured, simulated in pairs]]
        for (layout, dedup, ids), pairs in compared(run).items()
    ]
    head = [f"{count} processes: {what}" for count in (2, 4) for what in ("processor time", "time")]
    return table(["measured / simulated ms", "ids of each", *head], lines)


def agreement(run: dict[str, Any]) -> str:
    """How far the model is off, in sentences."""
    said = []
    for k, what in enumerate(("The simulated processor time", "The simulated time")):
        ratios = [simulated / measured for pairs in compared(run).values() for measured, simulated in pairs[k::2]]
        within = sum(1 / 1.5 <= ratio <= 1.5 for ratio in ratios)
        said.append(
            f"{what} is {min(ratios):.2f} to {max(ratios):.2f} times the measured one, in the median"
            f" {median(ratios):.2f} times, and within a factor of 1.5 in {within} of {len(ratios)} cases."
        )
    return "\n".join(said)


def by_ranks(run: dict[str, Any]) -> str:
    """Simulated steps by layout, mode and ranks, on both networks."""
    found, shown = loads(run), (2, 8, 32, 128, 512, 1024)
    lines = []
    for network in (FAST, SLOW):
        for layout, dedup in dict.fromkeys((layout, dedup) for layout, dedup, _ in found):
            cells = [number(step(run, found[layout, dedup, ranks], dedup, network)) for ranks in shown]
            lines.append([network.name, mode(layout, dedup), *cells])
    return table(["network", "simulated ms", *[f"{ranks:,} ranks" for ranks in shown]], lines, 2)


def busiest(run: dict[str, Any]) -> str:
    """What the busiest rank has to do, by layout and mode."""
    found, shown = loads(run), (8, 64, 1024)
    lines = []
    for layout, dedup in dict.fromkeys((layout, dedup) for layout, dedup, _ in found):
        of = [found[layout, dedup, ranks] for ranks in shown]
        cells = [f"{each.asked:,}" for each in of] + [size(each.vector_bytes(run["measured"]["dim"])) for each in of]
        lines.append([mode(layout, dedup), *cells, size(of[-1].id_bytes())])
    head = [*[f"ids asked of it, {ranks:,} ranks" for ranks in shown], *[f"vectors, {ranks:,} ranks" for ranks in shown]]
    return table(["simulated", *head, "ids sent, 1,024 ranks"], lines)


def by_order(run: dict[str, Any]) -> str:
    """Simulated steps by the order of the ids."""
    found = {order: loads(run, order=order) for order in ORDERS}
    lines = []
    for layout, dedup in dict.fromkeys((layout, dedup) for layout, dedup, _ in found["scattered"]):
        cells = [number(step(run, found[order][layout, dedup, 64], dedup, FAST)) for order in ORDERS]
        lines.append([mode(layout, dedup), *cells])
    return table(["simulated ms", *ORDERS.values()], lines)


def by_skew(run: dict[str, Any]) -> str:
    """Simulated steps by the exponent of the Zipf law, and by the rows of the table."""
    works: dict[str, dict[str, Any]] = {
        "uniform": {"exponent": 0.0}, "1.05": {}, "1.2": {"exponent": 1.2}, "1.5": {"exponent": 1.5},
        "1.05, 10^8 rows": {"rows": 10**8}, "1.05, 10^10 rows": {"rows": 10**10},
    }  # fmt: skip
    lines = []
    for name, wanted in works.items():
        found = loads(run, **wanted)
        plain, once = found["mod", False, 256], found["mod", True, 256]
        cells = [f"{plain.skew:,.0f} x", number(step(run, plain, False, FAST))]
        lines.append([name, *cells, f"{once.skew:,.1f} x", number(step(run, once, True, FAST))])
    return table(["exponent", "mod: busiest over mean", "simulated ms", "mod, dedup: busiest over mean", "simulated ms"], lines)


def by_latency(run: dict[str, Any]) -> str:
    """The models of latency, and where the time goes in them."""
    found, measured = loads(run), run["measured"]
    networks = [
        ("pairwise, 5 us", FAST),
        ("pairwise, 30 us", replace(FAST, latency_us=SLOW.latency_us)),
        ("log2, 5 us", replace(FAST, latency="log2")),
        ("log2, 30 us", replace(FAST, latency_us=SLOW.latency_us, latency="log2")),
    ]
    lines = []
    for ranks in (8, 64, 1024):
        for name, network in networks:
            spent = times(found["mod", True, ranks], measured["dim"], True, measured["costs"], network)
            cells = [number(spent[phase]) for phase in PHASES]
            lines.append([f"{ranks:,}" if network is FAST else "", name, *cells, number(sum(spent.values()))])
    return table(["ranks", "simulated ms", *PHASES, "step"], lines, 2)


def by_rows(run: dict[str, Any]) -> str:
    """The memory of a rank, by the rows of the table."""
    lines = []
    for rows in (10**8, 10**9, 10**10):
        for ranks in (8, 64, 1024):
            found = memory(rows, ranks, run["measured"]["dim"])
            full = sum(each for name, each in found.items() if name != "history after 10^6 steps")
            cells = [size(each) for each in found.values()]
            lines.append([f"10^{len(str(rows)) - 1}" if ranks == 8 else "", f"{ranks:,}", *cells, size(full)])
    return table(["computed: rows", "ranks", *memory(1, 1, 1), "all, history full"], lines)


PARTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "constants": constants, "validation": validation, "agreement": agreement, "by ranks": by_ranks, "busiest": busiest,
    "by order": by_order, "by skew": by_skew, "by latency": by_latency, "by rows": by_rows,
}  # fmt: skip


def filled(text: str, run: dict[str, Any]) -> str:
    """The page with what the run says between its markers."""
    for name, part in PARTS.items():
        before, marker, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not marker or not end:
            raise ValueError(f"the page has no place for `{name}`")
        text = f"{before}{marker}{part(run)}\n{end}{after}"
    return text


def picture(run: dict[str, Any], path: Path) -> None:
    """Draw the step by ranks, and where the time of the best one goes."""
    plt = _pyplot()
    found, measured = loads(run), run["measured"]
    ranks = sorted({each for _, _, each in found})
    colours = {"mod": "#1a1a1a", "hash": "#2471a3", "range": "#c0392b"}
    with plt.rc_context(SETTINGS):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
        for layout, colour in colours.items():
            for dedup in (True, False):
                spent = [step(run, found[layout, dedup, each], dedup, FAST) for each in ranks]
                line, marker = ("-", "o") if dedup else ("--", "s")
                left.plot(ranks, spent, line, color=colour, marker=marker, markersize=4, label=mode(layout, dedup))
        left.set(xscale="log", yscale="log", xlabel="ranks", ylabel="simulated milliseconds per step")
        left.set_title("4,096 ids of each rank, the most frequent first, 100 Gb/s", fontsize=11, loc="left")
        bottom = [0.0] * len(ranks)
        shades = ("#85929e", "#d4ac0d", "#2471a3", "#7fb3d5", "#1a1a1a")
        for phase, shade in zip(PHASES, shades, strict=True):
            spent = [times(found["mod", True, each], measured["dim"], True, measured["costs"], FAST)[phase] for each in ranks]
            right.bar(range(len(ranks)), spent, bottom=bottom, color=shade, label=phase)
            bottom = [a + b for a, b in zip(bottom, spent, strict=True)]
        right.set_xticks(range(len(ranks)), [str(each) for each in ranks])
        right.set(xlabel="ranks", ylabel="simulated milliseconds per step")
        right.set_title("mod, dedup: where the time goes", fontsize=11, loc="left")
        left.xaxis.set_major_formatter("{x:g}")
        left.yaxis.set_major_formatter("{x:g}")
        for axes in (left, right):
            axes.grid(alpha=0.25)
            axes.legend(frameon=False, loc="upper left", fontsize=9)
        figure.savefig(path, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)
