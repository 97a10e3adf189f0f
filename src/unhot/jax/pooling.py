"""Several vectors per sample, in plain JAX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp


def pool(
    vectors: Any,
    weights: Any = None,
    mode: Literal["sum", "mean", "max"] = "sum",
    *,
    where: Any = None,
    segment_ids: Any = None,
    num_segments: int | None = None,
) -> jax.Array:
    """Vectors of several ids pooled into one for each sample: shape (..., n, dim) -> (..., dim).

    The sum is what a Dense layer gives for a multi-hot row, without its bias. The function is differentiable: pool inside of
    the loss, take the gradient with respect to the vectors that `lookup` gives, and hand it to `update` with the same ids.

    Args:
        vectors: floats, (..., n, dim), or with `segment_ids` (n, dim).
        weights: a factor for each vector, (..., n), not allowed with "max". "mean" divides by the sum of the factors.
        mode: "sum", "mean" or "max". A sample without vectors, or whose factors are all 0, gives 0.
        where: booleans, (..., n): which vectors take part, for samples that are filled up to one length.
        segment_ids: integers, (n,): the sample of each vector, for flat ids. Those outside [0, num_segments) are left out.
        num_segments: how many samples there are then.

    Raises: ValueError for a mode or shapes that do not fit; TypeError for `segment_ids` that are not integers.

    Example:
        >>> import jax.numpy as jnp, unhot, unhot.jax
        >>> state = unhot.jax.from_array(jnp.array([[1.0, 2.0], [3.0, 4.0]]), optimizer=unhot.Adam(0.01))
        >>> unhot.jax.pool(unhot.jax.lookup(state, jnp.array([[0, 1], [1, 1]])), mode="mean")
        Array([[2., 3.],
               [3., 4.]], dtype=float32)
        >>> flat = unhot.jax.lookup(state, jnp.array([0, 1, 1]))
        >>> unhot.jax.pool(flat, segment_ids=jnp.array([0, 1, 1]), num_segments=2)
        Array([[1., 2.],
               [6., 8.]], dtype=float32)
    """
    vectors = jnp.asarray(vectors)
    shape = vectors.shape[:-1]
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"`mode` must be 'sum', 'mean' or 'max'. Received: {mode!r}.")
    if not shape:
        raise ValueError(f"`vectors` must have the shape (..., n, dim). Received: shape {vectors.shape}.")
    if mode == "max" and weights is not None:
        raise ValueError("`weights` do not go with mode='max'. Use 'sum' or 'mean', or leave them out.")
    kept = None if where is None else _of_each("where", where, shape)
    if (segment_ids is None) != (num_segments is None):
        raise ValueError(
            "`segment_ids` and `num_segments` go together: the sample of each vector, and how many samples there are."
        )
    bags = Lines(len(shape) - 1) if num_segments is None else _segments(segment_ids, num_segments, shape)
    if mode == "max":
        kept = jnp.ones(shape, bool) if kept is None else kept
        largest = bags.max(jnp.where(kept[..., None], vectors, -jnp.inf))
        return jnp.where(bags.sum(kept.astype(jnp.int32))[..., None] > 0, largest, 0)
    factors = jnp.ones(shape, vectors.dtype) if weights is None else _of_each("weights", weights, shape).astype(vectors.dtype)
    if kept is not None:
        factors = jnp.where(kept, factors, 0)
        vectors = jnp.where(kept[..., None], vectors, 0)  # 0 x NaN is not 0
    total = bags.sum(vectors * factors[..., None])
    if mode == "sum":
        return total
    empty = bags.sum((factors != 0).astype(jnp.int32)) == 0
    return total / jnp.where(empty, 1, bags.sum(factors))[..., None]


def _of_each(name: str, given: Any, shape: tuple[int, ...]) -> jax.Array:
    array = jnp.asarray(given)
    if array.shape != shape or (name == "where" and array.dtype != bool):
        wanted = "booleans, one" if name == "where" else "numbers, one"
        raise ValueError(
            f"`{name}` must be {wanted} for each vector, of shape {shape}. Received: shape {array.shape}, dtype {array.dtype}."
        )
    return array


@dataclass(frozen=True)
class Lines:
    """Bags that lie along an axis."""

    axis: int

    def sum(self, x: jax.Array) -> jax.Array:
        """The sum of each bag's elements or vectors."""
        return jnp.sum(x, self.axis)

    def max(self, vectors: jax.Array) -> jax.Array:
        """The largest elements of each bag's vectors; -inf for a bag without any."""
        return jnp.max(vectors, self.axis, initial=-jnp.inf)


@dataclass(frozen=True)
class Segments:
    """Bags that the flat vectors belong to by number; `count` stands for none."""

    numbers: jax.Array
    count: int

    def sum(self, x: jax.Array) -> jax.Array:
        """The sum of each bag's elements or vectors."""
        return jax.ops.segment_sum(x, self.numbers, self.count)

    def max(self, vectors: jax.Array) -> jax.Array:
        """The largest elements of each bag's vectors; -inf for a bag without any.

        They are read from where they stand first, since JAX does not differentiate `segment_max`.
        """
        if not len(vectors):
            return jnp.full((self.count, vectors.shape[1]), -jnp.inf, vectors.dtype)
        known = jax.lax.stop_gradient(vectors)
        largest = jax.ops.segment_max(known, self.numbers, self.count)
        places = jnp.arange(len(vectors), dtype=jnp.int32)[:, None]
        there = known == largest.at[self.numbers].get(mode="clip")
        first = jax.ops.segment_min(jnp.where(there, places, len(vectors) - 1), self.numbers, self.count)
        return jnp.take_along_axis(vectors, jnp.minimum(first, len(vectors) - 1), axis=0)


def _segments(segment_ids: Any, num_segments: int, shape: tuple[int, ...]) -> Segments:
    numbers = jnp.asarray(segment_ids)
    if not jnp.issubdtype(numbers.dtype, jnp.integer) and numbers.size:
        raise TypeError(f"`segment_ids` must be integers. Received: dtype {numbers.dtype}.")
    if len(shape) != 1 or numbers.shape != shape:
        raise ValueError(
            f"`segment_ids` go with flat vectors, (n, dim), one for each. Received: shape {numbers.shape}, and vectors of shape"
            f" {(*shape, 'dim')}."
        )
    wide = numbers.astype(jnp.int32) if numbers.dtype.itemsize < 4 else numbers  # which holds the number of bags
    return Segments(jnp.where((wide < 0) | (wide >= num_segments), num_segments, wide).astype(jnp.int32), num_segments)
