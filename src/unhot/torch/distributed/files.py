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

from unhot.engine import Engine
from unhot.settling import clock_of
from unhot.state import decoded, export_state
from unhot.storage.files import Path, as_path, replace
from unhot.storage.safetensors import dtype_of as dtype_of_entry
from unhot.storage.tables import like_of, one_table, opened, write_table
from unhot.store import numbered
from unhot.torch.backend import dtype_of
from unhot.torch.clocks import go_on
from unhot.torch.distributed.peers import Peers
from unhot.torch.distributed.sharded import Sharded
from unhot.torch.distributed.transfer import OnOne, moved
from unhot.torch.held_state import Start
from unhot.torch.placement import counter
from unhot.torch.stepping import RowOptimizer


def save_table(layer: Sharded, path: Path, optimizer: RowOptimizer | None = None) -> None:
    """Write a sharded table into one safetensors file, which `unhot.load` reads as a table.

    All processes call it together; the first one writes. Rows come to it some at a time, by way of a temporary file beside
    `path`.

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
    peers, own = layer.peers, {"": layer.weight.detach()}
    started: tuple[Any, Any] | None = None
    if optimizer is not None:
        group, state = trained_by(optimizer, layer)
        start = Start.of(state, optimizer, {}, dtype_of(layer.weight), None)
        snapshot, clock = clock_of(optimizer.core(**optimizer.hyperparameters(group)), start.dtype, 1, start.held)
        go_on(clock, start)
        if any(optimizer.slots[name] not in state for name in clock.slots):
            raise ValueError("the optimizer has made no step of the layer yet. Leave `optimizer` out.")
        own |= {name: state[optimizer.slots[name]] for name in clock.slots}
        started = (snapshot, clock)
    beside: Any = nullcontext("")
    with _told(peers, "the beginning of `save_table`"):
        folder = os.path.dirname(os.path.realpath(as_path(path)))
        if peers.rank == 0:
            beside = tempfile.TemporaryDirectory(dir=folder)
    with beside as place:
        rows = {name: _all_rows(peers, layer, part, os.path.join(place, str(k))) for k, (name, part) in enumerate(own.items())}
        with _told(peers, "the end of `save_table`"):
            if peers.rank == 0:
                _write(path, rows, None if optimizer is None else start.now, started)


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


def _all_rows(peers: Peers, layer: Sharded, part: Tensor, file: str) -> np.ndarray[Any, Any]:
    """All rows, mapped into memory in the first process; none in the others."""
    layout, width = layer.shard.layout, part.size(1)
    if peers.rank == 0:
        mapped = np.memmap(file, dtype_of(part), "w+", shape=(layout.rows, width))
    else:
        mapped = np.empty((0, width), dtype_of(part))  # type: ignore[assignment]
    moved(peers, part, layout, OnOne(layout.rows, peers.size), torch.from_numpy(mapped), "the rows of a table for a file")
    return mapped


def _write(path: Path, rows: Mapping[str, Any], now: int | None, started: tuple[Any, Any] | None) -> None:
    optimizer, clock = (None, None) if started is None else started
    weights, *slots = rows.values()
    engine = Engine(numbered([(weights, slots)]), optimizer, None, now or 0)
    engine.clock = clock
    state = export_state(engine, optimizer, [""], copies=False)
    replace(path, lambda file: write_table(file, state, {}, "raise"))


def load_table(layer: Sharded, path: Path, optimizer: RowOptimizer | None = None) -> None:
    """Give a sharded layer the rows of a table's file, and the optimizer the state in it.

    Each process reads the rows that it has, and so does not look at the file's checksums, which are those of all rows. The
    optimizer's hyperparameters stay.

    Args:
        layer: a sharded layer, also one of a collection.
        path: a file that `Table.save` or `save_table` wrote.
        optimizer: the optimizer of `unhot.torch` that trains the table; None for the weights alone.

    Raises: OSError if there is no such file; ValueError for a file that does not fit the layer or the optimizer.

    Example: with `torchrun --nproc-per-node=2`:

        unhot.torch.distributed.load_table(model.words, "words.safetensors", optimizer)

    References: `unhot.load`.
    """
    shape = (layer.num_embeddings, layer.embedding_dim)
    with opened(path) as (arrays, header):
        one_table(header)
        like = like_of(header)
        if like.weights.shape != shape:
            raise ValueError(f"the file's table has shape {like.weights.shape}, and the layer {shape}.")
        slots: dict[str, str] = {}
        if optimizer is not None:
            rule = decoded(arrays, "rule") if "rule" in arrays else None
            if rule != optimizer.core.__name__:
                raise ValueError(f"the table was trained with {rule}, and the layer is with {optimizer.core.__name__}.")
            slots = {name: theirs for name, theirs in optimizer.slots.items() if f"slot.{name}" in arrays}
        numbers: Any = layer.shard.numbers(np.arange(layer.shard.rows))
        found: dict[str, Tensor] = {}
        for name in ["weights", *(f"slot.{name}" for name in slots)]:
            entry = header.entries[name]
            if dtype_of_entry(name, entry) != like.weights.dtype or len(entry.shape) != 2 or entry.shape[0] != shape[0]:
                raise ValueError(
                    f"{name!r} in the file must have {shape[0]} rows of {like.weights.dtype}. Received: shape {entry.shape},"
                    f" {entry.dtype}."
                )
            mapped = np.memmap(as_path(path), like.weights.dtype, "r", entry.start, entry.shape)
            found[name] = torch.from_numpy(np.ascontiguousarray(mapped[numbers])).to(layer.weight)
        state = {name: float(decoded(arrays, name)) for name in arrays if name == "clock" or name.startswith("state.")}
    with torch.no_grad():
        layer.weight.copy_(found["weights"])
    if optimizer is None:
        return
    group, _ = trained_by(optimizer, layer)
    held = {theirs: found[f"slot.{name}"] for name, theirs in slots.items()}
    for name in optimizer.counters:
        number = state.get("state.momentum_product", 1.0) if name == "mu_product" else state["clock"]
        held[name] = counter(number, layer.weight, group)
    optimizer.state[layer.weight] = held


def trained_by(optimizer: RowOptimizer, layer: Sharded) -> tuple[Any, Mapping[str, Any]]:
    """The parameter group of a layer's table, and what the optimizer keeps of it, settled.

    Raises: ValueError for a table that is none of the optimizer's.
    """
    for group in optimizer.param_groups:
        if any(parameter is layer.weight for parameter in group["params"]):
            state: Mapping[str, Any] = optimizer.state.get(layer.weight, {})
            return group, state
    raise ValueError("the layer's weight is no parameter of the optimizer.")
