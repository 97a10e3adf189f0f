"""Part 2: how often the host waits for the device in a step, where in the code, and how many kernels a step launches.

The profiler counts the calls of CUDA's runtime. `torch.cuda.set_sync_debug_mode` names the lines that wait. It does not know
all of PyTorch's operators, so its number may be lower. On the CPU, operators are counted alone, and those among them whose
result the host waits for.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from cases import Case
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function
from workloads import Workload

import unhot
from on_gpu.loops import DIM, Loop, wait
from on_gpu.names import KINDS, OF_CUDA, PARTS, RIVALS
from on_gpu.record import Budget, Record, said
from unhot.engine import SWEEP_EVERY

PREFIX = "part of a step: "

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
LAUNCHES = ("cudaLaunch", "cuLaunch")
WAITING_OPERATORS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2", "aten::equal")
"""Those that wait on a GPU, each at least once: for a number, or for how many rows their result has."""

STEPS = SWEEP_EVERY
"""As many as there are from one settling of rows in turn to the next, so that one is among them."""

Batch = tuple[Tensor, Tensor]


def run(record: Record, device: str, budget: Budget, rows: int, ids: int) -> bool:
    """Count the steps of each rival, unhot's first. Whether all was counted."""
    result: dict[str, Any] = {"rows": rows, "ids": ids, "dim": DIM, "steps": STEPS, "rivals": {}}
    record.data["waits"] = result
    workload = Workload(Case("unhot_torch", "adam", "loop", rows=rows, dim=DIM, ids=ids), 0)
    gradients = torch.from_numpy(workload.gradients()[0]).to(device)
    for name in sorted(RIVALS, key=lambda name: name != "unhot"):
        if budget.out:
            break
        found: dict[str, Any] = {}
        result["rivals"][name] = found
        try:
            count(found, Loop(name, rows, device), [(draw(workload, device), gradients) for _ in range(3 * STEPS)])
        except Exception as error:
            found["error"] = said(error)
        result["seconds"] = budget.used
        record.save()
    return len(result["rivals"]) == len(RIVALS) and not any("error" in found for found in result["rivals"].values())


def draw(workload: Workload, device: str) -> Tensor:
    return torch.from_numpy(workload.warm()).to(device)


def count(found: dict[str, Any], loop: Loop, batches: Sequence[Batch]) -> None:
    """Put what is counted into `found`, which then has it even if what comes next fails."""
    for batch in batches[:STEPS]:
        loop(*batch)
    if loop.device != "cpu":
        found["lines"] = waiting_lines(loop, batches[STEPS : 2 * STEPS])
    profiled(loop, batches[:1])  # a profiler's first session may miss what comes first
    found |= profiled(loop, batches[2 * STEPS :])


def parts(loop: Loop, batch: Batch) -> Iterator[str]:
    """Make a step in parts: the name of each comes before it."""
    yield "lookup"
    value = loop.lookup(*batch)
    yield "backward"
    value.backward()  # type: ignore[no-untyped-call]
    yield "step"
    loop.update()
    yield ""


# ---------------------------------------------------------------- calls of CUDA's runtime, by torch's profiler


def profiled(loop: Loop, batches: Sequence[Batch]) -> dict[str, Any]:
    """What a step does, on average, in all and by part: waits, launches, operators."""
    device = loop.device
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device != "cpu" else [])
    wait(device)
    with profile(activities=activities) as profiler:
        for batch in batches:
            with recorded() as going_on_to:
                for part in parts(loop, batch):
                    going_on_to(part)
        wait(device)
    return counted(list(profiler.events() or []), len(batches), device)


@contextmanager
def recorded() -> Iterator[Any]:
    """What marks the parts of a step for the profiler, one after the other."""
    held: list[Any] = []

    def go_on_to(part: str) -> None:
        if held:
            held.pop().__exit__(None, None, None)
        if part:
            held.append(record_function(PREFIX + part))
            held[-1].__enter__()

    yield go_on_to
    go_on_to("")


def counted(events: list[Any], steps: int, device: str) -> dict[str, Any]:
    """The events of the profiler by kind and by part of the step, each per step."""
    kinds = [kind for kind in KINDS if device != "cpu" or kind not in OF_CUDA]
    on_host = [event for event in events if str(event.device_type).endswith("CPU")]
    marks = sorted((e.time_range.start, e.time_range.end, e.name.removeprefix(PREFIX)) for e in on_host if is_mark(e))
    starts = [start for start, _, _ in marks]
    by_part = {part: Counter[str]() for part in PARTS}
    names: Counter[str] = Counter()
    for event in on_host:
        place = bisect_right(starts, event.time_range.start) - 1
        if is_mark(event) or place < 0 or event.time_range.start > marks[place][1]:
            continue
        by_part[marks[place][2]].update(kinds_of(event))
        if not event.name.startswith("aten::"):
            names[event.name] += 1
    on_device, busy = Counter[str](), 0.0
    for event in events:
        if not str(event.device_type).endswith("CPU") and not is_mark(event) and not event.name.startswith("Optimizer."):
            copies = event.name.startswith(("Memcpy", "Memset"))
            on_device[event.name.split(" (")[0] if copies else "kernels"] += 1
            busy += event.time_range.elapsed_us()
    return {
        **{kind: sum(found[kind] for found in by_part.values()) / steps for kind in kinds},
        "parts": {part: {kind: found[kind] / steps for kind in kinds} for part, found in by_part.items()},
        "on_device": per_step(on_device, steps),
        "device_busy_milliseconds": busy / 1e3 / steps,
        "runtime_calls": per_step(Counter(dict(names.most_common(40))), steps),
    }


def is_mark(event: Any) -> bool:
    return bool(event.name.startswith(PREFIX))


def kinds_of(event: Any) -> list[str]:
    """What an event on the host counts as."""
    name: str = event.name
    if name in WAITS:
        return ["waits"]
    if name.startswith(LAUNCHES):
        return ["launches"]
    if not name.startswith("aten::"):
        return []
    parent = event.cpu_parent
    nested = parent is not None and parent.name.startswith("aten::")
    return ["operators"] * (not nested) + ["waiting operators"] * (name in WAITING_OPERATORS)


def per_step(counts: Counter[str], steps: int) -> dict[str, float]:
    return {name: round(count / steps, 2) for name, count in counts.most_common()}


# ---------------------------------------------------------------- lines that wait


def waiting_lines(loop: Loop, batches: Sequence[Batch]) -> dict[str, dict[str, float]]:
    """The lines at which the host waits, as PyTorch warns of them: how often in a step, by part."""
    found = {part: Counter[str]() for part in PARTS}
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for batch in batches:
                last = ""
                for part in parts(loop, batch):
                    if last:
                        found[last].update(line_of(w) for w in caught if "synchroniz" in str(w.message))
                    caught.clear()
                    last = part
    finally:
        torch.cuda.set_sync_debug_mode(before)
    wait(loop.device)
    return {part: per_step(counts, len(batches)) for part, counts in found.items()}


def line_of(warning: Any) -> str:
    """The line that a warning comes from, without the folders above the package."""
    path = Path(warning.filename)
    for package in (unhot, torch):
        above = Path(str(package.__file__)).parents[1]
        if path.is_relative_to(above):
            return f"{path.relative_to(above)}:{warning.lineno}"
    return f"{path.name}:{warning.lineno}"
