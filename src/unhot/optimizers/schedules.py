"""Schedules of the learning rate that count steps from 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ZeroBased:
    """A schedule as optimizers call it: the first step is 1. Two of the same schedule are equal, so JAX compiles them once."""

    schedule: Callable[[Any], Any]

    def __call__(self, step: Any) -> Any:
        return self.schedule(step - 1)


def zero_based(schedule: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A learning rate from a schedule whose first step is 0, as in Optax, Keras and PyTorch.

    Optimizers of unhot count steps from 1: given to one as it is, such a schedule would be one step ahead.

    Args:
        schedule: a callable that maps the number of steps made so far (at first 0) to the learning rate. It may return a number
            or an array without dimensions. In `unhot.jax` it is traced.

    Raises: TypeError if `schedule` cannot be called; ValueError if it is the result of `zero_based` already.

    Example:
        >>> import unhot
        >>> halving = lambda steps: 0.5 * 0.5**steps  # 0.5 in the first step
        >>> table = unhot.Table(3, 1, optimizer=unhot.SGD(unhot.zero_based(halving)), init="zeros")
        >>> table.step([1], [[1.0]])
        >>> table.step([1], [[1.0]])
        >>> table[1]
        array([-0.75], dtype=float32)
    """
    if not callable(schedule):
        raise TypeError(
            "`schedule` must be a callable that maps the number of steps made so far to the learning rate. Received:"
            f" {schedule!r} (of type {type(schedule).__name__}). Give a learning rate that is a number as it is."
        )
    if isinstance(schedule, ZeroBased):
        raise ValueError("`schedule` is the result of `zero_based` already. Use it as it is.")
    return ZeroBased(schedule)
