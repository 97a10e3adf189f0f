"""Several tables that are looked up, trained and saved together: each call is one for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Self, overload

import numpy as np
import numpy.typing as npt

from unhot import arrays, memory
from unhot.arraylike import IdsLike, RealsLike
from unhot.atomic import Call, Lock, together
from unhot.creation import Init, as_dtype, as_optimizer, as_size, check_init, initial_weights
from unhot.engine import Batch, Engine
from unhot.gradients import as_gradients, with_gradients
from unhot.ids import OutOfRange, as_ids, check_policy, in_range
from unhot.kernels.structs import ANY, Segment
from unhot.optimizers import Optimizer
from unhot.settling import clock_of
from unhot.sharing import Shared
from unhot.state import export_state, import_state

if TYPE_CHECKING:
    from unhot.storage.files import Path

Array = npt.NDArray[Any]


class Member(NamedTuple):
    """One table of a collection, as what checks ids and gradients takes it."""

    name: str
    place: int
    first: int
    rows: int
    dim: int
    dtype: np.dtype[Any]
    out_of_range: OutOfRange


def as_shape(name: str, size: Any) -> tuple[int, int]:
    """(rows, dim) of a table, or an error."""
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise TypeError(f"the size of {name!r} must be (rows, dim). Received: {size!r}.")
    return as_size(f"rows of {name!r}", size[0]), as_size(f"dim of {name!r}", size[1])


class TableCollection(Shared):
    """Tables of any sizes that make the same steps: one lookup, one step and one optimizer for all of them.

    It trains exactly as one `Table` for each would, at little more than the cost of one table with all the rows.

    Args:
        sizes: (rows, dim) of each table, by name.
        optimizer: one of unhot's optimizers, for example `unhot.Adam(1e-3)`, or None for tables that are only read.
        init, dtype, out_of_range: as for `Table`, for all tables alike.
        seed: the seed of the random initial weights of the first table. Each later table takes the next one.

    Raises: TypeError or ValueError for unusable arguments; MemoryError if the tables do not fit into memory.

    Example:
        >>> import unhot
        >>> tables = unhot.TableCollection({"user": (1000, 4), "item": (500, 2)}, optimizer=unhot.SGD(1.0), init="zeros")
        >>> tables.step({"user": [3], "item": [7]}, {"user": [[1.0, 1, 1, 1]], "item": [[2.0, 2]]})
        >>> tables.lookup([[3, 7], [3, 8]])  # a column for each table; a dict works, too
        array([[-1., -1., -1., -1., -2., -2.],
               [-1., -1., -1., -1.,  0.,  0.]], dtype=float32)

    References: docs/mathematics.md for what "exactly" means and how deferred steps are settled.
    """

    def __init__(
        self,
        sizes: Mapping[str, tuple[int, int]],
        *,
        optimizer: Optimizer | None = None,
        init: Init = "uniform",
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
        out_of_range: OutOfRange = "raise",
    ) -> None:
        if not isinstance(sizes, Mapping) or not sizes:
            raise TypeError(f"`sizes` must map names to (rows, dim), for at least one table. Received: {sizes!r}.")
        shapes = {name: as_shape(name, size) for name, size in sizes.items()}
        kind = as_dtype(dtype)
        check_init(init)
        clock = None if optimizer is None else clock_of(as_optimizer(optimizer), kind, 0)[1]
        numbers = (dim if clock is None else clock.numbers_per_row(dim) for _, dim in shapes.values())
        needed = sum(rows * (count * kind.itemsize + 4) for (rows, _), count in zip(shapes.values(), numbers, strict=True))
        memory.require(needed, f"{len(shapes)} tables")
        seeds = (None if seed is None else seed + place for place in range(len(shapes)))
        weights = arrays.side_by_side(list(shapes.values()), kind)
        for array, own in zip(weights, seeds, strict=True):
            array[...] = initial_weights(init, array.shape, kind, np.random.default_rng(own))
        self._start(shapes, Engine.of(weights, optimizer), optimizer, out_of_range)

    def _start(
        self, shapes: Mapping[str, tuple[int, int]], engine: Engine, optimizer: Optimizer | None, out_of_range: OutOfRange
    ) -> None:
        firsts = accumulate((rows for rows, _ in shapes.values()), initial=0)
        dtype = engine.stores[0].weights.dtype
        self._members = {
            name: Member(name, place, first, *shape, dtype, check_policy(out_of_range, shape[0]))
            for place, ((name, shape), first) in enumerate(zip(shapes.items(), firsts, strict=False))
        }
        self._firsts = np.array([member.first for member in self._members.values()])
        self._rows = np.array([member.rows for member in self._members.values()])
        self._columns = [0, *accumulate(member.dim for member in self._members.values())]
        self._alike = len({member.dim for member in self._members.values()}) == 1
        self._optimizer = optimizer
        self._engine = engine
        self._lock = Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tables."""
        return tuple(self._members)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(rows, dim) of each table, by name."""
        return {name: (member.rows, member.dim) for name, member in self._members.items()}

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer. You may assign its hyperparameters between steps."""
        return self._optimizer

    @property
    def clock(self) -> int:
        """The number of steps made so far."""
        return self._engine.now

    def _member(self, name: str) -> Member:
        try:
            return self._members[name]
        except (KeyError, TypeError):
            raise KeyError(f"there is no table {name!r}. There are: {', '.join(map(repr, self._members))}.") from None

    @overload
    def lookup(self, ids: Mapping[str, IdsLike]) -> dict[str, Array]: ...
    @overload
    def lookup(self, ids: IdsLike) -> Array: ...
    def lookup(self, ids: Any) -> Any:
        """The vectors of ids, as dense training would hold them now.

        Args:
            ids: integers of any integer dtype. Either a matrix with a column for each table, (n, tables): the result is
                (n, sum of dims), the tables' vectors side by side. Or arrays of any shape by table, for as many of the tables
                as you like: the results are ids.shape + (dim,), by table.

        Raises: KeyError for a table that there is not; ValueError for a matrix of another width; otherwise as for
            `Table.lookup`.

        Example:
            >>> import unhot
            >>> tables = unhot.TableCollection({"a": (5, 2), "b": (5, 3)}, init="zeros")
            >>> tables.lookup([[1, 2], [4, 2]]).shape
            (2, 5)
            >>> tables.lookup({"b": [[1, 2]]})["b"].shape
            (1, 2, 3)
        """
        if isinstance(ids, Mapping):
            return self._lookup_by_name(ids)
        flat, zero, count = self._matrix(ids)
        found = np.empty((count, self._columns[-1]), self._dtype)
        parts = self._parts(found)
        self._read(lambda engine: engine.read(flat, parts))
        if zero is not None:
            for place, part in enumerate(self._side_by_side(found)):
                part.vectors[zero[:, place]] = 0
        return found

    def _matrix(self, ids: IdsLike) -> tuple[Array, Array | None, int]:
        """The row numbers of a matrix of ids, table by table; where they are to be zeros, (n, tables); how many samples."""
        array = as_ids(ids)
        if array.ndim != 2 or array.shape[1] != len(self._members):
            raise ValueError(
                f"`ids` must be a matrix with a column for each table, (n, {len(self._members)}), or a dict of arrays by table."
                f" Received: shape {array.shape}."
            )
        zero = None
        wide = array if array.dtype == np.int64 else None
        if wide is None or ((wide < 0) | (wide >= self._rows)).any():
            columns = [in_range(array[:, m.place], m.rows, m.out_of_range, whose=m.name) for m in self._members.values()]
            wide = np.stack([flat for flat, _ in columns], axis=1)
            none = np.zeros(len(array), bool)
            if any(bad is not None for _, bad in columns):
                zero = np.stack([none if bad is None else bad for _, bad in columns], axis=1)
        if self._alike:
            return np.add(wide, self._firsts, order="C").reshape(-1), zero, len(array)
        return np.add(wide.T, self._firsts[:, None], order="C").reshape(-1), zero, len(array)

    def _parts(self, vectors: Array) -> list[Segment]:
        """The vectors of the ids that `_matrix` gives, among vectors that stand side by side."""
        if self._alike:  # sample by sample: memory is written and read in its order
            return [Segment(ANY, vectors.reshape(-1, self._columns[1]))]
        return self._side_by_side(vectors)

    def _side_by_side(self, vectors: Array) -> list[Segment]:
        columns = self._columns
        return [Segment(k, vectors[:, columns[k] : columns[k + 1]]) for k in range(len(columns) - 1)]

    @property
    def _dtype(self) -> np.dtype[Any]:
        return next(iter(self._members.values())).dtype

    def _lookup_by_name(self, ids: Mapping[str, IdsLike]) -> dict[str, Array]:
        flats: list[Array] = []
        parts: list[Segment] = []
        found: dict[str, Array] = {}
        zeros: list[tuple[Array, Array]] = []
        for name, given in ids.items():
            member, array = self._member(name), as_ids(given)
            flat, zero = in_range(array, member.rows, member.out_of_range, whose=name)
            found[name] = np.empty((*array.shape, member.dim), member.dtype)
            vectors = found[name].reshape(-1, member.dim)
            flats.append(flat + member.first)
            parts.append(Segment(member.place, vectors))
            if zero is not None:
                zeros.append((vectors, zero))
        if flats:
            joined = np.concatenate(flats)
            self._read(lambda engine: engine.read(joined, parts))
        for vectors, zero in zeros:
            vectors[zero] = 0
        return found

    @overload
    def step(self, ids: Mapping[str, IdsLike], grads: Mapping[str, RealsLike]) -> None: ...
    @overload
    def step(self, ids: IdsLike, grads: RealsLike) -> None: ...
    def step(self, ids: Any, grads: Any) -> None:
        """Make one step of all tables. Rows without a gradient, and tables without ids, move as in dense training.

        Args:
            ids: as for `lookup`. The gradients of a repeated id are summed.
            grads: floats, as the vectors that `lookup` returns for these ids: (n, sum of dims), or by table.

        Raises: ValueError for tables that are named in one of the two only; otherwise as for `lookup` and `Table.step`. An
            error leaves all tables unchanged.

        Example:
            >>> import unhot
            >>> tables = unhot.TableCollection({"a": (5, 2), "b": (5, 2)}, optimizer=unhot.SGD(0.5), init="zeros")
            >>> tables.step({"a": [1, 1]}, {"a": [[1.0, 0.0], [1.0, 2.0]]})
            >>> tables.lookup({"a": [1]})["a"]
            array([[-1., -1.]], dtype=float32)
        """
        optimizer = self._optimizer
        if optimizer is None:
            raise RuntimeError("these tables have no optimizer: make them with one, e.g. optimizer=unhot.Adam(1e-3).")
        by_name = isinstance(ids, Mapping)
        if by_name != isinstance(grads, Mapping):
            raise TypeError("`ids` and `grads` must both be arrays, or both be dicts of arrays by table.")
        batch = self._batch_by_name(ids, grads) if by_name else self._batch(ids, grads)
        self._lock.holding(partial(self._make_step, optimizer, lambda: batch))

    def _batch(self, ids: IdsLike, grads: RealsLike) -> Batch:
        flat, zero, count = self._matrix(ids)
        gradients = as_gradients(grads, (count, self._columns[-1]), self._dtype)
        if zero is None:
            return Batch(flat, self._parts(gradients))
        kept = ~zero
        tables = len(self._members)
        by_table = flat.reshape(count, tables).T if self._alike else flat.reshape(tables, count)
        named = np.concatenate([by_table[k][kept[:, k]] for k in range(tables)])
        return Batch(named, [Segment(k, part.vectors[kept[:, k]]) for k, part in enumerate(self._side_by_side(gradients))])

    def _batch_by_name(self, ids: Mapping[str, IdsLike], grads: Mapping[str, RealsLike]) -> Batch:
        if ids.keys() != grads.keys():
            raise ValueError(f"`ids` and `grads` must name the same tables. Received: {list(ids)} and {list(grads)}.")
        flats: list[Array] = [np.empty(0, np.int64)]
        parts = []
        for name, given in ids.items():
            member = self._member(name)
            flat, gradients = with_gradients(member, given, grads[name])
            flats.append(flat + member.first)
            parts.append(Segment(member.place, gradients))
        if not parts:
            first = next(iter(self._members.values()))
            parts = [Segment(first.place, np.empty((0, first.dim), first.dtype))]
        return Batch(np.concatenate(flats), parts)

    def settle(self) -> None:
        """Apply all deferred steps now. Lookups do not need it.

        Example:
            >>> import unhot
            >>> tables = unhot.TableCollection({"a": (5, 2)}, optimizer=unhot.AdamW(0.1), seed=0)
            >>> tables.step({"a": [1]}, {"a": [[1.0, 2.0]]})
            >>> tables.settle()
        """
        self._lock.holding(lambda: self._engine.settle_all())

    def array(self, name: str) -> Array:
        """A copy of the settled weights of one table: (rows, dim).

        Raises: KeyError for a table that there is not.

        Example:
            >>> import unhot
            >>> unhot.TableCollection({"a": (2, 3)}, init="zeros").array("a").sum()
            np.float32(0.0)
        """
        place = self._member(name).place
        copied: Array = self._lock.holding(lambda: self._engine.settled(lambda: self._engine.stores[place].weights.copy()))
        return copied

    def state_dict(self) -> dict[str, Array]:
        """Everything needed to resume training, as a flat dict of NumPy arrays. Settles all rows.

        The arrays of a table are called by its name: "user.weights", "user.slot.momentum". `safetensors.numpy.save_file` and
        `numpy.savez` take the dict as it is. It does not include a learning rate that is a callable.

        Example:
            >>> import unhot
            >>> tables = unhot.TableCollection({"a": (5, 2), "b": (5, 2)}, optimizer=unhot.Adagrad(0.1))
            >>> [name for name in tables.state_dict() if name.startswith("a.")]
            ['a.weights', 'a.slot.sum']
        """
        return self._lock.holding(lambda: self._engine.settled(self._state_dict))

    def _state_dict(self) -> dict[str, Array]:
        return export_state(self._engine, self._optimizer, [f"{name}." for name in self._members])

    def save(self, path: Path) -> None:
        """Write all tables into one safetensors file, which `TableCollection.load` reads; see `Table.save`.

        Args:
            path: the file. One that is there is replaced.

        Raises: as for `Table.save`.

        Example:
            >>> import os, tempfile, unhot
            >>> path = os.path.join(tempfile.mkdtemp(), "tables.safetensors")
            >>> unhot.TableCollection({"a": (5, 2), "b": (5, 3)}, optimizer=unhot.SGD(0.1)).save(path)
            >>> unhot.TableCollection.load(path).shapes
            {'a': (5, 2), 'b': (5, 3)}
        """
        from unhot.storage import files

        files.replace(path, lambda file: self._lock.holding(partial(self._write, file)))

    def _write(self, file: BinaryIO) -> None:
        from unhot.storage.tables import write_table

        engine, names, policy = self._engine, list(self._members), next(iter(self._members.values())).out_of_range
        prefixes = [f"{name}." for name in names]
        engine.settled(
            lambda: write_table(file, export_state(engine, self._optimizer, prefixes, copies=False), {}, policy, names)
        )

    @classmethod
    def load(cls, path: Path, *, optimizer: Optimizer | None = None) -> Self:
        """The tables that `save` wrote. Training goes on from there, bit for bit.

        Args:
            path: the file.
            optimizer: as for `unhot.load`: only if the learning rate was a callable.

        Raises: as for `unhot.load`.

        Example:
            >>> import os, tempfile, unhot
            >>> path = os.path.join(tempfile.mkdtemp(), "tables.safetensors")
            >>> unhot.TableCollection({"a": (5, 2)}, optimizer=unhot.SGD(0.1), seed=0).save(path)
            >>> tables = unhot.TableCollection.load(path)
            >>> tables.step({"a": [1]}, {"a": [[1.0, 2.0]]})
        """
        from unhot.storage.tables import (
            like_of,
            names_of,
            opened,
            optimizer_of,
            policy_of,
            require_memory,
            require_whole,
        )  # fmt: skip

        with opened(path) as (state, header):
            names = names_of(header)
            if names is None:
                raise ValueError("the file does not say that it holds a collection. Read one table with unhot.load(path).")
            require_whole(header)
            like = {f"{name}.": like_of(header, f"{name}.weights") for name in names}
            trained, policy = optimizer_of(state, optimizer), policy_of(header)
            require_memory(list(like.values()), trained)
            engine, loaded = import_state(state, like, trained, copies=False)
            shapes = {name: store.weights.shape for name, store in zip(names, like.values(), strict=True)}
            tables = cls.__new__(cls)
            tables._start(shapes, engine, trained, policy)
            if trained is not None:
                vars(trained).update(vars(loaded))
            return tables

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned. Training resumes from there, bit for bit.

        Args:
            state: the state of tables of the same names, shapes, dtype and optimizer, also as read back by `numpy.load`. Its
                hyperparameters become the optimizer's, except a learning rate that was a callable.

        Raises: ValueError or TypeError for a state that does not fit. The tables are then unchanged.

        Example:
            >>> import unhot
            >>> tables, others = (unhot.TableCollection({"a": (5, 2)}, optimizer=unhot.SGD(0.1)) for _ in range(2))
            >>> others.load_state_dict(tables.state_dict())
            >>> bool((others.array("a") == tables.array("a")).all())
            True
        """
        self._lock.holding(partial(self._load_state, state))

    def _load_state(self, state: Mapping[str, Any]) -> None:
        others = sorted(key.removesuffix(".weights") for key in state if key.endswith(".weights"))
        others = [name for name in others if name not in self._members]
        if others:
            raise ValueError(f"the state has other tables, too: {others}. Those here are {list(self._members)}.")
        like = {f"{name}.": store for name, store in zip(self._members, self._engine.stores, strict=True)}
        engine, loaded = import_state(state, like, self._optimizer)
        calls: list[Call] = [partial(setattr, self, "_engine", engine)]
        if self._optimizer is not None:
            calls.append(partial(vars(self._optimizer).update, vars(loaded)))
        together(calls)

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __repr__(self) -> str:
        tables = ", ".join(f"{name!r}: ({member.rows}, {member.dim})" for name, member in self._members.items())
        return f"TableCollection({{{tables}}}, optimizer={self._optimizer!r})"
