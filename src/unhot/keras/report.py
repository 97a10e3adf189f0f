"""`report`: which tables of a model are trained by rows, and which are not and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from unhot.keras import optimizers
from unhot.keras._private import layers_in
from unhot.keras.backend import Reason
from unhot.keras.backends import backend
from unhot.keras.embedding import Embedding
from unhot.keras.row_sparse import RowSparse
from unhot.reports import TableReport, TrainingReport

NOBODY = "no optimizer trains it: compile the model with one of unhot.keras"


def report(model: Any, optimizer: Any = None) -> TrainingReport:
    """Say of each table of a model whether a step of its optimizer costs only the rows in the batch, and if not, why.

    Before the first step, it says how the tables will be trained, and afterwards how the last step has trained them.

    Args:
        model: a Keras model or layer. Its embedding layers are the tables, those of Keras, too.
        optimizer: the optimizer that is asked about; None for the one the model was compiled with.

    Returns: a `TrainingReport`. Tables go by the paths of their variables.

    Raises: TypeError for anything else.

    Example:
        >>> import keras, unhot.keras
        >>> words = unhot.keras.Embedding(20_000, 4, name="words")
        >>> tags = keras.layers.Embedding(20_000, 4, name="tags")
        >>> model = keras.Sequential([keras.Input((3,), dtype="int32"), words, keras.layers.Flatten()], name="model")
        >>> model.compile(optimizer=unhot.keras.Adam(0.01), loss="mse")
        >>> unhot.keras.report(model)
        model/words/embeddings (20,000 x 4): by rows
        >>> tags.build()
        >>> unhot.keras.report(tags, model.optimizer)
        tags/embeddings (20,000 x 4): densely: it is of keras.layers.Embedding, which unhot.keras.convert replaces
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"`report` takes a Keras model or layer. Received: {type(model).__name__}.")
    optimizer = getattr(model, "optimizer", None) if optimizer is None else optimizer
    if not (optimizer is None or isinstance(optimizer, keras.optimizers.Optimizer)):
        raise TypeError(f"`optimizer` is a Keras optimizer or None. Received: {type(optimizer).__name__}.")
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    tables: dict[int, tuple[Any, Any]] = {}
    for variable, layer in _tables(model):
        if id(variable) not in tables or isinstance(layer, Embedding):  # a layer of Keras's may hold the table of one of ours
            tables[id(variable)] = variable, layer
    return TrainingReport(tuple(_of(variable, layer, optimizer) for variable, layer in tables.values()))


def _tables(model: Any) -> Iterator[tuple[Any, Any]]:
    """The variables of embedding layers that have a row for each id, with these layers."""
    for layer in [model, *layers_in(model)]:
        if isinstance(layer, keras.layers.Embedding):
            for variable in (getattr(layer, "_embeddings", None), getattr(layer, "lora_embeddings_a", None)):
                if variable is not None:
                    yield variable, layer


def _of(variable: Any, layer: Any, optimizer: Any) -> TableReport:
    reason = _reason_for_dense(variable, layer, optimizer)
    return TableReport(variable.path, variable.shape[0], variable.shape[1], reason is None, reason or "")


def _reason_for_dense(variable: Any, layer: Any, optimizer: Any) -> str | None:
    """Why the optimizer does not train the rows of a table apart; None if it does, or will."""
    kind = type(optimizer).__name__
    if not isinstance(layer, Embedding):
        return f"it is of keras.layers.{type(layer).__name__}, which unhot.keras.convert replaces"
    if not variable.trainable:
        return "it is frozen"
    if not backend.is_table(variable):
        return f"its rows are of dtype {variable.dtype}, and unhot trains rows of float32 or float64"
    if optimizer is None:
        return None if _owner(variable) is not None else NOBODY
    if not isinstance(optimizer, RowSparse):
        return f"{kind} is no optimizer of unhot.keras" + (f": use unhot.keras.{kind}" if hasattr(optimizers, kind) else "")
    ours: Any = optimizer  # Keras comes without types
    if variable.shape[0] < ours.fewest_rows:
        return f"it has fewer than {ours.fewest_rows:,} rows, and a dense step of so few takes no longer"
    dense = ours.reason_for_dense(variable)
    reason = None if dense is None else _told(dense)
    table = ours.table(variable) if ours.built else None
    if reason is None and table is not None and table.densely is not None:
        return _told(table.densely)  # the last step's
    if reason or not ours.built or table is not None:
        return reason
    if ours._var_key(variable) not in ours._tables:
        return f"{kind} was built without it"
    if backend.EAGER:
        return None  # it takes the table back when it makes a step
    return "another optimizer has taken it over" if _owner(variable) is not None else f"it was released from {kind}"


def _told(dense: Reason) -> str:
    return f"{dense.reason}. {dense.remedy}"


def _owner(variable: Any) -> Any:
    """The optimizer that trains the rows of a table now, or None."""
    tie = backend.ownable(variable).ownership
    return None if tie is None else tie.owner
