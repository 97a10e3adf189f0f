"""`keras.layers.ReversibleEmbedding` with a table that trains at the cost of the touched rows."""

from __future__ import annotations

import keras

from unhot.ids import OutOfRange
from unhot.keras.embedding import Embedding
from unhot.keras.input_ids import as_tensor, require_exact
from unhot.keras.kinds import Option, Shape, Tensor


@keras.saving.register_keras_serializable("unhot")
class ReversibleEmbedding(keras.layers.ReversibleEmbedding, Embedding):  # type: ignore[misc]
    """`keras.layers.ReversibleEmbedding`, the tied output head of a language model, exact with optimizers of `unhot.keras`.

    With `tie_weights=False`, a step costs only the touched rows. If the table also computes the logits, all of its rows have
    gradients, and a step costs as much as Keras's.

    Args: those of `keras.layers.ReversibleEmbedding`, with its defaults, and
        out_of_range, frozen: as in `unhot.keras.Embedding`. Frozen rows are those of `embeddings`.

    Call: `layer(ids)` returns vectors. `layer(vectors, reverse=True)` returns logits: (..., output_dim) -> (..., input_dim).

    Raises: what `keras.layers.ReversibleEmbedding` raises; for ids, what `unhot.keras.Embedding` raises.

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
        if self.use_bias or self.activation is not None or self.combiner is not None:
            raise ValueError("ReversibleEmbedding has no bias, no activation and no combiner. Use Embedding for those.")

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

    def compute_output_spec(self, inputs: Tensor, reverse: bool = False) -> Tensor:
        """Keras's `compute_output_spec`."""
        if not reverse:
            require_exact(inputs, self)
        return super().compute_output_spec(inputs, reverse)

    def quantize(self, mode: Option = None, type_check: bool = True, config: Option = None) -> None:
        """Keras's `quantize`. It refuses subclasses of Keras's layer, except this one."""
        if type_check and type(self) is not ReversibleEmbedding:
            raise self._not_implemented_error(self.quantize)
        super().quantize(mode, type_check=False, config=config)
