"""How the vectors of a bag of ids become one."""

from __future__ import annotations

from keras import ops

from unhot.keras.kinds import Tensor

COMBINERS = ("sum", "mean", "max", "sqrtn")


def combined(combiner: str, vectors: Tensor, weights: Tensor, kept: Tensor) -> Tensor:
    """The vectors (..., n, dim) combined along n; of a bag without any, 0.

    Args:
        combiner: one of `COMBINERS`.
        vectors: floats.
        weights: (..., n), a factor for each vector, or None.
        kept: (..., n), which vectors take part, or None for all.
    """
    if combiner == "max":
        return _largest(vectors, kept)
    factors = ops.ones_like(vectors[..., 0]) if weights is None else ops.cast(weights, vectors.dtype)
    if kept is not None:
        factors = ops.where(kept, factors, ops.zeros_like(factors))
        vectors = ops.where(ops.expand_dims(kept, -1), vectors, ops.zeros_like(vectors))  # 0 x NaN is not 0
    total = ops.sum(vectors * ops.expand_dims(factors, -1), axis=-2)
    if combiner == "sum":
        return total
    size = ops.sum(factors if combiner == "mean" else ops.square(factors), axis=-1, keepdims=True)
    empty = ops.all(ops.equal(factors, 0), axis=-1, keepdims=True)
    size = ops.where(empty, ops.ones_like(size), size)  # before the root, whose derivative at 0 is infinite
    return total / (size if combiner == "mean" else ops.sqrt(size))


def _largest(vectors: Tensor, kept: Tensor) -> Tensor:
    if 0 in vectors.shape:
        return ops.sum(vectors, axis=-2)  # Keras refuses the largest of nothing
    if kept is None:
        if vectors.shape[-2] is not None:
            return ops.max(vectors, axis=-2)
        kept = ops.ones_like(vectors[..., 0], dtype="bool")
    kept = ops.expand_dims(kept, -1)
    largest = ops.max(ops.where(kept, vectors, ops.cast(float("-inf"), vectors.dtype)), axis=-2)
    return ops.where(ops.any(kept, axis=-2), largest, ops.zeros_like(largest))
