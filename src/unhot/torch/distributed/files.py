"""A sharded table as the file of an `unhot.Table`, with its training state, and back."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unhot.embedding import VOCABULARY
from unhot.engine import Engine
from unhot.layouts import Layout
from unhot.settling import clock_of
from unhot.state import decoded, export_state
from unhot.storage.files import Path, as_path, replace
from unhot.storage.safetensors import dtype_of as dtype_of_entry
from unhot.storage.tables import Parts, like_of, one_table, opened, part, write_table
from unhot.store import numbered
from unhot.torch.clocks import go_on
from unhot.torch.distributed.key_files import own_part, with_keys
from unhot.torch.distributed.keyed import ShardedKeyedEmbedding
from unhot.torch.distributed.peers import Peers
from unhot.torch.distributed.sharded import Sharded
from unhot.torch.distributed.transfer import OnOne, moved
from unhot.torch.held_state import Start
from unhot.torch.placement import counter
from unhot.torch.rooms import dtype_of
from unhot.torch.stepping import RowOptimizer


def save_table(layer: Sharded | ShardedKeyedEmbedding, path: Path, optimizer: RowOptimizer | None = None) -> None:
    """Write a sharded table into one safetensors file, which `unhot.load` reads as a table, or one with keys as an embedding.

    All processes call it together; the first one writes. Rows come to it some at a time, by way of a temporary file beside
    `path`. Keys are in its memory meanwhile, those of all processes.

    Args:
        layer: a sharded layer, also one of a collection.
        path: the file. One that is there is replaced when the new one is whole.
        optimizer: the optimizer of `unhot.torch` that trains the table, to save its state, too; None for the weights alone.

    Raises: OSError if the file cannot be written; ValueError if the optimizer does not train the table; RuntimeError in the
        processes without an error if one has one.

    Example: with `torchrun --nproc-per-node=2`:

        unhot.torch.distributed.save_table(model.words, "words.safetensors", optimizer)
        if rank == 0:
            table = unhot.load("words.safetensors")

    References: `unhot.Table.save`.
    """
    peers = layer.peers
    started: tuple[Any, Any, int] | None = None
    own = {"": layer.weight.detach()}
    beside: Any = nullcontext("")
    with _told(peers, "the beginning of `save_table`"):
        if optimizer is not None:
            started, slots = _trained(layer, optimizer)
            own |= slots
        folder = os.path.dirname(os.path.realpath(as_path(path)))
        if peers.rank == 0:
            beside = tempfile.TemporaryDirectory(dir=folder)
    with beside as place:
        if isinstance(layer, Sharded):
            layout: Layout = layer.shard.layout
            parts: Parts = {}
        else:
            here, layout, parts = with_keys(layer)
            own = {name: rows[here.to(rows.device)] for name, rows in own.items()}
        whole = {
            name: _all_rows(peers, layout, rows, os.path.join(place, str(k))) for k, (name, rows) in enumerate(own.items())
        }
        with _told(peers, "the end of `save_table`"):
            if peers.rank == 0:
                _write(path, whole, started, parts)


def _trained(layer: Sharded | ShardedKeyedEmbedding, optimizer: RowOptimizer) -> tuple[tuple[Any, Any, int], dict[str, Tensor]]:
    """The core's optimizer, its clock and the steps made; and the slots of the rows here.

    Raises: ValueError if the optimizer has not trained the table.
    """
    group, state = trained_by(optimizer, layer)
    start = Start.of(state, optimizer, {}, dtype_of(layer.weight), None)
    snapshot, clock = clock_of(optimizer.core(**optimizer.hyperparameters(group)), start.dtype, 1, start.held)
    go_on(clock, start)
    if any(optimizer.slots[name] not in state for name in clock.slots):
        raise ValueError("the optimizer has made no step of the layer yet. Leave `optimizer` out.")
    return (snapshot, clock, start.now), {name: state[optimizer.slots[name]] for name in clock.slots}


@contextmanager
def _told(peers: Peers, what: str) -> Iterator[None]:
    """Let all processes know of an error in one of them: a RuntimeError in the others. A collective operation."""
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    failed = peers.any(error is not None, what)
    if error is not None:
        raise error
    if failed:
        raise RuntimeError("another process has an error, and so nothing was written. See what it says.")


def _all_rows(peers: Peers, layout: Layout, part: Tensor, file: str) -> np.ndarray[Any, Any]:
    """All rows, mapped into memory in the first process; none in the others. Of no rows, one of zeros, as tables have one."""
    width = part.size(1)
    if peers.rank == 0 and layout.rows:
        mapped = np.memmap(file, dtype_of(part), "w+", shape=(layout.rows, width))
    else:
        mapped = np.zeros((0 if layout.rows else 1, width), dtype_of(part))  # type: ignore[assignment]
    moved(peers, part, layout, OnOne(layout.rows, peers.size), torch.from_numpy(mapped), "the rows of a table for a file")
    return mapped


def _write(path: Path, rows: Mapping[str, Any], started: tuple[Any, Any, int] | None, parts: Parts) -> None:
    optimizer, clock, now = (None, None, 0) if started is None else started
    weights, *slots = rows.values()
    engine = Engine(numbered([(weights, slots)]), optimizer, None, now)
    engine.clock = clock
    state = export_state(engine, optimizer, [""], copies=False)
    replace(path, lambda file: write_table(file, state, parts, "zero" if parts else "raise"))


def load_table(layer: Sharded | ShardedKeyedEmbedding, path: Path, optimizer: RowOptimizer | None = None) -> None:
    """Give a sharded layer the rows of a table's file, and the optimizer the state in it; a layer with keys those keys, too.

    Each process reads the rows that it has, and so does not look at the file's checksums, which are those of all rows. The
    optimizer's hyperparameters stay.

    Args:
        layer: a sharded layer, also one of a collection.
        path: a file that `Table.save`, `unhot.Embedding.save` or `save_table` wrote, with any number of processes.
        optimizer: the optimizer of `unhot.torch` that trains the table; None for the weights alone.

    Raises: OSError if there is no such file; ValueError for a file that does not fit the layer or the optimizer.

    Example: with `torchrun --nproc-per-node=2`:

        unhot.torch.distributed.load_table(model.words, "words.safetensors", optimizer)

    References: `unhot.load`.
    """
    with opened(path) as (arrays, header):
        one_table(header)
        like = like_of(header)
        _require_fit(layer, like.weights.shape)
        slots: dict[str, str] = {}
        if optimizer is not None:
            rule = decoded(arrays, "rule") if "rule" in arrays else None
            if rule != optimizer.core.__name__:
                raise ValueError(
                    f"the table was trained with {rule or 'no optimizer'}, and the layer is with {optimizer.core.__name__}."
                )
            slots = {name: theirs for name, theirs in optimizer.slots.items() if f"slot.{name}" in arrays}
        rows = like.rows
        if isinstance(layer, Sharded):
            numbers: Any = layer.shard.numbers(np.arange(layer.shard.rows))
        else:
            own, numbers = own_part(layer, part(arrays, VOCABULARY), rows)
        found: dict[str, Tensor] = {}
        for name in ["weights", *(f"slot.{name}" for name in slots)]:
            entry = header.entries[name]
            if dtype_of_entry(name, entry) != like.weights.dtype or len(entry.shape) != 2 or entry.shape[0] != rows:
                raise ValueError(
                    f"{name!r} in the file must have {rows} rows of {like.weights.dtype}. Received: shape {entry.shape},"
                    f" {entry.dtype}."
                )
            mapped = np.memmap(as_path(path), like.weights.dtype, "r", entry.start, entry.shape)
            found[name] = torch.from_numpy(np.ascontiguousarray(mapped[numbers])).to(layer.weight)
        state = {name: float(decoded(arrays, name)) for name in arrays if name == "clock" or name.startswith("state.")}
    group: Mapping[str, Any] = {} if optimizer is None else trained_by(optimizer, layer)[0]
    if not isinstance(layer, Sharded):
        layer.local._take_keys(own)
    with torch.no_grad():
        layer.weight.copy_(found["weights"])
    if optimizer is None:
        return
    held = {theirs: found[f"slot.{name}"] for name, theirs in slots.items()}
    for name in optimizer.counters:
        number = state.get("state.momentum_product", 1.0) if name == "mu_product" else state["clock"]
        held[name] = counter(number, layer.weight, group)
    optimizer.state[layer.weight] = held


def _require_fit(layer: Sharded | ShardedKeyedEmbedding, shape: tuple[int, ...]) -> None:
    """Raise ValueError if a file's table of this shape is none of the layer's."""
    if not isinstance(layer, Sharded):
        if shape[1] != layer.embedding_dim:
            raise ValueError(f"the file's vectors have {shape[1]} numbers, and the layer's {layer.embedding_dim}.")
    elif shape != (layer.num_embeddings, layer.embedding_dim):
        raise ValueError(f"the file's table has shape {shape}, and the layer {(layer.num_embeddings, layer.embedding_dim)}.")


def trained_by(optimizer: RowOptimizer, layer: Sharded | ShardedKeyedEmbedding) -> tuple[Any, Mapping[str, Any]]:
    """The parameter group of a layer's table, and what the optimizer keeps of it, settled.

    Raises: ValueError for a table that is none of the optimizer's.
    """
    for group in optimizer.param_groups:
        if any(parameter is layer.weight for parameter in group["params"]):
            state: Mapping[str, Any] = optimizer.state.get(layer.weight, {})
            return group, state
    raise ValueError("the layer's weight is no parameter of the optimizer.")
