"""The class that each of Keras's backends implements for tables, what it asks of an optimizer, and gradients by rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from keras import ops

from unhot.atomic import Call
from unhot.keras.combiners import Wanted
from unhot.keras.kinds import Gradient, Layer, Tensor, Variable
from unhot.optimizers import Optimizer
from unhot.training import Backend, Ownable, Ownership, warn_of_dense_training

DTYPES = ("float32", "float64")
"""Those of tables whose rows can be trained apart, by Keras's names."""

Function = TypeVar("Function", bound=Callable[..., None])


class Reason(NamedTuple):
    """Why a table is trained densely, as a clause; and what to do about it, as a sentence."""

    reason: str
    remedy: str


class New(NamedTuple):
    """Rows for a variable: the first of them take the places of its rows `again`, the others come at the end."""

    variable: Variable
    again: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    axis: int
    """That of the rows."""


class Slot(NamedTuple):
    """A variable that an optimizer keeps for another one, and what its elements start from."""

    reference: Variable
    slot: Variable
    initializer: Callable[..., Tensor]


class Owner(Protocol):
    """What a backend asks of the optimizer that owns a table: a Keras optimizer, and what `RowSparse` adds to it."""

    built: bool
    variables: list[Variable]
    _trainable_variables: list[Variable]
    _iterations: Variable

    @property
    def iterations(self) -> Tensor:
        """The number of steps made."""

    _tables: Mapping[Any, Ownership[KerasBackend]]
    """The ties with the tables that it owns, or has owned."""

    def table(self, variable: Variable) -> KerasBackend | None:
        """What trains the rows of this variable for it now, if anything does."""

    def own_if_possible(self, variable: Variable) -> None:
        """Train the rows of this table from now on, or warn that it is trained densely, and say why."""

    def row_optimizer(self, variable: Variable, rate: Tensor) -> Optimizer:
        """The optimizer of the core for a table, with the hyperparameters as they stand."""

    def decays(self, variable: Variable) -> bool:
        """Whether the weights of a table decay."""

    def row_state(self) -> dict[str, Variable]:
        """Numbers of the core's optimizer that Keras keeps beside the slots."""

    core: type[Optimizer]
    """The optimizer of the core."""

    weight_decay: float | None
    learning_rate: Tensor
    _learning_rate: Tensor
    gradient_accumulation_steps: int | None
    ema_momentum: float
    ema_overwrite_frequency: int | None

    _rates: Any  # of a module that comes after this one
    """The learning rates of the steps made."""

    _slots_made: Sequence[Slot]
    """What it keeps for variables."""

    def slot_of(self, variable: Variable, name: str) -> Variable | None:
        """The slot of a variable, by the core's name."""

    def averages(self) -> Sequence[Variable]:
        """The averages of variables over the steps, if it keeps such."""

    def worth_owning(self, variable: Variable) -> bool:
        """Whether it trains a table of this kind and size by rows."""

    def go_on_with(self, variable: Variable) -> None:
        """Train the rows of a table that has changed."""

    def refuse_change(self, variable: Variable) -> None:
        """Raise ValueError for hyperparameters that have changed and are constants of a graph."""


class KerasBackend(Backend):
    """What trains the rows of one table for one optimizer, in Keras's own variables.

    What concerns all tables of a backend is asked of the class.
    """

    FEWEST_ROWS: ClassVar[int] = 1 << 14
    """Tables of fewer rows are left to Keras: its dense step of so few takes less time, and is what ours is to equal."""

    EAGER: ClassVar[bool] = False
    """Whether steps are made call by call: then an optimizer that has lost its table takes it back when it steps again."""

    TABLE_VARIABLE: ClassVar[Callable[..., Variable]]
    """The class of the variables of tables."""

    SLOT_VARIABLE: ClassVar[Callable[..., Variable]]
    """The class of the variables of their slots."""

    variable: Variable

    stepped = False
    """Whether the latest step was one by rows."""

    densely: Reason | None = None
    """Why the latest step, or the function that makes it, trains all rows; None if it is by rows."""

    def note_dense_step(self, reason: Reason) -> None:
        """The step of all rows is made for this reason, of which the user is warned once."""
        self.densely = reason
        warn_of_dense_training(self.variable, self.variable.path, *reason)

    rate: Tensor = None
    """The rate for which the latest step was prepared."""

    # ------------------------------------------------------------------ tables and lookups

    @staticmethod
    @abstractmethod
    def is_table(variable: Variable) -> bool:
        """Whether this is the variable of a table."""

    @staticmethod
    def ownable(variable: Variable) -> Ownable[Any]:
        """What knows whose the table is."""
        return variable

    @staticmethod
    @abstractmethod
    def look_up(variable: Variable, ids: Tensor) -> Tensor | None:
        """The settled vectors of an owned table, whose gradient reaches the optimizer by rows; None of another variable.

        The ids are in range.
        """

    @staticmethod
    def is_hooked(layer: Layer) -> bool:
        """Whether calls of the layer run functions that the framework has been given for it."""
        return False

    @staticmethod
    def joint_lookup(variables: Sequence[Variable]) -> Callable[[Sequence[Wanted]], Tensor | None] | None:
        """What looks up rows of all these tables in one call, and gives their vectors side by side.

        None, from here or from there, where each is to be looked up by itself, and its vectors combined after that.
        """
        return None

    @staticmethod
    @abstractmethod
    def concrete(ids: Tensor) -> Tensor | None:
        """The ids as a NumPy array, if they are known now."""

    @staticmethod
    def refuse_later(ids: Tensor, bad: Tensor, given: Tensor, name: str, rows: int) -> tuple[Tensor, Tensor | None]:
        """The ids, which refuse those `given` that are bad once they are known; and the mask of bad ones, if they cannot.

        The layer is called `name`, and its table has so many rows.
        """
        return ids, bad

    @staticmethod
    def note_read(variable: Variable) -> None:
        """Note that the variable has been read."""

    @staticmethod
    def identity(variable: Variable) -> Variable:
        """What stands for the variable, and can be asked who it is without a look at its value."""
        return variable

    @staticmethod
    def in_strategy() -> bool:
        """Whether gradients of several copies of the model are summed."""
        return False

    @staticmethod
    def reason_for_dense(variable: Variable) -> Reason | None:
        """Why the rows of the table cannot be trained apart on this backend, if so."""
        return None

    @staticmethod
    @abstractmethod
    def check_optimizer(optimizer: Optimizer, variable: Variable) -> None:
        """Raise TypeError or ValueError for an optimizer of the core that cannot train the rows of this table apart."""

    # ------------------------------------------------------------------ rows that are added

    @staticmethod
    def require_between_steps(variable: Variable, slots: Sequence[Variable]) -> None:
        """Raise RuntimeError where the rows of a variable cannot be changed now, since a step is being made."""

    @staticmethod
    def forget_graphs(variable: Variable) -> None:
        """The variable is about to be changed: graphs that were made for it must not go on with what it was."""

    @staticmethod
    def forget_frozen_rows() -> None:
        """The frozen rows of a table are about to change: what was compiled must not go on with what they were."""

    @staticmethod
    @abstractmethod
    def put(new: Sequence[New], notes: Sequence[Call]) -> None:
        """Write rows into variables that nobody trains, and make the calls `notes` together with that."""

    @staticmethod
    def stateless_values(variables: Iterable[Variable]) -> list[Tensor]:
        """The values of variables for functions that make a step of them; those of owned tables may be for these alone."""
        return [variable.value for variable in variables]

    @staticmethod
    def key_of(variable: Variable) -> str | None:
        """What an optimizer knows the variable by, if not by what Keras does."""
        return None

    # ------------------------------------------------------------------ an optimizer

    @staticmethod
    def wrap_apply(function: Function) -> Function:
        """The function that makes a step; on a backend that cannot have it in a graph, outside of any."""
        return function

    @staticmethod
    def around_step(optimizer: Owner) -> AbstractContextManager[None]:
        """Around a step of the optimizer."""
        return nullcontext()

    @staticmethod
    @abstractmethod
    def row_gradients(optimizer: Owner, gradients: list[Gradient], variables: list[Variable]) -> list[Gradient]:
        """The gradients, those of owned tables as `RowGradient` where it is known which rows have one."""

    # ------------------------------------------------------------------ one table and its optimizer

    @abstractmethod
    def __init__(self, variable: Variable, slots: Mapping[str, Variable], optimizer: Owner) -> None: ...

    def tied(self, tie: Ownership[Any]) -> None:
        """This is the tie between the table and the optimizer, to which the backend belongs."""

    @abstractmethod
    def summed(self, gradient: RowGradient) -> RowGradient:
        """The same gradient with the sum of an id's in one of its places."""

    @abstractmethod
    def prepare_step(self, optimizer: Owner, variable: Variable, rate: Tensor) -> None:
        """Get ready for a step; what can go wrong goes wrong here."""

    @abstractmethod
    def make_step(self, gradient: RowGradient, rate: Tensor) -> None:
        """Make the step that was prepared."""

    @staticmethod
    def prepare_steps(optimizer: Owner, tables: Mapping[KerasBackend, Variable], rate: Tensor) -> None:
        """Get ready for a step of these tables; what can go wrong goes wrong here."""
        for table, variable in tables.items():
            table.prepare_step(optimizer, variable, rate)

    @staticmethod
    def make_steps(gradients: Sequence[RowGradient], rate: Tensor) -> None:
        """Make the steps that were prepared."""
        for gradient in gradients:
            gradient.table.make_step(gradient, rate)

    @abstractmethod
    def dense_gradient(self, ids: Tensor, values: Tensor) -> Tensor:
        """The gradient of all rows, for whatever Keras or the user does with it; the table is settled before."""

    @abstractmethod
    def dense_step(self, optimizer: Owner, rate: Tensor) -> AbstractContextManager[None]:
        """Around a step that Keras makes, of all rows or without the table."""

    def restart(self, optimizer: Owner) -> None:
        """Go on from what has been written into Keras's variables, which were settled before."""


@dataclass(frozen=True, eq=False)
class RowGradient:
    """The gradients `values`, (n, dim), of the rows `ids`, (n,), of a table; those of an id that repeats are added up.

    It can be scaled by a number.  To all else that uses it, it is the dense gradient.
    """

    ids: Tensor
    values: Tensor
    table: KerasBackend
    """What trains the table's rows."""

    def with_values(self, values: Tensor) -> RowGradient:
        """The same rows with other gradients."""
        return RowGradient(self.ids, values, self.table)

    def dense(self) -> Tensor:
        """The gradient of all rows."""
        return self.table.dense_gradient(self.ids, self.values)

    def __neg__(self) -> RowGradient:
        return self.with_values(-self.values)

    def __mul__(self, factor: Tensor) -> Tensor:
        return self.dense() * factor if getattr(factor, "shape", ()) else self.with_values(self.values * factor)

    __rmul__ = __mul__

    def __truediv__(self, scale: Tensor) -> Tensor:
        """Also what optimizers do to undo a loss's scale."""
        return self.dense() / scale if getattr(scale, "shape", ()) else self.with_values(self.values / scale)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.table.variable.shape

    @property
    def dtype(self) -> Tensor:
        return self.values.dtype

    def __jax_array__(self) -> Tensor:
        return self.dense()

    def __array__(self, dtype: Tensor = None, copy: bool | None = None) -> Tensor:
        return np.asarray(ops.convert_to_numpy(self.dense()), dtype=dtype)


def _operator(name: str) -> Callable[..., Tensor]:
    return lambda self, *args: getattr(self.dense(), name)(*args)


for _name in ("add", "radd", "sub", "rsub", "rtruediv", "pow", "matmul", "rmatmul", "abs", "getitem", "lt", "le", "gt", "ge"):
    setattr(RowGradient, f"__{_name}__", _operator(f"__{_name}__"))
