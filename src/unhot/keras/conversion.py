"""Replacing Keras's embedding layers, and Dense layers on one-hot vectors, in a model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import tree
from keras.src.models.functional import Functional, functional_like_constructor

from unhot.keras.distinct import DistinctIds
from unhot.keras.embedding import Embedding
from unhot.keras.encodings import Encoding, encoding, first, unfit
from unhot.keras.reversible_embedding import ReversibleEmbedding
from unhot.reports import Conversion

REPLACEMENTS: dict[type, type] = {
    keras.layers.Embedding: Embedding,
    keras.layers.ReversibleEmbedding: ReversibleEmbedding,
}
"""Keras's layers, and the layers that take over their configurations and weights."""


def convert(model: Any) -> Conversion[Any]:
    """Copy a functional or Sequential model, with layers of `unhot.keras` in place of Embedding and one-hot x Dense.

    The new layers keep the weights and names of the layers they replace, including in nested models. `convert` replaces
    `keras.layers.Embedding` and `ReversibleEmbedding`. It also replaces `keras.layers.Dense` on the vectors of
    `CategoryEncoding` (one_hot, multi_hot, count, also with count_weights), `keras.ops.one_hot` or `keras.ops.multi_hot`, and
    keeps its bias, activation, regularizer and constraint.

    Outputs are equal: bit for bit for single ids, and for several ids up to the rounding of a sum in a different order. As
    before, an id out of range is a zero vector to the bias and the activation of such a Dense layer. Shared layers stay
    shared.

    The given model is unchanged and shares no weights with the copy. The copy is not compiled. Compile it with an optimizer of
    `unhot.keras`, whose state starts from scratch.

    Args:
        model: a model that has been built.

    Returns: a `Conversion` with the new model, what was replaced, and what was left alone and why. A model that cannot be
        copied layer by layer (a subclass, or a model in which two layers hold the same weight) is returned as it is.

    Raises: TypeError for anything but a model; ValueError for a model that has no weights yet.

    Example:
        >>> import numpy as np, keras, unhot.keras
        >>> ids = keras.Input((3,), dtype="int32")
        >>> counts = keras.layers.CategoryEncoding(10, output_mode="count")(ids)
        >>> model = keras.Model(ids, keras.layers.Dense(4, activation="relu", name="words")(counts))
        >>> conversion = unhot.keras.convert(model)
        >>> conversion
        replaced: words (Dense on count vectors)
        >>> bags = np.array([[1, 2, 2], [7, 0, 9]])
        >>> bool(np.allclose(model.predict(bags, verbose=0), conversion.model.predict(bags, verbose=0), rtol=1e-6))
        True

    References: keras/src/models/functional.py, keras/src/layers/preprocessing/category_encoding.py.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"convert takes a Keras model. Received: {type(model).__name__}. Put layers into a Sequential model.")
    if not model.built:
        raise ValueError(f"model '{model.name}' has no weights as yet. Call it once, or build(input_shape), before convert.")
    report = Conversion(model, compiled=model.compiled)
    obstacle = _opaque(model) or _tied(model)
    if obstacle:
        report.left[model.name] = obstacle
    else:
        report.model = _Copy(_Plan(model, report)).of_model(model)
    return report


def _opaque(model: Any) -> str | None:
    """Why the graph of a model is not known, or cannot be made anew."""
    kind = type(model).__name__
    if isinstance(model, keras.Sequential):
        if type(model) is not keras.Sequential:
            return f"{kind} is a subclass of Sequential and may do more than call its layers"
        return None if model._functional is not None else "its layers have not been called one after the other"
    if not isinstance(model, Functional):
        return f"{kind} is no functional or Sequential model, so what it does with its layers is not known"
    return None if functional_like_constructor(type(model)) else f"{kind} cannot be made from inputs and outputs"


def _is_graph(operation: Any) -> bool:
    return isinstance(operation, keras.Model) and _opaque(operation) is None


def _nodes(model: Any) -> Iterator[Any]:
    """The calls that the model makes, inputs first."""
    graph = model._functional if isinstance(model, keras.Sequential) else model
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        yield from (node for node in graph._nodes_by_depth[depth] if not node.is_input)


def _leaves(model: Any) -> Iterator[Any]:
    """The layers that are no graphs, of a model and of those within it; some more than once."""
    for layer in model.layers:
        yield from _leaves(layer) if _is_graph(layer) else [layer]


def _tied(model: Any) -> str | None:
    """Which layers hold the same weight: each would be given a copy of its own."""
    owners: dict[int, Any] = {}
    for layer in _leaves(model):
        for weight in layer.weights:
            other = owners.setdefault(id(weight), layer)
            if other is not layer:
                return f"'{other.name}' and '{layer.name}' hold the same weight, {weight.path}, which a copy would make two"
    return None


class _Plan:
    """Which layers are replaced.

    Args:
        model: with a known graph.
        report: where that is written down, and what is left alone.
    """

    def __init__(self, model: Any, report: Conversion[Any]) -> None:
        self.report = report
        self.names: dict[Any, str] = {}
        self.calls: dict[Any, list[Any]] = {}
        self.takers: dict[int, list[str]] = {}
        """For a tensor's id, what takes it beside Dense layers."""
        self.tables: dict[Any, Encoding | None] = {}
        """The layers to replace, and, for a Dense layer, one of the things it is given."""
        self._walk(model, "")
        for operation in self.calls:
            if isinstance(operation, keras.layers.Dense):
                self._decide_dense(operation)
            elif isinstance(operation, keras.layers.Embedding) and not isinstance(operation, tuple(REPLACEMENTS.values())):
                self._decide_embedding(operation)
            else:
                self._look_inside(operation)
        for operation in self.calls:
            self._report_encoder(operation)

    def _walk(self, model: Any, prefix: str) -> None:
        graph = model._functional if isinstance(model, keras.Sequential) else model
        for tensor in graph.outputs:
            self.takers.setdefault(id(tensor), []).append(f"the outputs of model '{model.name}'")
        for node in _nodes(model):
            operation = node.operation
            for tensor in node.input_tensors:
                takers = self.takers.setdefault(id(tensor), [])
                if not isinstance(operation, keras.layers.Dense):
                    takers.append(f"'{operation.name}'")
            if operation not in self.names:
                self.names[operation] = prefix + operation.name
                if _is_graph(operation):
                    self._walk(operation, f"{prefix}{operation.name}/")
            if not _is_graph(operation):
                self.calls.setdefault(operation, []).append(node)

    def _keep(self, operation: Any, why: str) -> None:
        self.report.left[self.names[operation]] = why

    def _decide_embedding(self, layer: Any) -> None:
        if type(layer) not in REPLACEMENTS:
            self._keep(layer, f"{type(layer).__name__} is a subclass of Keras's layer and may use its weight otherwise")
            return
        lookups = [node for node in self.calls[layer] if not node.arguments.kwargs.get("reverse")]
        obstacle = next(filter(None, (unfit(node.input_tensors[0], layer.input_dim) for node in lookups)), None)
        if obstacle:
            self._keep(layer, obstacle)
            return
        self.tables[layer] = None
        self.report.replaced[self.names[layer]] = type(layer).__name__

    def _decide_dense(self, layer: Any) -> None:
        given: list[Any] = [_source(node) for node in self.calls[layer]]
        if not any(given):
            return
        why = _obstacle(layer, given)
        if why:
            self._keep(layer, why)
            return
        self.tables[layer] = given[0]
        modes = sorted({each.mode for each in given})
        self.report.replaced[self.names[layer]] = f"Dense on {' and '.join(modes)} vectors"

    def _look_inside(self, operation: Any) -> None:
        if not isinstance(operation, keras.Layer):
            return
        for layer in operation._flatten_layers(include_self=False):
            if type(layer) in REPLACEMENTS:
                name = f"{self.names[operation]}/{layer.name}"
                self.report.left[name] = f"it is called by {type(operation).__name__}, and how is not known"

    def _report_encoder(self, operation: Any) -> None:
        for node in self.calls[operation]:
            takers = self.takers.get(id(node.outputs[0]))
            if takers and encoding(operation, node.arguments.args, node.arguments.kwargs):
                self._keep(operation, f"its vectors go to {', '.join(takers)}, where all of their elements may be used")


def _source(node: Any) -> Encoding | str | None:
    """What the input of a call encodes, as `encoding` says it."""
    operation, index, _ = node.input_tensors[0]._keras_history
    arguments = operation._inbound_nodes[index].arguments
    return encoding(operation, arguments.args, arguments.kwargs)


def _obstacle(dense: Any, given: list[Any]) -> str | None:
    """Why a Dense layer that is given these encodings is not replaced."""
    unknown = next((each for each in given if isinstance(each, str)), None)
    if unknown is not None:
        return unknown
    if None in given:
        return "it is given something else than one-hot vectors, too"
    if len({each.pooled for each in given}) > 1:
        return "it is given the vectors of single ids in one place and those of several ids in another"
    if type(dense) is not keras.layers.Dense:
        return f"{type(dense).__name__} is a subclass of Dense and may use its kernel otherwise"
    if dense.lora_enabled or dense.quantization_mode is not None:
        return "its kernel is quantized or has LoRA"
    if dense.bias_regularizer is not None or dense.bias_constraint is not None:
        return "its bias has a regularizer or a constraint, which unhot.keras.Embedding has for its rows only"
    return next(filter(None, (unfit(each.ids, each.rows) for each in given)), None)


class _Copy:
    """The layers of a new model, made as they are called."""

    def __init__(self, plan: _Plan) -> None:
        self.plan = plan
        self.made: dict[Any, Any] = {}
        self.encodings: dict[int, tuple[Any, Any]] = {}
        """For the id of a tensor in the new graphs: the tensor, so that the id remains its own, and what it encodes."""
        self.distinct: dict[int, Any] = {}
        """For the id of a table that was a Dense layer: what its ids go through if they are a set."""

    def of_model(self, model: Any) -> Any:
        """The model with the layers made."""
        if isinstance(model, keras.Sequential):
            copy = keras.Sequential([_input(model._functional.inputs[0]), *self._row_of(model)], name=model.name)
        else:
            inputs = tree.map_structure(_input, model.input)
            outputs = model._run_through_graph(inputs, operation_fn=self.of, call_fn=self._call)
            copy = type(model)(inputs, outputs, name=model.name)
        if not model.trainable:
            copy.trainable = False
        for layer in model.layers:
            made = self.made.get(layer, layer)
            if made is not layer and layer not in self.plan.tables and not _is_graph(layer):
                _carry_over(layer, made)
        return copy

    def of(self, operation: Any) -> Any:
        """What stands for an operation in the new graph."""
        if operation not in self.made:
            self.made[operation] = self._make(operation)
        return self.made[operation]

    def _make(self, operation: Any) -> Any:
        if _is_graph(operation):
            return self.of_model(operation)
        if operation in self.plan.tables:
            given = self.plan.tables[operation]
            table = _table(operation, given)
            if given is not None:
                self.distinct[id(table)] = DistinctIds(name=f"{operation.name}_ids")
            return table
        try:
            return type(operation).from_config(operation.get_config())
        except (NotImplementedError, TypeError, ValueError):  # the last for a Lambda of Python code
            if isinstance(operation, keras.Layer):
                name = self.plan.names[operation]
                self.plan.report.left[name] = "it cannot be copied from a configuration, and is the same in both models"
            return operation

    def _call(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what `of` gave; a table that was a Dense layer, with the ids."""
        if id(operation) in self.distinct:
            _, found = self.encodings[id(first(args, kwargs))]
            ids = self.distinct[id(operation)](found.ids) if found.mode == "multi_hot" else found.ids
            return operation(ids) if found.weights is None else operation(ids, found.weights)
        result = operation(*args, **kwargs)
        found = encoding(operation, args, kwargs)
        if isinstance(found, Encoding):
            self.encodings[id(result)] = result, found
        return result

    def _row_of(self, model: Any) -> Iterator[Any]:
        """The layers of a Sequential model."""
        for layer, following in zip(model.layers, [*model.layers[1:], None], strict=True):
            found = self.plan.tables.get(following)
            if found is None:
                yield self.of(layer)
            elif found.mode == "multi_hot":
                yield self.distinct[id(self.of(following))]


def _input(tensor: Any) -> Any:
    layer = tensor._keras_history.operation
    return type(layer).from_config(layer.get_config()).output


def _table(layer: Any, given: Encoding | None) -> Any:
    """The embedding layer in place of one of Keras's, or of a Dense layer on such vectors."""
    config = layer.get_config()
    if given is None:
        table = REPLACEMENTS[type(layer)].from_config(config)  # type: ignore[attr-defined]
    else:
        same = ("name", "trainable", "dtype", "bias_initializer", "activity_regularizer")
        table = Embedding.from_config(
            {name: config[name] for name in same if name in config}
            | {"use_bias": bool(config["use_bias"])}
            | {f"embeddings_{part}": config[f"kernel_{part}"] for part in ("initializer", "regularizer", "constraint")}
            | {"input_dim": given.rows, "output_dim": layer.units, "combiner": "sum" if given.pooled else None}
            | {"activation": None if config["activation"] == "linear" else config["activation"], "out_of_range": "zero"}
        )
    table.build()
    table.set_weights(layer.get_weights())
    return table


def _carry_over(layer: Any, copy: Any) -> None:
    """Give the copy of a layer its weights, and what layers hold beside them."""
    copy.set_weights(layer.get_weights())
    for old, new in zip(layer._flatten_layers(), copy._flatten_layers(), strict=True):
        for generator, other in zip(old._seed_generators, new._seed_generators, strict=True):
            other.state.assign(np.array(keras.ops.convert_to_numpy(generator.state)))  # JAX gives away what two would share
        if isinstance(new, keras.layers.Normalization):
            new.finalize_state()
        if hasattr(old, "save_assets") and hasattr(new, "load_assets"):
            with tempfile.TemporaryDirectory() as folder:
                old.save_assets(folder)
                new.load_assets(folder)
