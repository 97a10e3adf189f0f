"""Vectors of keys: a vocabulary and a table with a row for each key."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from unhot.arraylike import IdsLike, RealsLike
from unhot.atomic import Lock
from unhot.creation import Init
from unhot.gradients import as_gradients
from unhot.ids import as_plain
from unhot.keyed_rows import Ids, KeyedRows, TableRows
from unhot.keys.aligned import admit_each, give_up
from unhot.keys.column import Column
from unhot.keys.reading import KeysLike, read
from unhot.optimizers import Optimizer
from unhot.sharing import CopiedByState
from unhot.state import whole
from unhot.table import Table
from unhot.vocabulary import Vocabulary

if TYPE_CHECKING:
    from unhot.storage.files import Path

Array = npt.NDArray[Any]

VOCABULARY = "vocabulary"
"""What the vocabulary's part of a state, or a file, is called by."""

LIMITS = ("min_count", "max_rows", "max_idle")
"""What a state holds of which keys have rows, beside the vocabulary and what they are counted by; 0 for None."""


class Embedding(CopiedByState):
    """Vectors of keys such as strings or 64-bit integers: a `Vocabulary` and a `Table` with a row for each key.

    With a vocabulary that grows (unknown="grow"), a key that is looked up for the first time gets a row, and the table grows
    with it. It then trains as if it had had the row from the start: see `Table.grow`. With any other vocabulary, a lookup
    changes nothing. Nor does it in a file that is mapped for reading: there, an unknown key has the first reserved row of the
    vocabulary, or a zero vector if there is none.

    Args:
        vocabulary: an `unhot.Vocabulary`. Its keys come and go by the methods of the embedding, or by its own. Several
            embeddings may have the same one: what one of them admits or forgets, all do, and a key that comes again begins
            anew in each of them.
        dim: the length of a vector.
        optimizer, init, dtype, seed, capacity: as for `Table`.
        min_count: how often a key must have been looked up to get a row. Until then it has the first reserved row of the
            vocabulary, or a zero vector without a gradient if there is none.
        max_rows: the number of keys beyond which those are forgotten that were used least often, of equally frequent ones the
            one that was so longest ago. Then one in 32 is forgotten at once. Each lookup of this embedding is a use of a key,
            and each `step` or `accumulate` with it; none is forgotten that was used since the last step.
        max_idle: the number of steps after which a key is forgotten that has not been used; it may last an eighth longer. In a
            file that is mapped (`unhot.load` with mmap=True), whose rows cannot be given back, no key is ever forgotten.
        frozen: keys of the vocabulary whose vectors do not train; None for none. See also `table`.

    Raises: TypeError or ValueError for unusable arguments; KeyError for an unknown key in `frozen`; MemoryError if the table
        does not fit into memory.

    Example:
        >>> import numpy as np, unhot
        >>> users = unhot.Embedding(unhot.Vocabulary(unknown="grow"), 4, optimizer=unhot.SGD(1.0), init="zeros")
        >>> users.lookup(["ann", "bob", "ann"]).shape
        (3, 4)
        >>> users.step(["ann", "bob", "ann"], np.ones((3, 4)))
        >>> users["ann"]
        array([-2., -2., -2., -2.], dtype=float32)
        >>> list(users.vocabulary)
        ['ann', 'bob']
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        dim: int,
        *,
        optimizer: Optimizer | None = None,
        init: Init = "uniform",
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
        capacity: int | None = None,
        min_count: int = 1,
        max_rows: int | None = None,
        max_idle: int | None = None,
        frozen: KeysLike | None = None,
    ) -> None:
        keyed = KeyedRows(vocabulary, min_count, max_rows, max_idle)
        rows = vocabulary.rows
        still = None if frozen is None else keyed.existing(frozen, "frozen")
        table = Table(
            max(rows, 1), dim, optimizer=optimizer, init=init, dtype=dtype, seed=seed, out_of_range="zero",
            capacity=None if capacity is None else max(capacity, rows, 1),
        )  # fmt: skip
        self._start(keyed, table)
        if still is not None:
            table.frozen = still

    def _start(self, keyed: KeyedRows, table: Table) -> None:
        self._keyed, self._table, self._lock = keyed, table, Lock()
        if not keyed.vocabulary.rows:  # a table has a row at least; the first key gets it
            table.remove([0])

    @classmethod
    def from_vectors(
        cls,
        keys: KeysLike,
        vectors: RealsLike,
        vocabulary: Vocabulary | None = None,
        *,
        optimizer: Optimizer | None = None,
        init: Init = "uniform",
        dtype: npt.DTypeLike | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> Self:
        """An embedding that starts from the given vectors of keys, such as pretrained ones.

        Args:
            keys: the keys of the vectors, each once.
            vectors: an array of shape (keys, dim).
            vocabulary: the keys that get rows; those without a vector are initialized by `init`. Vectors of other keys are
                left out, unless the vocabulary grows (unknown="grow"): then it takes their keys. None for a vocabulary of all
                keys.
            dtype: as for `Embedding`; None for that of the vectors, or float32 if they are no float32 or float64.
            optimizer, init, seed, options: as for `Embedding`.

        Raises: as for `Embedding`; ValueError for shapes that do not fit, and for a key that comes twice. The vocabulary is
            then as it was.

        Example:
            >>> import unhot
            >>> words = unhot.Vocabulary(["cat", "owl"])
            >>> embedding = unhot.Embedding.from_vectors(["cat", "dog"], [[1.0, 2.0], [3.0, 4.0]], words)
            >>> embedding["cat"]
            array([1., 2.])
        """
        given = as_plain(vectors, "vectors")
        if given.ndim != 2:
            raise ValueError(f"`vectors` must have two dimensions, (keys, dim). Received: shape {given.shape}.")
        if given.dtype.kind not in "fiu":
            raise TypeError(f"`vectors` must be real numbers. Received: dtype {given.dtype}.")
        column = read(keys, "keys")
        if (count := math.prod(column.shape)) != len(given):
            raise ValueError(f"`keys` and `vectors` must be as many. Received: {count} keys, {len(given)} vectors.")
        if vocabulary is None:
            vocabulary = Vocabulary(column)
        if dtype is None:
            dtype = given.dtype if given.dtype in (np.float32, np.float64) else np.float32
        before = vocabulary.rows
        numbers, new = admit_each(vocabulary, column)
        try:
            made = cls(vocabulary, given.shape[1], optimizer=optimizer, init=init, dtype=dtype, seed=seed, **options)
            known = numbers >= 0
            made._table.assign(numbers[known], given[known])
        except BaseException:
            give_up(vocabulary, new, before)
            raise
        return made

    # ------------------------------------------------------------------ what it holds

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary."""
        return self._keyed.vocabulary

    @property
    def table(self) -> Table:
        """The table. `table.frozen` and `table.only_train` take the rows that `encode` gives.

        Remove keys by the embedding's `remove`; the table's own leaves the keys. Of an embedding that is mapped from a file,
        `table.flush` and `table.close` are those of `MappedTable`.
        """
        if not self._table._fixed_rows:
            self._follow()
        return self._table

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self._table.dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the vectors."""
        return self._table.dtype

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer; see `Table.optimizer`."""
        return self._table.optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer) -> None:
        self._table.optimizer = optimizer

    def __len__(self) -> int:
        return len(self.vocabulary)

    def __contains__(self, key: object) -> bool:
        return key in self.vocabulary

    def __repr__(self) -> str:
        limits = zip(LIMITS, self._keyed.limits, strict=True)
        given = "".join(f", {name}={limit}" for name, limit in limits if limit not in (None, 1))
        return f"Embedding({self.vocabulary!r}, {self.dim}, optimizer={self.optimizer!r}, dtype={self.dtype.name!r}{given})"

    # ------------------------------------------------------------------ lookups and steps

    def encode(self, keys: KeysLike) -> Ids:
        """The rows of keys, int64 of the shape of the keys; -1 for a key without a row. No key is admitted.

        Args:
            keys: as for `lookup`.

        Raises: as `Vocabulary.encode`.

        Example:
            >>> import unhot
            >>> unhot.Embedding(unhot.Vocabulary(["cat", "owl"]), 2).encode(["owl"])
            array([1])
        """
        return self._keyed.known(keys)

    @property
    def _rows(self) -> TableRows:
        return TableRows(self._table)

    def _follow(self) -> None:
        if not self._keyed.is_followed(self._rows):
            self._lock.holding(lambda: self._keyed.follow(self._rows))

    def _in_use(self, keys: KeysLike) -> Ids:
        """The rows of keys that are looked up."""
        column = read(keys, "keys")
        if self.vocabulary.unknown == "grow" and not self._table._only_read:
            return self._lock.holding(lambda: self._keyed.admitted(column, self._rows))
        ids = self._keyed.known(column)
        if self._table._only_read:
            return self._keyed.among_fixed(ids, self._rows)
        self._follow()
        return ids

    def lookup(self, keys: KeysLike, out: Array | None = None) -> Array:
        """The vectors of `keys`: shape keys.shape + (dim,).

        Args:
            keys: a key, or an array, a list, a column of pandas, Polars or Arrow; see `Vocabulary.encode`.
            out: as for `Table.lookup`.

        Raises: as `Vocabulary.encode` and `Table.lookup`.

        Example:
            >>> import unhot
            >>> words = unhot.Embedding(unhot.Vocabulary(["cat", "owl"]), 2, init="zeros")
            >>> words.lookup([["owl"], ["cat"]]).shape
            (2, 1, 2)
        """
        return self._table.lookup(self._in_use(keys), out)

    __getitem__ = lookup

    def bag(
        self,
        keys: KeysLike,
        offsets: IdsLike | None = None,
        weights: RealsLike | None = None,
        mode: Literal["sum", "mean", "max"] = "sum",
        out: Array | None = None,
    ) -> Array:
        """The pooled vectors of bags of keys: shape (bags, dim).

        Args:
            keys: an array of shape (bags, length), or a flat one with `offsets`.
            offsets, weights, mode, out: as for `Table.bag`.

        Raises: as `Vocabulary.encode` and `Table.bag`.

        Example:
            >>> import unhot
            >>> words = unhot.Embedding.from_vectors(["cat", "owl"], [[1.0, 2.0], [3.0, 4.0]])
            >>> words.bag(["cat", "owl", "owl"], offsets=[0, 1])
            array([[1., 2.],
                   [6., 8.]])
        """
        return self._table.bag(self._in_use(keys), offsets, weights, mode, out)

    def accumulate(self, keys: KeysLike, grads: RealsLike) -> None:
        """Add gradients to those of the next `step`; see `Table.accumulate`.

        Args: as for `step`.

        Raises: as for `step`.

        Example:
            >>> import unhot
            >>> words = unhot.Embedding(unhot.Vocabulary(["cat"]), 2, optimizer=unhot.SGD(1.0), init="zeros")
            >>> words.accumulate(["cat"], [[1.0, 2.0]])
            >>> words.step(["cat"], [[1.0, 2.0]])
            >>> words["cat"]
            array([-2., -4.], dtype=float32)
        """
        self._table.accumulate(*self._with_gradients(keys, grads))

    def step(self, keys: KeysLike | None = None, grads: RealsLike | None = None) -> None:
        """Make one optimizer step with the gradients of `keys`; all other rows move as in dense training.

        Args:
            keys: keys of any shape. The gradients of a repeated key are summed; those of a key without a row are left out.
            grads: floats of shape keys.shape + (dim,).

        Raises: as `Vocabulary.encode` and `Table.step`.

        Example:
            >>> import unhot
            >>> words = unhot.Embedding(unhot.Vocabulary(["cat"]), 2, optimizer=unhot.SGD(0.5), init="zeros")
            >>> words.step(["cat", "cat"], [[1.0, 0.0], [1.0, 2.0]])
            >>> words["cat"]
            array([-1., -1.], dtype=float32)
        """
        if keys is None or grads is None:
            self._table.step(None if keys is None else (), grads)  # which refuses one without the other
        else:
            self._table.step(*self._with_gradients(keys, grads))
        self._lock.holding(lambda: self._keyed.stepped(self._rows))

    def _with_gradients(self, keys: KeysLike, grads: RealsLike) -> tuple[Ids, Array]:
        """The rows of keys, and their gradients, which are looked at first: a key that comes with others is not admitted."""
        self._table._trained()
        column = read(keys, "keys")
        gradients = as_gradients(grads, (*column.shape, self.dim), self.dtype, "keys.shape + (dim,) = ")
        return self._trained(column), gradients

    def _trained(self, column: Column) -> Ids:
        """The rows of keys that have gradients, which is a use of them; they are admitted if they have not been looked up."""
        ids = self._keyed.known(column)
        if self.vocabulary.unknown == "grow" and self._keyed.min_count == 1 and (ids == self._keyed.fallback).any():
            return self._in_use(column)
        self._follow()
        if self._keyed.counts_uses:
            self._lock.holding(lambda: self._keyed.note(ids, self._rows))
        return ids

    def remove(self, keys: KeysLike) -> None:
        """Forget keys. Their rows are free, and given to new keys.

        Args:
            keys: as for `lookup`.

        Raises: KeyError for the first unknown key; RuntimeError if gradients given to `accumulate` are waiting for a step, or
            for a file that is mapped. No key is removed then.

        Example:
            >>> import unhot
            >>> words = unhot.Embedding(unhot.Vocabulary(["cat", "owl"]), 2)
            >>> words.remove(["cat"])
            >>> "cat" in words
            False
        """
        self._lock.holding(lambda: self._keyed.remove(keys, self._rows))

    # ------------------------------------------------------------------ states and copies

    def state_dict(self) -> dict[str, Array]:
        """Everything needed to go on, as a flat dict of NumPy arrays: the table's state, the vocabulary's, and the limits'.

        With a `min_count`, it also says how often keys without a row were seen, and with a `max_rows` or a `max_idle`, when and
        how often each row was used.

        Raises: as `Table.state_dict`.

        Example:
            >>> import unhot
            >>> "vocabulary.keys" in unhot.Embedding(unhot.Vocabulary(["cat"]), 2).state_dict()
            True
        """

        def state() -> dict[str, Array]:
            words = {f"{VOCABULARY}.{name}": value for name, value in self._words().items()}
            return self._table.state_dict() | words

        return self._lock.holding(state)

    def _words(self) -> dict[str, Array]:
        """All of the state but the table's."""
        self._keyed.follow(self._rows)
        limits = {name: np.array(value or 0) for name, value in zip(LIMITS, self._keyed.limits, strict=True)}
        return self.vocabulary.state_dict() | limits | self._keyed.counts(self._rows)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned, into an embedding of the same dim, dtype and optimizer, with any vocabulary.

        The embedding keeps its own limits (`min_count`, `max_rows`, `max_idle`). What the state does not say begins anew: when
        rows were used, say, if it is that of an embedding without `max_idle`.

        Args:
            state: the state of an embedding, also as read back by `numpy.load`.

        Raises: ValueError or TypeError for a state that does not fit. The embedding is then unchanged.

        Example:
            >>> import unhot
            >>> words = unhot.Embedding(unhot.Vocabulary(["cat", "owl"]), 2)
            >>> other = unhot.Embedding(unhot.Vocabulary(unknown="grow"), 2)
            >>> other.load_state_dict(words.state_dict())
            >>> bool((other["owl"] == words["owl"]).all())
            True
        """
        words = {name.removeprefix(f"{VOCABULARY}."): state[name] for name in state if name.startswith(f"{VOCABULARY}.")}
        loaded = Vocabulary()
        loaded.load_state_dict(words)
        keyed = KeyedRows(loaded, *self._keyed.limits)
        keyed.take_counts(words)
        keyed.vocabulary = self.vocabulary
        of_table = {name: state[name] for name in state if not name.startswith(f"{VOCABULARY}.")}

        def load() -> None:
            calls = self._table._loading(of_table, max(loaded.rows, 1))
            self.vocabulary._take_over(loaded, [partial(setattr, self, "_keyed", keyed), *calls])
            keyed.follow(self._rows)

        self._lock.holding(lambda: self._table._lock.holding(load))

    def save(self, path: Path) -> None:
        """Write table and vocabulary into one safetensors file, which `unhot.load` reads; as `Table.save`.

        Args:
            path: as for `Table.save`.

        Raises: as `Table.save`.

        Example:
            >>> import os, tempfile, unhot
            >>> path = os.path.join(tempfile.mkdtemp(), "words.safetensors")
            >>> unhot.Embedding(unhot.Vocabulary(["cat", "owl"]), 4).save(path)
            >>> list(unhot.load(path).vocabulary)
            ['cat', 'owl']
        """

        self._lock.holding(lambda: self._table._save(path, self._words()))

    @classmethod
    def _of_file(cls, table: Table, words: Mapping[str, Any]) -> Self:
        """The embedding of a table that was read from a file, and of the vocabulary's part of the file."""
        limits = [whole(float(words.get(name, 0)), f"the file's 'vocabulary.{name}'") or None for name in LIMITS]
        vocabulary = Vocabulary()
        vocabulary.load_state_dict(words)
        if table.rows < vocabulary.rows:
            raise ValueError(f"the vocabulary has {vocabulary.rows} rows, and the table {table.rows}.")
        if table.out_of_range != "zero":
            table.out_of_range = "zero"
        made = object.__new__(cls)
        made._keyed, made._table, made._lock = KeyedRows(vocabulary, limits[0] or 1, *limits[1:]), table, Lock()
        made._keyed.take_counts(words)
        if table._fixed_rows:
            made._keyed.has_all_keys(made._rows)
        return made

    def __getstate__(self) -> tuple[KeyedRows, Table]:
        # With the vocabulary itself, which other embeddings that are pickled with this one may have, too.
        memo = {id(self.vocabulary): self.vocabulary}
        return self._lock.holding(lambda: copy.deepcopy((self._keyed, self._table), memo))

    def __copy__(self) -> Self:
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        made = memo[id(self)] = object.__new__(type(self))
        made.__setstate__(self._lock.holding(lambda: copy.deepcopy((self._keyed, self._table), memo)))
        return made

    def __setstate__(self, state: tuple[KeyedRows, Table]) -> None:
        self._keyed, self._table = state
        self._lock = Lock()
