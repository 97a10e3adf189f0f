"""What a law is: the mathematics of one optimizer on the elements of rows, without the steps made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from unhot.laws.arithmetic import Elements

Rows = tuple[Elements, ...]
"""The state of some rows: weights, then the slots, each (n, dim), or (n, 1) of a slot with one number for each row."""


class Law(ABC):
    """What a step does to rows with a gradient, and what deferred steps do to rows without one.

    A law is pure: it takes numbers and arrays of any namespace `xp`, and gives new ones. It knows no history and no optimizer.
    A law with options is a frozen dataclass; each combination of them that is in use is a native kernel of its own.

    The native kernels are printed from `settle` and `update` by tools/print_kernels.py. They use operators, and sqrt, abs,
    sign, exp, maximum, minimum and where of `xp` only, and what laws/arithmetic.py has.
    """

    name: ClassVar[str]
    """What the native kernels are called."""

    @property
    def native_settle(self) -> str:
        """The C++ class, written by hand, that settles; without one, it is printed as well."""
        return ""

    Coefficients: ClassVar[type[tuple[Any, ...]]]
    """The names of what carries a row over its deferred steps: a line for each distinct step of a last touch."""

    Scalars: ClassVar[type[tuple[Any, ...]]]
    """The names of the numbers of a step, the same for all rows that it touches."""

    Shared: ClassVar[type[tuple[Any, ...]]]
    """The names of the numbers that are the same for all rows and deferred steps."""

    @property
    @abstractmethod
    def slots(self) -> tuple[str, ...]:
        """The names of the slots."""

    row_slots: ClassVar[tuple[str, ...]] = ()
    """The slots that have one number for each row, and not one for each element: the same follows from all of its elements."""

    def slot_width(self, slot: str, dim: int) -> int:
        """How many numbers a slot has for each row of a table of this `dim`."""
        return 1 if slot in self.row_slots else dim

    @classmethod
    @abstractmethod
    def variants(cls) -> Iterator[Law]:
        """The law with each combination of its options that is in use, in the order of the native kernels' numbers."""

    @property
    def width(self) -> int:
        """The numbers in a line of coefficients; with panels, without them."""
        return len(self.Coefficients._fields)  # type: ignore[attr-defined]

    @property
    def parameters(self) -> int:
        """How many of the `Shared` are numbers: all but an array in the last place."""
        return len(self.Shared._fields)  # type: ignore[attr-defined]

    @property
    def panels(self) -> bool:
        """Whether polynomials in panels follow a line's coefficients."""
        return False

    def columns(self, lines: Any) -> Any:
        """The `Coefficients` of some rows, from an array with a line for each: columns, (n, 1)."""
        return self.Coefficients(*(lines[:, i, None] for i in range(len(self.Coefficients._fields))))  # type: ignore[attr-defined]

    @abstractmethod
    def settle(self, xp: Any, rows: Rows, c: Any, k: Any) -> Rows:
        """The rows carried over their deferred steps: `c` are `Coefficients`, and `k` is `Shared`."""

    @abstractmethod
    def update(self, xp: Any, rows: Rows, g: Elements, s: Any, k: Any) -> Rows:
        """The rows after a step with the gradients `g`: `s` are `Scalars`, and `k` is `Shared`."""
