"""What each of Keras's backends does for tables: one class, of which an instance trains one table for one optimizer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from unhot.training import Backend, Ownable, Ownership

if TYPE_CHECKING:
    from unhot.keras.embedding import Embedding
    from unhot.keras.gradients import RowGradient
    from unhot.keras.kinds import Gradient, Tensor, Variable
    from unhot.keras.row_sparse import RowSparse
    from unhot.optimizers import Optimizer

Function = TypeVar("Function", bound=Callable[..., None])


class Reason(NamedTuple):
    """Why a table is trained densely, as a clause; and what to do about it, as a sentence."""

    reason: str
    remedy: str


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
    @abstractmethod
    def concrete(ids: Tensor) -> Tensor | None:
        """The ids as a NumPy array, if they are known now."""

    @staticmethod
    def refuse_later(ids: Tensor, bad: Tensor, given: Tensor, layer: Embedding) -> tuple[Tensor, Tensor | None]:
        """The ids, which refuse those `given` that are bad once they are known; and the mask of bad ones, if they cannot."""
        return ids, bad

    @staticmethod
    def seen(variable: Variable) -> None:
        """The variable has been read."""

    @staticmethod
    def unread(variable: Variable) -> Variable:
        """What stands for the variable, and can be asked who it is without a look at its value."""
        return variable

    @staticmethod
    def reason_for_dense(variable: Variable) -> Reason | None:
        """Why the rows of the table cannot be trained apart on this backend, if so."""
        return None

    @staticmethod
    @abstractmethod
    def check_optimizer(optimizer: Optimizer, variable: Variable) -> None:
        """Raise TypeError or ValueError for an optimizer of the core that cannot train the rows of this table apart."""

    # ------------------------------------------------------------------ an optimizer

    @staticmethod
    def wrap_apply(function: Function) -> Function:
        """The function that makes a step; on a backend that cannot have it in a graph, outside of any."""
        return function

    @staticmethod
    def around_step(optimizer: RowSparse) -> AbstractContextManager[None]:
        """Around a step of the optimizer."""
        return nullcontext()

    @staticmethod
    @abstractmethod
    def by_rows(optimizer: RowSparse, gradients: list[Gradient], variables: list[Variable]) -> list[Gradient]:
        """The gradients, those of owned tables as `RowGradient` where it is known which rows have one."""

    # ------------------------------------------------------------------ one table and its optimizer

    @abstractmethod
    def __init__(self, variable: Variable, slots: Mapping[str, Variable], optimizer: RowSparse) -> None: ...

    def tied(self, tie: Ownership[Any]) -> None:
        """This is the tie between the table and the optimizer, to which the backend belongs."""

    @abstractmethod
    def summed(self, gradient: RowGradient) -> RowGradient:
        """The same gradient with the sum of an id's in one of its places."""

    @abstractmethod
    def prepare_step(self, optimizer: RowSparse, variable: Variable, rate: Tensor) -> None:
        """Get ready for a step; what can go wrong goes wrong here."""

    @abstractmethod
    def make_step(self, gradient: RowGradient, rate: Tensor) -> None:
        """Make the step that was prepared."""

    @staticmethod
    def prepare_steps(optimizer: RowSparse, tables: Mapping[KerasBackend, Variable], rate: Tensor) -> None:
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
    def dense_step(self, optimizer: RowSparse, rate: Tensor) -> AbstractContextManager[None]:
        """Around a step that Keras makes, of all rows or without the table."""

    def restart(self, optimizer: RowSparse) -> None:
        """Go on from what has been written into Keras's variables, which were settled before."""
