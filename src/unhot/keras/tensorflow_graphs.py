"""The graphs that read a table: what they do was settled when they were made, and whose rows they took them for."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common.stateless_scope import in_stateless_scope

STEPS = ("train_step", "test_step", "predict_step")
"""What a model's own functions are made of; such can be made anew."""

EXPORT = "keras.src.export"
"""What makes graphs that are written to a file, with the weights as they are then."""

LOOPS = ("fit", "train_on_batch")
"""What goes on with the train function that it has begun with."""


@dataclass
class Graphs:
    """The graphs in which one table is read."""

    made: list[tuple[weakref.ref[Any], weakref.ref[Any] | None]] = field(default_factory=list)
    """Each with the model of whose functions it is, or None for a function that Keras knows nothing of."""

    guarded: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    """Those that make a step, and find out by themselves that the table is no longer their optimizer's."""

    def note(self) -> None:
        """The table is being read, maybe in a graph."""
        if tf.executing_eagerly() or in_stateless_scope():
            return
        frames = list(_frames())
        if any(str(frame.f_globals.get("__name__")).startswith(EXPORT) for frame in frames):
            return
        model = next((frame.f_locals.get("self") for frame in frames if frame.f_code.co_name in STEPS), None)
        known = weakref.ref(model) if isinstance(model, keras.Model) else None
        self.made = [(graph, of) for graph, of in self.made if graph() is not None]
        self.made.append((weakref.ref(tf.compat.v1.get_default_graph()), known))

    def guard(self) -> None:
        """A step is being made in the present graph."""
        self.guarded.update(_present())

    def foreign(self) -> bool:
        """Whether functions that cannot be made anew, other than the present one, read the table as it is."""
        if not self._foreign():
            return False
        gc.collect()  # graphs are full of cycles, and outlive their functions
        return self._foreign()

    def _foreign(self) -> bool:
        safe = {*self.guarded, *_present()}
        return any(of is None and graph() is not None and safe.isdisjoint(_with_outer(graph())) for graph, of in self.made)

    def forget(self) -> None:
        """Let models make their functions anew, since another trains the table from now on."""
        running = [frame.f_locals.get("self") for frame in _frames() if frame.f_code.co_name in LOOPS]
        for model in {id(of): of() for _, of in self.made if of is not None}.values():
            if model is None:
                continue
            model.test_function = model.predict_function = None
            if not any(model is other for other in running):
                model.train_function = None
        self.made = [(graph, of) for graph, of in self.made if of is None]


def _frames() -> Iterator[Any]:
    frame: Any = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _with_outer(graph: Any) -> Iterator[Any]:
    """A function's graph, and those of the functions that it is in."""
    while graph is not None and graph.building_function:
        yield graph
        graph = getattr(graph, "outer_graph", None)


def _present() -> list[Any]:
    """The graph that is being made now, if one is, and those around it."""
    return [] if tf.executing_eagerly() else list(_with_outer(tf.compat.v1.get_default_graph()))
