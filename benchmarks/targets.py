"""What unhot is to reach, as data: which measurements are divided by which, and the bound of the ratio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cases import LOOKUP_IDS, Case

Seconds = Callable[[Case], float | None]

STEP = Case("unhot", "adam")
IN_TORCH = replace(STEP, rival="unhot_torch", task="loop")
LOOKUP = replace(STEP, task="lookup", ids=LOOKUP_IDS)


def _step(rival: str, variant: str, **changes: Any) -> Case:
    return replace(STEP, rival=rival, variant=variant, **changes)


def _loop(rival: str, variant: str, **changes: Any) -> Case:
    return replace(IN_TORCH, rival=rival, variant=variant, **changes)


def _either(case: Case) -> tuple[Case, ...]:
    """With two threads and with one: the faster counts, for both sides."""
    return case, replace(case, threads=1)


def _fit(rival: str, backend: str, rows: int = STEP.rows, task: str = "fit") -> tuple[Case, ...]:
    return (replace(STEP, rival=rival, variant=backend, task=task, rows=rows),)


BACKENDS = {"torch": ("torch", 300), "JAX": ("jax", 30), "TensorFlow": ("tensorflow", 30)}
"""Keras's backends, and how many times faster than the stock layer `fit` is to be on them."""


def _lookup(rival: str, variant: str, distribution: str) -> tuple[Case, ...]:
    return (replace(LOOKUP, rival=rival, variant=variant, distribution=distribution),)


@dataclass(frozen=True)
class Target:
    """The fastest of the `above` over the fastest of the `below` is to be at least, or at most, `limit`."""

    text: str
    above: tuple[Case, ...]
    below: tuple[Case, ...]
    limit: float
    at_least: bool
    unit: str = "x"

    def measured(self, seconds: Seconds) -> float | None:
        above = [s for s in map(seconds, self.above) if s is not None]
        below = [s for s in map(seconds, self.below) if s is not None]
        if not above or (self.below and not below):
            return None
        return min(above) / min(below) if self.below else min(above)

    def reached(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def margin(self, value: float) -> float:
        """1 is just reached; more is better."""
        return value / self.limit if self.at_least else self.limit / value

    def written(self, value: float) -> str:
        if self.unit == "%":
            return f"{100 * value:.1f} %"
        if self.unit == "us":
            return f"{1e6 * value:,.0f} us"
        return f"{value:.0f} x" if value >= 20 else f"{value:.2f} x"

    @property
    def goal(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.written(self.limit)}"


TARGETS = (
    Target(
        "torch's dense Adam over exact Adam",
        (_step("torch", "adam"),), (_step("unhot", "adam_torch"),), 300, at_least=True,
    ),
    Target(
        "torch's SparseAdam over exact Adam",
        (_step("torch", "sparse_adam"),), (_step("unhot", "adam_torch"),), 2, at_least=True,
    ),
    Target(
        "FBGEMM's Adagrad over Adagrad",
        _either(_step("fbgemm", "adagrad")), _either(_step("unhot", "adagrad")), 2, at_least=True,
    ),
    Target("FBGEMM's SGD over SGD", _either(_step("fbgemm", "sgd")), _either(_step("unhot", "sgd")), 1, at_least=True),
    Target(
        "exact Adam over masked Adam in the same kernels",
        (_step("unhot", "adam"),), (_step("unhot_masked", "adam"),), 1.8, at_least=False,
    ),
    Target(
        "exact Adam in torch's form over masked Adam",
        (_step("unhot", "adam_torch"),), (_step("unhot_masked", "adam"),), 1.8, at_least=False,
    ),
    Target(
        "exact Adam: 10^7 rows over 10^5, uniform ids",
        (_step("unhot", "adam", rows=10_000_000, distribution="uniform"),),
        (_step("unhot", "adam", rows=100_000, distribution="uniform"),), 2, at_least=False,
    ),
    Target(
        "coefficients' share of a step of exact Adam",
        (_step("unhot", "adam", task="coefficients"),), (), 0.05, at_least=False, unit="%",
    ),
    Target(
        "coefficients' share of a step in torch's form",
        (_step("unhot", "adam_torch", task="coefficients"),), (), 0.05, at_least=False, unit="%",
    ),
    *(
        Target(
            f"lookup of settled rows, out=, over the memory floor, {distribution} ids",
            _lookup("unhot", "out", distribution), _lookup("floor", "lookup", distribution), 1.3, at_least=False,
        )
        for distribution in ("zipf", "uniform")
    ),
    *(
        Target(
            f"lookup of settled rows over torch's functional.embedding, {distribution} ids",
            _lookup("unhot", "fresh", distribution), _lookup("torch", "fresh", distribution), 1, at_least=False,
        )
        for distribution in ("zipf", "uniform")
    ),
    Target("torch's dense Adam over unhot.torch's, whole loop", (_loop("torch", "adam"),), (IN_TORCH,), 200, at_least=True),
    Target("torch's SparseAdam over unhot.torch's Adam", (_loop("torch", "sparse_adam"),), (IN_TORCH,), 1.5, at_least=True),
    Target(
        "FBGEMM's Adagrad over unhot.torch's",
        _either(_loop("fbgemm", "adagrad")), _either(_loop("unhot_torch", "adagrad")), 1, at_least=True,
    ),
    Target(
        "torch's dense Adam over unhot.torch's at 10^4 rows",
        (_loop("torch", "adam", rows=10_000),), (replace(IN_TORCH, rows=10_000),), 1, at_least=True,
    ),
    Target(
        "unhot.torch's loop over the core's lookup and step by hand",
        (replace(IN_TORCH, task="overhead"),), (), 200e-6, at_least=False, unit="us",
    ),
    Target(
        "the same, 26 tables of 10^5 rows in one model",
        (replace(IN_TORCH, task="tables", rows=100_000),), (), 26 * 150e-6, at_least=False, unit="us",
    ),
    *(
        Target(f"Keras's fit on {name}: stock layer over unhot.keras", _fit("keras_fit", backend), _fit("unhot_keras", backend),
               limit, at_least=True)
        for name, (backend, limit) in BACKENDS.items()
    ),
    Target(
        "the same on torch, of arrays in place of a loader",
        _fit("keras_fit", "torch", task="arrays"), _fit("unhot_keras", "torch", task="arrays"), 300, at_least=True,
    ),
    *(
        Target(f"the same on {name}, 10^4 rows, by turns",
               (replace(_fit("unhot_keras", backend, 10_000)[0], task="beside"),), (), 1, at_least=True)
        for name, (backend, _) in BACKENDS.items()
    ),
    *(
        Target(f"fit on {name} with unhot.keras: 10^7 rows over 10^5", _fit("unhot_keras", backend, 10_000_000),
               _fit("unhot_keras", backend, 100_000), 2, at_least=False)
        for name, (backend, _) in BACKENDS.items()
    ),
)  # fmt: skip
