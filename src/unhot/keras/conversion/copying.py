"""Copies of layers and models with other layers in them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import keras
import numpy as np
from keras import tree

from unhot.keras._private import builds_something, graph_of, layers_in, origin, run_through, seed_generators
from unhot.keras.conversion.encodings import Argument, Encoding, encoding, first
from unhot.keras.conversion.kinds import Kinds
from unhot.keras.conversion.plan import Plan, is_graph, named
from unhot.keras.distinct import DistinctIds
from unhot.keras.embedding import Embedding


class CopyError(Exception):
    """An operation could not be copied in the way that was planned."""

    def __init__(self, operation: keras.Operation, error: Exception) -> None:
        super().__init__(str(error))
        self.operation = operation
        self.reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


class Copy:
    """The layers of a new model, made as they are called.

    Args:
        plan: which layers become what.

    Raises: CopyError, by `of_model`, for an operation with which the plan was not possible.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.replaced: dict[str, str] = {}
        """The layers inside others that were replaced."""
        self.left: dict[str, str] = {}
        self.made: dict[keras.Operation, keras.Operation] = {}
        self.originals: dict[int, keras.Operation] = {}
        self.encodings: dict[int, tuple[keras.KerasTensor, Encoding]] = {}
        """For the id of a tensor in the new graphs: the tensor, so that the id remains its own, and what it encodes."""
        self.distinct: dict[int, keras.Layer] = {}
        """For the id of a table that was a Dense layer: what its ids go through if they are a set."""

    def of_model(self, model: keras.Model) -> keras.Model:
        """The model with the layers made."""
        graph = graph_of(model)
        if isinstance(model, keras.Sequential):
            row = list(self._row_of(model))
            begin = [] if graph is None else [_input(graph.inputs[0])]
            copy = self._sequential([*begin, *row], model)
        else:
            inputs = tree.map_structure(lambda tensor: _input(tensor).output, model.input)
            outputs = run_through(model, inputs, self.of, self._call)
            copy = type(model)(inputs, outputs, name=model.name)
        if not model.trainable:
            copy.trainable = False
        for layer in model.layers:
            made = self.made.get(layer, layer)
            if made is not layer and layer not in self.plan.tables and not is_graph(layer):
                self._finish(layer, made)
        return copy

    def _sequential(self, row: list[keras.Layer], model: keras.Model) -> keras.Sequential:
        try:
            with self._scope(*map(self._original, row)):
                return keras.Sequential(row, name=model.name)
        except Exception:
            passed = row[0].output
            for layer in row[1:]:
                passed = self._call(layer, passed)  # raises CopyError for the layer with which it is not possible
            raise

    def _finish(self, layer: keras.Layer, made: keras.Layer) -> None:
        """What is not known of a copy before it has been called."""
        try:
            with self._scope(layer):
                carry_over(layer, made)
        except Exception as error:
            raise CopyError(layer, error) from error
        if layer in self.plan.inside and layer not in self.plan.plain:
            replaced, left = compared(layer, made, self.plan.kinds, f"{self.plan.names[layer]}/")
            self.replaced |= replaced
            self.left |= left

    def _scope(self, *operations: keras.Operation) -> AbstractContextManager[None]:
        """In which layers inside these are replaced as they are made."""
        inside = [each for each in operations if each in self.plan.inside and each not in self.plan.plain]
        return self.plan.kinds.constructed() if inside else nullcontext()

    def of(self, operation: keras.Operation) -> keras.Operation:
        """What stands for an operation in the new graph."""
        if operation not in self.made:
            made = self._make(operation)
            self.made[operation] = made
            self.originals[id(made)] = operation
        return self.made[operation]

    def _original(self, made: keras.Operation) -> keras.Operation | None:
        return self.originals.get(id(made))

    def _make(self, operation: keras.Operation) -> keras.Operation:
        if is_graph(operation):
            return self.of_model(operation)
        if operation in self.plan.shared:
            return operation
        try:
            if operation in self.plan.tables:
                given = self.plan.tables[operation]
                made = table(operation, given, self.plan.kinds)
                if given is not None:
                    self.distinct[id(made)] = DistinctIds(name=f"{operation.name}_ids")
                return made
            with self._scope(operation):
                return from_config(operation)
        except Exception as error:
            raise CopyError(operation, error) from error

    def _call(self, operation: keras.Operation, *args: Argument, **kwargs: Argument) -> Argument:
        """Call what `of` gave; a table that was a Dense layer, with the ids."""
        original = self._original(operation)
        try:
            with self._scope(original):
                return self._called(operation, *args, **kwargs)
        except CopyError:
            raise
        except Exception as error:
            raise CopyError(original, error) from error

    def _called(self, operation: keras.Operation, *args: Argument, **kwargs: Argument) -> Argument:
        if id(operation) in self.distinct:
            _, found = self.encodings[id(first(args, kwargs))]
            ids = self.distinct[id(operation)](found.ids) if found.mode == "multi_hot" else found.ids
            return operation(ids) if found.weights is None else operation(ids, found.weights)
        result = operation(*args, **kwargs)
        encoded = encoding(operation, args, kwargs)
        if isinstance(encoded, Encoding):
            self.encodings[id(result)] = result, encoded
        return result

    def _row_of(self, model: keras.Model) -> Iterator[keras.Layer]:
        """The layers of a Sequential model."""
        for layer, following in zip(model.layers, [*model.layers[1:], None], strict=True):
            found = self.plan.tables.get(following)
            if found is None:
                yield self.of(layer)
            elif found.mode == "multi_hot":
                yield self.distinct[id(self.of(following))]


def whole(model: keras.Layer, kinds: Kinds) -> tuple[keras.Layer, dict[str, str], dict[str, str]]:
    """A copy of a model or layer as a whole, from its configuration; what was replaced in it, and what was not and why.

    Raises: whatever the model's own code raises; ValueError for a copy with other weights.
    """
    with kinds.constructed():
        copy = from_config(model)
        carry_over(model, copy)
    verdict = kinds.verdict(model)
    if isinstance(verdict, type) and type(copy) is verdict:
        return copy, {model.name: kinds.called(model)}, {}
    return copy, *compared(model, copy, kinds, "")


def compared(layer: keras.Layer, copy: keras.Layer, kinds: Kinds, prefix: str) -> tuple[dict[str, str], dict[str, str]]:
    """Which layers inside a layer were replaced in its copy, and which were left alone and why."""
    replaced, left = {}, {}
    for (inner, old), new in zip(named(layer).items(), named(copy).values(), strict=True):
        name, verdict = f"{prefix}{inner}", kinds.verdict(old)
        if isinstance(verdict, str):
            left[name] = verdict
        elif verdict is not None and isinstance(new, verdict) and kinds.verdict(new) is None:
            replaced[name] = kinds.called(old)
        elif verdict is not None:
            left[name] = "the layer that holds it makes it in a way of its own"
    return replaced, left


def from_config(operation: keras.Operation) -> keras.Operation:
    """A new operation, layer or model, as its configuration says."""
    if not isinstance(operation, keras.Layer):
        return type(operation).from_config(operation.get_config())
    kind, config = type(operation), operation.get_config()
    with keras.saving.custom_object_scope(_classes(operation)):
        try:
            made = kind.from_config(dict(config))
        except TypeError:  # Keras adds these to the arguments of a constructor, which need not take them
            config = {name: value for name, value in config.items() if name not in ("name", "trainable", "dtype")}
            made = kind.from_config(config)
    if made.dtype_policy != operation.dtype_policy:
        raise ValueError(f"its copy has the dtype policy {made.dtype_policy.name} instead of {operation.dtype_policy.name}")
    for old, new in zip([operation, *layers_in(operation)], [made, *layers_in(made)], strict=False):
        if new.name != old.name:  # that of a layer without a given name has the next number
            new.name = old.name
    return made


def _classes(layer: keras.Layer) -> dict[str, type]:
    """The classes of the layers inside a layer by name, as configurations have them, which need not be registered."""
    kinds = {type(each) for each in layers_in(layer) if not type(each).__module__.startswith("keras.")}
    names = [kind.__name__ for kind in kinds]
    return {kind.__name__: kind for kind in kinds if names.count(kind.__name__) == 1}


def _input(tensor: keras.KerasTensor) -> keras.layers.InputLayer:
    """The input layer of a copy."""
    layer, _ = origin(tensor)
    return type(layer).from_config(layer.get_config())


def table(layer: keras.Layer, given: Encoding | None, kinds: Kinds) -> keras.Layer:
    """The layer in place of an embedding layer, or of a Dense layer on such vectors."""
    config = layer.get_config()
    if given is None:
        kind = kinds.verdict(layer)
        assert isinstance(kind, type)
        made = kind.from_config(config)  # type: ignore[attr-defined]  # a class of layers
    else:
        same = ("name", "trainable", "dtype", "bias_initializer", "activity_regularizer")
        made = Embedding.from_config(
            {name: config[name] for name in same if name in config}
            | {"use_bias": bool(config["use_bias"])}
            | {f"embeddings_{part}": config[f"kernel_{part}"] for part in ("initializer", "regularizer", "constraint")}
            | {"input_dim": given.rows, "output_dim": layer.units, "combiner": "sum" if given.pooled else None}
            | {"activation": None if config["activation"] == "linear" else config["activation"], "out_of_range": "zero"}
        )
    if layer.built:
        made.build()
        made.set_weights(layer.get_weights())
    return made


def carry_over(layer: keras.Layer, copy: keras.Layer) -> None:
    """Give the copy of a layer its weights, and what layers hold beside them.

    Raises: ValueError for a copy that has other layers or weights.
    """
    if len(copy.weights) != len(layer.weights):
        _build_like(layer, copy, set())
    copy.set_weights(layer.get_weights())
    for old, new in zip([layer, *layers_in(layer)], [copy, *layers_in(copy)], strict=True):
        if old.trainable != new.trainable:
            new.trainable = old.trainable
        for generator, other in zip(seed_generators(old), seed_generators(new), strict=True):
            other.state.assign(np.array(keras.ops.convert_to_numpy(generator.state)))  # JAX gives away what two would share
        if isinstance(new, keras.layers.Normalization):
            new.finalize_state()
        if hasattr(old, "save_assets") and hasattr(new, "load_assets"):
            with tempfile.TemporaryDirectory() as folder:
                old.save_assets(folder)
                new.load_assets(folder)


def _build_like(layer: keras.Layer, copy: keras.Layer, seen: set[int]) -> None:
    """Give a copy that was never called its variables, and so on inside it.

    For a model, Keras's `build_from_config` calls it with floats of the shape of its first argument, which not all models take.
    """
    seen.add(id(layer))
    if layer.built and not copy.built and builds_something(copy):
        copy.build_from_config(layer.get_build_config())
    with keras.name_scope(copy.name, caller=copy):
        for old, new in zip(layers_in(layer, recursive=False), layers_in(copy, recursive=False), strict=True):
            if id(old) not in seen:
                _build_like(old, new, seen)
    copy.built = layer.built
