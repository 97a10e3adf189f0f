"""Part 1: every optimizer of `unhot.torch` against the same one of `torch.optim`, trained densely in float64 on the device.

Streams, training and bounds are those of tests/conformance. A settled float32 table must be no farther from the float64
reference than twice the distance of dense float32 training, plus 4 units in the last place, and a float64 table within 1e-9 of
it, relative to the size of each element.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from conformance import training
from conformance.dense import Array
from conformance.registry import RULES, Rule
from conformance.streams import make
from conformance.torch_layer import DENSE_EVERY, FRONT_END, USUAL, WAYS, beside_dense_steps, compare

import unhot
from on_gpu.record import Budget, Record, said

Case = tuple[str, str, str, Rule]
"""How dense steps come between, if they do, the stream, its rates, and the rule."""


def cases(device: str) -> Iterator[Case]:
    """All of them, those first that say most. The longest come last, when the time may be over."""
    yield from (("", "closed", "wandering", rule) for rule in USUAL)
    yield from ((way, "closed", "wandering", rule) for way, rule in beside_dense_steps(device))
    yield from (("", "mixed", "cosine", rule) for rule in USUAL)
    yield from (("", "tiny", "constant", rule) for rule in FRONT_END if rule not in RULES)
    yield from (("", "gaps", "constant", rule) for rule in USUAL)


def run(record: Record, device: str, budget: Budget, most: int | None) -> bool:
    """Run the cases, `most` of them at most, until the time is over. Whether all that were run agree."""
    wanted = list(cases(device))
    result: dict[str, Any] = {"cases": [], "not_run": [name(case) for case in wanted]}
    record.data["conformance"] = result
    for case in wanted[:most]:
        if budget.out or not answers(device):
            break
        result["cases"].append(outcome(case, device))
        result["not_run"].remove(name(case))
        result["seconds"] = budget.used
        record.save()
    return all(case["agrees"] for case in result["cases"])


def name(case: Case) -> str:
    way, stream, schedule, rule = case
    return f"{rule.id}, {stream}, {schedule}" + (f", dense steps {way}" if way else "")


def outcome(case: Case, device: str) -> dict[str, Any]:
    """One case: the largest distances, what was allowed, and what went wrong."""
    way, stream, schedule, rule = case
    seen = Distances()
    told: dict[str, Any] = {"case": name(case), "optimizer": rule.name, "agrees": True}
    begun = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", unhot.DenseFallbackWarning)  # which dense steps are meant to give
            given = make(stream, schedule, rule.rate)
            if way:
                layers = compare(rule, given, device, WAYS[way], DENSE_EVERY, check=seen)
            else:
                layers = compare(rule, given, device, check=seen)
        used = {layer.kernels for layer in layers}
        assert used == {"torch"}, f"the tables were trained by {used}, and not on torch's operations"
    except Exception as error:
        told |= {"agrees": False, "error": said(error)}
    return {**told, **seen.told, "seconds": time.monotonic() - begun}


class Distances:
    """A check for `training.train` that keeps, for each dtype, the distance that is the largest part of its bound."""

    def __init__(self) -> None:
        self.told: dict[str, dict[str, float]] = {}

    def __call__(self, reference: Array, copies: Sequence[Array], scale: training.Scale) -> None:
        dense, *tested = copies
        of_dense = training.units(dense, reference, scale)
        for weights in tested:
            if weights.dtype == "float64":
                found = {"distance": training.relative(weights, reference, scale), "allowed": training.RELATIVE}
            else:
                found = {
                    "distance": training.units(weights, reference, scale), "of_dense_float32": of_dense,
                    "allowed": training.FACTOR * of_dense + training.UNITS,
                }  # fmt: skip
            held = self.told.get(str(weights.dtype))
            if held is None or found["distance"] / found["allowed"] > held["distance"] / held["allowed"]:
                self.told[str(weights.dtype)] = found
        training.agree(reference, copies, scale)


def answers(device: str) -> bool:
    """Whether the device still works: some errors end all work on it, for as long as the process lives."""
    if device == "cpu":
        return True
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True
