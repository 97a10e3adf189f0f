"""The law of RowwiseAdagrad: Adagrad with one sum for each row, to which a step adds the row's mean of squares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unhot.laws.arithmetic import Elements, mean_square
from unhot.laws.base import Rows
from unhot.laws.linear import Divisor, Linear, LinearScalars


@dataclass(frozen=True)
class Rowwise(Linear):
    """The row state is (w, sum), the sum of shape (n, 1)."""

    momentum: bool = False
    divisor: Divisor = Divisor.SUM

    name = "Rowwise"
    row_slots = ("sum",)

    @classmethod
    def variants(cls) -> Iterator[Linear]:
        yield cls()

    def _divided(self, xp: Any, averages: Rows, g: Elements, s: LinearScalars) -> tuple[Elements, Rows]:
        total = averages[0] + mean_square(xp, g)
        return g / (xp.sqrt(total + s.inside) + s.outside), (total,)
