"""`unhot.load`: a table from its file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar, overload

import numpy.typing as npt

from unhot.creation import Init, check_init
from unhot.embedding import VOCABULARY, Embedding
from unhot.optimizers import Optimizer
from unhot.storage.files import Path, as_path
from unhot.storage.mapped import MappedTable, recover
from unhot.storage.tables import Mode, errors_name, like_of, one_table, opened, optimizer_of, part, policy_of, require_memory
from unhot.table import Table

Array = npt.NDArray[Any]
T = TypeVar("T", bound=Table)


@overload
def load(
    path: Path, *, mmap: Literal[False] = False, optimizer: Optimizer | None = None, init: Init | None = None
) -> Table | Embedding: ...
@overload
def load(
    path: Path, *, mmap: Literal[True], mode: Mode = "r", optimizer: Optimizer | None = None
) -> MappedTable | Embedding: ...
def load(
    path: Path, *, mmap: bool = False, mode: Mode = "r", optimizer: Optimizer | None = None, init: Init | None = None
) -> Table | Embedding:
    """The table that `Table.save` wrote, or the embedding that `Embedding.save` wrote. Training goes on, bit for bit.

    Args:
        path: the file. One that the package `safetensors` wrote of a `state_dict` is read as well.
        mmap: leave the arrays in the file, and map it into memory: a table opens in milliseconds, whatever its size. An
            embedding's vocabulary is read into memory, in a time that grows with the number of its keys.
        mode: with mmap, "r" to read, or "r+" to train the table in its file; see `MappedTable`. An `Embedding`
            then takes no new keys, and forgets none.
        optimizer: only for a table whose learning rate was a callable, which no file can hold: the optimizer with it. Its other
            hyperparameters become the file's.
        init: what new rows begin with, in the place of what the file says; for a table in memory. If it was a callable, which
            no file can hold, adding rows is an error without this.

    Returns: a table with the file's weights, slots, clock and hyperparameters; with mmap, a `MappedTable`. If the file has a
        vocabulary, an `Embedding` of both.

    Raises: ValueError if the file is truncated or damaged, or does not hold one table: what it claims is checked against its
        size before memory is asked for; OSError if it cannot be read; MemoryError if the table does not fit into memory.

    Example:
        >>> import os, tempfile, unhot
        >>> path = os.path.join(tempfile.mkdtemp(), "words.safetensors")
        >>> table = unhot.Table(1000, 4, optimizer=unhot.Adam(0.1), seed=0)
        >>> table.step([3], [[1.0, 2.0, 3.0, 4.0]])
        >>> table.save(path)
        >>> again = unhot.load(path)
        >>> again
        Table(1000, 4, optimizer=Adam(learning_rate=0.1, weight_decay=0.0, beta_1=0.9, beta_2=0.999, epsilon=1e-07, \
convention='keras', amsgrad=False, decoupled_weight_decay=False), dtype='float32')
        >>> bool((again.array == table.array).all())
        True
    """
    path = as_path(path)
    if init is not None:
        check_init(init)
    if mmap:
        if init is not None:
            raise ValueError("`init` is for new rows, and a table that is mapped from a file has none: leave it out.")
        mapped = MappedTable(path, mode, optimizer)
        try:
            with errors_name(path):
                return with_vocabulary(mapped, part(mapped.contents, VOCABULARY))
        except BaseException:
            mapped._close()
            raise
    if mode != "r":
        raise ValueError(f"`mode` is for mmap=True; a table in memory can always be trained. Received: mode={mode!r}.")
    recover(path)
    with opened(path) as (state, header):
        one_table(header)
        like = like_of(header)
        trained = optimizer_of(state, optimizer)
        require_memory([like], trained)
        table = Table._of_state(state, like, trained, policy_of(header))
        if init is not None:
            table._init = init
        return with_vocabulary(table, part(state, VOCABULARY))


def with_vocabulary(table: T, words: Mapping[str, Array]) -> T | Embedding:
    """The table, or the embedding of it and of the vocabulary that its file has."""
    return Embedding._of_file(table, words) if {"kind", "keys"} <= words.keys() else table
