"""How row gradients reach the optimizer, though JAX differentiates whole arrays.

A lookup is differentiable in a *probe*, a small vector beside the table, of which lookup number j takes the entry j: its
backward pass writes down ids and gradients in a ledger, and gives the probe the gradient 1 at j.  Whatever is then done to the
gradients on their way to the optimizer, be it a loss's scale, sums over micro-batches or none at all, is done to the probe's,
and tells by which factor each of the ledger's entries counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from unhot.jax.operations import traced_apart

PROBES = 256
"""Lookups of one table that one step can take."""

KEPT = 4
"""Values of the table for which entries are kept; others are of traces that came to nothing."""


@dataclass
class Entry:
    """A lookup whose backward pass has run: its ids, and the gradients of the vectors; or a read of the whole table."""

    read: Any = None
    """The vectors, before which nothing may be written."""

    ids: Any = None
    gradients: Any = None
    whole: bool = False
    filled: bool = False


class Ledger:
    """The entries of a table by its value at the time: those of one step have the same."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._pages: dict[int, tuple[Any, list[Entry]]] = {}

    def new(self, weights: Any, whole: bool) -> tuple[Entry, int]:
        """An entry for a lookup in `weights`, and its number."""
        page = self._pages.setdefault(id(weights), (weights, []))[1]
        while len(self._pages) > KEPT:
            self._pages.pop(next(iter(self._pages)))
        page.append(Entry(whole=whole))
        return page[-1], len(page) - 1

    def take(self, weights: Any) -> list[Entry]:
        """The entries of the table's present value, which are done with."""
        entries = self._pages.pop(id(weights), (None, []))[1]
        self._pages.clear()
        if len(entries) > PROBES:
            raise ValueError(
                f"a table was looked up {len(entries)} times in one step. At most {PROBES} times are supported on JAX: look up"
                " more ids at once."
            )
        return entries


def read(ledger: Ledger, rows_of: Any, state: dict[str, Any], ids: Any) -> Any:
    """rows_of(state, ids), or for ids None rows_of(state, None), the whole table; the gradient goes into the ledger."""
    return _read(ledger, rows_of, traced_apart(state["weights"]), state, ids)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _read(ledger: Ledger, rows_of: Any, apart: bool, state: dict[str, Any], ids: Any) -> Any:
    return rows_of(state, ids)


def _forward(ledger: Ledger, rows_of: Any, apart: bool, state: dict[str, Any], ids: Any) -> Any:
    if apart:
        raise ValueError(
            f"{ledger.path} is read inside a part of the model that JAX traces on its own (scan, cond, a loop, vmap, checkpoint"
            " or RematScope), from where its gradient does not reach the optimizer. Look the ids up before, and hand the"
            " vectors in; or train with one of Keras's own optimizers, after `unhot.keras.release(model)`."
        )
    entry, number = ledger.new(state["weights"], ids is None)
    entry.read = found = rows_of(state, ids)
    shapes = {name: jnp.shape(array) for name, array in state.items()}
    return found, (_Static((entry, number)), ids, _Static(shapes))


def _backward(ledger: Ledger, rows_of: Any, apart: bool, residuals: Any, gradient: Any) -> Any:
    entry, number = residuals[0].value
    entry.ids, entry.gradients, entry.filled = residuals[1], gradient, True
    finite = jnp.isfinite(gradient).all()
    shapes = residuals[2].value
    probe = jnp.zeros(shapes["probe"], gradient.dtype).at[min(number, PROBES - 1)].set(jnp.where(finite, 1.0, jnp.nan))
    given: dict[str, Any] = dict.fromkeys(shapes)
    given["probe"] = probe
    if entry.whole:
        given["weights"] = gradient
    return given, None


@jax.tree_util.register_static
class _Static:
    """What a residual holds beside arrays."""

    def __init__(self, value: Any) -> None:
        self.value = value


_read.defvjp(_forward, _backward)
