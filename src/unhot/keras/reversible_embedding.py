"""`keras.layers.ReversibleEmbedding` whose table trains at the cost of the rows touched."""

from __future__ import annotations

from typing import Any

import keras

from unhot.ids import OutOfRange
from unhot.keras.embedding import Embedding
from unhot.keras.input_ids import as_tensor, require_exact


@keras.saving.register_keras_serializable("unhot")
class ReversibleEmbedding(keras.layers.ReversibleEmbedding, Embedding):  # type: ignore[misc]
    """`keras.layers.ReversibleEmbedding`, the tied output head of a language model, exact under optimizers of `unhot.keras`.

    With `tie_weights=False` the table is trained by the rows touched.  Where it also makes the logits, all of its rows have
    gradients: such a step costs what Keras's costs.

    Args: those of `keras.layers.ReversibleEmbedding`, with its defaults, and
        out_of_range: as in `unhot.keras.Embedding`.

    Call: `layer(ids)` gives vectors, `layer(vectors, reverse=True)` logits, (..., output_dim) -> (..., input_dim).

    Raises: those of `keras.layers.ReversibleEmbedding` and, for ids, of `unhot.keras.Embedding`.

    Example:
        >>> import numpy as np, unhot.keras
        >>> layer = unhot.keras.ReversibleEmbedding(1000, 4)
        >>> vectors = layer(np.array([[3, 7], [3, 5]]))
        >>> tuple(layer(vectors, reverse=True).shape)
        (2, 2, 1000)

    References: keras/src/layers/core/reversible_embedding.py.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        tie_weights: bool = True,
        *args: Any,
        out_of_range: OutOfRange = "raise",
        **kwargs: Any,
    ) -> None:
        self.tie_weights = tie_weights  # before Keras's, which builds the layer if it is given `weights`
        super().__init__(input_dim, output_dim, tie_weights, *args, out_of_range=out_of_range, **kwargs)
        if self.use_bias or self.activation is not None or self.combiner is not None:
            raise ValueError("ReversibleEmbedding has no bias, no activation and no combiner. Use Embedding for those.")

    def build(self, input_shape: Any = None) -> None:
        """As Keras's."""
        if not self.built:
            super().build(input_shape)

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As Keras's; ids, but not vectors, are looked at before they are converted."""
        if not kwargs.get("reverse"):
            return super().__call__(inputs, *args, **kwargs)
        result = super(Embedding, self).__call__(as_tensor(inputs), *args, **kwargs)
        self._seen()
        return result

    def compute_output_spec(self, inputs: Any, reverse: bool = False) -> Any:
        """As Keras's."""
        if not reverse:
            require_exact(inputs, self)
        return super().compute_output_spec(inputs, reverse)

    def quantize(self, mode: Any = None, type_check: bool = True, config: Any = None) -> None:
        """As Keras's, which is not for subclasses, but for this one."""
        if type_check and type(self) is not ReversibleEmbedding:
            raise self._not_implemented_error(self.quantize)
        super().quantize(mode, type_check=False, config=config)
