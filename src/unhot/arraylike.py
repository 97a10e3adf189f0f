"""Types for what users may pass as ids and numbers: what NumPy makes an array of. `unhot.ids` and others check the values.

`numpy.typing.ArrayLike` allows a string too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

Item = TypeVar("Item", covariant=True)


class SupportsArray(Protocol):
    """An array, or what turns into one: a tensor, a column of a data frame."""

    def __array__(self) -> np.ndarray[Any, np.dtype[Any]]: ...


class Nested(Protocol[Item]):
    """A list or another sequence of items, or of such sequences; no string, which can only be asked for a string."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Item | Nested[Item]]: ...
    def __getitem__(self, index: int, /) -> Item | Nested[Item]: ...
    def __contains__(self, item: object, /) -> bool: ...


IdsLike: TypeAlias = int | SupportsArray | Nested[int | SupportsArray]
"""Row numbers: an integer, an array of integers, or sequences of them."""

RealsLike: TypeAlias = float | SupportsArray | Nested[float | SupportsArray]
"""Real numbers, likewise."""
