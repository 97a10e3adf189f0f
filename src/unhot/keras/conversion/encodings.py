"""One-hot, multi-hot and count vectors in a graph of Keras, and the ids that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import keras

from unhot.keras._private import hot_encoder
from unhot.keras.input_ids import EXACT

Argument: TypeAlias = Any
"""What an operation is called with, or gives: anything, in the end tensors of a graph."""

MODES = ("one_hot", "multi_hot", "count")


@dataclass(frozen=True)
class Encoding:
    """Ids that an operation turns into vectors of `rows` elements, in one of the modes of `CategoryEncoding`.

    Args:
        mode: one of `MODES`.
        rows: how many ids there are.
        pooled: whether one vector stands for the ids of a whole last axis.
        ids: the ids, a tensor of the graph.
        weights: a weight for each, or None.
    """

    mode: str
    rows: int
    pooled: bool
    ids: keras.KerasTensor
    weights: keras.KerasTensor | None = None


def encoding(operation: keras.Operation, args: tuple[Argument, ...], kwargs: dict[str, Argument]) -> Encoding | str | None:
    """What a call of the operation encodes; why that cannot be followed; or None if it makes no such vectors."""
    mode = str(getattr(operation, "output_mode", None))
    hot = hot_encoder(operation)
    if hot is None and mode not in MODES:
        return None
    ids = first(args, kwargs)
    if hot is not None:
        if operation.axis != -1:
            return f"it encodes along axis {operation.axis}, and a Dense layer takes the last"
        if hot == "one_hot":
            return Encoding("one_hot", operation.num_classes, False, ids)
        return _pooled(Encoding("multi_hot", operation.num_classes, True, ids))
    kind = type(operation).__name__
    if not isinstance(operation, keras.layers.CategoryEncoding):
        return f"{kind}(output_mode={mode!r}) finds ids and encodes them in one: use output_mode='int' with an Embedding"
    if type(operation) is not keras.layers.CategoryEncoding:
        return f"{kind} is a subclass of CategoryEncoding and may encode otherwise"
    if mode != "one_hot":
        return _pooled(Encoding(mode, operation.num_tokens, True, ids, kwargs.get("count_weights")))
    if len(ids.shape) > 1 and ids.shape[-1] is None:
        return "CategoryEncoding drops the ids' last axis if it has one element, and its size is not known"
    return Encoding(mode, operation.num_tokens, len(ids.shape) > 1 and ids.shape[-1] == 1, ids)


def first(args: tuple[Argument, ...], kwargs: dict[str, Argument]) -> Argument:
    """The first argument of a call, which may be given by its name."""
    return args[0] if args else next(iter(kwargs.values()))


def _pooled(found: Encoding) -> Encoding | str:
    """Keras counts along axis 1, and that is the last one if there are two."""
    shape = found.ids.shape
    return found if len(shape) == 2 else f"{found.mode} vectors of ids of shape {shape}, where Keras counts along axis 1"


def unfit(ids: keras.KerasTensor, rows: int) -> str | None:
    """Why tensors of this dtype cannot be the ids of a table of so many rows."""
    dtype = keras.backend.standardize_dtype(ids.dtype)
    if dtype in ("bool", "string"):
        return f"its ids are of dtype {dtype}"
    if rows > EXACT.get(dtype, rows):
        return f"its ids are of dtype {dtype}, which does not hold all numbers below {rows:,}: let them come as integers"
    return None
