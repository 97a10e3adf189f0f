"""Types of Keras's objects, as far as this package uses them, since Keras comes without types."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from unhot.training import Ownership

Tensor: TypeAlias = Any
"""An array of the backend that Keras runs on, or what Keras's operations take for one."""

Gradient: TypeAlias = Any
"""A gradient: a `RowGradient`, a `Tensor` or None."""

Option: TypeAlias = Any
"""An argument that is handed on to Keras, or what Keras's configurations are made of."""

Layer: TypeAlias = Any
"""`keras.Layer`, with the attributes of whatever layer it is."""

Shape: TypeAlias = Any
"""A tuple of integers and None, or None."""


class Variable(Protocol):
    """`keras.Variable`."""

    name: str
    path: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool
    regularizer: object
    constraint: object
    value: Tensor
    _value: Tensor
    _dtype: str
    _layout: object
    ownership: Ownership[Any] | None
    """Who trains the rows of a table: see `unhot.training`."""
    frozen_rows: npt.NDArray[np.int64]
    """The numbers of the rows of a table that do not train, in rising order."""

    def assign(self, value: Tensor) -> Tensor: ...

    def numpy(self) -> Tensor: ...


class Model(Protocol):
    """`keras.Model`, or a layer."""

    name: str
    weights: list[Variable]
    variables: list[Variable]


class Store(Protocol):
    """What Keras reads the variables of a file from."""

    def keys(self) -> Any: ...

    def __getitem__(self, name: str) -> Tensor: ...
