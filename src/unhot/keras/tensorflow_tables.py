"""Tables on Keras's TensorFlow backend: the engine of `unhot.graph` on the memory of Keras's variables."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ClassVar

import tensorflow as tf

from unhot.graph.engine import FROZEN, Traced
from unhot.keras._private import batches_of, being_saved, can_call_before_runs, in_training, raw, stateless_scope
from unhot.keras.backend import DTYPES, Function, KerasBackend, Owner, Reason, RowGradient
from unhot.keras.kinds import Gradient, Option, Tensor, Variable
from unhot.keras.tensorflow_checks import all_or_nothing, stop_if_bad
from unhot.keras.tensorflow_graphs import Readers, note_read, note_step
from unhot.keras.tensorflow_growth import forget_graphs, key_of, put, require_between_steps
from unhot.keras.tensorflow_operations import Fused, Operations, VariableRows, as_it_is
from unhot.keras.tensorflow_variables import SlotVariable, TableVariable
from unhot.optimizers import Optimizer
from unhot.training import Ownership


def training_of(variable: Variable) -> TensorFlowBackend | None:
    """What trains the rows of this variable, if an optimizer owns them."""
    tie: Ownership[TensorFlowBackend] | None = getattr(variable, "ownership", None)
    if tie is not None and tie.owner is None and tf.executing_eagerly():
        tie.release()
        return None
    return None if tie is None else tie.backend


def _with_gradient_of(held: Tensor, settled: Tensor) -> Tensor:
    """The settled rows, with the gradient of those that were gathered."""
    if tf.executing_eagerly():
        return _settled_eagerly(held, settled)
    # Not by a gradient of its own: TensorFlow keeps such graphs for ever, and forgets the gradient in `tf.vectorized_map`.
    finite = tf.where(tf.math.is_finite(held), held, tf.zeros_like(held))
    return settled + (finite - tf.stop_gradient(finite))  # the difference is 0


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _settled_eagerly(held: Tensor, settled: Tensor) -> Tensor:
    return tf.identity(settled), lambda gradient: (gradient, None)


class TensorFlowBackend(KerasBackend):
    """A table and the optimizer that owns it.

    Every row stands at the step `last`.  The clock follows the optimizer's `iterations`, which others may write.
    """

    TABLE_VARIABLE: ClassVar = TableVariable
    SLOT_VARIABLE: ClassVar = SlotVariable

    variable: TableVariable

    at_once: Tensor
    """A variable: whether steps settle all rows at once, since a function is there that would not see what is deferred."""

    # ------------------------------------------------------------------ tables and lookups

    @staticmethod
    def is_table(variable: Variable) -> bool:
        return isinstance(variable, TableVariable) and variable.dtype in DTYPES

    @staticmethod
    def look_up(variable: Variable, ids: Tensor) -> Tensor | None:
        training = training_of(variable)
        if training is None or stateless_scope() is not None:
            return None
        if being_saved():
            training.settle()
            return None
        note_read(variable, training)
        flat = tf.reshape(ids, (-1,))
        held, settled = tf.gather(raw(variable), flat), tf.stop_gradient(training.lookup(flat))
        return tf.reshape(_with_gradient_of(held, settled), tf.concat([tf.shape(ids), [variable.shape[1]]], 0))

    @staticmethod
    def concrete(ids: Tensor) -> Tensor | None:
        return ids.numpy() if isinstance(ids, tf.Tensor) and tf.executing_eagerly() and hasattr(ids, "numpy") else None

    @staticmethod
    def refuse_later(ids: Tensor, bad: Tensor, given: Tensor, name: str, rows: int) -> tuple[Tensor, Tensor | None]:
        return stop_if_bad(ids, bad, given, name, rows)

    @staticmethod
    def note_read(variable: Variable) -> None:
        """The variable has been read, maybe in a graph, which will go on reading it in the same way."""
        if TensorFlowBackend.is_table(variable):
            tie = variable.ownership
            note_read(variable, None if tie is None else tie.backend)

    @staticmethod
    def identity(variable: Variable) -> Variable:
        return raw(variable) if TensorFlowBackend.is_table(variable) else variable

    @staticmethod
    def in_strategy() -> bool:
        return bool(tf.distribute.has_strategy())

    @staticmethod
    def reason_for_dense(variable: Variable) -> Reason | None:
        if TensorFlowBackend.in_strategy():
            return Reason("a tf.distribute strategy trains it in several copies", "Train without a strategy to train by rows.")
        if not can_call_before_runs():
            return Reason(
                "this version of TensorFlow cannot call unhot before a graph runs", "Use another version to train by rows."
            )
        readers = variable.readers if isinstance(variable, TableVariable) else Readers()
        if readers.others(None):
            gc.collect()  # graphs are full of cycles, and outlive their functions
        if readers.others(None):
            return Reason(
                "a tf.function that was made before this optimizer was built reads the table, and would not see deferred steps",
                "Build the optimizer first, by optimizer.build(model.trainable_variables), to train by rows.",
            )
        return None

    put = staticmethod(put)
    key_of = staticmethod(key_of)
    forget_graphs = staticmethod(forget_graphs)
    require_between_steps = staticmethod(require_between_steps)

    @staticmethod
    def check_optimizer(optimizer: Optimizer, variable: Variable) -> None:
        Traced(optimizer, variable.dtype, variable.shape[0])

    # ------------------------------------------------------------------ an optimizer

    @staticmethod
    def wrap_apply(function: Function) -> Function:
        """The function within the graph, where rows are settled and stepped, once all gradients are there."""
        return all_or_nothing(function)

    @staticmethod
    def row_gradients(optimizer: Owner, gradients: list[Gradient], variables: list[Variable]) -> list[Gradient]:
        found = []
        for gradient, variable in zip(gradients, variables, strict=True):
            if isinstance(gradient, tf.IndexedSlices):
                table = optimizer.table(variable)
                if table is not None:
                    gradient = RowGradient(gradient.indices, gradient.values, table)
                elif TensorFlowBackend.is_table(variable):
                    gradient = tf.convert_to_tensor(gradient)  # Keras's optimizers would take the ids that repeat one by one
            found.append(gradient)
        return found

    # ------------------------------------------------------------------ one table and its optimizer

    def __init__(self, variable: TableVariable, slots: Mapping[str, SlotVariable], optimizer: Owner) -> None:
        with tf.init_scope():  # now, and not in the trace that this may be: TensorFlow discards traces that make variables
            self.at_once = tf.Variable(False, trainable=False, name="at_once")
        self._optimizer = weakref.ref(optimizer)
        self.variable, self._slots = variable, slots
        self._ops = Operations(variable.dtype), Fused(variable.dtype)
        self.held = {"weights": raw(variable), **{name: raw(slot) for name, slot in slots.items()}}
        self._kept: dict[Traced, tuple[VariableRows, dict[str, Tensor], Tensor]] = {}
        self.traced: Traced
        self.history: dict[str, Tensor] = {}
        self.clock: Tensor = None

    def has_deferred_steps(self) -> bool:
        return self.traced.defers and bool(tf.reduce_any(self.store.variables["last"] < self._now()))

    def hand_over(self) -> None:
        with tf.init_scope():
            self.settle()

    def resume(self) -> None:
        optimizer = self._optimizer()
        assert optimizer is not None  # a graph that steps keeps it
        # In a graph, an optimizer that is being built has no numbers yet; one whose table has grown is past that.
        known = bool(self._kept) or tf.executing_eagerly()
        self._begin_with(optimizer, self._traced(optimizer), optimizer.row_state() if known else {})
        for slot in self._slots.values():
            slot.training = self

    def _traced(self, optimizer: Owner) -> Traced:
        """What trains the rows, with the optimizer's hyperparameters as they stand."""
        core, (rows, _) = optimizer.row_optimizer(self.variable, 0.001), self.variable.shape
        return Traced(core, self.variable.dtype, rows, freezes=len(self.variable.frozen_rows) > 0)

    def _begin_with(self, optimizer: Owner, traced: Traced, state: Mapping[str, Tensor]) -> None:
        """Take up hyperparameters, and the numbers that the optimizer keeps; all rows are settled.

        Each set of them has variables of its own, which the graphs that were made for it go on with.
        """
        self.traced = traced
        with tf.init_scope():
            if traced not in self._kept:
                self._kept[traced] = self._variables(traced)
            self.store, self.history, self.clock = self._kept[traced]
            if traced.defers:
                self._go_on(optimizer, state)

    def _variables(self, traced: Traced) -> tuple[VariableRows, dict[str, Tensor], Tensor]:
        """What is held for them beside weights and slots: `place` and `last` of each row, a history and a clock."""
        store = VariableRows({name: self.held[name] for name in traced.names}, traced.rows)
        nothing = tf.zeros((traced.rows,), tf.int32)
        store.variables["place"] = tf.Variable(nothing, trainable=False, name="place")
        if traced.notes:
            frozen = self.variable.frozen_rows[:, None]
            marked = tf.tensor_scatter_nd_update(nothing, frozen, tf.fill((len(frozen),), FROZEN))
            store.variables["last"] = tf.Variable(marked, trainable=False, name="last")
        if not traced.defers:
            return store, {}, None
        arrays = traced.family.arrays().items()
        history = {name: tf.Variable(start, trainable=False, name=name) for name, start in arrays}
        return store, history, tf.Variable(0, trainable=False, name="clock")

    @property
    def ops(self) -> Operations:
        """Those for what runs now."""
        return self._ops[not tf.executing_eagerly()]

    def _now(self) -> Tensor:
        return as_it_is(self.clock) if self.traced.defers else tf.constant(0, tf.int32)

    # ------------------------------------------------------------------ reading

    def lookup(self, ids: Tensor) -> Tensor:
        """The settled weights of the flat `ids`."""
        # A number of the history is a number also where it is not taken from by `Operations.take`.
        history = {name: value if len(value.shape) else as_it_is(value) for name, value in self.history.items()}
        if tf.executing_eagerly() or not in_training():  # the graphs of others, who may not compile, are kept plain
            return self.traced.lookup(self._ops[0], history, self.store, ids, self._now())
        found = self.traced.lookup(self.ops, history, self.store, self.ops.padded(ids), self._now())
        return found[: tf.size(ids)]

    def settle(self) -> None:
        """Apply all deferred steps: now, for a graph that is saved with the weights as they are, or whenever the graph runs."""
        if not self.traced.defers:
            return
        if being_saved() and not tf.executing_eagerly():
            with ThreadPoolExecutor(1) as eager:  # every thread begins eagerly; `tf.init_scope` may lead to the saved graph
                eager.submit(self.settle).result()
            return
        if not (tf.executing_eagerly() or tf.compat.v1.get_default_graph().building_function):
            return  # that graph is a saved model's, which copies variables as they are
        if tf.executing_eagerly() and not bool(tf.reduce_any(self.store.variables["last"] < self._now())):
            return
        note_read(self.variable, self)
        # In a graph, a number that it does not know: tables of all sizes then share what is traced.
        rows = self.store.rows if tf.executing_eagerly() else tf.compat.v1.placeholder_with_default(self.store.rows, ())
        self.traced.settle(self.ops, self.history, self.store, tf.range(rows, dtype=tf.int32), self._now())

    # ------------------------------------------------------------------ training

    def summed(self, gradient: RowGradient) -> RowGradient:
        """The same gradient with the sum of an id's in one of its places, and zeros in the others."""
        return gradient.with_values(self.traced.summed(self.ops, self.store, gradient.ids, gradient.values))

    def dense_gradient(self, ids: Tensor, values: Tensor) -> Tensor:
        self.settle()
        return tf.convert_to_tensor(tf.IndexedSlices(values, ids, self.variable.shape))

    def restart(self, optimizer: Owner) -> None:
        """Go on from what has been written into Keras's variables, once released."""
        if self.traced.defers:
            self._go_on(optimizer, optimizer.row_state())

    def _go_on(self, optimizer: Owner, state: Mapping[str, Tensor]) -> None:
        now = tf.cast(raw(batches_of(optimizer)), tf.int32)
        self.clock.assign(now)
        self._touch(now)
        for name, start in self.traced.family.arrays().items():
            self.history[name].assign(tf.cast(state.get(name, start), self.history[name].dtype))

    def _touch(self, step: Tensor) -> None:
        """All rows stand at this step, except for frozen ones."""
        last = self.store.variables["last"]
        last.assign(tf.where(last >= FROZEN, last, step))

    def _follow_iterations(self, optimizer: Owner) -> None:
        def meet() -> None:
            self.settle()
            self.restart(optimizer)

        if self.traced.defers:
            tf.cond(self._now() == tf.cast(raw(batches_of(optimizer)), tf.int32), lambda: None, meet)

    def _note_step(self, optimizer: Owner) -> None:
        note_step(self.variable, self, optimizer, lambda traced: self._change_to(optimizer, traced))

    def _change_to(self, optimizer: Owner, traced: Traced) -> None:
        self.settle()
        self._begin_with(optimizer, traced, optimizer.row_state())

    @contextmanager
    def dense_step(self, optimizer: Owner, rate: Tensor) -> Iterator[None]:
        """Around a step that Keras makes, of the whole table or without it."""
        self._note_step(optimizer)
        self._follow_iterations(optimizer)
        self.settle()
        yield
        if self.traced.defers:
            step = self._now() + 1
            self._keep(self.traced.family.advance(self.ops, self.history, step, self.ops.real(rate)))
            self._touch(step)
            self.clock.assign(step)

    def prepare_step(self, optimizer: Owner, variable: Variable, rate: Tensor) -> None:
        traced = self._traced(optimizer)
        if traced != self.traced:
            if not tf.executing_eagerly():
                optimizer.refuse_change(variable)
            self._change_to(optimizer, traced)
        self._note_step(optimizer)
        self._follow_iterations(optimizer)

    def make_step(self, gradient: RowGradient, rate: Tensor) -> None:
        optimizer = self._optimizer()
        assert optimizer is not None
        now = self._now() if self.traced.defers else tf.cast(raw(batches_of(optimizer)), tf.int32)
        rate = self.ops.real(rate)
        self._keep(self.traced.step(self.ops, self.history, self.store, gradient.ids, gradient.values, now, rate))
        if self.traced.defers:
            self.clock.assign(now + 1)
            if not tf.executing_eagerly():
                tf.cond(self.at_once, self.settle, lambda: None)

    def _keep(self, history: Mapping[str, Tensor]) -> None:
        for name, value in history.items():
            if value is not self.history[name]:
                self.history[name].assign(value)


def _as_tensor(gradient: RowGradient, dtype: Option = None, name: Option = None, as_ref: bool = False) -> Tensor:
    return tf.convert_to_tensor(gradient.dense(), dtype)


tf.register_tensor_conversion_function(RowGradient, _as_tensor)
