"""The table that users look up, train and save. It checks arguments and holds locks; `engine` does the work."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unhot import memory
from unhot.arraylike import IdsLike, RealsLike
from unhot.bags import as_bags, as_sparse
from unhot.creation import Init, as_capacity, as_dtype, as_optimizer, as_size, check_init, initial_weights
from unhot.engine import Batch, Engine
from unhot.gradients import with_gradients
from unhot.ids import OutOfRange, as_ids, as_plain, check_policy, in_range, not_removed
from unhot.kernels import active as kernels
from unhot.kernels.structs import MODES, Bags, Segment
from unhot.optimizers import Optimizer
from unhot.outputs import as_output, new_output
from unhot.settling import clock_of
from unhot.stateful_table import StatefulTable

Array = npt.NDArray[Any]

NO_OPTIMIZER = "this table has no optimizer: make it with one, e.g. optimizer=unhot.Adam(1e-3), to train it."


class Table(StatefulTable):
    """A (rows, dim) table that trains exactly like one-hot x Dense, at a cost proportional to the touched rows.

    `DenseView` adds a bias and an activation.

    Args:
        rows: the number of rows (the vocabulary).
        dim: the length of a row's vector.
        optimizer: one of unhot's optimizers, for example `unhot.Adam(1e-3)`, or None for a table that is only read.
        init: "uniform" in [-0.05, 0.05), "normal" with standard deviation 0.05, "zeros", or a callable that maps the shape
            (rows, dim) to an array.
        dtype: the dtype of the weights, slots and gradients: "float32" or "float64".
        seed: the seed of the random initial weights.
        out_of_range: what happens to an id outside [0, rows), including negative ids: "raise" (an IndexError), "zero" (a zero
            vector without a gradient), or the number of the row that stands for all unknown ids.
        frozen: the rows that do not train: row numbers, or a boolean mask of shape (rows,); None for no rows.
        capacity: the number of rows to have room for, if the table is going to `grow`. Only rows that are there take memory.

    Raises: TypeError or ValueError for unusable arguments; MemoryError if the table does not fit into memory.

    Example:
        >>> import unhot
        >>> table = unhot.Table(1000, 4, optimizer=unhot.Adam(0.1), init="zeros")
        >>> table.step([3, 7, 3], [[1.0, 1, 1, 1], [2, 2, 2, 2], [1, 1, 1, 1]])
        >>> table[[3, 7]].round(3)
        array([[-0.1, -0.1, -0.1, -0.1],
               [-0.1, -0.1, -0.1, -0.1]], dtype=float32)

    References: docs/mathematics.md for what "exactly" means and how deferred steps are settled.
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        optimizer: Optimizer | None = None,
        init: Init = "uniform",
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
        out_of_range: OutOfRange = "raise",
        frozen: IdsLike | None = None,
        capacity: int | None = None,
    ) -> None:
        shape = (as_size("rows", rows), as_size("dim", dim))
        kind, spare = as_dtype(dtype), as_capacity(capacity, shape[0]) - shape[0]
        check_init(init)
        self._check(shape, kind, optimizer, out_of_range)
        self._init, self._generator = init, np.random.default_rng(seed)
        weights = initial_weights(init, shape, kind, self._generator, spare)
        self._start(Engine.of([weights], optimizer, spare), optimizer, out_of_range)
        self.frozen = frozen

    @classmethod
    def from_array(
        cls,
        array: RealsLike,
        *,
        optimizer: Optimizer | None = None,
        out_of_range: OutOfRange = "raise",
        frozen: IdsLike | None = None,
        capacity: int | None = None,
    ) -> Table:
        """A table whose weights are a copy of `array`.

        Args:
            array: an array of shape (rows, dim), float32 or float64.
            optimizer, out_of_range, frozen, capacity: as for `Table`.

        Raises: as for `Table`.

        Example:
            >>> import unhot
            >>> unhot.Table.from_array([[0.5, 1.5], [2.5, 3.5]]).lookup(1)
            array([2.5, 3.5])
        """
        given = as_plain(array, "array")
        if given.ndim != 2:
            raise ValueError(f"`array` must have two dimensions, (rows, dim). Received: shape {given.shape}.")
        table = cls.__new__(cls)
        shape = (as_size("rows", given.shape[0]), as_size("dim", given.shape[1]))
        dtype = as_dtype(given.dtype)
        spare = as_capacity(capacity, shape[0]) - shape[0]
        table._check(shape, dtype, optimizer, out_of_range)
        table._init, table._generator = "uniform", np.random.default_rng()
        weights = initial_weights(lambda _: given, shape, dtype, table._generator, spare)
        table._start(Engine.of([weights], optimizer, spare), optimizer, out_of_range)
        table.frozen = frozen
        return table

    def _check(self, shape: tuple[int, int], dtype: np.dtype[Any], optimizer: Any, out_of_range: Any) -> None:
        """Raise an error for a table that cannot be, before anything large is allocated."""
        rows, dim = shape
        numbers = dim
        if optimizer is not None:
            numbers = clock_of(as_optimizer(optimizer), dtype, 0)[1].numbers_per_row(dim)
        check_policy(out_of_range, rows)
        memory.require(rows * (numbers * dtype.itemsize + 4), f"a table of {rows:,} x {dim:,}")

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weights: (rows, dim)."""
        return self.rows, self.dim

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self._engine.stores[0].weights)

    @property
    def dim(self) -> int:
        """The length of a row's vector."""
        return int(self._engine.stores[0].weights.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the weights, slots and gradients: float32 or float64."""
        dtype: np.dtype[Any] = self._engine.stores[0].weights.dtype
        return dtype

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer. Between steps, you may assign its hyperparameters, or another one with the same slots."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer) -> None:
        if self._optimizer is None:
            raise RuntimeError(NO_OPTIMIZER)
        assert self._engine.clock is not None
        _, clock = clock_of(as_optimizer(optimizer), self.dtype, 0, self._engine.clock.slots)
        self._engine.require_follower(optimizer, clock.slots)
        self._optimizer = optimizer

    @property
    def out_of_range(self) -> OutOfRange:
        """What happens to an id outside [0, rows): "raise", "zero" or a row number."""
        return self._out_of_range

    @out_of_range.setter
    def out_of_range(self, policy: OutOfRange) -> None:
        policy = check_policy(policy, self.rows)
        if isinstance(policy, int):
            self._existing(np.array([policy]))
        self._out_of_range = policy

    def _in_table(self, ids: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_] | None]:
        """The ids as flat numbers of rows that are there, and a mask of those that have a zero vector, or None."""
        flat, zero = in_range(ids, self.rows, self._out_of_range)
        if self._removed is None:
            return flat, zero
        return not_removed(flat, zero, self._removed, ids.shape, self._out_of_range)

    # ------------------------------------------------------------------ lookups

    def lookup(self, ids: IdsLike, out: Array | None = None) -> Array:
        """The vectors of `ids`, as dense training would hold them now: shape ids.shape + (dim,).

        A lookup never changes the table.

        Args:
            ids: integers of any integer dtype and any shape.
            out: an array to write into and return, of the result's shape and the table's dtype.

        Raises: IndexError for an id out of range (with out_of_range="raise"); TypeError for ids that are not integers;
            ValueError for an unusable `out`.

        Example:
            >>> import unhot
            >>> table = unhot.Table.from_array([[0.1, 0.2], [0.3, 0.4]])
            >>> table.lookup([[1], [0]]).shape
            (2, 1, 2)
        """
        array = as_ids(ids)
        flat, zero = self._in_table(array)
        dim = self.dim
        out, target = as_output(out, (*array.shape, dim), self.dtype, flat)
        rows = target.reshape(-1, dim)
        self._read(Engine.read, flat, [Segment(0, rows)])
        if zero is not None:
            rows[zero] = 0
        if target is not out:
            out[...] = target
        return out

    __getitem__ = lookup

    def bag(
        self,
        ids: IdsLike,
        offsets: IdsLike | None = None,
        weights: RealsLike | None = None,
        mode: Literal["sum", "mean", "max"] = "sum",
        out: Array | None = None,
    ) -> Array:
        """The pooled vectors of bags of ids: shape (bags, dim).

        Args:
            ids: an array of shape (bags, length), or a flat array with `offsets`.
            offsets: where each bag begins in the flat ids. The first is 0, and the last bag ends where the ids end.
            weights: one factor per id, of the shape of `ids`, not allowed with "max". "mean" divides by the sum of the bag's
                factors.
            mode: "sum", "mean" or "max". Sums are formed in float64 and rounded once. An empty bag is 0.
            out: an array to write into and return, of the result's shape and the table's dtype.

        Raises: as for `lookup`; ValueError for offsets, weights or a mode that do not fit.

        Example:
            >>> import unhot
            >>> table = unhot.Table.from_array([[1.0, 2.0], [3.0, 4.0]])
            >>> table.bag([0, 1, 1], offsets=[0, 1])
            array([[1., 2.],
                   [6., 8.]])
        """
        array = as_ids(ids)
        starts, factors = as_bags(array, offsets, weights, mode, self.dtype)
        flat, zero = self._in_table(array)
        out, target = as_output(out, (len(starts) - 1, self.dim), self.dtype, flat, factors)
        if zero is None:
            self._read(Engine.pool, flat, [Bags(0, target, starts, factors, MODES[mode])])
        else:
            values = np.empty((len(flat), self.dim), self.dtype)
            self._read(Engine.read, flat, [Segment(0, values)])
            values[zero] = 0
            kernels.pool(values, np.arange(len(flat)), starts, factors, mode, target)
        if target is not out:
            out[...] = target
        return out

    def matmul(self, x: Any) -> Array:
        """The product x @ weights, for one-hot, multi-hot or soft rows: shape (n, dim).

        Args:
            x: a dense or SciPy sparse array of shape (n, rows). Weights that are multiplied by 0 are not read.

        Raises: ValueError for a shape that does not fit; TypeError if `x` does not hold real numbers.

        Example:
            >>> import unhot
            >>> table = unhot.Table.from_array([[1.0, 2.0], [3.0, 4.0]])
            >>> table.matmul([[0, 1], [0.5, 0.5]])
            array([[3., 4.],
                   [2., 3.]])
        """
        starts, columns, values = as_sparse(x, self.rows, self.dtype)
        out = new_output((len(starts) - 1, self.dim), self.dtype)
        self._read(Engine.pool, columns, [Bags(0, out, starts, values, MODES["sum"])])
        return out

    # ------------------------------------------------------------------ training

    def accumulate(self, ids: IdsLike, grads: RealsLike) -> None:
        """Add gradients to those of the next `step`, for several lookups in one step.

        Args: as for `step`. Both are copied.

        Raises: as for `step`.

        Example:
            >>> import unhot
            >>> table = unhot.Table(4, 2, optimizer=unhot.SGD(1.0), init="zeros")
            >>> table.accumulate([0], [[1.0, 2.0]])
            >>> table.accumulate([0, 3], [[1.0, 2.0], [5.0, 6.0]])
            >>> table.step()
            >>> table[[0, 3]]
            array([[-2., -4.],
                   [-5., -6.]], dtype=float32)
        """
        self._trained()
        flat, gradients = with_gradients(self, ids, grads, self._removed)
        batch = Batch(flat.copy(), [Segment(0, gradients.copy())])
        self._lock.holding(partial(self._pending.append, batch))

    def step(self, ids: IdsLike | None = None, grads: RealsLike | None = None) -> None:
        """Make one optimizer step. Only the rows `ids` have a gradient; all others move as in dense training.

        The step also uses the gradients given to `accumulate`. Without arguments, it uses only those.

        Args:
            ids: integers of any shape. The gradients of a repeated id are summed.
            grads: floats of shape ids.shape + (dim,), converted to the table's dtype. NaN and infinite values spoil their
                rows, as they would in dense training.

        Raises: TypeError or ValueError for unusable ids or gradients, or a learning rate that is not a number of at least 0;
            IndexError for ids out of range; RuntimeError without an optimizer. An error leaves the table unchanged.

        Example:
            >>> import unhot
            >>> table = unhot.Table(4, 2, optimizer=unhot.SGD(0.5), init="zeros")
            >>> table.step([1, 1], [[1.0, 0.0], [1.0, 2.0]])
            >>> table[1]
            array([-1., -1.], dtype=float32)
        """
        optimizer = self._trained()
        if (ids is None) != (grads is None):
            raise TypeError("`step` takes both ids and grads, or neither (then it uses what `accumulate` was given).")
        given = []
        if ids is not None and grads is not None:
            flat, gradients = with_gradients(self, ids, grads, self._removed)
            given = [Batch(flat, [Segment(0, gradients)])]
        self._lock.holding(partial(self._make_step, optimizer, partial(self._batch, given)))

    def _batch(self, given: list[Batch]) -> Batch:
        """The ids and gradients of a step, those that wait for it and the given ones, and what no longer waits then."""
        waiting = self._pending.copy()
        if given and not waiting:
            return given[0]
        batches = [*waiting, *given]
        ids = batches[0].ids if len(batches) == 1 else np.concatenate([np.empty(0, np.int64), *(one.ids for one in batches)])
        parts = [part for one in batches for part in one.gradients] or [Segment(0, np.empty((0, self.dim), self.dtype))]
        return Batch(ids, parts, [partial(self._pending.__delitem__, slice(len(waiting)))])

    def _trained(self) -> Optimizer:
        if self._optimizer is None:
            raise RuntimeError(NO_OPTIMIZER)
        return self._optimizer

    def settle(self, ids: IdsLike | None = None) -> None:
        """Apply the deferred steps of `ids`, or of all rows, now.

        Lookups do not need this: they return settled rows without writing them.

        Args:
            ids: integers of any shape; None settles all rows. Ids out of range are treated as in `lookup`.

        Raises: as for `lookup`.

        Example:
            >>> import unhot
            >>> table = unhot.Table(4, 2, optimizer=unhot.AdamW(0.1), seed=0)
            >>> table.step([1], [[1.0, 2.0]])
            >>> table.settle()
        """
        if ids is None:
            self._lock.holding(lambda: self._engine.settle_all())
            return
        flat, zero = self._in_table(as_ids(ids))
        named = kernels.group(flat if zero is None else flat[~zero]).rows
        self._lock.holding(lambda: self._engine.settle(named))

    # ------------------------------------------------------------------ what the table holds

    @property
    def array(self) -> Array:
        """A copy of the settled weights: shape (rows, dim).

        Example:
            >>> import unhot
            >>> unhot.Table(2, 3, init="zeros").array.sum()
            np.float32(0.0)
        """
        return self._lock.holding(lambda: self._engine.settled(lambda: self._engine.stores[0].weights.copy()))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a table's weights are settled into a copy: use np.asarray(table), or copy=None.")
        array = self.array
        return array if dtype is None else array.astype(dtype, copy=False)

    @property
    def clock(self) -> int:
        """The number of steps made so far."""
        return self._engine.now

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[Array]:
        return iter(self.array)

    def __repr__(self) -> str:
        return f"Table({self.rows}, {self.dim}, optimizer={self.optimizer!r}, dtype={self.dtype.name!r})"
