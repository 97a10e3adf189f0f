"""Many tables as one Keras layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import keras
from keras import ops

from unhot.keras.backends import backend
from unhot.keras.callers import note_caller
from unhot.keras.combiners import Wanted, bags_of
from unhot.keras.embedding import Embedding
from unhot.keras.input_ids import as_tensor, checked, representable
from unhot.keras.kinds import Layer, Option, Shape, Tensor

Output = Literal["concatenated", "dict"]


@keras.saving.register_keras_serializable("unhot")
class EmbeddingCollection(keras.layers.Layer):  # type: ignore[misc]
    """Tables of any sizes and dims whose features are looked up together.

    Args:
        tables: each table, by name: (input_dim, output_dim), or a dict of arguments of `Embedding`, with which tables differ.
        features: the table of each feature, by name; features may share a table. None for one feature of each table's name.
        combiner: how to combine a sample's vectors along the last axis of the ids, as for `Embedding`; None does not combine.
            A table may have its own.
        output: "concatenated" for one tensor with the features' vectors side by side, or "dict" for a tensor by feature.
        options: further arguments of each `Embedding`, such as `embeddings_initializer`, `mask_zero` and `out_of_range`, for
            tables that have none of their own.

    Call: `layer(inputs, weights=None)`, where `inputs` holds the ids of each feature by name, as `Embedding` takes them, also
        ragged and sparse ones. `weights` holds a factor for each id of the features that it names. For a concatenated output,
        all features have ids of the same shape, or a combiner makes it the same.

    Returns: (batch, sum of dims) in the order of the features, or a dict. With a dict, a table of which no vector enters the
        loss is trained as Keras trains any variable without a gradient: on torch, it does not move.

    Raises: ValueError for arguments that do not go together; TypeError or KeyError for ids that do not fit the features; what
        `Embedding` raises, with the feature's name.

    Example:
        >>> import numpy as np, unhot.keras
        >>> layer = unhot.keras.EmbeddingCollection({"user": (1000, 16), "item": (500, 8)})
        >>> tuple(layer({"user": np.array([3, 7]), "item": np.array([5, 5])}).shape)
        (2, 24)
        >>> tables = {"user": (1000, 16), "words": {"input_dim": 500, "output_dim": 8, "combiner": "mean"}}
        >>> layer = unhot.keras.EmbeddingCollection(tables)
        >>> tuple(layer({"user": np.array([3, 7]), "words": np.array([[5, 5], [8, 1]])}).shape)
        (2, 24)

    References: keras_rs/src/layers/embedding/distributed_embedding.py.
    """

    def __init__(
        self,
        tables: Mapping[str, tuple[int, int] | Mapping[str, Option]],
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
        if not isinstance(tables, Mapping) or not all(map(says_its_size, tables.values())):
            raise TypeError(
                "EmbeddingCollection: `tables` must map names to (input_dim, output_dim), or to dicts of arguments of"
                f" `Embedding`, 'input_dim' and 'output_dim' among them. Received: {tables!r}."
            )
        if not tables:
            raise ValueError("EmbeddingCollection: there must be at least one table.")
        if output not in ("concatenated", "dict"):
            raise ValueError(f"EmbeddingCollection: `output` must be 'concatenated' or 'dict'. Received: {output!r}.")
        unusable = [table for table in tables if not table or "." in table or "/" in table]
        if unusable:
            raise ValueError(
                f"EmbeddingCollection: a table's name must not be empty, and have no '.' or '/'. Received: {unusable}."
            )
        self._given = {table: arguments_of(given) for table, given in tables.items()}
        self.tables = {table: (int(given["input_dim"]), int(given["output_dim"])) for table, given in self._given.items()}
        self.features = {table: table for table in tables} if features is None else dict(features)
        unknown = sorted(set(self.features.values()) - set(self.tables))
        if unknown or not self.features:
            raise ValueError(
                f"EmbeddingCollection: each feature is looked up in one of the tables {list(self.tables)}. Received:"
                f" {features!r}."
            )
        self.combiner, self.output_kind, self.options = combiner, output, options
        shared = {"combiner": combiner, "dtype": dtype, "trainable": trainable, **options}
        self.layers = {table: Embedding(**{**shared, **given, "name": table}) for table, given in self._given.items()}

    def build(self, input_shape: Shape = None) -> None:
        """Make the tables, whose sizes do not depend on the ids."""
        for layer in self.layers.values():
            layer.build()

    def __call__(
        self, inputs: Mapping[str, Tensor], weights: Mapping[str, Tensor] | None = None, *args: Option, **kwargs: Option
    ) -> Tensor:
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
        if weights is None:
            return super().__call__(ids, *args, **kwargs)
        if not isinstance(weights, Mapping) or not weights.keys() <= ids.keys():
            raise TypeError(
                f"EmbeddingCollection: `weights` must be a dict for some of the features {list(self.features)}. Received:"
                f" {list(weights) if isinstance(weights, Mapping) else type(weights).__name__}."
            )
        given = {name: as_tensor(factors) for name, factors in weights.items() if factors is not None}
        return super().__call__(ids, given, *args, **kwargs)

    def call(self, inputs: Mapping[str, Tensor], weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The vectors of all features. See the class."""
        together = None if weights or self.output_kind == "dict" else self._together(inputs)
        if together is not None:
            return together
        found, weights = {}, weights or {}
        for name, table in self.features.items():
            with named(name):
                layer = self.layers[table]
                found[name] = layer(inputs[name], weights[name]) if name in weights else layer(inputs[name])
        if self.output_kind == "dict":
            return found
        shapes = {name: tuple(vectors.shape[:-1]) for name, vectors in found.items()}
        if not all(alike(shape, next(iter(shapes.values()))) for shape in shapes.values()):
            raise ValueError(
                "EmbeddingCollection: vectors are concatenated sample by sample, so all features must have ids of the same"
                f" shape. Received ids of shapes {shapes}. Use output='dict' otherwise, or a combiner."
            )
        return ops.concatenate(list(found.values()), axis=-1)

    def _together(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """The vectors of all features side by side, looked up in one call; None where each is to be looked up by itself."""
        layers = [self.layers[table] for table in self.features.values()]
        if not all(map(only_looks_up, layers)) or len({layer.compute_dtype for layer in layers}) > 1:
            return None
        look_up = backend.joint_lookup([layer.embeddings for layer in layers])
        if look_up is None:
            return None
        wanted: list[Wanted] = []
        for name, layer in zip(self.features, layers, strict=True):
            with named(name):
                own = wanted_of(layer, inputs[name])
            if own is None:
                return None
            wanted.append(own)
        if len({(own.shape, own.combiner is None) for own in wanted}) > 1:
            return None
        note_caller()
        found = look_up(wanted)
        return None if found is None else ops.cast(found, layers[0].compute_dtype)

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
        tables: dict[str, Option] = {}
        for table, given in self._given.items():
            rows, dim = self.layers[table].input_dim, given["output_dim"]  # it may have grown
            tables[table] = (rows, dim) if len(given) == 2 else serialized({**given, "input_dim": rows})
        return {
            **config, "tables": tables, "features": self.features, "combiner": self.combiner, "output": self.output_kind,
            **serialized(self.options),
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Option]) -> EmbeddingCollection:
        """As Keras's."""
        own = ("tables", "features", "combiner", "output", "name", "dtype", "trainable")
        options = restored({name: value for name, value in config.items() if name not in own})
        given = {name: value for name, value in config.items() if name in own}
        given["tables"] = {
            table: restored(each) if isinstance(each, Mapping) else each for table, each in config["tables"].items()
        }
        return cls(**given, **options)


def only_looks_up(layer: Layer) -> bool:
    """Whether a call of the layer looks up rows of the table and combines them, and does nothing else.

    Users may hook it, give it methods of their own, or put another in its place.
    """
    if type(layer) is not Embedding or not layer.built or layer.lora_enabled or layer._adds_bias:
        return False
    more = (layer._activates, layer.activity_regularizer, layer.quantization_mode)
    return all(given is None for given in more) and "call" not in vars(layer) and not backend.is_hooked(layer)


def wanted_of(layer: Embedding, ids: Tensor) -> Wanted | None:
    """The rows that a call of such a layer looks up; None if that is not all of it. Bad ids are errors, as in a call."""
    layer._check_call(ids, None)
    numbers, bad = checked(ids, layer.input_dim, layer.out_of_range, backend.concrete)
    return None if bad is not None else layer._wanted(bags_of(ids, None), numbers)


def says_its_size(given: Option) -> bool:
    """Whether this is what a collection takes for a table."""
    if isinstance(given, Mapping):
        return {"input_dim", "output_dim"} <= given.keys()
    return isinstance(given, (tuple, list)) and len(given) == 2


def arguments_of(given: Option) -> dict[str, Option]:
    """The arguments of a table's layer."""
    return dict(given) if isinstance(given, Mapping) else dict(zip(("input_dim", "output_dim"), given, strict=True))


def serialized(options: Mapping[str, Option]) -> dict[str, Option]:
    """Arguments of layers as Keras writes them into files."""
    return {name: keras.saving.serialize_keras_object(value) for name, value in options.items()}


def restored(options: Mapping[str, Option]) -> dict[str, Option]:
    """What `serialized` has made into what Keras writes."""
    return {name: keras.saving.deserialize_keras_object(value) for name, value in options.items()}


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
