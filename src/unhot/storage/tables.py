"""What the file of a table holds: its state, what else belongs to it under names of its own, and in the metadata what it is."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from unhot import memory
from unhot.ids import OutOfRange
from unhot.optimizers import OPTIMIZERS, Optimizer
from unhot.settling import clock_of
from unhot.state import decoded, encoded
from unhot.storage import safetensors
from unhot.storage.files import Path, as_path, locked
from unhot.storage.safetensors import Arrays, Header, dtype_of, read_header
from unhot.store import Store

Array = npt.NDArray[Any]
Mode = Literal["r", "r+"]
"""To read a table, or also to train it in its file."""

KIND = "unhot.kind"
"""The metadata's key for what the file holds: "table" or "tables"."""

POLICY = "unhot.out_of_range"
MARK = "unhot.whole"
"""Whether rows, clock and hyperparameters belong together. They do not while a table is trained in its file."""

WHOLE, NOT_WHOLE = b"yes", b"no "
NAMES = "unhot.tables"


Parts = Mapping[str, Mapping[str, Any]]
"""What belongs to a table, by the name of each part: a flat dict of arrays, numbers and strings."""


def _array(value: Any) -> Array:
    """A value of a part as an array: numbers and strings as `unhot.state.encoded` has them."""
    return encoded(value) if isinstance(value, (bool, int, float, str)) else np.asarray(value)


def write_table(
    file: BinaryIO, state: Mapping[str, Array], parts: Parts, policy: OutOfRange, names: Sequence[str] | None = None
) -> None:
    """Write a table's file, or that of a collection with these names, from its beginning.

    `parts` belong to the table; the arrays of each are called "part.name".
    """
    found = dict(state)
    for part, given in parts.items():
        found |= {f"{part}.{name}": _array(value) for name, value in given.items()}
    metadata = {MARK: WHOLE.decode(), KIND: "table" if names is None else "tables", POLICY: str(policy)}
    if names is not None:
        metadata[NAMES] = json.dumps(list(names))
    file.seek(0)
    file.truncate()  # it is written again if a signal's handler has changed the table meanwhile
    safetensors.write(file, found, metadata)


def part(state: Mapping[str, Array], name: str) -> dict[str, Array]:
    """The arrays of one part of a file, by the names that they have in it.

    Example:
        >>> import numpy as np
        >>> part({"weights": np.zeros((2, 2)), "vocabulary.keys": np.arange(2)}, "vocabulary")
        {'keys': array([0, 1])}
    """
    return {full.removeprefix(f"{name}."): state[full] for full in state if full.startswith(f"{name}.")}


@contextmanager
def opened(path: Path) -> Iterator[tuple[Arrays, Header]]:
    """The arrays of a file and its header, with errors as of `errors_name`; a BlockingIOError while it is trained in."""
    path = as_path(path)
    with open(path, "rb") as file, errors_name(path):
        lock(file.fileno(), path, "r")
        header = read_header(file, os.fstat(file.fileno()).st_size)
        yield Arrays(file, header), header


def lock(descriptor: int, path: str, mode: Mode) -> None:
    """Take the lock of a table's file for reading, which others may do as well, or to train in it; else a BlockingIOError."""
    if not locked(descriptor, shared=mode == "r"):
        others = "trained" if mode == "r" else "read or trained"
        raise BlockingIOError(f"{path!r}: this table is {others} by another process, or opened in this one already.")


@contextmanager
def errors_name(path: str) -> Iterator[None]:
    """Let errors about what a file holds begin with its path; all are ValueErrors, since it is the file that is at fault."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path!r}: {error}") from error


def policy_of(header: Header) -> OutOfRange:
    """What the table does with ids out of range; "raise" where the file does not say."""
    text = header.metadata.get(POLICY, "raise")
    if text in ("raise", "zero"):
        return "raise" if text == "raise" else "zero"
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"the metadata's {POLICY!r} must be 'raise', 'zero' or a row's number. Received: {text[:80]!r}.")
    return int(text)


def names_of(header: Header) -> list[str] | None:
    """The names of a collection's tables in their order, or None if the file holds one table."""
    if NAMES not in header.metadata:
        return None
    try:
        names = json.loads(header.metadata[NAMES])
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"the metadata's {NAMES!r} must be a list of names.")
    if len(set(names)) != len(names):
        raise ValueError(f"the metadata's {NAMES!r} has a name twice.")
    return names


def one_table(header: Header) -> None:
    """Raise ValueError unless the file holds one table, and whole."""
    names = names_of(header)
    if names is not None:
        raise ValueError(f"the file holds a collection of tables, {names}: read it with unhot.TableCollection.load(path).")
    require_whole(header)


def require_whole(header: Header) -> None:
    """Raise ValueError if what trained the table in its file has not finished."""
    if header.metadata.get(MARK, WHOLE.decode()) != WHOLE.decode():
        raise ValueError(
            "the table was trained in this file (mode 'r+'), and the process ended before `flush()` or `close()`. Its rows and"
            " its clock do not belong together, and there are no notes by which they could be brought back. Take a copy that"
            " was saved before."
        )


def like_of(header: Header, name: str = "weights") -> Store:
    """A store like the table's with these weights, which takes no memory.

    Raises: ValueError if they are not floats of two dimensions, neither of them 0.
    """
    if name not in header.entries:
        what = "" if name == "weights" else f" of the table {name.removesuffix('.weights')!r}"
        raise ValueError(f"there are no weights{what} in the file. It holds: {_few(header.entries)}.")
    entry = header.entries[name]
    if dtype_of(name, entry) not in (np.dtype("<f4"), np.dtype("<f8")) or len(entry.shape) != 2 or 0 in entry.shape:
        raise ValueError(
            f"{name!r} must have shape (rows, dim) and dtype F32 or F64. Received: shape {entry.shape}, dtype {entry.dtype}."
        )
    dtype = np.dtype(np.float32 if entry.dtype == "F32" else np.float64)
    return Store(np.broadcast_to(dtype.type(0), entry.shape))


def _few(names: Mapping[str, Any]) -> str:
    shown = [repr(name) for name in list(names)[:8]]
    return ", ".join(shown + ["..."] * (len(names) > 8)) or "nothing"


def optimizer_of(state: Mapping[str, Array], given: Optimizer | None) -> Optimizer | None:
    """The optimizer that the table is trained by: as the file says, or the one that was given; None if it has none.

    Raises: ValueError if none was given and the learning rate is not in the file, or if the file names an optimizer or
        hyperparameters that there are not.
    """
    if "rule" not in state:
        if given is not None and {"vocabulary.kind", "vocabulary.keys"} <= state.keys():
            raise ValueError(
                "the embedding was saved without an optimizer, and so without slots. Leave out `optimizer`, or make another of"
                " its vectors: unhot.Embedding.from_vectors(*unhot.read_vectors(path), optimizer=...)."
            )
        if given is not None:
            raise ValueError(
                "the table was saved without an optimizer, and so without slots. Leave out `optimizer`, or make a table of its"
                " weights: unhot.Table.from_array(unhot.load(path).array, optimizer=...)."
            )
        return None
    if given is not None:
        return given
    name = decoded(state, "rule")
    kind = OPTIMIZERS.get(name.lower()) if isinstance(name, str) else None
    if kind is None or kind.__name__ != name:
        raise ValueError(f"this version of unhot has no optimizer {name!r}.")
    if "hyper.learning_rate" not in state:
        raise ValueError(
            "the learning rate was a callable, which no file can hold. Pass the optimizer with it:"
            f" unhot.load(path, optimizer=unhot.{name}(...)). All other hyperparameters become the file's."
        )
    hyper: dict[str, Any] = {field.name: decoded(state, f"hyper.{field.name}") for field in dataclasses.fields(kind)}
    return kind(**hyper)


def require_memory(stores: Sequence[Store], optimizer: Optimizer | None) -> None:
    """Raise MemoryError if tables with weights like these do not fit."""
    dtype = stores[0].weights.dtype
    clock = None if optimizer is None else clock_of(optimizer, dtype, 0)[1]
    numbers = (store.dim if clock is None else clock.numbers_per_row(store.dim) for store in stores)
    needed = sum(store.rows * (count * dtype.itemsize + 4) for store, count in zip(stores, numbers, strict=True))
    memory.require(needed, "the table" if len(stores) == 1 else f"{len(stores)} tables")
