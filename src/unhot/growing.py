"""Rows that arrive and go, and rows that do not train: what `Table` offers for them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from unhot import memory
from unhot.arraylike import IdsLike, RealsLike
from unhot.atomic import Call
from unhot.creation import Init, as_size, check_init, initial_weights
from unhot.engine import Batch, Engine
from unhot.ids import OutOfRange, as_ids, as_plain
from unhot.kernels.structs import Segment
from unhot.row_numbers import existing, named
from unhot.sharing import Shared
from unhot.state import decoded, encoded

Array = npt.NDArray[Any]
NewRows = Init | Literal["mean"] | RealsLike
"""What new rows hold."""

MEAN_CHUNK = 1 << 14
"""Rows read at a time for their mean."""


class Growing(Shared):
    """A table whose rows arrive and go between steps."""

    _init: Init
    _generator: np.random.Generator
    """What the initial weights of new rows come from."""
    _pending: list[Batch]
    _removed: npt.NDArray[np.bool_] | None
    """Which rows have been removed, and not been given anew; None if none has."""
    _out_of_range: OutOfRange
    _only_read = False
    """Whether nothing ever changes the table: it lies in a file that is mapped for reading."""
    _fixed_rows = False
    """Whether no rows can be added, removed, assigned or frozen: they are those of a mapped file."""

    @property
    def removed(self) -> npt.NDArray[np.int64]:
        """The numbers of removed rows, in rising order, which `grow` gives to new rows first.

        Example:
            >>> import unhot
            >>> table = unhot.Table(4, 2)
            >>> table.remove([2])
            >>> table.removed
            array([2])
        """
        removed = self._removed
        return np.empty(0, np.int64) if removed is None else np.flatnonzero(removed)

    def grow(self, rows: int, init: NewRows | None = None) -> npt.NDArray[np.int64]:
        """Add rows, and return their numbers: those of removed rows first, then those after the last row.

        The table is then what it would be if it had had the new rows from the start, and they had had no gradient until now.
        Weight decay has acted on them since then. Rows that are given as an array are an exception: they hold what is given.

        It costs the new rows. If the table has no room for them (see `capacity`), all rows are copied into arrays of twice
        the size.

        Args:
            rows: how many.
            init: what the new rows hold: None for what the table's own `init` gives, or another `init`; "mean" for the mean
                of all rows; or an array of shape (rows, dim).

        Raises: TypeError or ValueError for unusable arguments; MemoryError if there is too little memory. The table is then
            unchanged.

        Example:
            >>> import unhot
            >>> table = unhot.Table(2, 3, init="zeros", optimizer=unhot.Adam(1e-3))
            >>> table.grow(2)
            array([2, 3])
            >>> table.grow(1, [[0.1, 0.2, 0.3]])
            array([4])
            >>> table[4]
            array([0.1, 0.2, 0.3], dtype=float32)
        """
        count = as_size("rows", rows)
        self._require_own_rows()
        return self._lock.holding(partial(self._grow, count, self._init if init is None else init))

    def _grow(self, count: int, init: NewRows) -> npt.NDArray[np.int64]:
        store = self._engine.stores[0]
        if len(self._engine.stores) > 1:  # which name the bias by a number that may change
            self._require_nothing_waits("grow")
        numbers = sum(array.shape[1] for array in store.state)
        memory.require(count * (numbers * store.weights.itemsize + 4), f"{count:,} more rows of {store.dim}")
        found: list[npt.NDArray[np.int64]] = []

        def prepare() -> list[Call]:
            engine, generator = self._engine, copy.deepcopy(self._generator)
            store = engine.stores[0]
            weights, from_the_start = self._new_rows(count, init, generator)
            state = engine.untouched(weights) if from_the_start else engine.new(weights)
            again = self.removed[:count]
            added = np.arange(store.rows, store.rows + count - len(again))
            found[:] = [np.concatenate([again, added])]
            drawn = partial(setattr, self, "_generator", generator)
            return [*engine.adding(0, again, state), drawn, self._marking(again, False, len(added))]

        self._engine.change_rows(prepare)
        self._engine.replan()
        return found[0]

    def _new_rows(self, count: int, init: NewRows, generator: np.random.Generator) -> tuple[Array, bool]:
        """The weights that new rows begin with, and whether that is at the start of training, or now."""
        store = self._engine.stores[0]
        shape, dtype = (count, store.dim), store.weights.dtype
        if isinstance(init, str) and init == "mean":
            return np.broadcast_to(self._mean(), shape).astype(dtype), False
        if callable(init) or isinstance(init, str):
            check_init(init, "'mean'", "an array")
            return initial_weights(init, shape, dtype, generator), True
        given = as_plain(init, "init")
        if given.dtype.kind not in "fiu":
            raise TypeError(f"`init` must hold real numbers. Received: dtype {given.dtype}.")
        if given.shape != shape:
            raise ValueError(f"`init` must have shape (rows, dim) = {shape}. Received: shape {given.shape}.")
        with np.errstate(over="ignore"):
            return given.astype(dtype), False

    def _mean(self) -> Array:
        """The mean of all rows that are there, formed in float64."""
        engine, removed = self._engine, self._removed
        store = engine.stores[0]
        total, there = np.zeros(store.dim), 0
        for start in range(0, store.rows, MEAN_CHUNK):
            rows = np.arange(start, min(start + MEAN_CHUNK, store.rows))
            rows = rows if removed is None else rows[~removed[rows]]
            vectors = np.empty((len(rows), store.dim), store.weights.dtype)
            engine.read(rows, [Segment(0, vectors)])
            total += vectors.sum(axis=0, dtype=np.float64)
            there += len(rows)
        return total / max(there, 1)

    def _marking(self, rows: npt.NDArray[np.int64], removed: bool, more: int = 0) -> Call:
        """What notes that these rows are removed, or no longer so, and that there are `more` rows at the end."""
        if self._removed is None and not removed:
            return partial(setattr, self, "_removed", None)
        count = self._engine.stores[0].rows
        marks = np.zeros(count + more, bool)
        marks[:count] = False if self._removed is None else self._removed
        marks[rows] = removed
        return partial(setattr, self, "_removed", marks if marks.any() else None)

    def remove(self, rows: IdsLike) -> None:
        """Give rows back. Their numbers are those of no row until `grow` uses them again; all others stay valid.

        The id of a removed row counts as out of range. A new row with its number starts anew, its optimizer's state included.

        Args:
            rows: integers of any shape, each of them once or several times.

        Raises: IndexError for an id that is out of range or removed already; TypeError for ids that are not integers;
            ValueError for the row that stands for ids out of range; RuntimeError if gradients given to `accumulate` are
            waiting for a step. The table is then unchanged.

        Example:
            >>> import unhot
            >>> table = unhot.Table(4, 2, init="zeros")
            >>> table.remove([1, 3])
            >>> table.grow(3)
            array([1, 3, 4])
        """
        self._require_own_rows()
        self._lock.holding(partial(self._remove, rows, False))

    def _remove(self, rows: IdsLike, forgetting: bool) -> None:
        """Give rows back, and with them those of their gradients that wait for a step; or refuse if there are any."""
        given = np.unique(self._existing(rows))
        if self._out_of_range in given.tolist():
            raise ValueError(f"row {self._out_of_range} stands for ids out of range. Assign another `out_of_range` first.")
        if not forgetting or len(self._engine.stores) > 1:
            self._require_nothing_waits("remove")
        store = self._engine.stores[0]
        zeros = np.zeros((len(given), store.dim), store.weights.dtype)
        self._engine.change_rows(lambda: [*self._removing(given, zeros), *self._forgetting(given)])

    def _require_nothing_waits(self, before: str) -> None:
        if self._pending:
            raise RuntimeError(f"gradients given to `accumulate` wait for a step: call `step()` before `{before}`.")

    def _forgetting(self, rows: npt.NDArray[np.int64]) -> list[Call]:
        """What forgets the gradients of these rows that wait for a step."""
        if not self._pending:
            return []
        kept = [(batch, ~np.isin(batch.ids, rows)) for batch in self._pending]
        parts = [(Segment(0, batch.gradients[0].vectors[there]), batch.ids[there]) for batch, there in kept]
        return [partial(self._pending.__setitem__, slice(len(kept)), [Batch(ids, [part]) for part, ids in parts])]

    def _removing(self, rows: npt.NDArray[np.int64], zeros: Array) -> list[Call]:
        engine = self._engine
        frozen = engine.frozen_in(0)
        thaw = engine.freezing(frozen[~np.isin(frozen, rows)])
        return [*thaw, *engine.adding(0, rows, engine.new(zeros)), self._marking(rows, True)]

    def assign(self, ids: IdsLike, vectors: RealsLike) -> None:
        """Let rows hold these vectors, as an assignment to a dense parameter does: the optimizer's state stays.

        Args:
            ids: integers of any shape, each of them once.
            vectors: real numbers of shape ids.shape + (dim,).

        Raises: IndexError for an id out of range; TypeError or ValueError for unusable arguments. The table is then unchanged.

        Example:
            >>> import unhot
            >>> table = unhot.Table(3, 2, init="zeros")
            >>> table.assign([2, 0], [[1.0, 2.0], [3.0, 4.0]])
            >>> table.array.tolist()
            [[3.0, 4.0], [0.0, 0.0], [1.0, 2.0]]
        """
        array, given = as_ids(ids), as_plain(vectors, "vectors")
        self._require_own_rows()
        store = self._engine.stores[0]
        if given.dtype.kind not in "fiu":
            raise TypeError(f"`vectors` must be real numbers. Received: dtype {given.dtype}.")
        if given.shape != (*array.shape, store.dim):
            raise ValueError(
                f"`vectors` must have shape ids.shape + (dim,) = {(*array.shape, store.dim)}. Received: {given.shape}."
            )
        with np.errstate(over="ignore"):
            rows = given.reshape(-1, store.dim).astype(store.weights.dtype)

        def work() -> None:
            flat = self._existing(array, "ids")
            if len(np.unique(flat)) < len(flat):
                raise ValueError("`ids` must name each row once.")
            self._engine.change_rows(lambda: self._engine.assigning(flat, rows))

        self._lock.holding(work)

    def _require_own_rows(self) -> None:
        """Raise RuntimeError if the rows are not the table's to add, remove, assign or freeze."""

    def _existing(self, ids: IdsLike, name: str = "rows") -> npt.NDArray[np.int64]:
        """Flat numbers of rows that are there, else an IndexError."""
        return existing(ids, self._engine.stores[0].rows, self.removed, name)

    # ------------------------------------------------------------------ rows that do not train

    @property
    def frozen(self) -> npt.NDArray[np.int64]:
        """The numbers of the rows that do not train, in rising order. No step changes a bit of them, nor does weight decay.

        Between steps, you may assign row numbers, a boolean mask of shape (rows,), or None for no rows.

        Example:
            >>> import numpy as np, unhot
            >>> table = unhot.Table(4, 2, init="zeros", optimizer=unhot.SGD(1.0))
            >>> table.frozen = [0]
            >>> table.step([0, 1], np.ones((2, 2)))
            >>> table[[0, 1]]
            array([[ 0.,  0.],
                   [-1., -1.]], dtype=float32)
        """
        engine = self._engine
        return np.array(engine.frozen_in(0), np.int64)

    @frozen.setter
    def frozen(self, rows: Any) -> None:
        self._freeze(lambda: named(rows, self._engine.stores[0].rows, self.removed, "frozen"))

    def only_train(self, rows: IdsLike) -> None:
        """Freeze all rows but these, such as newly added ones.

        Args:
            rows: row numbers, or a boolean mask of shape (rows,).

        Raises: as for `frozen`: IndexError for an id that is out of range or removed, ValueError for a mask of another shape,
            TypeError for anything else.

        Example:
            >>> import unhot
            >>> table = unhot.Table(4, 2, optimizer=unhot.AdamW(1e-3))
            >>> table.only_train(table.grow(2))
            >>> table.frozen
            array([0, 1, 2, 3])
        """

        def others() -> npt.NDArray[np.int64]:
            count = self._engine.stores[0].rows
            return np.setdiff1d(np.arange(count), named(rows, count, self.removed))

        self._freeze(others)

    def _freeze(self, rows: Callable[[], npt.NDArray[np.int64]]) -> None:
        self._require_own_rows()

        def work() -> None:
            frozen = rows()
            self._engine.freeze(frozen)

        self._lock.holding(work)

    # ------------------------------------------------------------------ states

    def _growth_state(self) -> dict[str, Array]:
        """What of a state goes beyond arrays and clock: which rows are removed or frozen, and what new ones begin with."""
        init = self._init if isinstance(self._init, str) else CALLABLE
        state: dict[str, Array] = {"generator": generator_state(self._generator), "init": encoded(init)}
        return state | {name: rows for name in ("frozen", "removed") if len(rows := getattr(self, name))}

    def _load_growth(self, state: Mapping[str, Any], engine: Engine) -> list[Call]:
        """What takes over that of a state, with the engine that is made of the rest of it; it freezes that one's rows."""
        count = engine.stores[0].rows
        frozen, removed = (_row_numbers(state, name, count) for name in ("frozen", "removed"))
        engine.freeze(frozen)
        marks = np.zeros(count, bool)
        marks[removed] = True
        if self._out_of_range in removed.tolist():
            raise ValueError(f"in the state, row {self._out_of_range} is removed, which stands for ids out of range.")
        calls: list[Call] = [partial(setattr, self, "_removed", marks if len(removed) else None)]
        if "generator" in state:
            calls.append(partial(setattr, self, "_generator", loaded_generator(state["generator"])))
        init: Any = str(decoded(state, "init")) if "init" in state else ""
        if init == CALLABLE and isinstance(self._init, str):
            init = lost
        return [*calls, partial(setattr, self, "_init", init)] if init in ("uniform", "normal", "zeros", lost) else calls


CALLABLE = "callable"
"""What a state says of an `init` that it cannot hold."""


def lost(shape: tuple[int, int]) -> NoReturn:
    """In the place of a callable that no state holds, of a table that is loaded."""
    raise RuntimeError(
        "what new rows begin with was a callable (`init`) when the table was saved, which no file can hold. Pass it again:"
        " unhot.load(path, init=...), or table.grow(rows, init=...)."
    )


def _row_numbers(state: Mapping[str, Any], name: str, rows: int) -> npt.NDArray[np.int64]:
    """The row numbers `name` of a state, which rise; none if it has none."""
    given = np.asarray(state.get(name, np.empty(0, np.int64)))
    fits = given.ndim == 1 and given.dtype == np.int64 and (np.diff(given) > 0).all()
    if not fits or (len(given) and not (given[0] >= 0 and given[-1] < rows)):
        raise ValueError(f"the state's {name!r} must be row numbers of a table of {rows} rows, in rising order.")
    return given.copy()


def generator_state(generator: np.random.Generator) -> npt.NDArray[np.uint64]:
    """The state of a generator as `numpy.random.default_rng` makes it, as six numbers."""
    state: Any = generator.bit_generator.state
    wide = [part >> shift & (1 << 64) - 1 for part in state["state"].values() for shift in (64, 0)]
    return np.array([*wide, state["has_uint32"], state["uinteger"]], np.uint64)


def loaded_generator(state: Any) -> np.random.Generator:
    """The generator with that state."""
    given = np.asarray(state)
    if given.shape != (6,) or given.dtype != np.uint64 or given[4] > 1 or given[5] >= 1 << 32:
        raise ValueError("the state's 'generator' must hold the six numbers of a NumPy generator.")
    numbers = [int(number) for number in given]
    made = np.random.PCG64()
    made.state = {
        "bit_generator": "PCG64",
        "state": {"state": numbers[0] << 64 | numbers[1], "inc": numbers[2] << 64 | numbers[3]},
        "has_uint32": numbers[4],
        "uinteger": numbers[5],
    }
    return np.random.Generator(made)
