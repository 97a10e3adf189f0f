"""Many tables as one Keras layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import keras
from keras import ops

from unhot.keras.embedding import Embedding
from unhot.keras.input_ids import as_tensor, representable
from unhot.keras.kinds import Option, Shape, Tensor

Output = Literal["concatenated", "dict"]


@keras.saving.register_keras_serializable("unhot")
class EmbeddingCollection(keras.layers.Layer):  # type: ignore[misc]
    """Tables of any sizes and dims whose features are looked up together.

    Args:
        tables: (input_dim, output_dim) of each table, by name.
        features: the table of each feature, by name; features may share a table. None for one feature of each table's name.
        combiner: how to combine a sample's vectors along the last axis of the ids, as for `Embedding`; None does not combine.
        output: "concatenated" for one tensor with the features' vectors side by side, or "dict" for a tensor by feature.
        options: further arguments of each `Embedding`, such as `embeddings_initializer`, `mask_zero` and `out_of_range`.

    Call: `layer(inputs)`, where `inputs` holds the ids of each feature by name, as `Embedding` takes them. For a concatenated
        output, all features have ids of the same shape, or a combiner makes it the same.

    Returns: (batch, sum of dims) in the order of the features, or a dict.

    Raises: ValueError for arguments that do not go together; TypeError or KeyError for ids that do not fit the features; what
        `Embedding` raises, with the feature's name.

    Example:
        >>> import numpy as np, unhot.keras
        >>> layer = unhot.keras.EmbeddingCollection({"user": (1000, 16), "item": (500, 8)})
        >>> tuple(layer({"user": np.array([3, 7]), "item": np.array([5, 5])}).shape)
        (2, 24)

    References: keras_rs/src/layers/embedding/distributed_embedding.py.
    """

    def __init__(
        self,
        tables: Mapping[str, tuple[int, int]],
        features: Mapping[str, str] | None = None,
        *,
        combiner: str | None = None,
        output: Output = "concatenated",
        name: str | None = None,
        dtype: Option = None,
        trainable: bool = True,
        **options: Option,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self._convert_input_args = False  # `__call__` does that, as that of `Embedding`
        if not isinstance(tables, Mapping) or not all(
            isinstance(size, (tuple, list)) and len(size) == 2 for size in tables.values()
        ):
            raise TypeError(f"EmbeddingCollection: `tables` must map names to (input_dim, output_dim). Received: {tables!r}.")
        if not tables:
            raise ValueError("EmbeddingCollection: there must be at least one table.")
        if output not in ("concatenated", "dict"):
            raise ValueError(f"EmbeddingCollection: `output` must be 'concatenated' or 'dict'. Received: {output!r}.")
        unusable = [table for table in tables if not table or "." in table or "/" in table]
        if unusable:
            raise ValueError(
                f"EmbeddingCollection: a table's name must not be empty, and have no '.' or '/'. Received: {unusable}."
            )
        self.tables = {table: (int(rows), int(dim)) for table, (rows, dim) in tables.items()}
        self.features = {table: table for table in tables} if features is None else dict(features)
        unknown = sorted(set(self.features.values()) - set(self.tables))
        if unknown or not self.features:
            raise ValueError(
                f"EmbeddingCollection: each feature is looked up in one of the tables {list(self.tables)}. Received:"
                f" {features!r}."
            )
        self.combiner, self.output_kind, self.options = combiner, output, options
        self.layers = {
            table: Embedding(rows, dim, combiner=combiner, name=table, dtype=dtype, trainable=trainable, **options)
            for table, (rows, dim) in self.tables.items()
        }

    def build(self, input_shape: Shape = None) -> None:
        """Make the tables, whose sizes do not depend on the ids."""
        for layer in self.layers.values():
            layer.build()

    def __call__(self, inputs: Mapping[str, Tensor], *args: Option, **kwargs: Option) -> Tensor:
        """Keras's `__call__`. It checks ids before they are converted, because the conversion may shorten them."""
        wanted = f"EmbeddingCollection: ids must be given for the features {list(self.features)}"
        if not isinstance(inputs, Mapping):
            raise TypeError(f"{wanted}, in a dict. Received: {type(inputs).__name__}.")
        if inputs.keys() != self.features.keys():
            raise KeyError(f"{wanted}. Received: {list(inputs)}.")
        ids = {}
        for name, table in self.features.items():
            layer = self.layers[table]
            with named(name):
                ids[name] = as_tensor(representable(inputs[name], layer.input_dim, layer.out_of_range))
        return super().__call__(ids, *args, **kwargs)

    def call(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The vectors of all features. See the class."""
        found = {}
        for name, table in self.features.items():
            with named(name):
                found[name] = self.layers[table](inputs[name])
        if self.output_kind == "dict":
            return found
        shapes = {name: tuple(vectors.shape[:-1]) for name, vectors in found.items()}
        if not all(alike(shape, next(iter(shapes.values()))) for shape in shapes.values()):
            raise ValueError(
                "EmbeddingCollection: vectors are concatenated sample by sample, so all features must have ids of the same"
                f" shape. Received ids of shapes {shapes}. Use output='dict' otherwise, or a combiner."
            )
        return ops.concatenate(list(found.values()), axis=-1)

    def compute_output_shape(self, input_shape: Mapping[str, Shape]) -> Shape:
        """The shape of the vectors: those of the ids, with the dims at the end."""
        shapes = {
            name: self.layers[table].compute_output_shape(tuple(input_shape[name])) for name, table in self.features.items()
        }
        if self.output_kind == "dict":
            return shapes
        parts = list(shapes.values())
        return (*parts[0][:-1], sum(shape[-1] for shape in parts))

    def get_config(self) -> dict[str, Option]:
        """As Keras's."""
        config: dict[str, Option] = super().get_config()
        serialized = {name: keras.saving.serialize_keras_object(value) for name, value in self.options.items()}
        tables = {table: (self.layers[table].input_dim, dim) for table, (_, dim) in self.tables.items()}  # which may have grown
        return {
            **config, "tables": tables, "features": self.features, "combiner": self.combiner, "output": self.output_kind,
            **serialized,
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Option]) -> EmbeddingCollection:
        """As Keras's."""
        own = ("tables", "features", "combiner", "output", "name", "dtype", "trainable")
        options = {name: keras.saving.deserialize_keras_object(value) for name, value in config.items() if name not in own}
        return cls(**{name: value for name, value in config.items() if name in own}, **options)


@contextmanager
def named(feature: str) -> Iterator[None]:
    """Errors about ids say of which feature."""
    try:
        yield
    except (IndexError, TypeError, ValueError) as error:
        if type(error) in (IndexError, TypeError, ValueError):  # which are made of their text
            raise type(error)(f"feature {feature!r}: {error}") from error
        raise


def alike(shape: tuple[int | None, ...], other: tuple[int | None, ...]) -> bool:
    """Whether the shapes may be the same: sizes that are not known yet fit all."""
    return len(shape) == len(other) and all(a == b or None in (a, b) for a, b in zip(shape, other, strict=True))
