"""The gradient of a table as the rows that have one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from keras import ops

from unhot.keras.backend import KerasBackend
from unhot.keras.kinds import Tensor


@dataclass(frozen=True, eq=False)
class RowGradient:
    """The gradients `values`, (n, dim), of the rows `ids`, (n,), of a table; those of an id that repeats are added up.

    It can be scaled by a number.  To all else that uses it, it is the dense gradient.
    """

    ids: Tensor
    values: Tensor
    table: KerasBackend
    """What trains the table's rows."""

    def with_values(self, values: Tensor) -> RowGradient:
        """The same rows with other gradients."""
        return RowGradient(self.ids, values, self.table)

    def dense(self) -> Tensor:
        """The gradient of all rows."""
        return self.table.dense_gradient(self.ids, self.values)

    def __neg__(self) -> RowGradient:
        return self.with_values(-self.values)

    def __mul__(self, factor: Tensor) -> Tensor:
        return self.dense() * factor if getattr(factor, "shape", ()) else self.with_values(self.values * factor)

    __rmul__ = __mul__

    def __truediv__(self, scale: Tensor) -> Tensor:
        """Also what optimizers do to undo a loss's scale."""
        return self.dense() / scale if getattr(scale, "shape", ()) else self.with_values(self.values / scale)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.table.variable.shape

    @property
    def dtype(self) -> Tensor:
        return self.values.dtype

    def __jax_array__(self) -> Tensor:
        return self.dense()

    def __array__(self, dtype: Tensor = None, copy: bool | None = None) -> Tensor:
        return np.asarray(ops.convert_to_numpy(self.dense()), dtype=dtype)


def _operator(name: str) -> Callable[..., Tensor]:
    return lambda self, *args: getattr(self.dense(), name)(*args)


for _name in ("add", "radd", "sub", "rsub", "rtruediv", "pow", "matmul", "rmatmul", "abs", "getitem", "lt", "le", "gt", "ge"):
    setattr(RowGradient, f"__{_name}__", _operator(f"__{_name}__"))
