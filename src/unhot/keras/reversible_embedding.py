"""`keras.layers.ReversibleEmbedding` with a table that trains at the cost of the touched rows."""

from __future__ import annotations

import keras

from unhot.ids import OutOfRange
from unhot.keras.embedding import Embedding
from unhot.keras.input_ids import as_tensor
from unhot.keras.kinds import Option, Shape, Tensor

Stock = keras.layers.ReversibleEmbedding


@keras.saving.register_keras_serializable("unhot")
class ReversibleEmbedding(keras.layers.ReversibleEmbedding, Embedding):  # type: ignore[misc]
    """`keras.layers.ReversibleEmbedding`, the tied output head of a language model, exact with optimizers of `unhot.keras`.

    With `tie_weights=False`, a step costs only the touched rows. If the table also computes the logits, all of its rows have
    gradients, and a step costs as much as Keras's.

    Args: those of `keras.layers.ReversibleEmbedding`, with its defaults, and
        use_bias, bias_initializer, activation, combiner, out_of_range, frozen: as in `unhot.keras.Embedding`. They are part of
            the lookup alone; frozen rows are those of `embeddings`.

    Call: `layer(ids, weights=None)` returns vectors, as `unhot.keras.Embedding` does. `layer(vectors, reverse=True)` returns
        logits, (..., output_dim) -> (..., input_dim): the product with the table (or, with `tie_weights=False`, with the
        second matrix), as Keras has it, without a bias and without the activation.

    Raises: what `keras.layers.ReversibleEmbedding` raises; for ids and options, what `unhot.keras.Embedding` raises; ValueError
        for `weights` with `reverse=True`.

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
        *args: Option,
        out_of_range: OutOfRange = "raise",
        **kwargs: Option,
    ) -> None:
        self.tie_weights = tie_weights  # before Keras's, which builds the layer if it is given `weights`
        super().__init__(input_dim, output_dim, tie_weights, *args, out_of_range=out_of_range, **kwargs)

    def build(self, input_shape: Shape = None) -> None:
        """Keras's `build`, once."""
        if not self.built:
            super().build(input_shape)

    def __call__(self, inputs: Tensor, *args: Option, **kwargs: Option) -> Tensor:
        """Keras's `__call__`. It checks ids, but not vectors, before they are converted."""
        if not kwargs.get("reverse"):
            return super().__call__(inputs, *args, **kwargs)
        result = super(Embedding, self).__call__(as_tensor(inputs), *args, **kwargs)
        self._note_reads()
        return result

    def call(self, inputs: Tensor, weights: Tensor = None, reverse: bool = False) -> Tensor:
        """The vectors of the ids, or the logits of vectors. See the class."""
        return Embedding.call(self, inputs, weights) if self._weighted(weights, reverse) else Stock.call(self, inputs, reverse)

    def _int8_call(self, inputs: Tensor, weights: Tensor = None, training: Tensor = None, reverse: bool = False) -> Tensor:
        weighted = self._weighted(weights, reverse)
        return Embedding._int8_call(self, inputs, weights) if weighted else Stock._int8_call(self, inputs, reverse)

    def _int4_call(self, inputs: Tensor, weights: Tensor = None, training: Tensor = None, reverse: bool = False) -> Tensor:
        weighted = self._weighted(weights, reverse)
        return Embedding._int4_call(self, inputs, weights) if weighted else Stock._int4_call(self, inputs, reverse)

    def _weighted(self, weights: Tensor, reverse: bool) -> bool:
        """Whether there are weights, which Keras's layer does not take; otherwise it calls what `Embedding` has."""
        if reverse and weights is not None:
            raise ValueError("`weights` are those of bags of ids. Leave them out with reverse=True.")
        return weights is not None

    def compute_output_shape(self, input_shape: Shape, reverse: bool = False) -> Shape:
        """Keras's `compute_output_shape`. A combiner removes the last axis of the ids."""
        combines = self._combines is not None and not reverse
        return Stock.compute_output_shape(self, input_shape[:-1] if combines else input_shape, reverse)

    def compute_output_spec(self, inputs: Tensor, weights: Tensor = None, reverse: bool = False) -> Tensor:
        """Keras's `compute_output_spec`."""
        if self._weighted(weights, reverse) or not reverse:
            return Embedding.compute_output_spec(self, inputs, weights)
        return Stock.compute_output_spec(self, inputs, reverse)

    def quantize(self, mode: Option = None, type_check: bool = True, config: Option = None) -> None:
        """Keras's `quantize`. It refuses subclasses of Keras's layer, except this one."""
        if type_check and type(self) is not ReversibleEmbedding:
            raise self._not_implemented_error(self.quantize)
        super().quantize(mode, type_check=False, config=config)
