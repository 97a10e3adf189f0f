"""What is to be replaced in a model whose graph is known, and what is left alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import chain, count

import keras

from unhot.keras._private import Node, calls, graph_of, layers_in, made_of_inputs_and_outputs, origin
from unhot.keras.conversion.encodings import Encoding, encoding, unfit
from unhot.keras.conversion.kinds import Kinds


def opaque(model: keras.Model) -> str | None:
    """Why the graph of a model is not known, or cannot be made anew."""
    kind = type(model).__name__
    if isinstance(model, keras.Sequential):
        return (
            None
            if type(model) is keras.Sequential
            else f"{kind} is a subclass of Sequential and may do more than call its layers"
        )
    if graph_of(model) is None:
        return f"{kind} is no functional or Sequential model, so what it does with its layers is not known"
    return None if made_of_inputs_and_outputs(type(model)) else f"{kind} cannot be made from inputs and outputs"


def is_graph(operation: keras.Operation) -> bool:
    """Whether this is a model that can be made anew, layer by layer."""
    return isinstance(operation, keras.Model) and opaque(operation) is None


def tied(model: keras.Model) -> str | None:
    """Which layers hold the same weight: each would be given a copy of its own."""
    owners: dict[int, keras.Layer] = {}
    for layer in _leaves(model):
        for weight in layer.weights:
            other = owners.setdefault(id(weight), layer)
            if other is not layer:
                return f"'{other.name}' and '{layer.name}' hold the same weight, {weight.path}, which a copy would make two"
    return None


def _leaves(model: keras.Model) -> Iterator[keras.Layer]:
    """The layers that are no graphs, of a model and of those within it; some more than once."""
    for layer in model.layers:
        yield from _leaves(layer) if is_graph(layer) else [layer]


def named(layer: keras.Layer) -> dict[str, keras.Layer]:
    """The layers inside a layer, outer ones first, each once, by names that lead to them."""
    found: dict[str, keras.Layer] = {}
    seen: set[int] = set()

    def collect(holder: keras.Layer, prefix: str) -> None:
        for each in layers_in(holder, recursive=False):
            if id(each) not in seen:
                seen.add(id(each))
                name = unique(f"{prefix}{each.name}", found)
                found[name] = each
                collect(each, f"{name}/")

    collect(layer, "")
    return found


def unique(name: str, taken: Collection[str]) -> str:
    """The name, with a number if it is taken."""
    names = chain([name], (f"{name}_{i}" for i in count(1)))
    return next(each for each in names if each not in taken)


class Plan:
    """Which layers are replaced, and which are left alone and why.

    Args:
        model: with a known graph.
        kinds: the direction.
    """

    def __init__(self, model: keras.Model, kinds: Kinds) -> None:
        self.kinds = kinds
        self.replaced: dict[str, str] = {}
        self.left: dict[str, str] = {}
        self.names: dict[keras.Operation, str] = {}
        self.calls: dict[keras.Operation, list[Node]] = {}
        self.takers: dict[int, list[str]] = {}
        """For a tensor's id, what takes it beside Dense layers."""
        self.tables: dict[keras.Layer, Encoding | None] = {}
        """The layers to replace, and, for a Dense layer, one of the things it is given."""
        self.inside: dict[keras.Operation, dict[str, keras.Layer]] = {}
        """The layers that hold others to replace, with these."""
        self.plain: set[keras.Operation] = set()
        """Those of them whose copies hold what they have always held."""
        self.shared: set[keras.Operation] = set()
        """What cannot be copied, and is the same in both models."""
        self._walk(model, "")
        for operation in self.calls:
            self._decide(operation)
        if kinds.encodes:
            for operation in self.calls:
                self._report_encoder(operation)

    def _walk(self, model: keras.Model, prefix: str) -> None:
        graph = graph_of(model)
        if graph is None:  # a Sequential model that was never called
            for layer in model.layers:
                self._enter(layer, prefix)
            return
        for tensor in graph.outputs:
            self.takers.setdefault(id(tensor), []).append(f"the outputs of model '{model.name}'")
        for node in calls(graph):
            operation = node.operation
            for tensor in node.input_tensors:
                takers = self.takers.setdefault(id(tensor), [])
                if not isinstance(operation, keras.layers.Dense):
                    takers.append(f"'{operation.name}'")
            self._enter(operation, prefix)
            if operation in self.calls:
                self.calls[operation].append(node)

    def _enter(self, operation: keras.Operation, prefix: str) -> None:
        if operation in self.names:
            return
        self.names[operation] = prefix + operation.name
        if is_graph(operation):
            self._walk(operation, f"{prefix}{operation.name}/")
        else:
            self.calls[operation] = []

    def _keep(self, operation: keras.Operation, why: str) -> None:
        self.left[self.names[operation]] = why

    def _decide(self, operation: keras.Operation) -> None:
        verdict = self.kinds.verdict(operation)
        if isinstance(verdict, str):
            self._keep(operation, verdict)
        elif verdict is not None:
            self._decide_embedding(operation)
        elif isinstance(operation, keras.layers.Dense) and self.kinds.encodes:
            self._decide_dense(operation)
        elif isinstance(operation, keras.Layer):
            found = {name: layer for name, layer in named(operation).items() if self.kinds.verdict(layer) is not None}
            held = {f"{self.names[operation]}/{name}": layer for name, layer in found.items()}
            if held:
                self.inside[operation] = held

    def _decide_embedding(self, layer: keras.Layer) -> None:
        lookups = [node for node in self.calls[layer] if not node.arguments.kwargs.get("reverse")]
        reason = next(filter(None, (unfit(node.input_tensors[0], layer.input_dim) for node in lookups)), None)
        if reason and self.kinds.encodes:
            self._keep(layer, reason)
            return
        self.tables[layer] = None
        self.replaced[self.names[layer]] = self.kinds.called(layer)

    def _decide_dense(self, layer: keras.Layer) -> None:
        given = [_source(node) for node in self.calls[layer]]
        if not any(given):
            return
        found = _alike(given)
        if not isinstance(found, str):
            found = _why_kept(layer, found) or found
        if isinstance(found, str):
            self._keep(layer, found)
            return
        self.tables[layer] = found[0]
        modes = sorted({each.mode for each in found})
        self.replaced[self.names[layer]] = f"Dense on {' and '.join(modes)} vectors"

    def _report_encoder(self, operation: keras.Operation) -> None:
        for node in self.calls[operation]:
            takers = self.takers.get(id(node.outputs[0]))
            if takers and encoding(operation, node.arguments.args, node.arguments.kwargs):
                self._keep(operation, f"its vectors go to {', '.join(takers)}, where all of their elements may be used")

    def give_up(self, operation: keras.Operation, error: str) -> bool:
        """Ask less of an operation that could not be copied in this way; whether that was possible."""
        kind = type(operation).__name__
        if operation in self.tables:
            del self.tables[operation], self.replaced[self.names[operation]]
            self._keep(operation, error)
        elif operation in self.inside and operation not in self.plain:
            self.plain.add(operation)
            self.left.update((name, f"{kind}, which holds it, fails with another: {error}") for name in self.inside[operation])
        elif operation not in self.shared:
            self.shared.add(operation)
            if isinstance(operation, keras.Layer):
                self._keep(operation, "it cannot be copied from a configuration, and is the same in both models")
            held = self.inside.get(operation, ())
            self.left.update((name, f"{kind}, which holds it, cannot be copied from a configuration") for name in held)
        else:
            return False
        return True


def _source(node: Node) -> Encoding | str | None:
    """What the input of a call encodes, as `encoding` says it."""
    operation, arguments = origin(node.input_tensors[0])
    return encoding(operation, arguments.args, arguments.kwargs)


def _alike(given: list[Encoding | str | None]) -> list[Encoding] | str:
    """What a Dense layer is given, or why one table cannot take the place of all of that."""
    unknown = next((each for each in given if isinstance(each, str)), None)
    if unknown is not None:
        return unknown
    found = [each for each in given if isinstance(each, Encoding)]
    if len(found) < len(given):
        return "it is given something else than one-hot vectors, too"
    if len({each.pooled for each in found}) > 1:
        return "it is given the vectors of single ids in one place and those of several ids in another"
    return found


def _why_kept(dense: keras.layers.Dense, given: list[Encoding]) -> str | None:
    """Why a Dense layer that is given these encodings is not replaced."""
    if type(dense) is not keras.layers.Dense:
        return f"{type(dense).__name__} is a subclass of Dense and may use its kernel otherwise"
    if dense.lora_enabled or dense.quantization_mode is not None:
        return "its kernel is quantized or has LoRA"
    if dense.bias_regularizer is not None or dense.bias_constraint is not None:
        return "its bias has a regularizer or a constraint, which unhot.keras.Embedding has for its rows only"
    return next(filter(None, (unfit(each.ids, each.rows) for each in given)), None)
