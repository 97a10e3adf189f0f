"""What a comparison finds, as plain objects; each shows itself as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unhot.comparison.machine import Machine

Array = npt.NDArray[Any]


def in_seconds(seconds: float | None) -> str:
    """A duration in s or ms."""
    if seconds is None:
        return "-"
    return f"{three_digits(seconds)} s" if seconds >= 0.9995 else f"{three_digits(1e3 * seconds)} ms"


def in_bytes(size: int | None) -> str:
    """An amount of memory in GiB or MiB."""
    if size is None:
        return "-"
    return f"{three_digits(size / 2**30)} GiB" if size >= 2**30 else f"{three_digits(size / 2**20)} MiB"


def three_digits(number: float) -> str:
    """0.123, 12.3, 1,230."""
    return f"{number:,.0f}" if number >= 999.5 else f"{number:#.3g}".rstrip(".")


@dataclass(frozen=True, repr=False, eq=False)
class Example:
    """The worked example: the same rows by one-hot x Dense and by reading them."""

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
    """A column of ids: where it is from, how many values and how many different ones it has."""

    source: str
    name: str
    values: int
    vocabulary: int
    missing: int
    """Values that are missing; together they are one id, unless `dropped`."""
    dropped: bool = False
    """Whether missing values were left out, and are not among `values`."""


@dataclass(frozen=True, repr=False)
class Difference:
    """How far two float32 routes are from float64 training: the largest difference of any element."""

    quantity: str
    table: float
    """Of the table."""
    dense: float
    """Of one-hot x Dense in float32."""
    ulp: float
    """The distance of neighbouring float32 numbers at the largest exact element."""

    @property
    def allowance(self) -> float:
        """What float32 allows: twice the distance of one-hot x Dense, plus 4 units in the last place."""
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
    """Whether the table trains as one-hot x Dense does."""

    forward: Difference
    gradient: Difference
    weights: Difference
    steps: int
    """Training steps made; fewer than asked for if patience ran out."""
    batch: int
    """Ids in a step; fewer than asked for if the one-hot matrix would not fit."""
    touched: float
    """Rows that a step touches, on average."""
    moved: float
    """How far training moved the weight that moved most."""
    reached: int
    """Rows that were in a batch."""
    returned: int
    """Rows that were in a batch, rested for a step at least, and were in another."""

    @property
    def differences(self) -> tuple[Difference, Difference, Difference]:
        """Forward, gradient, weights."""
        return self.forward, self.gradient, self.weights

    @property
    def holds(self) -> bool:
        """Whether all three stay within what float32 allows."""
        return all(difference.holds for difference in self.differences)

    @property
    def conclusive(self) -> bool:
        """Whether a table that trains otherwise would have been found out.

        The allowance is at most a hundredth of the largest movement, and at least half of the rows rested and came again.
        """
        return self.weights.allowance <= 0.01 * self.moved and 2 * self.returned >= self.reached

    def __repr__(self) -> str:
        head = f"Agreement after {self.steps} steps of {self.batch:,} ids (weights moved by up to {self.moved:.3g}):"
        return "\n  ".join([head, *map(repr, self.differences)])


BUSY = 0.3
"""CPUs kept busy by others from which on the figures are not to be trusted."""


@dataclass(frozen=True, repr=False)
class Cost:
    """What a training step costs by one route, measured in a process of its own."""

    seconds: float | None = None
    """The median over `steps` steps; None if it did not run."""
    peak_bytes: int | None = None
    """The largest resident memory above that of Python with NumPy and unhot; None if it did not run or is unknown."""
    steps: int = 0
    others_busy: float = 0.0
    """CPUs that other processes kept busy meanwhile: much above 0, the figures are too large."""
    not_run: str = ""
    """Why it did not run."""

    @property
    def doubtful(self) -> bool:
        """Whether other processes kept so many CPUs busy that the time is not to be trusted."""
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
    """Rows gathered and a dense optimizer, as in an embedding layer of PyTorch's or Keras's."""
    dense: Cost
    """One-hot x Dense."""

    @property
    def times_faster(self) -> float | None:
        """How often the table's step fits into that of one-hot x Dense; None if one did not run."""
        return _times(self.dense, self.table)

    @property
    def times_faster_than_gather(self) -> float | None:
        """How often the table's step fits into that of gathered rows with a dense optimizer; None if one did not run."""
        return _times(self.gather, self.table)

    def __repr__(self) -> str:
        return f"{self.vocabulary:>9,} ids: table {self.table}; gather {self.gather}; one-hot x Dense {self.dense}"


def _times(slow: Cost, fast: Cost) -> float | None:
    return None if slow.seconds is None or fast.seconds is None else slow.seconds / fast.seconds


@dataclass(frozen=True, repr=False)
class Growth:
    """How the cost of each route grows with the vocabulary, for ids drawn uniformly."""

    points: tuple[Costs, ...]

    def __repr__(self) -> str:
        if not self.points:
            return "Growth with the vocabulary: not asked for"
        return "\n  ".join(["Growth with the vocabulary:", *map(repr, self.points)])


@dataclass(frozen=True)
class Settings:
    """What the comparison was asked for."""

    optimizer: str
    dim: int
    batch: int
    steps: int
    patience: float
    seed: int


@dataclass(frozen=True, repr=False)
class Comparison:
    """One-hot x Dense against the table, on this machine."""

    machine: Machine
    settings: Settings
    example: Example
    column: Column
    agreement: Agreement
    costs: Costs
    growth: Growth

    @property
    def holds(self) -> bool:
        """Whether the results of both routes agree; `agreement.conclusive` says whether that means much."""
        return self.example.same and self.agreement.holds

    def as_dict(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and dictionaries, for JSON."""
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
