"""The gradient of a table as the rows that have one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RowGradient:
    """The gradients `values`, (n, dim), of the rows `ids`, (n,), of a table."""

    ids: Any
    values: Any

    def __truediv__(self, scale: Any) -> RowGradient:
        """As optimizers divide a gradient by a loss's scale."""
        return self.with_values(self.values / scale)

    def with_values(self, values: Any) -> RowGradient:
        """The same rows with other gradients."""
        return RowGradient(self.ids, values)
