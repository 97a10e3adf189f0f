"""How the vectors of a bag of ids become one, whether bags are lines of a dense array, or of a ragged or sparse one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from keras import KerasTensor, ops

from unhot.keras.kinds import Shape, Tensor

COMBINERS = ("sum", "mean", "max", "sqrtn")


class Wanted(NamedTuple):
    """Vectors that a layer wants of its table, where nothing else is to be done to each before they are combined.

    Args:
        ids: integers within the table, of any shape.
        combiner: "sum" or "mean" of the vectors along the last axis, or None for all of them.
        kept: of the shape of the ids, which of them take part; None for all.
    """

    ids: Tensor
    combiner: str | None
    kept: Tensor

    @property
    def shape(self) -> Shape:
        """That of the result, without the vectors' own dimension."""
        return self.ids.shape if self.combiner is None else self.ids.shape[:-1]


@dataclass(frozen=True)
class Bags:
    """Bags of ids: the lines of a dense array.

    Args:
        ids: (..., n), integers or floats.
        weights: (..., n), a factor for each, or None.
    """

    ids: Tensor
    weights: Tensor

    def present(self) -> Tensor:
        """Which ids are there, or None for all."""
        return None

    def sum(self, x: Tensor) -> Tensor:
        """Values of the ids, (..., n) or (..., n, dim), summed by bag."""
        return ops.sum(x, axis=len(self.ids.shape) - 1)

    def any(self, mask: Tensor) -> Tensor:
        """Whether the mask, (..., n), has any id of a bag."""
        return ops.any(mask, axis=-1)

    def max(self, vectors: Tensor, kept: Tensor) -> Tensor:
        """The largest elements of the vectors (..., n, dim) that are kept, by bag; 0 of a bag without any."""
        if 0 in vectors.shape:
            return self.sum(vectors)  # Keras refuses the largest of nothing
        if kept is None:
            if vectors.shape[-2] is not None:
                return ops.max(vectors, axis=-2)
            kept = ops.ones_like(vectors[..., 0], dtype="bool")
        largest = ops.max(_or_least(vectors, kept), axis=-2)
        return ops.where(ops.expand_dims(self.any(kept), -1), largest, ops.zeros_like(largest))

    def shaped(self, found: Tensor) -> Tensor:
        """The vectors of the bags in the shape of the layer's result."""
        return found


@dataclass(frozen=True)
class RaggedBags(Bags):
    """The rows of a ragged array whose values are the ids, (n,)."""

    of: Tensor
    """The ragged array of which they are the innermost rows."""

    def _bag_of(self) -> Tensor:
        return _rows_of(self.of).value_rowids()

    def _count(self) -> Tensor:
        return _rows_of(self.of).nrows()

    def sum(self, x: Tensor) -> Tensor:
        return ops.segment_sum(x, self._bag_of(), self._count())

    def any(self, mask: Tensor) -> Tensor:
        return ops.greater(self.sum(ops.cast(mask, "int32")), 0)

    def max(self, vectors: Tensor, kept: Tensor) -> Tensor:
        kept = ops.ones_like(vectors[..., 0], dtype="bool") if kept is None else kept
        largest = ops.segment_max(_or_least(vectors, kept), self._bag_of(), self._count())
        return ops.where(ops.expand_dims(self.any(kept), -1), largest, ops.zeros_like(largest))

    def shaped(self, found: Tensor) -> Tensor:
        return _with_rows(self.of, found)


@dataclass(frozen=True)
class SparseBags(RaggedBags):
    """The lines of a sparse array whose values are the ids, (n,), at `places`, (n, rank)."""

    places: Tensor

    def present(self) -> Tensor:
        if not hasattr(self.of, "n_batch"):
            return None
        return ops.all(self.places < ops.convert_to_tensor(self.of.shape, dtype=self.places.dtype), axis=-1)  # JAX fills up

    def _bag_of(self) -> Tensor:
        return self.number_of(self.places[:, :-1], _sizes(self.of)[:-1])

    def _count(self) -> Tensor:
        return _product(_sizes(self.of)[:-1])

    def number_of(self, places: Tensor, sizes: tuple[Tensor, ...]) -> Tensor:
        """The numbers of the places in a flat array."""
        number = ops.zeros_like(self.places[:, 0])
        for i, size in enumerate(sizes):
            number = number * ops.cast(size, number.dtype) + places[:, i]
        present = self.present()
        return number if present is None else ops.where(present, number, ops.zeros_like(number))

    def shaped(self, found: Tensor) -> Tensor:
        sizes = _sizes(self.of)[:-1]
        return found if len(sizes) == 1 else ops.reshape(found, (*sizes, found.shape[-1]))


def bags_of(ids: Tensor, weights: Tensor) -> Bags:
    """The bags in any array of ids, with the weights in an array of the same kind; to sparse ids, they may also be dense."""
    if is_ragged(ids):
        return RaggedBags(ids.flat_values, None if weights is None else weights.flat_values, ids)
    if not is_sparse(ids):
        return Bags(ids, None if weights is None else ops.convert_to_tensor(weights, sparse=False))
    places, values = _entries(ids)
    bags = SparseBags(values, None, ids, places)
    if weights is None:
        return bags
    if is_sparse(weights):
        return replace(bags, weights=_entries(weights)[1])
    numbers = bags.number_of(places, _sizes(ids))
    return replace(bags, weights=ops.take(ops.reshape(weights, (-1,)), numbers))


def is_ragged(array: Tensor) -> bool:
    """Whether this is a ragged array; only TensorFlow has any."""
    return hasattr(array, "with_flat_values")


def is_sparse(array: Tensor) -> bool:
    """Whether this is a sparse array of TensorFlow or JAX."""
    return hasattr(array, "todense") or hasattr(array, "dense_shape")


def structure(array: Tensor) -> list[Tensor]:
    """What two ragged or sparse arrays with values in the same places have alike."""
    return list(array.nested_row_splits) if is_ragged(array) else [_entries(array)[0]]


def check_weights(ids: Tensor, weights: Tensor, concrete: Callable[[Tensor], Tensor]) -> None:
    """Raise ValueError for weights that are not one for each id, as far as this is known now."""
    alike = len(ids.shape) == len(weights.shape) and all(
        a == b or None in (a, b) for a, b in zip(ids.shape, weights.shape, strict=True)
    )
    if not alike:
        raise ValueError(
            f"`weights` must have the shape of the ids. Received: shapes {tuple(weights.shape)} and {tuple(ids.shape)}."
        )
    if isinstance(ids, KerasTensor):
        return
    if is_ragged(ids) != is_ragged(weights) or (is_sparse(weights) and not is_sparse(ids)):
        raise ValueError(
            "`weights` must be ragged if the ids are, and may be sparse only if the ids are. Received: weights of type"
            f" {type(weights).__name__} and ids of type {type(ids).__name__}."
        )
    if is_ragged(ids) or is_sparse(weights):
        for ours, theirs in zip(structure(ids), structure(weights), strict=False):
            known = concrete(ours), concrete(theirs)
            if known[0] is not None and known[1] is not None and not np.array_equal(*known):
                raise ValueError(f"`weights` must have values in the places of the ids. Received: {weights} for ids {ids}.")


def _entries(array: Tensor) -> tuple[Tensor, Tensor]:
    """The places and values of a sparse array."""
    if hasattr(array, "to_bcoo"):
        array = array.to_bcoo()
    return array.indices, array.data if hasattr(array, "data") else array.values


def _sizes(array: Tensor) -> tuple[Tensor, ...]:
    """The shape of a sparse array; where TensorFlow does not know it yet, in numbers of the graph."""
    return tuple(array.dense_shape[i] if size is None else size for i, size in enumerate(array.shape))


def _product(sizes: tuple[Tensor, ...]) -> Tensor:
    count: Tensor = 1
    for size in sizes:
        count = count * size
    return count


def _rows_of(ragged: Tensor) -> Tensor:
    """The innermost rows of a ragged array, which may be rows of rows."""
    while is_ragged(ragged.values):
        ragged = ragged.values
    return ragged


def _with_rows(ragged: Tensor, found: Tensor) -> Tensor:
    """The array with `found` in the place of its innermost rows."""
    return ragged.with_values(_with_rows(ragged.values, found)) if is_ragged(ragged.values) else found


def _or_least(vectors: Tensor, kept: Tensor) -> Tensor:
    return ops.where(ops.expand_dims(kept, -1), vectors, ops.cast(float("-inf"), vectors.dtype))


def combined(combiner: str, bags: Bags, vectors: Tensor, kept: Tensor) -> Tensor:
    """The vectors of the ids combined by bag; of a bag without any, 0.

    Args:
        combiner: one of `COMBINERS`.
        bags: the ids, (..., n).
        vectors: floats, (..., n, dim).
        kept: (..., n), which vectors take part, or None for all.
    """
    if combiner == "max":
        return bags.max(vectors, kept)
    factors = ops.ones_like(vectors[..., 0]) if bags.weights is None else ops.cast(bags.weights, vectors.dtype)
    if kept is not None:
        factors = ops.where(kept, factors, ops.zeros_like(factors))
        vectors = ops.where(ops.expand_dims(kept, -1), vectors, ops.zeros_like(vectors))  # 0 x NaN is not 0
    total = bags.sum(vectors * ops.expand_dims(factors, -1))
    if combiner == "sum":
        return total
    size = bags.sum(factors if combiner == "mean" else ops.square(factors))
    empty = ops.logical_not(bags.any(ops.not_equal(factors, 0)))
    size = ops.expand_dims(ops.where(empty, ops.ones_like(size), size), -1)  # before the root: its slope at 0 is infinite
    return total / (size if combiner == "mean" else ops.sqrt(size))
