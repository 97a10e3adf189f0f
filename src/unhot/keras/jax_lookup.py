"""Lookups whose gradient reaches the optimizer by rows, though JAX differentiates whole arrays.

The gradient of a lookup is the true one, an array of the table's shape, so that whatever is done to gradients is right.  Beside
it, the backward pass writes down the ids and the gradients of their vectors.  An optimizer that is given that very array takes
the rows instead, and XLA leaves out the array, which nobody uses.  The lookups of one table are chained, lest JAX add up their
gradients: each passes the weights on to the next, and each backward pass adds to what it is given from there.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from unhot.keras.kinds import Tensor


class ByIdentity:
    """What is known of arrays, or of JAX's stand-ins for them, for as long as they are there."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}

    def __setitem__(self, array: Tensor, value: Tensor) -> None:
        number = id(array)
        self._held[number] = weakref.ref(array, lambda _: self._held.pop(number, None)), value

    def get(self, array: Tensor) -> Tensor:
        reference, value = self._held.get(id(array), (None, None))
        return value if reference is not None and reference() is array else None


@dataclass
class Page:
    """What a step does with one value of a table."""

    reads: list[Tensor] = field(default_factory=list)
    """The vectors, before which nothing may be written."""


@dataclass(frozen=True)
class Lookups:
    """What a gradient is made of: the ids and the gradients of their vectors, of each lookup."""

    ids: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    page: Page


class Reader(ABC):
    """What reads the rows of a table, and what it knows of its lookups for as long as JAX traces them."""

    names: Sequence[str]
    """The names of the table's arrays."""

    def __init__(self) -> None:
        self.pages, self.gradients = ByIdentity(), ByIdentity()

    @abstractmethod
    def rows(self, arrays: dict[str, Tensor], ids: Tensor | None) -> Tensor:
        """The settled weights of the flat `ids`, or all of them."""


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def read(reader: Reader, arrays: dict[str, Tensor], ids: Tensor) -> tuple[Tensor, Tensor]:
    """The settled vectors of the flat `ids`, or all for None; and the weights as they are."""
    return reader.rows(arrays, ids), arrays["weights"]


def _forward(reader: Reader, arrays: dict[str, Tensor], ids: Tensor) -> Tensor:
    known = {name: array.value for name, array in arrays.items()}
    ids = None if ids is None else ids.value
    found = reader.rows(known, ids)
    page = reader.pages.get(known["weights"])
    if page is None:
        reader.pages[known["weights"]] = page = Page()
    page.reads.append(found)
    return (found, known["weights"]), (_Static(page), ids)


def _backward(reader: Reader, residuals: Tensor, cotangents: Tensor) -> Tensor:
    (held, ids), (gradient, later) = residuals, cotangents
    lookups = Lookups((), (), held.value) if isinstance(later, SymbolicZero) else reader.gradients.get(later)
    if isinstance(later, SymbolicZero):
        later = jnp.zeros(later.shape, later.dtype)
    if isinstance(gradient, SymbolicZero):
        total = later
    elif ids is None:
        total, lookups = later + gradient, None
    else:
        total = later.at[ids].add(gradient)
        if lookups is not None:
            lookups = Lookups((*lookups.ids, ids), (*lookups.values, gradient), lookups.page)
    if lookups is not None:
        reader.gradients[total] = lookups
    return {name: total if name == "weights" else None for name in reader.names}, None


read.defvjp(_forward, _backward, symbolic_zeros=True)


@jax.tree_util.register_static
class _Static:
    """What a residual holds beside arrays."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
