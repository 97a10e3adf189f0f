"""`keras.layers.Embedding` whose table trains at the cost of the rows touched."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from unhot.ids import OutOfRange, check_policy
from unhot.keras.backends import port
from unhot.keras.input_ids import checked, representable, require_exact

COMBINERS = ("sum", "mean", "max", "sqrtn")


@keras.saving.register_keras_serializable("unhot")
class Embedding(keras.layers.Embedding):  # type: ignore[misc]
    """`keras.layers.Embedding`, whose rows an optimizer of `unhot.keras` trains exactly, at the cost of those touched.

    Args: those of `keras.layers.Embedding`, with its defaults, and
        use_bias: add a trained vector, as the Dense layer on one-hot vectors would.
        bias_initializer: where that starts from.
        activation: applied to the result.
        combiner: how the vectors of the last axis of the ids become one: "sum" (what Dense makes of a multi-hot vector),
            "mean", "max" or "sqrtn" (the sum over the root of the sum of the squared weights); None keeps them apart.  With
            `mask_zero`, ids 0 take no part.
        out_of_range: what an id outside [0, input_dim) is: "raise" (an IndexError; in a compiled graph, which cannot raise it,
            its vector is NaN), "zero" (a zero vector without a gradient) or the number of the row that stands for all unknown
            ids.

    Call: `layer(ids, weights=None)`; ids of any shape (..., n), integers, or floats where all rows have exact numbers in
    their dtype; `weights` of the same shape go with a combiner other than "max".

    Returns: ids.shape + (output_dim,), without the ids' last axis if there is a combiner.

    Errors: those of `keras.layers.Embedding`; ValueError for what does not go together; IndexError for an id out of range;
        TypeError for booleans, and for floats that cannot hold every row's number.

    Example:
        >>> import numpy as np, unhot.keras
        >>> layer = unhot.keras.Embedding(1000, 4, combiner="sum", use_bias=True, activation="relu")
        >>> tuple(layer(np.array([[3, 7, 7], [3, 5, 0]])).shape)
        (2, 4)

    Source: keras/src/layers/core/embedding.py.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *args: Any,
        use_bias: bool = False,
        bias_initializer: Any = "zeros",
        activation: Any = None,
        combiner: str | None = None,
        out_of_range: OutOfRange = "raise",
        **kwargs: Any,
    ) -> None:
        if combiner is not None and combiner not in COMBINERS:
            raise ValueError(f"`combiner` must be one of {', '.join(map(repr, COMBINERS))} or None. Received: {combiner!r}.")
        self.use_bias = use_bias
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.activation = None if activation is None else keras.activations.get(activation)
        self.combiner = combiner
        self.bias = None
        super().__init__(input_dim, output_dim, *args, **kwargs)
        self.out_of_range = check_policy(out_of_range, input_dim)

    def build(self, input_shape: Any = None) -> None:
        """As Keras's, with the bias."""
        if self.built:
            return
        super().build(input_shape)
        if self.quantization_mode is None:
            port.make_table(self._embeddings)
        if self.use_bias:
            self.bias = self.add_weight(shape=(self.output_dim,), initializer=self.bias_initializer, name="bias")

    @property
    def variables(self) -> Any:
        """As Keras's; on JAX, what a trainer has to carry of an owned table stands in its place."""
        return port.state_variables(super().variables)

    # ------------------------------------------------------------------ the call

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As Keras's; ids are looked at before Keras makes them shorter."""
        return super().__call__(representable(inputs, self.input_dim, self.out_of_range), *args, **kwargs)

    def call(self, inputs: Any, weights: Any = None) -> Any:
        """The vectors of the ids; see the class."""
        require_exact(inputs, self)
        if weights is not None and self.combiner in (None, "max"):
            raise ValueError(f"`weights` go with combiner 'sum', 'mean' or 'sqrtn'. Received: combiner={self.combiner!r}.")
        ids, bad = checked(inputs, self.input_dim, self.out_of_range, port.concrete)
        found = self._rows(ids)
        if bad is not None:
            instead = float("nan") if self.out_of_range == "raise" else 0.0
            found = ops.where(ops.expand_dims(bad, -1), ops.cast(instead, found.dtype), found)
        if self.combiner is not None:
            found = self._combined(found, inputs, weights)
        found = ops.cast(found, dtype=self.compute_dtype)
        if self.bias is not None:
            found = ops.add(found, ops.cast(self.bias, self.compute_dtype))
        return found if self.activation is None else self.activation(found)

    def _rows(self, ids: Any) -> Any:
        """The vectors of ids within the table."""
        if self.lora_enabled or self.quantization_mode is not None or not port.owned(self._embeddings):
            return super().call(ids)
        return port.lookup(self._embeddings, ids)

    def _combined(self, vectors: Any, inputs: Any, weights: Any) -> Any:
        kept = ops.not_equal(inputs, 0) if self.mask_zero else None
        if self.combiner == "max":
            if kept is None:
                return ops.max(vectors, axis=-2)
            kept = ops.expand_dims(kept, -1)
            largest = ops.max(ops.where(kept, vectors, ops.cast(float("-inf"), vectors.dtype)), axis=-2)
            return ops.where(ops.any(kept, axis=-2), largest, ops.zeros_like(largest))
        factors = ops.ones_like(inputs, dtype=vectors.dtype) if weights is None else ops.cast(weights, vectors.dtype)
        if kept is not None:
            factors = ops.where(kept, factors, ops.zeros_like(factors))
            vectors = ops.where(ops.expand_dims(kept, -1), vectors, ops.zeros_like(vectors))
        total = ops.sum(vectors * ops.expand_dims(factors, -1), axis=-2)
        if self.combiner == "sum":
            return total
        size = ops.sum(factors, axis=-1) if self.combiner == "mean" else ops.sqrt(ops.sum(factors * factors, axis=-1))
        size = ops.expand_dims(size, -1)
        return ops.where(size == 0, ops.zeros_like(total), total / ops.where(size == 0, ops.ones_like(size), size))

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """As Keras's; a combiner leaves nothing to mask."""
        return None if self.combiner is not None else super().compute_mask(inputs, mask)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As Keras's, without the last axis of the ids if there is a combiner."""
        return super().compute_output_shape(input_shape[:-1] if self.combiner is not None else input_shape)

    def compute_output_spec(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As Keras's."""
        require_exact(inputs, self)
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)

    # ------------------------------------------------------------------ saving

    def get_config(self) -> dict[str, Any]:
        """As Keras's; what is here alone only where it differs from the default, so that Keras's layer takes the rest."""
        config: dict[str, Any] = super().get_config()
        if self.use_bias:
            config |= {"use_bias": True, "bias_initializer": keras.initializers.serialize(self.bias_initializer)}
        if self.activation is not None:
            config["activation"] = keras.activations.serialize(self.activation)
        if self.combiner is not None:
            config["combiner"] = self.combiner
        if self.out_of_range != "raise":
            config["out_of_range"] = self.out_of_range
        return config

    def save_own_variables(self, store: Any) -> None:
        """As Keras's, and the bias."""
        super().save_own_variables(store)
        if self.bias is not None:
            store["bias"] = self.bias

    def load_own_variables(self, store: Any) -> None:
        """As Keras's, and the bias."""
        if self.bias is None:
            super().load_own_variables(store)
            return
        if "bias" not in store:
            raise ValueError(
                f"Layer '{self.name}' has a bias, and the file has none. Make it with use_bias=False, or save it anew."
            )
        super().load_own_variables({name: store[name] for name in list(store.keys()) if name != "bias"})
        self.bias.assign(store["bias"])
