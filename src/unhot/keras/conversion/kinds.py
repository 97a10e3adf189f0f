"""Which layers `convert` replaces by which, also those that other layers make in code of their own."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import ClassVar

import keras

from unhot.keras.collection import EmbeddingCollection
from unhot.keras.distinct import DistinctIds
from unhot.keras.embedding import Embedding
from unhot.keras.reversible_embedding import ReversibleEmbedding

PAIRS: dict[type, type] = {
    keras.layers.Embedding: Embedding,
    keras.layers.ReversibleEmbedding: ReversibleEmbedding,
}
"""Keras's layers, and the layers that take over their configurations and weights."""

OURS: dict[type, type] = {ours: stock for stock, ours in PAIRS.items()}

BEYOND_STOCK: dict[str, object] = {"use_bias": False, "activation": None, "combiner": None, "out_of_range": "raise"}
"""The arguments of our layers that Keras's do not have, with the values at which both are the same."""

OF_EACH_CLASS = {
    "__module__", "__qualname__", "__doc__", "__annotations__", "__annotate_func__", "__annotations_cache__",
    "__firstlineno__", "__static_attributes__",
}  # fmt: skip
"""What a class has that adds nothing to the one it inherits from."""

_patching = threading.RLock()


class Kinds(ABC):
    """One direction of the conversion."""

    bases: ClassVar[tuple[type, ...]]
    """The classes whose constructors give other layers, and so do those of their subclasses."""

    encodes: ClassVar[bool]
    """Whether Dense layers on one-hot vectors are looked for, too."""

    @abstractmethod
    def verdict(self, layer: keras.Layer) -> type | str | None:
        """The class that takes a layer's place; why it is left alone; None for a layer that is not looked for."""

    @abstractmethod
    def called(self, layer: keras.Layer) -> str:
        """What the report calls a layer that was replaced."""

    @abstractmethod
    def instead(self, kind: type, given: Mapping[str, object]) -> tuple[type, dict[str, object]] | None:
        """The class, and its keywords, for a layer that some code constructs; None if it gets what it asks for."""

    @contextmanager
    def constructed(self) -> Iterator[None]:
        """Inside the block, in this thread, code that constructs a layer gets the one that takes its place.

        A layer may hold others, in attributes, lists or graphs that only its own code knows. No other way reaches them all,
        and gives layers that are what their own constructors make.
        """
        thread = threading.get_ident()

        def patched(base: type) -> staticmethod[..., object]:
            original: Callable[..., object] = base.__new__

            def new(cls: type, *args: object, **kwargs: object) -> object:
                found = self.instead(cls, kwargs) if threading.get_ident() == thread else None
                if found is None:
                    return original(cls, *args, **kwargs)
                kind, keywords = found
                if issubclass(kind, cls):  # Python calls `__init__` with what was given
                    return original(kind, *args, **kwargs)
                return kind(*args, **keywords)

            return staticmethod(new)

        with _patching, ExitStack() as after:
            for base in self.bases:
                own = vars(base).get("__new__")
                base.__new__ = patched(base)  # type: ignore[method-assign, assignment]
                after.callback(_restore, base, own)
            yield


def _restore(base: type, own: object) -> None:
    if own is None:
        del base.__new__
    else:
        base.__new__ = own  # type: ignore[assignment]


class ToUnhot(Kinds):
    bases = (keras.layers.Embedding,)
    encodes = True

    def verdict(self, layer: keras.Layer) -> type | str | None:
        if not isinstance(layer, keras.layers.Embedding) or isinstance(layer, Embedding):
            return None
        found = _stock(type(layer))
        if found is None:
            return f"{type(layer).__name__} is a subclass of Keras's layer and may use its weight otherwise"
        return PAIRS[found]

    def called(self, layer: keras.Layer) -> str:
        return type(layer).__name__

    def instead(self, kind: type, given: Mapping[str, object]) -> tuple[type, dict[str, object]] | None:
        found = None if issubclass(kind, Embedding) else _stock(kind)
        return None if found is None else (PAIRS[found], dict(given))


class ToStock(Kinds):
    bases = (Embedding,)
    encodes = False

    def verdict(self, layer: keras.Layer) -> type | str | None:
        if isinstance(layer, (DistinctIds, EmbeddingCollection)):
            return "Keras has no such layer"
        if not isinstance(layer, Embedding):
            return None
        if type(layer) not in OURS:
            return f"{type(layer).__name__} is a subclass of unhot's layer and may use its weight otherwise"
        named = [name for name, same in BEYOND_STOCK.items() if getattr(layer, name) != same]
        return f"keras.layers.{type(layer).__name__} has no {' and no '.join(named)}" if named else OURS[type(layer)]

    def called(self, layer: keras.Layer) -> str:
        return f"unhot.keras.{type(layer).__name__}"

    def instead(self, kind: type, given: Mapping[str, object]) -> tuple[type, dict[str, object]] | None:
        if kind not in OURS or any(given.get(name, same) != same for name, same in BEYOND_STOCK.items()):
            return None
        without = (*BEYOND_STOCK, "bias_initializer", "frozen")  # which rows train is the optimizers' affair
        return OURS[kind], {name: value for name, value in given.items() if name not in without}


def _stock(kind: type) -> type | None:
    """The layer of Keras's that a class is, under another name maybe; None for one that adds something of its own."""
    for each in kind.__mro__:
        if each in PAIRS:
            return each
        if any(name not in OF_EACH_CLASS and not name.startswith("_api_export") for name in vars(each)):
            return None
    return None


KINDS: dict[str, Kinds] = {"unhot": ToUnhot(), "stock": ToStock()}
