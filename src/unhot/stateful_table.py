"""What a table's state is, and how it is saved: `Table` without lookups and steps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from unhot.atomic import Call, Lock, together
from unhot.engine import Engine
from unhot.growing import Growing
from unhot.ids import OutOfRange, check_policy
from unhot.optimizers import Optimizer
from unhot.state import export_state, import_state
from unhot.store import Store
from unhot.vocabulary import Vocabulary

if TYPE_CHECKING:
    from unhot.storage.files import Path

Array = npt.NDArray[Any]

BIAS = "bias."
"""What the arrays of a table's bias are called by in a state."""


class StatefulTable(Growing):
    """A table's engine and options, as a state holds them."""

    _optimizer: Optimizer | None
    out_of_range: Any  # a property of the table

    def _start(self, engine: Engine, optimizer: Optimizer | None, out_of_range: OutOfRange) -> None:
        self._optimizer = optimizer
        self._engine = engine
        self._pending = []
        self._removed = None
        self._lock = Lock()
        self.out_of_range = out_of_range

    @classmethod
    def _of_state(cls, state: Mapping[str, Any], like: Store, optimizer: Optimizer | None, out_of_range: OutOfRange) -> Self:
        """The table of a state with arrays such as `like`, which become its own; `optimizer` takes on the hyperparameters."""
        check_policy(out_of_range, like.rows)
        stores = {"": like}
        if f"{BIAS}weights" in state:
            shape = np.shape(state[f"{BIAS}weights"])
            if shape != (like.dim, 1):
                raise ValueError(f"the state's '{BIAS}weights' must have shape {(like.dim, 1)}. Received: shape {shape}.")
            stores[BIAS] = Store(np.empty(shape, like.weights.dtype))
        engine, loaded = import_state(state, stores, optimizer, copies=False)
        table = cls.__new__(cls)
        table._init, table._generator = "uniform", np.random.default_rng()
        table._start(engine, optimizer, out_of_range)
        together(table._load_growth(state, engine))
        if optimizer is not None:
            vars(optimizer).update(vars(loaded))
        return table

    def state_dict(self) -> dict[str, Array]:
        """Everything needed to resume training, as a flat dict of NumPy arrays. Settles all rows.

        Numbers are arrays without dimensions, and strings are uint8 arrays of UTF-8, so `safetensors.numpy.save_file` and
        `numpy.savez` take it as it is; `save` needs no copy. A bias (`DenseView`) is part of it, and a learning rate that is a
        callable is not.

        Raises: RuntimeError if gradients given to `accumulate` are waiting for a step.

        Example:
            >>> import unhot
            >>> sorted(unhot.Table(2, 3, optimizer=unhot.SGD(0.1)).state_dict())[:3]
            ['clock', 'format', 'generator']
        """
        return self._lock.holding(self._state_dict)

    def _state_dict(self) -> dict[str, Array]:
        self._require_nothing_waits("state_dict()")
        return self._engine.settled(self._export)

    def _export(self, copies: bool = True) -> dict[str, Array]:
        """The state of the settled table."""
        return export_state(self._engine, self._optimizer, self._names(), copies=copies) | self._growth_state()

    def _names(self) -> list[str]:
        """What the arrays of the table, and of its bias if it has one (`DenseView`), are called by in a state."""
        return ["", BIAS][: len(self._engine.stores)]

    def save(self, path: Path, *, vocabulary: Vocabulary | None = None) -> None:
        """Write weights, slots, clock, hyperparameters and `out_of_range` into one safetensors file, which `unhot.load` reads.

        The file holds the settled state of one moment between two steps. It is written beside `path`, brought to the disk
        (fsync) and then renamed, so that a crash, a power cut or a full disk leaves the old file or the new one whole. The
        arrays are not copied. Other threads may look up meanwhile; their steps wait.

        Args:
            path: the file, mostly with the ending ".safetensors". A file that is there is replaced.
            vocabulary: the keys of the rows, which are saved with the table. `unhot.load` then gives an `Embedding` of both.

        Raises: OSError if the file cannot be written; ValueError if there is something at `path` that is no file, or if the
            vocabulary has more rows than the table; TypeError for any other vocabulary; RuntimeError as for `state_dict`.

        Example:
            >>> import os, tempfile, unhot
            >>> path = os.path.join(tempfile.mkdtemp(), "words.safetensors")
            >>> unhot.Table(1000, 4, optimizer=unhot.Adam(0.1)).save(path)
            >>> unhot.load(path).shape
            (1000, 4)
        """
        if vocabulary is not None and not isinstance(vocabulary, Vocabulary):
            raise TypeError(f"`vocabulary` must be an unhot.Vocabulary. Received: {vocabulary!r}.")
        self._save(path, {} if vocabulary is None else vocabulary.state_dict(), 0 if vocabulary is None else vocabulary.rows)

    def _save(self, path: Path, words: Mapping[str, Any], least: int = 0) -> None:
        """Save the table, which is to have so many rows at least, and what the file holds of its vocabulary."""
        from unhot.storage import files  # which no table needs that is not saved

        files.replace(path, lambda file: self._lock.holding(partial(self._write, file, words, least)))

    def _write(self, file: BinaryIO, words: Mapping[str, Any], least: int) -> None:
        from unhot.storage.tables import write_table

        self._require_nothing_waits("save()")
        rows = self._engine.stores[0].rows
        if rows < least:
            raise ValueError(f"the vocabulary has {least:,} rows, and the table {rows:,}. Let it `grow` first.")
        parts = {"vocabulary": words}
        self._engine.settled(lambda: write_table(file, self._export(copies=False), parts, self.out_of_range))

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
        together(self._loading(state, self._engine.stores[0].rows))

    def _loading(self, state: Mapping[str, Any], rows: int) -> list[Call]:
        """What takes over a state of so many rows; the lock is held."""
        if f"{BIAS}weights" in state and len(self._engine.stores) == 1:
            raise ValueError(
                "the state has a bias, and this table has none: make an `unhot.DenseView` of it first, which adds one."
            )
        table, *rest = self._engine.stores
        if rows != table.rows:
            table = Store(np.empty((rows, table.dim), table.weights.dtype))
        like = dict(zip(self._names(), (table, *rest), strict=True))
        engine, loaded = import_state(state, like, self._optimizer)
        growth = self._load_growth(state, engine)
        calls: list[Call] = [self._pending.clear, partial(setattr, self, "_engine", engine), *growth]
        if self._optimizer is not None:
            calls.append(partial(vars(self._optimizer).update, vars(loaded)))
        return calls
