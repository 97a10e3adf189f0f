"""What is done before each run of a graph that reads or steps a table, whose owner may be another by then.

A graph does for good what was right when it was made. Who owns the table may change between two runs of it, and so Python looks
before each: a graph that reads a table of another owner finds it settled, and one that steps it has taken it back.

A function that may be frozen or converted gets no such look, which would be an input of it. Its graph is noted instead. As long
as it is there, nobody else defers steps of the table.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from unhot.keras._private import (
    being_saved,
    call_before_runs,
    in_training,
    is_graph_of_function,
    made_by_trainer,
    stateless_scope,
)


@dataclass(frozen=True, eq=False)
class Way:
    """How a graph reads a table: for which backend, by which of its `Traced`; for none of them, the weights as they are."""

    variable: Any
    backend: Any
    traced: Any
    changes: int
    """How many times rows had been added by then."""

    def _key(self) -> tuple[Any, ...]:
        return id(self.variable), id(self.backend), self.traced, self.changes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Way) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def holds(self) -> bool:
        """Whether this is how the table is to be read now."""
        tie = self.variable.ownership
        if tie is None:
            return self.backend is None
        return tie.backend is self.backend and tie.backend.traced == self.traced

    def require_current(self) -> None:
        """Raise RuntimeError if rows have been added, removed or frozen since."""
        if self.changes != self.variable.readers.changes:
            raise RuntimeError(
                f"rows of {self.variable.path} were added, removed or frozen after this function was made, which would go on"
                " with the table as it was. Make it anew: a tf.function of your own by calling tf.function again, and those of"
                " a Keras model by model.make_train_function(force=True), and likewise make_test_function and"
                " make_predict_function."
            )

    def meet(self) -> None:
        """Before a run: what others have deferred is not deferred any more."""
        self.require_current()
        if not self.holds() and self.variable.ownership is not None:
            self.variable.ownership.settle()


class Readers:
    """The functions that read a table, but are not looked at before they run."""

    def __init__(self) -> None:
        self.noted: list[tuple[weakref.ref[Any], Way]] = []
        self.looked_at: weakref.WeakSet[Any] = weakref.WeakSet()
        """Functions that read the table, and are looked at before they run."""
        self.changes = 0
        """How many times rows have been added, removed or frozen."""

    def blind(self) -> bool:
        """Whether there is a function that nobody looks at."""
        return any((known := graph()) is not None and known not in self.looked_at for graph, _ in self.noted)

    def forget(self) -> None:
        """The table is about to be changed: the functions that there are do not run any more."""
        self.noted, self.changes = [], self.changes + 1

    def note(self, graph: Any, way: Way) -> None:
        """This graph reads the table in this way."""
        self.noted = [(other, how) for other, how in self.noted if other() is not None]
        if not any(other() is graph and how == way for other, how in self.noted):
            self.noted.append((weakref.ref(graph), way))

    def others(self, way: Way | None) -> bool:
        """Whether there are any that read in another way, and make no step, before which the table would be taken back."""
        safe = {*STEPPING, *_with_outer(None if tf.executing_eagerly() else tf.compat.v1.get_default_graph())}
        return any(graph() is not None and how != way and graph() not in safe for graph, how in self.noted)


STEPPING: weakref.WeakSet[Any] = weakref.WeakSet()
"""The graphs that step a table, and those around them."""


def note_read(variable: Any, backend: Any) -> None:
    """The table is being read for the backend, which may be none, maybe in a graph."""
    graph = _function()
    if graph is None:
        return
    way = Way(variable, backend, getattr(backend, "traced", None), variable.readers.changes)
    if in_training() or made_by_trainer(graph) or len(_with_outer(graph)) > 1:
        call_before_runs(graph, way, way.meet)
        variable.readers.looked_at.add(graph)
    else:
        variable.readers.note(graph, way)


def note_step(variable: Any, backend: Any, optimizer: Any, resume: Callable[[Any], None]) -> None:
    """A step of the table is being made for the backend, maybe in a graph: it takes the table back first."""
    graph = _function()
    if graph is None:
        return
    tie, way = variable.ownership, Way(variable, backend, backend.traced, variable.readers.changes)
    STEPPING.update(_with_outer(graph))

    def meet(keep: Any = optimizer) -> None:  # a graph that steps keeps its optimizer alive
        way.require_current()
        tie.regain()
        if not way.holds():
            resume(way.traced)
        if variable.readers.others(way):
            backend.at_once.assign(True)

    call_before_runs(graph, ("step", way), meet)
    variable.readers.looked_at.add(graph)


def _with_outer(graph: Any) -> list[Any]:
    """The graph of a function, and those of the functions that it is in."""
    found = []
    while graph is not None and graph.building_function:
        if is_graph_of_function(graph):
            found.append(graph)
        graph = getattr(graph, "outer_graph", None)
    return found


def _function() -> Any:
    """The graph of the function that is being traced, if one is, and will be called."""
    if tf.executing_eagerly() or stateless_scope() is not None or being_saved():
        return None
    graph = tf.compat.v1.get_default_graph()
    while not is_graph_of_function(graph):  # a branch or a loop's body
        graph = getattr(graph, "outer_graph", None)
        if graph is None:
            return None
    return graph
