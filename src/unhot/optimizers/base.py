"""What every optimizer has: hyperparameters that the user sets, the law that it follows, and its names in the frameworks."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from unhot.clock import Clock, Hyper
from unhot.optimizers.names import Names

Array = npt.NDArray[Any]
State = tuple[Array, ...]
Rate = float | Callable[[int], float]
Convention = Literal["keras", "torch"]


def real(owner: object, name: str, value: Any, *, least: float = 0.0, below: float = math.inf, open_: bool = False) -> float:
    """`value` as a float in [least, below), or (least, below) if `open_`; else an error that names it."""
    plain = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not plain and not (isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iuf"):
        raise TypeError(
            f"{type(owner).__name__}: `{name}` must be a real number. Received: {value!r} (of type {type(value).__name__})."
        )
    try:
        number = float(value)
    except OverflowError:  # of an integer
        number = math.inf if value > 0 else -math.inf
    if not (number > least if open_ else number >= least) or not number < below:
        bracket = "(" if open_ else "["
        raise ValueError(f"{type(owner).__name__}: `{name}` must lie in {bracket}{least:g}, {below:g}). Received: {value!r}.")
    return number


def _plain(value: Any) -> Any:
    """What a schedule gives, as NumPy's where it is an array of another framework: Optax's schedules give JAX's."""
    if isinstance(value, (int, float, np.generic, np.ndarray)) or not hasattr(value, "__array__"):
        return value
    return np.asarray(value)


def flag(owner: str, name: str, value: Any) -> bool:
    """`value` if it is True or False, NumPy's too; else an error that names it."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{owner}: `{name}` must be True or False. Received: {value!r} (of type {type(value).__name__}).")
    return bool(value)


@cache
def flags(kind: Any) -> tuple[str, ...]:
    """The hyperparameters of an optimizer, a class, that are on or off."""
    return tuple(field.name for field in fields(kind) if field.type in ("bool", bool))


def decayed(h: Hyper, w: Array) -> Array:
    """Decoupled weight decay, in a dense step."""
    return w - h.rate * h.decay * w if h.decay else w


MOST = {"float32": 1e30, "float64": 1e300}
"""The largest rate and decay in a table: their sums over a window, corrections included, must be finite."""

BY_CONVENTION: Any = None
"""Stands for the default of the framework that `convention` names."""


@dataclass
class Optimizer:
    """The hyperparameters of an optimizer. They may be assigned between steps; see `Table.optimizer`."""

    learning_rate: Rate = BY_CONVENTION
    _: KW_ONLY
    weight_decay: float | None = BY_CONVENTION

    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """By each convention that there is, what a hyperparameter left at None becomes."""

    NO_DENSE: ClassVar[str] = ""
    """Why no dense optimizer trains in the same way, if so: a clause."""

    TORCH: ClassVar[Names | None] = None
    """Its names in PyTorch, if `unhot.torch` has it."""

    KERAS: ClassVar[Names | None] = None
    """Its names in Keras, if `unhot.keras` has it."""

    SCHEDULED: ClassVar[frozenset[str]] = frozenset({"learning_rate", "weight_decay"})
    """Hyperparameters that the clock records at every step: changing them costs nothing."""

    def __setattr__(self, name: str, value: Any) -> None:
        # A mistyped hyperparameter would otherwise be set without effect.
        if name not in (names := [field.name for field in fields(self)]):
            raise AttributeError(f"{type(self).__name__} has no hyperparameter {name!r}. It has: {', '.join(names)}.")
        if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0 and name not in self.SCHEDULED:
            value = value.item()  # so that it can be compared and kept; schedulers may go on changing an array of theirs
        super().__setattr__(name, value)

    def __post_init__(self) -> None:
        for name, value in self.DEFAULTS.get(self._convention(), {}).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.weight_decay is None:
            self.weight_decay = 0.0
        self.check()

    def check(self) -> None:
        """Raise TypeError or ValueError if a hyperparameter is not usable; subclasses add their own."""
        self._convention()
        if not callable(self.learning_rate):
            self._rate(self.learning_rate)
        real(self, "weight_decay", 0.0 if self.weight_decay is None else self.weight_decay)
        kind: Any = type(self)  # which mypy takes for one that cannot be hashed, as its instances cannot be
        for name in flags(kind):
            flag(type(self).__name__, name, getattr(self, name))

    def _convention(self) -> Convention:
        convention: Any = getattr(self, "convention", "keras")
        if convention not in tuple(self.DEFAULTS):
            conventions = " or ".join(map(repr, self.DEFAULTS))
            raise ValueError(f"{type(self).__name__}: `convention` must be {conventions}. Received: {convention!r}.")
        found: Convention = convention
        return found

    def _rate(self, value: Any) -> float:
        return real(self, "learning_rate", value)

    def read(self, step: int) -> Hyper:
        """The scheduled hyperparameters of `step` (the first step is 1), checked."""
        self.check()
        rate = _plain(self.learning_rate(step)) if callable(self.learning_rate) else self.learning_rate
        momentum = real(self, self.momentum_name, getattr(self, self.momentum_name), below=1.0) if self.momentum_name else 0.0
        return Hyper(self._rate(rate), momentum, float(self.weight_decay or 0.0))

    def require_range(self, hyper: Hyper, dtype: np.dtype[Any]) -> None:
        """Raise ValueError if a table of `dtype` has no room for what follows from these rates and decays."""
        most = MOST[dtype.name]
        product = hyper.rate * hyper.decay
        for name, value in (
            ("learning_rate", hyper.rate),
            ("weight_decay", hyper.decay),
            ("learning_rate * weight_decay", product),
        ):
            if value > most:
                raise ValueError(
                    f"{type(self).__name__}: `{name}` must be at most {most:g} in a {dtype} table. Received: {value!r}."
                )

    momentum_name: ClassVar[str] = ""
    """The name of the scheduled momentum: "momentum", "beta_1", or none."""

    def fixed(self) -> tuple[Any, ...]:
        """The hyperparameters whose change makes the table settle all rows first."""
        values = vars(self)
        scheduled = self.SCHEDULED
        return tuple(value for name, value in values.items() if name not in scheduled and name != self.momentum_name)

    def follows(self, other: Optimizer) -> bool:
        """Whether a table trained by `other` can go on with this: the same definition of the same optimizer."""
        kin = isinstance(self, type(other)) or isinstance(other, type(self))
        return kin and getattr(self, "convention", None) == getattr(other, "convention", None)

    def clock(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Clock:
        """A new clock, by which tables of so many rows in all are trained with these hyperparameters.

        `slots` names those that the tables have so far: a momentum that stands at 0 for now keeps its slot.
        """
        raise NotImplementedError

    def dense_slots(self) -> tuple[float, ...]:
        """What the slots of the dense optimizer start from: those that these hyperparameters ask for."""
        raise NotImplementedError

    def dense_slot_width(self, dim: int) -> int:
        """How many numbers each of these slots has for a row of this `dim`."""
        return dim

    def dense_step(self, n: int, h: Hyper, g: Array, state: State) -> State:
        """The weights and slots after step `n` of the dense optimizer, from those before it and a gradient for each weight.

        It is written again from the framework's own formula, and uses none of the table's: `unhot.compare` would not notice a
        mistake that is made in both. The tests compare it with the framework.
        """
        raise NotImplementedError

    def check_in_graph(self) -> None:
        """Raise ValueError for hyperparameters with which rows cannot be carried inside a graph (`unhot.graph`)."""

    def refuse_coupled(self, remedy: str = "Use weight_decay=0, or convention='keras', whose decay is decoupled.") -> None:
        """Refuse PyTorch's coupled decay, g + weight_decay w, where it is no recurrence of one row."""
        if self.weight_decay:
            raise ValueError(
                f"{type(self).__name__}: with convention='torch', `weight_decay` is coupled (L2, added to the gradient). What"
                " it does to a row without a gradient has no closed form, so it cannot be exact at the cost of the rows"
                f" touched. Received: weight_decay={self.weight_decay!r}. {remedy}"
            )
