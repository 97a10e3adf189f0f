"""The table that users look up, train and save. It checks arguments and holds locks; `engine` does the work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self

import numpy as np
import numpy.typing as npt

from unhot import arrays, memory
from unhot.arraylike import IdsLike, RealsLike
from unhot.atomic import Call, Lock, together
from unhot.bags import as_bags, as_sparse
from unhot.creation import Init, as_dtype, as_optimizer, as_size, check_init, initial_weights
from unhot.engine import Batch, Engine, clock_of
from unhot.gradients import with_gradients
from unhot.ids import OutOfRange, as_ids, as_plain, check_policy, in_range
from unhot.kernels import active as kernels
from unhot.kernels.structs import MODES, Bags, Segment
from unhot.optimizers import Optimizer
from unhot.outputs import as_output, target_of
from unhot.sharing import Shared
from unhot.state import export_state, import_state
from unhot.store import Store

if TYPE_CHECKING:
    from unhot.storage.files import Path
    from unhot.storage.tables import Stateful

Array = npt.NDArray[Any]

NO_OPTIMIZER = "this table has no optimizer: make it with one, e.g. optimizer=unhot.Adam(1e-3), to train it."


class Table(Shared):
    """A (rows, dim) table that trains exactly like one-hot x Dense, at a cost proportional to the touched rows.

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
    ) -> None:
        shape = (as_size("rows", rows), as_size("dim", dim))
        kind = as_dtype(dtype)
        check_init(init)
        self._check(shape, kind, optimizer, out_of_range)
        self._start(Engine.of([initial_weights(init, shape, kind, seed)], optimizer), optimizer, out_of_range)

    @classmethod
    def from_array(cls, array: RealsLike, *, optimizer: Optimizer | None = None, out_of_range: OutOfRange = "raise") -> Table:
        """A table whose weights are a copy of `array`.

        Args:
            array: an array of shape (rows, dim), float32 or float64.
            optimizer, out_of_range: as for `Table`.

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
        table._check(shape, dtype, optimizer, out_of_range)
        table._start(Engine.of([arrays.copied(given, dtype)], optimizer), optimizer, out_of_range)
        return table

    @classmethod
    def _of_state(cls, state: Mapping[str, Any], like: Store, optimizer: Optimizer | None, out_of_range: OutOfRange) -> Self:
        """The table of a state with arrays such as `like`, which become its own; `optimizer` takes on the hyperparameters."""
        check_policy(out_of_range, like.rows)
        engine, loaded = import_state(state, {"": like}, optimizer, copies=False)
        table = cls.__new__(cls)
        table._start(engine, optimizer, out_of_range)
        if optimizer is not None:
            vars(optimizer).update(vars(loaded))
        return table

    def _check(self, shape: tuple[int, int], dtype: np.dtype[Any], optimizer: Any, out_of_range: Any) -> None:
        """Raise an error for a table that cannot be, before anything large is allocated."""
        rows, dim = shape
        numbers = dim
        if optimizer is not None:
            numbers = clock_of(as_optimizer(optimizer), dtype, 0)[1].numbers_per_row(dim)
        check_policy(out_of_range, rows)
        memory.require(rows * (numbers * dtype.itemsize + 4), f"a table of {rows:,} x {dim:,}")

    def _start(self, engine: Engine, optimizer: Optimizer | None, out_of_range: OutOfRange) -> None:
        self._optimizer = optimizer
        self._engine = engine
        self._pending: list[tuple[Array, Array]] = []
        self._lock = Lock()
        self.out_of_range = out_of_range

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weights: (rows, dim)."""
        return self.rows, self.dim

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self._engine.stores[0].rows

    @property
    def dim(self) -> int:
        """The length of a row's vector."""
        return self._engine.stores[0].dim

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
        self._engine.require_follower(as_optimizer(optimizer))
        self._optimizer = optimizer

    @property
    def out_of_range(self) -> OutOfRange:
        """What happens to an id outside [0, rows): "raise", "zero" or a row number."""
        return self._out_of_range

    @out_of_range.setter
    def out_of_range(self, policy: OutOfRange) -> None:
        self._out_of_range = check_policy(policy, self.rows)

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
        flat, zero = in_range(array, self.rows, self.out_of_range)
        out = as_output(out, (*array.shape, self.dim), self.dtype)
        target = target_of(out, flat)
        self._read(lambda engine: engine.read(flat, [Segment(0, target.reshape(-1, self.dim))]))
        if zero is not None:
            target.reshape(-1, self.dim)[zero] = 0
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
        flat, zero = in_range(array, self.rows, self.out_of_range)
        out = as_output(out, (len(starts) - 1, self.dim), self.dtype)
        target = target_of(out, flat, factors)
        if zero is None:
            self._read(lambda engine: engine.pool(flat, [Bags(0, target, starts, factors, MODES[mode])]))
        else:
            values = np.empty((len(flat), self.dim), self.dtype)
            self._read(lambda engine: engine.read(flat, [Segment(0, values)]))
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
        out = as_output(None, (len(starts) - 1, self.dim), self.dtype)
        self._read(lambda engine: engine.pool(columns, [Bags(0, out, starts, values, MODES["sum"])]))
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
        flat, gradients = with_gradients(self, ids, grads)
        batch = (flat.copy(), gradients.copy())
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
        given = [with_gradients(self, ids, grads)] if ids is not None and grads is not None else []
        self._lock.holding(partial(self._make_step, optimizer, partial(self._batch, given)))

    def _batch(self, given: list[tuple[Array, Array]]) -> Batch:
        """The ids and gradients of a step, those that wait for it and the given ones, and what no longer waits then."""
        waiting = self._pending.copy()
        batches = [*waiting, *given]
        if len(batches) == 1:
            ids, gradients = batches[0]
        else:
            ids = np.concatenate([np.empty(0, np.int64), *(batch[0] for batch in batches)])
            gradients = np.concatenate([np.empty((0, self.dim), self.dtype), *(batch[1] for batch in batches)])
        return Batch(ids, [Segment(0, gradients)], [partial(self._pending.__delitem__, slice(len(waiting)))])

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
        flat, zero = in_range(as_ids(ids), self.rows, self.out_of_range)
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

    def state_dict(self) -> dict[str, Array]:
        """Everything needed to resume training, as a flat dict of NumPy arrays. Settles all rows.

        Numbers are arrays without dimensions, and strings are uint8 arrays of UTF-8, so `safetensors.numpy.save_file` and
        `numpy.savez` take it as it is; `save` needs no copy. It does not include a learning rate that is a callable.

        Raises: RuntimeError if gradients given to `accumulate` are waiting for a step.

        Example:
            >>> import unhot
            >>> sorted(unhot.Table(2, 3, optimizer=unhot.SGD(0.1)).state_dict())[:3]
            ['clock', 'format', 'hyper.convention']
        """
        return self._lock.holding(self._state_dict)

    def _state_dict(self) -> dict[str, Array]:
        self._require_nothing_waits("state_dict")
        return self._engine.settled(lambda: export_state(self._engine, self.optimizer, [""]))

    def _require_nothing_waits(self, before: str) -> None:
        if self._pending:
            raise RuntimeError(f"gradients given to `accumulate` wait for a step: call `step()` before `{before}()`.")

    def save(self, path: Path, *, vocabulary: Stateful | Mapping[str, Any] | None = None) -> None:
        """Write weights, slots, clock, hyperparameters and `out_of_range` into one safetensors file, which `unhot.load` reads.

        The file holds the settled state of one moment between two steps. It is written beside `path`, brought to the disk
        (fsync) and then renamed, so that a crash, a power cut or a full disk leaves the old file or the new one whole. The
        arrays are not copied. Other threads may look up meanwhile; their steps wait.

        Args:
            path: the file, mostly with the ending ".safetensors". A file that is there is replaced.
            vocabulary: what is to be saved with the table, by names that begin with "vocabulary.": a flat dict of arrays,
                numbers and strings, or something whose `state_dict` gives one.

        Raises: OSError if the file cannot be written; ValueError if there is something at `path` that is no file; RuntimeError
            as for `state_dict`.

        Example:
            >>> import os, tempfile, unhot
            >>> path = os.path.join(tempfile.mkdtemp(), "words.safetensors")
            >>> unhot.Table(1000, 4, optimizer=unhot.Adam(0.1)).save(path)
            >>> unhot.load(path).shape
            (1000, 4)
        """
        from unhot.storage import files  # which no table needs that is not saved

        files.replace(path, lambda file: self._lock.holding(partial(self._write, file, vocabulary)))

    def _write(self, file: BinaryIO, vocabulary: Stateful | Mapping[str, Any] | None) -> None:
        from unhot.storage.tables import write_table

        self._require_nothing_waits("save")
        engine, parts = self._engine, {"vocabulary": vocabulary}
        engine.settled(
            lambda: write_table(file, export_state(engine, self.optimizer, [""], copies=False), parts, self.out_of_range)
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned. Training resumes from there, bit for bit.

        Args:
            state: the state of a table of the same shape, dtype and optimizer, also as read back by `numpy.load`. Its
                hyperparameters become the optimizer's, except a learning rate that was a callable.

        Raises: ValueError or TypeError for a state that does not fit. The table is then unchanged.

        Example:
            >>> import unhot
            >>> table = unhot.Table(2, 3, optimizer=unhot.SGD(0.1))
            >>> other = unhot.Table(2, 3, optimizer=unhot.SGD(0.1))
            >>> other.load_state_dict(table.state_dict())
            >>> bool((other.array == table.array).all())
            True
        """
        self._lock.holding(partial(self._load_state, state))

    def _load_state(self, state: Mapping[str, Any]) -> None:
        engine, loaded = import_state(state, {"": self._engine.stores[0]}, self.optimizer)
        calls: list[Call] = [self._pending.clear, partial(setattr, self, "_engine", engine)]
        if self.optimizer is not None:
            calls.append(partial(vars(self.optimizer).update, vars(loaded)))
        together(calls)

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[Array]:
        return iter(self.array)

    def __repr__(self) -> str:
        return f"Table({self.rows}, {self.dim}, optimizer={self.optimizer!r}, dtype={self.dtype.name!r})"
