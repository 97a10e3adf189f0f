"""The results of a comparison, as plain objects with a readable repr."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unhot.comparison.machine import Machine

Array = npt.NDArray[Any]


def in_seconds(seconds: float | None) -> str:
    """A duration, in s or ms."""
    if seconds is None:
        return "-"
    return f"{three_digits(seconds)} s" if seconds >= 0.9995 else f"{three_digits(1e3 * seconds)} ms"


def in_bytes(size: int | None) -> str:
    """An amount of memory, in GiB or MiB."""
    if size is None:
        return "-"
    return f"{three_digits(size / 2**30)} GiB" if size >= 2**30 else f"{three_digits(size / 2**20)} MiB"


def three_digits(number: float) -> str:
    """0.123, 12.3, 1,230."""
    return f"{number:,.0f}" if number >= 999.5 else f"{number:#.3g}".rstrip(".")


@dataclass(frozen=True, repr=False, eq=False)
class Example:
    """The worked example: the same rows, computed by one-hot x Dense and read from the table."""

    weights: Array
    ids: Array
    one_hot: Array
    product: Array
    rows: Array

    @property
    def same(self) -> bool:
        """Whether both routes gave the same numbers, bit for bit."""
        return bool(np.array_equal(self.product, self.rows))

    def __repr__(self) -> str:
        lines = [f"w =\n{self.weights}", f"ids = {self.ids.tolist()}", f"one_hot(ids) =\n{self.one_hot.astype(int)}"]
        names = ", ".join(f"w[{i}]" for i in self.ids)
        lines += [f"one_hot(ids) @ w =\n{self.product}", f"[{names}] =\n{self.rows}", f"the same: {self.same}"]
        return "\n".join(lines)


@dataclass(frozen=True)
class Column:
    """A column of ids: its source, how many values it has, and how many of them are different."""

    source: str
    name: str
    values: int
    vocabulary: int
    missing: int
    """The number of missing values. Together they are one id, unless `dropped`."""
    dropped: bool = False
    """Whether missing values were left out and do not count in `values`."""


@dataclass(frozen=True, repr=False)
class Difference:
    """How far two float32 routes are from float64 training: the largest difference in any element."""

    quantity: str
    table: float
    """The largest difference of the table."""
    dense: float
    """The largest difference of one-hot x Dense in float32."""
    ulp: float
    """The distance between neighbouring float32 numbers at the largest exact element."""

    @property
    def allowance(self) -> float:
        """The difference that float32 allows: twice that of one-hot x Dense, plus 4 units in the last place."""
        return 2 * self.dense + 4 * self.ulp

    @property
    def holds(self) -> bool:
        """Whether the table stays within the allowance."""
        return self.table <= self.allowance

    def __repr__(self) -> str:
        verdict = "holds" if self.holds else "FAILS"
        return f"{self.quantity}: table {self.table:.2e}, dense {self.dense:.2e}, allowed {self.allowance:.2e}: {verdict}"


@dataclass(frozen=True, repr=False)
class Agreement:
    """Whether the table trains like one-hot x Dense."""

    forward: Difference
    gradient: Difference
    weights: Difference
    steps: int
    """The number of training steps made: fewer than requested if patience ran out."""
    batch: int
    """The number of ids in a step: fewer than requested if the one-hot matrix would not fit."""
    touched: float
    """The average number of rows that a step touches."""
    moved: float
    """How far the weight that moved most has moved."""
    reached: int
    """The number of rows that were in a batch."""
    returned: int
    """The number of rows that were in a batch, rested for at least one step, and were in another batch."""

    @property
    def differences(self) -> tuple[Difference, Difference, Difference]:
        """The differences of forward, gradient and weights."""
        return self.forward, self.gradient, self.weights

    @property
    def holds(self) -> bool:
        """Whether all three differences stay within what float32 allows."""
        return all(difference.holds for difference in self.differences)

    @property
    def conclusive(self) -> bool:
        """Whether the comparison would have exposed a table that trains differently.

        This is the case if the allowance is at most a hundredth of the largest movement, and at least half of the rows in the
        batches rested and came again.
        """
        return self.weights.allowance <= 0.01 * self.moved and 2 * self.returned >= self.reached

    def __repr__(self) -> str:
        head = f"Agreement after {self.steps} steps of {self.batch:,} ids (weights moved by up to {self.moved:.3g}):"
        return "\n  ".join([head, *map(repr, self.differences)])


BUSY = 0.3
"""The number of CPUs kept busy by other processes above which the figures are doubtful."""


@dataclass(frozen=True, repr=False)
class Cost:
    """The cost of a training step by one route, measured in its own process."""

    seconds: float | None = None
    """The median over `steps` steps. None if it did not run."""
    peak_bytes: int | None = None
    """The peak of resident memory beyond Python, NumPy and unhot. None if it did not run or is unknown."""
    steps: int = 0
    others_busy: float = 0.0
    """The number of CPUs that other processes kept busy. If it is well above 0, the figures are too large."""
    not_run: str = ""
    """Why it did not run."""

    @property
    def doubtful(self) -> bool:
        """Whether other processes kept so many CPUs busy that the time cannot be trusted."""
        return self.others_busy > BUSY

    def __repr__(self) -> str:
        if self.seconds is None:
            return f"not run: {self.not_run}"
        return f"{in_seconds(self.seconds)} per step, {in_bytes(self.peak_bytes)}"


@dataclass(frozen=True, repr=False)
class Costs:
    """The cost of each route for one vocabulary."""

    vocabulary: int
    table: Cost
    gather: Cost
    """Gathered rows with a dense optimizer, as in PyTorch's or Keras's embedding layer."""
    dense: Cost
    """One-hot x Dense."""

    @property
    def times_faster(self) -> float | None:
        """How many times faster the table's step is than that of one-hot x Dense. None if either did not run."""
        return _times(self.dense, self.table)

    @property
    def times_faster_than_gather(self) -> float | None:
        """How many times faster the table's step is than gathered rows with a dense optimizer. None if either did not run."""
        return _times(self.gather, self.table)

    def __repr__(self) -> str:
        return f"{self.vocabulary:>9,} ids: table {self.table}; gather {self.gather}; one-hot x Dense {self.dense}"


def _times(slow: Cost, fast: Cost) -> float | None:
    return None if slow.seconds is None or fast.seconds is None else slow.seconds / fast.seconds


@dataclass(frozen=True, repr=False)
class Growth:
    """How the cost of each route grows with the vocabulary, for uniform ids."""

    points: tuple[Costs, ...]

    def __repr__(self) -> str:
        if not self.points:
            return "Growth with the vocabulary: not asked for"
        return "\n  ".join(["Growth with the vocabulary:", *map(repr, self.points)])


@dataclass(frozen=True)
class Settings:
    """The settings of the comparison."""

    optimizer: str
    dim: int
    batch: int
    steps: int
    patience: float
    seed: int


@dataclass(frozen=True, repr=False)
class Comparison:
    """The results of comparing one-hot x Dense with the table on this machine."""

    machine: Machine
    settings: Settings
    example: Example
    column: Column
    agreement: Agreement
    costs: Costs
    growth: Growth

    @property
    def holds(self) -> bool:
        """Whether the results of both routes agree. `agreement.conclusive` says how much that means."""
        return self.example.same and self.agreement.holds

    def as_dict(self) -> dict[str, Any]:
        """All results as numbers, strings, lists and dictionaries, for JSON."""
        found: dict[str, Any] = asdict(self)
        found["example"] = {name: np.asarray(value).tolist() for name, value in found["example"].items()}
        found["example"]["same"] = self.example.same
        for difference in self.agreement.differences:
            found["agreement"][difference.quantity] |= {"allowance": difference.allowance, "holds": difference.holds}
        found["agreement"]["conclusive"] = self.agreement.conclusive
        return {"holds": self.holds, **found}

    def __repr__(self) -> str:
        s, c = self.settings, self.column
        head = f"One-hot x Dense against the table (kernels: {self.machine.kernels}; {s.optimizer}; dim {s.dim})"
        column = f"{c.source}, {c.name}: {c.values:,} values, {c.vocabulary:,} different"
        return "\n".join([head, column, repr(self.agreement), "Cost of a step:", f"  {self.costs!r}", repr(self.growth)])
