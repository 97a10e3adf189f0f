"""Replacing Keras's embedding layers, and Dense layers on one-hot vectors, in a model; and the way back."""

from __future__ import annotations

from typing import Literal

import keras

from unhot.keras.conversion.copying import Copy, CopyError, whole
from unhot.keras.conversion.kinds import KINDS, Kinds
from unhot.keras.conversion.plan import Plan, is_graph, opaque, tied
from unhot.reports import Conversion


def convert(model: keras.Layer, to: Literal["unhot", "stock"] = "unhot") -> Conversion[keras.Layer]:
    """Copy a model with layers of `unhot.keras` in place of Embedding and one-hot x Dense, or with Keras's own again.

    The new layers keep the weights and names of the layers they replace. `convert` replaces `keras.layers.Embedding` and
    `ReversibleEmbedding`, also those that other layers, backbones and subclassed models hold. In functional and Sequential
    models, it also replaces `keras.layers.Dense` on the vectors of `CategoryEncoding` (one_hot, multi_hot, count, also with
    count_weights), `keras.ops.one_hot` or `keras.ops.multi_hot`, and keeps its bias, activation, regularizer and constraint.

    Outputs are equal: bit for bit for single ids, and for several ids up to the rounding of a sum in a different order. As
    before, an id out of range is a zero vector to the bias and the activation of such a Dense layer. Shared layers stay
    shared.

    The given model is unchanged and shares no weights with the copy, and the optimizer that owns its tables keeps them. The
    copy is not compiled. Compile it with an optimizer of `unhot.keras`, whose state starts from scratch.

    With `to="stock"`, the layers of `unhot.keras` become Keras's own, with settled weights. If no layer had to be left alone,
    nothing of unhot remains in the copy: it is saved, loaded, exported and quantized as any model of Keras, also where unhot is
    not installed. Layers that Keras has no equal of stay as they are: those with a bias, an activation, a combiner or
    `out_of_range`, and collections.

    Layers that hold others, and subclassed models, are copied as their configurations say, as `keras.models.load_model` does.
    What cannot be copied in this way is left alone. So are subclasses of the layers to replace.

    Args:
        model: a model or a layer.
        to: "unhot", or "stock" for Keras's own layers.

    Returns: a `Conversion` with the new model, what was replaced, and what was left alone and why. A model that cannot be
        copied at all is returned as it is.

    Raises: TypeError for anything but a model or a layer; ValueError for another `to`.

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
    if not isinstance(model, keras.Layer):
        raise TypeError(f"`convert` takes a Keras model or layer. Received: {type(model).__name__}.")
    if to not in KINDS:
        raise ValueError(f"`to` is 'unhot' or 'stock'. Received: {to!r}.")
    kinds, compiled = KINDS[to], bool(getattr(model, "compiled", False))
    found = _by_graph(model, kinds) if is_graph(model) and not tied(model) else None
    model, replaced, left = found or _as_a_whole(model, kinds)
    return Conversion(model, replaced, left, compiled=compiled)


Found = tuple[keras.Layer, dict[str, str], dict[str, str]]
"""A model, what was replaced in it, and what was left alone and why."""


def _by_graph(model: keras.Model, kinds: Kinds) -> Found | None:
    """The copy of a model, layer by layer, with as much replaced as is possible; None if it cannot be copied in this way."""
    plan = Plan(model, kinds)
    while True:
        copy = Copy(plan)
        try:
            made = copy.of_model(model)
        except CopyError as error:
            if not plan.give_up(error.operation, error.reason):
                return None
        except Exception:  # of the model's own code: there is another way
            return None
        else:
            return made, plan.replaced | copy.replaced, plan.left | copy.left


def _as_a_whole(model: keras.Layer, kinds: Kinds) -> Found:
    """The copy of a model or layer as its own code makes it; the model itself if that is not possible."""
    uncopied = (tied(model) if is_graph(model) else opaque(model)) if isinstance(model, keras.Model) else None
    try:
        copy, replaced, left = whole(model, kinds)
    except Exception as error:  # of the model's own code: a model that cannot be copied is left alone
        why = f"{uncopied}, and it" if uncopied else "it"
        error_line = " ".join(str(error).split())[:300]
        return model, {}, {model.name: f"{why} cannot be copied from its configuration: {error_line}"}
    if not replaced:
        return model, {}, left or ({model.name: uncopied} if uncopied else {})
    return copy, replaced, left
