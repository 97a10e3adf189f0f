"""What threads share of a table: its engine, which any number of them may read, and one at a time may change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from unhot.atomic import Lock
from unhot.clock import Hyper
from unhot.engine import Batch, Engine
from unhot.optimizers import Optimizer

T = TypeVar("T")
P = ParamSpec("P")


class CopiedByState:
    """What is copied by `__getstate__` and `__setstate__`: copies that shared what it holds would not share its lock."""

    def __getstate__(self) -> Any:
        raise NotImplementedError

    def __setstate__(self, state: Any) -> None:
        raise NotImplementedError

    def __copy__(self) -> Self:
        made = object.__new__(type(self))
        made.__setstate__(self.__getstate__())
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        made = memo[id(self)] = self.__copy__()
        return made


class Shared:
    """An engine and its lock: what reads both, and copies that show one moment between two changes."""

    _engine: Engine
    _lock: Lock
    """Held by whoever changes the engine."""

    def _read(self, read: Callable[Concatenate[Engine, P], T], *given: P.args, **options: P.kwargs) -> T:
        """`read(engine, *given)`, of one moment between two changes.

        No lock is held unless something was changed meanwhile, so that any number of threads may read.
        """
        engine = self._engine
        version = engine.version
        if version >= 0:
            try:
                found = read(engine, *given, **options)
            except Exception:  # which may come of having read both sides of a change
                if self._engine is engine and engine.version == version:
                    raise
            else:
                if self._engine is engine and engine.version == version:
                    return found
        return self._lock.holding(lambda: read(self._engine, *given, **options))

    def _make_step(self, optimizer: Optimizer, batch: Callable[[], Batch]) -> None:
        """A step of the engine, with the lock held."""
        engine = self._engine

        def begin() -> Hyper:
            hyper = engine.begin_step(optimizer)
            if self._engine is not engine:
                raise RuntimeError(
                    "a state was loaded by the table's own learning rate, which may read the table, but not change it."
                )
            return hyper

        engine.step(batch, begin)

    def __copy__(self) -> Self:
        # Two tables that shared their rows would not share the clock and the lock.
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        made = memo[id(self)] = object.__new__(self._copy_class())

        def copied(_: Engine) -> tuple[dict[str, Any], dict[int, Any]]:
            copies = dict(memo)  # of its own, for what was copied in the midst of a change is to be forgotten
            return copy.deepcopy(self._held(), copies), copies

        state, copies = self._read(copied)
        memo.update(copies)
        memo.setdefault(id(memo), []).append(copies)  # by whose id it holds what was copied: no other object may get that id
        made.__setstate__(state)
        return made

    def _copy_class(self) -> type[Self]:
        """The class of a copy."""
        return type(self)

    def __getstate__(self) -> dict[str, Any]:
        return self._read(lambda _: copy.deepcopy(self._held(), {id(self): self}))  # which a learning rate may hold

    def _held(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=Lock())
