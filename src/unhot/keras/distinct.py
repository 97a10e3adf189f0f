"""A Keras layer that makes sets of ids: each id once, however often it is given."""

from __future__ import annotations

import keras
from keras import ops

from unhot.keras.kinds import Option, Tensor


@keras.saving.register_keras_serializable("unhot")
class DistinctIds(keras.layers.Layer):  # type: ignore[misc]
    """The ids of the last axis in order, each once, and -1 in the places of repeats.

    With `Embedding(..., combiner="sum", out_of_range="zero")` after it, the sum over the distinct ids: what a Dense layer makes
    of a multi-hot vector, which is 1 for an id however often that id occurs.

    Call: `layer(ids)`; ids of any shape (..., n).

    Returns: integers of the same shape.

    Raises: nothing of its own.

    Example:
        >>> import numpy as np, keras
        >>> from unhot.keras.distinct import DistinctIds
        >>> keras.ops.convert_to_numpy(DistinctIds()(np.array([[7, 3, 7, 7], [1, 2, 3, 0]]))).tolist()
        [[3, 7, -1, -1], [0, 1, 2, 3]]
    """

    def __init__(self, **kwargs: Option) -> None:
        super().__init__(**kwargs)
        self.autocast = False  # half precision has no room for ids that come as floats

    def call(self, ids: Tensor) -> Tensor:
        """The distinct ids; see the class."""
        ids = ops.sort(ops.cast(ids, self._integers(ids)), axis=-1)
        repeated = ops.equal(ids[..., 1:], ids[..., :-1])
        return ops.concatenate([ids[..., :1], ops.where(repeated, ops.cast(-1, ids.dtype), ids[..., 1:])], axis=-1)

    def compute_output_spec(self, ids: Tensor) -> Tensor:
        """As the ids, in an integer dtype that has -1."""
        return keras.KerasTensor(ids.shape, dtype=self._integers(ids))

    @staticmethod
    def _integers(ids: Tensor) -> str:
        return "int64" if keras.backend.standardize_dtype(ids.dtype) in ("int64", "uint32", "uint64") else "int32"
