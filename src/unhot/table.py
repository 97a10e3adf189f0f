"""The table: weights, slots and clock; lookups that never write, and steps that cost the rows touched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from unhot import memory
from unhot.bags import as_bags, as_sparse
from unhot.ids import OutOfRange, as_ids, check_policy, in_range
from unhot.kernels import active as kernels
from unhot.kernels.plan import Plan
from unhot.locks import ReadWriteLock
from unhot.rules import Hyper, Optimizer, Recurrence
from unhot.state import export_state, import_state

Array = npt.NDArray[Any]
Init = Literal["uniform", "normal", "zeros"] | Callable[[tuple[int, int]], Any]

SETTLE_CHUNK = 1 << 14
"""Rows settled at a time where all are: it bounds the coefficients held at once."""

ROWS_PER_ENTRY = 64
"""Rows for each step that the history can hold: its entries then stay below 4 bytes a row in large tables."""


class Lateness(NamedTuple):
    """What is deferred of the rows that some ids name, as found after the given number of writes."""

    writes: int
    ids: Array
    plan: Plan
    which: Array
    coefficients: Array


class Table:
    """A (rows, dim) table that trains exactly like one-hot x Dense, at a cost proportional to the rows touched.

    Args:
        rows: the number of rows (the vocabulary).
        dim: the length of a row's vector.
        optimizer: one of unhot's rules, e.g. `unhot.Adam(1e-3)`; None for a table that is only read.
        init: "uniform" in [-0.05, 0.05), "normal" with standard deviation 0.05, "zeros", or a callable from the shape
            (rows, dim) to an array.
        dtype: "float32" or "float64", of the weights, slots and gradients.
        seed: of the random initial weights.
        out_of_range: what an id outside [0, rows) is: "raise" (an IndexError), "zero" (a zero vector without a gradient), or
            the number of the row that stands for all unknown ids.  Negative ids are out of range.

    Errors: TypeError or ValueError for arguments that are not usable; MemoryError if the table cannot be had.

    Example:
        >>> import unhot
        >>> table = unhot.Table(1000, 4, optimizer=unhot.Adam(0.1), init="zeros")
        >>> table.step([3, 7, 3], [[1.0, 1, 1, 1], [2, 2, 2, 2], [1, 1, 1, 1]])
        >>> table[[3, 7]].round(3)
        array([[-0.1, -0.1, -0.1, -0.1],
               [-0.1, -0.1, -0.1, -0.1]], dtype=float32)

    Source: docs/mathematics.md for what "exactly" means and how deferred steps are settled.
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
    ) -> None:
        shape = (_size("rows", rows), _size("dim", dim))
        kind = _dtype(dtype)
        if not callable(init) and init not in ("uniform", "normal", "zeros"):
            raise ValueError(f"`init` must be 'uniform', 'normal', 'zeros' or a callable. Received: {init!r}.")
        self._start(shape, kind, optimizer, out_of_range)
        self._weights = _initial(init, shape, kind, seed)
        self._add_slots()

    @classmethod
    def from_array(
        cls, array: npt.ArrayLike, *, optimizer: Optimizer | None = None, out_of_range: OutOfRange = "raise"
    ) -> Table:
        """A table with a copy of `array`, (rows, dim) of float32 or float64, as its weights.

        Errors: as for `Table`.

        Example:
            >>> import unhot
            >>> unhot.Table.from_array([[0.5, 1.5], [2.5, 3.5]]).lookup(1)
            array([2.5, 3.5])
        """
        weights = np.array(array, order="C", copy=True)
        if weights.ndim != 2:
            raise ValueError(f"`array` must have two dimensions, (rows, dim). Received: shape {weights.shape}.")
        table = cls.__new__(cls)
        shape = (_size("rows", weights.shape[0]), _size("dim", weights.shape[1]))
        table._start(shape, _dtype(weights.dtype), optimizer, out_of_range)
        table._weights = weights
        table._add_slots()
        return table

    def _start(
        self, shape: tuple[int, int], dtype: np.dtype[Any], optimizer: Optimizer | None, out_of_range: OutOfRange
    ) -> None:
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            raise TypeError(
                "`optimizer` must be one of unhot's rules, e.g. unhot.Adam(1e-3), or None. Received:"
                f" {optimizer!r} (of type {type(optimizer).__name__})."
            )
        self.rows, self.dim = shape
        self.dtype = dtype
        self.out_of_range = check_policy(out_of_range, self.rows)
        self.optimizer = optimizer
        self._lock = ReadWriteLock()
        self._clock = 0
        self._pending: list[tuple[Array, Array]] = []
        self._rule: Recurrence | None = None
        if optimizer is not None:
            self._snapshot, self._rule = self._recurrence(optimizer)
        self._last: npt.NDArray[np.uint32] | None = None
        self._behind = False
        self._writes = 0
        self._looked_up: Lateness | None = None
        copies = 1 + (len(self._rule.slots) if self._rule else 0)
        memory.require(self.rows * (self.dim * dtype.itemsize * copies + 4), f"a table of {self.rows:,} x {self.dim:,}")

    def _recurrence(self, optimizer: Optimizer) -> tuple[Optimizer, Recurrence]:
        """A copy of the hyperparameters as they stand, and the recurrence that follows them."""
        snapshot = copy.copy(optimizer)
        epsilon = getattr(snapshot, "epsilon", 1.0)
        if epsilon < np.finfo(self.dtype).tiny:
            raise ValueError(
                f"{type(optimizer).__name__}: `epsilon` must be at least {np.finfo(self.dtype).tiny:g} in a {self.dtype} table,"
                f" where less is 0. Received: {epsilon!r}."
            )
        return snapshot, snapshot.recurrence(self.dtype, self._capacity)

    @property
    def _capacity(self) -> int:
        return self.rows // ROWS_PER_ENTRY

    def _add_slots(self) -> None:
        slots = self._rule.slots if self._rule else {}
        shape = (self.rows, self.dim)
        self._slots = [
            np.full(shape, start, self.dtype) if start else np.zeros(shape, self.dtype) for start in slots.values()
        ]

    # ------------------------------------------------------------------ lookups

    def lookup(self, ids: npt.ArrayLike, out: Array | None = None) -> Array:
        """The vectors of `ids`: shape ids.shape + (dim,), as dense training would hold them now.

        Args:
            ids: integers of any integer dtype and any shape.
            out: an array of that shape and of the table's dtype to write into; returned.

        Errors: IndexError for an id out of range (under out_of_range="raise"), TypeError for ids that are not integers, and
        ValueError for an unusable `out`.  A lookup never changes the table.

        Example:
            >>> import unhot
            >>> table = unhot.Table.from_array([[0.1, 0.2], [0.3, 0.4]])
            >>> table.lookup([[1], [0]]).shape
            (2, 1, 2)
        """
        array = as_ids(ids)
        flat, zero = in_range(array, self.rows, self.out_of_range)
        out = self._output((*array.shape, self.dim), out)
        target = out if out.flags.c_contiguous else np.empty_like(out, order="C")
        with self._lock.reading():
            self._read(flat, target.reshape(-1, self.dim))
        if zero is not None:
            target.reshape(-1, self.dim)[zero] = 0
        if target is not out:
            out[...] = target
        return out

    __getitem__ = lookup

    def bag(
        self,
        ids: npt.ArrayLike,
        offsets: npt.ArrayLike | None = None,
        weights: npt.ArrayLike | None = None,
        mode: Literal["sum", "mean", "max"] = "sum",
        out: Array | None = None,
    ) -> Array:
        """The pooled vectors of bags of ids: shape (bags, dim).

        Args:
            ids: (bags, length), or flat with `offsets`.
            offsets: where each bag begins among flat ids; the first is 0, the last bag ends with the ids.
            weights: a factor for each id, of the shape of `ids`; mean then divides by the bag's sum of them.  Not with "max".
            mode: "sum", "mean" or "max".  Sums are formed in float64 and rounded once.  An empty bag is 0.
            out: an array of the result's shape and the table's dtype to write into; returned.

        Errors: as for `lookup`; ValueError for offsets, weights or a mode that do not fit.

        Example:
            >>> import unhot
            >>> table = unhot.Table.from_array([[1.0, 2.0], [3.0, 4.0]])
            >>> table.bag([0, 1, 1], offsets=[0, 1])
            array([[1., 2.],
                   [6., 8.]])
        """
        array = as_ids(ids)
        starts, factors = as_bags(array, offsets, weights, mode, self.dtype)
        flat, zero = in_range(array, self.rows, self.out_of_range)
        out = self._output((len(starts) - 1, self.dim), out)
        target = out if out.flags.c_contiguous else np.empty_like(out, order="C")
        with self._lock.reading():
            self._pool(flat, zero, starts, factors, mode, target)
        if target is not out:
            out[...] = target
        return out

    def matmul(self, x: Any) -> Array:
        """x @ weights, for one-hot, multi-hot or soft rows: shape (n, dim).

        Args:
            x: (n, rows), dense or a SciPy sparse array.  Weights that are multiplied by 0 are not read.

        Errors: ValueError for a shape that does not fit, TypeError for an x that is not real numbers.

        Example:
            >>> import unhot
            >>> table = unhot.Table.from_array([[1.0, 2.0], [3.0, 4.0]])
            >>> table.matmul([[0, 1], [0.5, 0.5]])
            array([[3., 4.],
                   [2., 3.]])
        """
        starts, columns, values = as_sparse(x, self.rows, self.dtype)
        out = np.empty((len(starts) - 1, self.dim), self.dtype)
        with self._lock.reading():
            self._pool(columns, None, starts, values, "sum", out)
        return out

    def _output(self, shape: tuple[int, ...], out: Array | None) -> Array:
        if out is None:
            memory.require(int(np.prod(shape, dtype=np.float64)) * self.dtype.itemsize, f"a result of shape {shape}")
            return np.empty(shape, self.dtype)
        if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != self.dtype or not out.flags.writeable:
            got = f"shape {out.shape}, dtype {out.dtype}" if isinstance(out, np.ndarray) else type(out).__name__
            raise ValueError(f"`out` must be a writeable array of shape {shape} and dtype {self.dtype}. Received: {got}.")
        return out

    def _read(self, ids: Array, out: Array) -> None:
        """out[i] = the settled weights of row ids[i]."""
        if not self._behind:
            kernels.gather(self._weights, ids, out)
            return
        assert self._rule is not None
        late = self._lateness(ids)
        kernels.gather_settled(self._rule, self._state, late.plan, late.which, late.coefficients, out)

    def _lateness(self, ids: Array) -> Lateness:
        """What is deferred of the rows `ids`; kept, since a step mostly follows a lookup of the same ids."""
        assert self._rule is not None and self._last is not None
        known = self._looked_up
        if known is not None and known.writes == self._writes and np.array_equal(known.ids, ids):
            return known
        plan = kernels.group(ids)
        steps, which = kernels.last_steps(self._last, plan.rows, self._clock)
        late = Lateness(self._writes, ids.copy(), plan, which, self._rule.coefficients(steps))
        self._looked_up = late
        return late

    def _pool(
        self, ids: Array, zero: Array | None, starts: Array, factors: Array | None, mode: str, out: Array
    ) -> None:
        values = self._weights
        if zero is not None:
            values = np.empty((len(ids), self.dim), self.dtype)
            self._read(ids, values)
            values[zero] = 0
            ids = np.arange(len(ids))
        elif self._behind:
            assert self._rule is not None
            late = self._lateness(ids)
            count = len(late.plan.rows)
            values = np.empty((count, self.dim), self.dtype)
            once = Plan(late.plan.rows, np.arange(count), np.arange(count + 1))
            kernels.gather_settled(self._rule, self._state, once, late.which, late.coefficients, values)
            position = np.empty(len(ids), np.int64)
            position[late.plan.order] = np.repeat(np.arange(count), np.diff(late.plan.starts))
            ids = position
        kernels.pool(values, ids, starts, factors, mode, out)

    # ------------------------------------------------------------------ training

    def accumulate(self, ids: npt.ArrayLike, grads: npt.ArrayLike) -> None:
        """Add gradients to those of the next `step`; for several lookups in one step.

        Args: as for `step`.  Both are copied.

        Errors: as for `step`.

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
        flat, gradients = self._checked(ids, grads)
        with self._lock.writing():
            self._pending.append((flat.copy(), gradients.copy()))

    def step(self, ids: npt.ArrayLike | None = None, grads: npt.ArrayLike | None = None) -> None:
        """Make one optimizer step, in which only the rows `ids` have a gradient; the others move as dense ones would.

        Args:
            ids: integers of any shape; the gradients of a repeated id are summed.
            grads: floats of shape ids.shape + (dim,); converted to the table's dtype.  NaN and infinite values spoil their
                rows, as they would in dense training.
            Without both, the step uses what `accumulate` was given, and otherwise it adds to it.

        Errors: TypeError or ValueError for unusable ids or gradients or a learning rate that is not a number at least 0,
        IndexError for ids out of range, RuntimeError without an optimizer.  After an error the table is as it was.

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
        given = [self._checked(ids, grads)] if ids is not None and grads is not None else []
        with self._lock.writing():
            batches = self._pending + given
            flat = np.concatenate([b[0] for b in batches]) if len(batches) != 1 and batches else None
            gradients = np.concatenate([b[1] for b in batches]) if flat is not None else None
            if flat is None or gradients is None:
                flat, gradients = batches[0] if batches else (np.empty(0, np.int64), np.empty((0, self.dim), self.dtype))
            hyper = optimizer.read(self._clock + 1)
            self._follow(optimizer, hyper)
            self._advance(flat, gradients, hyper)
            self._pending.clear()

    def _trained(self) -> Optimizer:
        if self.optimizer is None:
            raise RuntimeError("this table has no optimizer: make it with one, e.g. optimizer=unhot.Adam(1e-3), to train it.")
        return self.optimizer

    def _checked(self, ids: npt.ArrayLike, grads: npt.ArrayLike) -> tuple[Array, Array]:
        """Flat ids in range and their gradients, (n, dim) in the table's dtype."""
        array = as_ids(ids)
        gradients = np.asarray(grads)
        if gradients.dtype.kind != "f" and gradients.size:
            raise TypeError(f"`grads` must be real floating point numbers. Received: dtype {gradients.dtype}.")
        shape = (*array.shape, self.dim)
        if gradients.shape != shape and (gradients.size or array.size):
            raise ValueError(
                f"`grads` must have shape ids.shape + (dim,) = {shape}. Received: shape {gradients.shape}."
            )
        flat, zero = in_range(array, self.rows, self.out_of_range)
        with np.errstate(over="ignore"):
            gradients = np.ascontiguousarray(gradients, dtype=self.dtype).reshape(-1, self.dim)
        return (flat, gradients) if zero is None else (flat[~zero], gradients[~zero])

    def _follow(self, optimizer: Optimizer, hyper: Hyper) -> None:
        """Take up hyperparameters that were changed since the last step; what the clock does not record settles all rows."""
        assert self._rule is not None
        if type(optimizer) is not type(self._snapshot) or optimizer.fixed() != self._snapshot.fixed():
            snapshot, rule = self._recurrence(optimizer)
            if not optimizer.follows(self._snapshot) or list(rule.slots) != list(self._rule.slots):
                raise ValueError(
                    f"the table was trained with {self._snapshot!r}, with the slots {list(self._rule.slots)}, and cannot go on with"
                    f" {optimizer!r}. Make a new table with `Table.from_array(table.array, optimizer=...)`."
                )
            self._settle_all()
            rule.load_state(self._rule.state())
            rule.restart(self._clock, hyper.momentum)
            self._snapshot, self._rule = snapshot, rule
        if not self._rule.accepts(hyper):
            self._settle_all()
            self._rule.restart(self._clock, hyper.momentum)

    def _advance(self, ids: Array, gradients: Array, hyper: Hyper) -> None:
        """Make the step whose ids, gradients and hyperparameters are known to be good."""
        rule, now = self._rule, self._clock + 1
        assert rule is not None
        if self._last is None and rule.defers(hyper):
            self._last = np.full(self.rows, self._clock, np.uint32)
            rule.restart(self._clock, hyper.momentum)
        scalars = rule.scalars(now, hyper)
        if self._last is None:
            kernels.step(rule, self._state, None, kernels.group(ids), None, scalars[:0], scalars, gradients, now)
        else:
            late = self._lateness(ids)
            kernels.step(
                rule, self._state, self._last, late.plan, late.which, late.coefficients, scalars, gradients, now
            )
            rule.advance(now, hyper)
            self._behind = True
        self._clock = now
        self._writes += 1
        if self._last is not None:
            self._sweep(rule.period)

    def _sweep(self, period: int) -> None:
        """Settle the rows whose turn it is: each once in `period` steps, so that the history may forget older ones."""
        turn = self._clock % period
        start, stop = self.rows * turn // period, self.rows * (turn + 1) // period
        if start < stop:
            self._settle(np.arange(start, stop))

    def _settle(self, rows: Array) -> None:
        assert self._rule is not None and self._last is not None
        steps, which = kernels.last_steps(self._last, rows, self._clock)
        if len(steps):
            coefficients = self._rule.coefficients(steps)
            kernels.settle(self._rule, self._state, self._last, rows, which, coefficients, self._clock)
            self._writes += 1

    def _settle_all(self) -> None:
        """Settle every row, and begin a new history."""
        if self._behind:
            assert self._rule is not None
            for start in range(0, self.rows, SETTLE_CHUNK):
                self._settle(np.arange(start, min(start + SETTLE_CHUNK, self.rows)))
            self._rule.restart(self._clock)
            self._behind = False
            self._writes += 1

    def settle(self, ids: npt.ArrayLike | None = None) -> None:
        """Apply the deferred steps of `ids`, or of all rows, now.

        Lookups do not need it: they show settled rows without writing them.

        Args:
            ids: integers of any shape; all rows if left out.  Ids out of range are treated as in `lookup`.

        Errors: as for `lookup`.

        Example:
            >>> import unhot
            >>> table = unhot.Table(4, 2, optimizer=unhot.AdamW(0.1), seed=0)
            >>> table.step([1], [[1.0, 2.0]])
            >>> table.settle()
        """
        if ids is None:
            with self._lock.writing():
                self._settle_all()
            return
        flat, zero = in_range(as_ids(ids), self.rows, self.out_of_range)
        with self._lock.writing():
            if self._behind:
                self._settle(kernels.group(flat if zero is None else flat[~zero]).rows)

    # ------------------------------------------------------------------ what the table holds

    @property
    def _state(self) -> list[Array]:
        return [self._weights, *self._slots]

    @property
    def array(self) -> Array:
        """The settled weights, (rows, dim): a copy.

        Example:
            >>> import unhot
            >>> unhot.Table(2, 3, init="zeros").array.sum()
            np.float32(0.0)
        """
        with self._lock.writing():
            self._settle_all()
            return self._weights.copy()

    @property
    def clock(self) -> int:
        """The number of steps made."""
        return self._clock

    def state_dict(self) -> dict[str, Any]:
        """Everything that training goes on from, as a flat dict of arrays, numbers and strings; settles all rows.

        `numpy.savez(file, **table.state_dict())` saves it.  A learning rate that is a callable is not part of it.

        Errors: RuntimeError if gradients wait for a step.

        Example:
            >>> import unhot
            >>> sorted(unhot.Table(2, 3, optimizer=unhot.SGD(0.1)).state_dict())[:3]
            ['clock', 'hyper.convention', 'hyper.dampening']
        """
        with self._lock.writing():
            if self._pending:
                raise RuntimeError("gradients given to `accumulate` wait for a step: call `step()` before `state_dict()`.")
            self._settle_all()
            return export_state(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave: training goes on from there bit for bit.

        Args:
            state: from a table of the same shape, dtype and rule; also as read back by `numpy.load`.  Its hyperparameters
                become the optimizer's, but for a learning rate that was a callable.

        Errors: ValueError for a state that does not fit; the table is then as it was.

        Example:
            >>> import unhot
            >>> table = unhot.Table(2, 3, optimizer=unhot.SGD(0.1))
            >>> other = unhot.Table(2, 3, optimizer=unhot.SGD(0.1))
            >>> other.load_state_dict(table.state_dict())
            >>> bool((other.array == table.array).all())
            True
        """
        with self._lock.writing():
            import_state(self, state)

    def _adopt(self, weights: Array, slots: list[Array], clock: int, rule: Recurrence, snapshot: Optimizer) -> None:
        """Become a settled table with this state."""
        self._weights, self._slots, self._clock = weights, slots, clock
        self._rule, self._snapshot = rule, snapshot
        self._pending.clear()
        self._behind = False
        self._writes += 1
        if self._last is not None:
            self._last[:] = clock
        rule.restart(clock)

    def __len__(self) -> int:
        return self.rows

    def __repr__(self) -> str:
        return f"Table({self.rows}, {self.dim}, optimizer={self.optimizer!r}, dtype={self.dtype.name!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_looked_up")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=ReadWriteLock(), _looked_up=None)


def _size(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"`{name}` must be a positive integer. Received: {value!r} (of type {type(value).__name__}).")
    if value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}.")
    return int(value)


def _dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    kind = np.dtype(dtype)
    if kind not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"a table's dtype must be float32 or float64. Received: {kind}.")
    return kind.newbyteorder("=")


def _initial(init: Init, shape: tuple[int, int], dtype: np.dtype[Any], seed: int | None) -> Array:
    generator = np.random.default_rng(seed)
    if callable(init):
        weights = np.array(init(shape), dtype=dtype, order="C")
        if weights.shape != shape:
            raise ValueError(f"`init` must return an array of shape {shape}. Received: shape {weights.shape}.")
        return weights
    if init == "zeros":
        return np.zeros(shape, dtype)
    weights = np.empty(shape, dtype)
    if init == "normal":
        generator.standard_normal(dtype=dtype.type, out=weights)
        weights *= 0.05
    else:
        generator.random(dtype=dtype.type, out=weights)
        weights -= 0.5
        weights *= 0.1
    return weights
