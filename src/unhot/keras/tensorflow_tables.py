"""Tables on Keras's TensorFlow backend: the engine of `unhot.traced` on the memory of Keras's variables."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from keras.src.backend.common.global_state import get_global_attribute
from keras.src.backend.common.stateless_scope import in_stateless_scope

from unhot.keras._private import being_saved
from unhot.keras.backend import KerasBackend, Reason
from unhot.keras.gradients import RowGradient
from unhot.keras.settled import Settled, become
from unhot.keras.tensorflow_checks import all_or_nothing, stop_if_bad
from unhot.keras.tensorflow_graphs import Graphs
from unhot.keras.tensorflow_operations import Fused, Operations, VariableRows, as_it_is
from unhot.rules import Optimizer
from unhot.traced.engine import Traced
from unhot.training import Ownership

DTYPES = ("float32", "float64")

# ---------------------------------------------------------------- tables and lookups


def make_table(variable: Any) -> None:
    """Let the new variable's rows be trained apart."""
    variable.is_table = variable.dtype in DTYPES and not tf.distribute.has_strategy()
    variable.graphs, variable.ownership = Graphs(), None


def is_table(variable: Any) -> bool:
    """Whether `make_table` has made this variable one."""
    return getattr(variable, "is_table", False)


def seen(variable: Any) -> None:
    """The variable has been read, maybe in a graph, which will go on reading it in the same way."""
    if is_table(variable):
        variable.graphs.note()


def reason_for_dense(variable: Any) -> Reason | None:
    """Why the rows of the table cannot be trained apart here, if so."""
    if not variable.graphs.foreign():
        return None
    return Reason(
        "a tf.function that was made before this optimizer was built reads the table as it is, and would not see deferred"
        " steps",
        "Build the optimizer first, by optimizer.build(model.trainable_variables), to train by rows.",
    )


def training_of(variable: Any) -> TensorFlowBackend | None:
    """What trains the rows of this variable, if an optimizer owns them."""
    tie: Ownership[TensorFlowBackend] | None = getattr(variable, "ownership", None)
    if tie is not None and tie.owner is None and tf.executing_eagerly():
        tie.release()
        return None
    return None if tie is None else tie.backend


def look_up(variable: Any, ids: Any) -> Any:
    """The settled vectors of an owned table, with a row-sparse gradient; None of another variable. The ids are in range."""
    training = training_of(variable)
    if training is None or in_stateless_scope():
        return None
    if being_saved():
        training.settle()
        return None
    flat = tf.reshape(ids, (-1,))
    found = _as_settled(tf.gather(variable._value, flat), tf.stop_gradient(training.lookup(flat)))
    return tf.reshape(found, tf.concat([tf.shape(ids), [variable.shape[1]]], 0))


def _in_training() -> bool:
    """Whether a layer is called with training=True."""
    context = get_global_attribute("current_call_ctx")
    return bool(context is not None and context.get_value("training"))


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _as_settled(held: Any, settled: Any) -> Any:
    """The settled rows, with the gradient of those that were gathered."""
    return tf.identity(settled), lambda gradient: (gradient, None)


def concrete(ids: Any) -> Any:
    """The ids as an array, if they are known now."""
    return ids.numpy() if isinstance(ids, tf.Tensor) and tf.executing_eagerly() and hasattr(ids, "numpy") else None


def refuse_later(ids: Any, bad: Any, given: Any, layer: Any) -> tuple[Any, Any]:
    """The ids, which refuse those `given` that are bad once they are known; and the mask of bad ones, if they cannot."""
    return stop_if_bad(ids, bad, given, layer)


# ---------------------------------------------------------------- training


def unread(variable: Any) -> Any:
    """What stands for the variable, and can be asked who it is without a look at its value."""
    return variable._value if is_table(variable) else variable


def wrap_apply(function: Any) -> Any:
    """The function within the graph, where rows are settled and stepped, once all gradients are there."""
    return all_or_nothing(function)


def check_rule(rule: Optimizer, variable: Any) -> None:
    """Raise TypeError or ValueError for a rule that cannot train the rows of this table apart."""
    Traced(rule, variable.dtype, variable.shape[0])


def by_rows(optimizer: Any, gradients: list[Any], variables: list[Any]) -> list[Any]:
    """The gradients, those of owned tables by rows where they are row-sparse."""
    found = []
    for gradient, variable in zip(gradients, variables, strict=True):
        if isinstance(gradient, tf.IndexedSlices):
            table = optimizer.table(variable)
            if table is not None:
                gradient = RowGradient(gradient.indices, gradient.values, table)
            elif is_table(variable):
                gradient = tf.convert_to_tensor(gradient)  # Keras's optimizers would take the ids that repeat one by one
        found.append(gradient)
    return found


class TensorFlowBackend(KerasBackend):
    """A table and the optimizer that owns it.

    Every row stands at the step `last`.  The clock follows the optimizer's `iterations`, which others may write.
    """

    make_table, is_table, look_up = staticmethod(make_table), staticmethod(is_table), staticmethod(look_up)
    concrete, seen, unread = staticmethod(concrete), staticmethod(seen), staticmethod(unread)
    refuse_later, wrap_apply = staticmethod(refuse_later), staticmethod(wrap_apply)
    reason_for_dense, check_rule, by_rows = staticmethod(reason_for_dense), staticmethod(check_rule), staticmethod(by_rows)

    variable: Any

    lost: Any

    def __init__(self, variable: Any, slots: Mapping[str, Any], optimizer: Any) -> None:
        with tf.init_scope():  # now, and not in the trace that this may be: TensorFlow discards traces that make variables
            self.lost = tf.Variable(False, trainable=False, name="lost")  # which compiled steps look at
        self._optimizer = weakref.ref(optimizer)
        self.variable, self._slots = variable, slots
        self._ops = Operations(variable.dtype), Fused(variable.dtype)
        self.held = {"weights": variable._value, **{name: slot._value for name, slot in slots.items()}}
        self.traced: Traced
        self.history: dict[str, Any] = {}
        self.clock: Any = None

    def has_deferred_steps(self) -> bool:
        return self.traced.defers and bool(tf.reduce_any(self.store.variables["last"] < self._now()))

    def hand_over(self) -> None:
        with tf.init_scope():
            self.settle()
            self.lost.assign(True)
        self.variable.graphs.forget()

    def resume(self) -> None:
        optimizer = self._optimizer()
        self.variable.graphs.forget()
        with tf.init_scope():
            self.lost.assign(False)
        self._follow(optimizer, {})
        for settled in (self.variable, *self._slots.values()):
            become(settled, Settled, self)

    def _follow(self, optimizer: Any, state: Mapping[str, Any]) -> None:
        """Take up the optimizer's rule, and the numbers that it keeps; all rows are settled."""
        self.traced = Traced(optimizer.row_rule(self.variable, 0.001), self.variable.dtype, self.variable.shape[0])
        self.store = VariableRows({name: self.held[name] for name in self.traced.names}, self.traced.rows)
        with tf.init_scope():
            nothing = tf.zeros((self.traced.rows,), tf.int32)
            self.store.variables["place"] = tf.Variable(nothing, trainable=False, name="place")
        if self.traced.defers:
            with tf.init_scope():
                self.store.variables["last"] = tf.Variable(nothing, trainable=False, name="last")
                self.clock = tf.Variable(0, trainable=False, name="clock")
                self.history = {
                    name: tf.Variable(start, trainable=False, name=name) for name, start in self.traced.family.arrays().items()
                }
                self._go_on(optimizer, state)

    @property
    def ops(self) -> Any:
        """Those for what runs now."""
        return self._ops[not tf.executing_eagerly()]

    def _now(self) -> Any:
        return as_it_is(self.clock) if self.traced.defers else tf.constant(0, tf.int32)

    # ------------------------------------------------------------------ reading

    def lookup(self, ids: Any) -> Any:
        """The settled weights of the flat `ids`."""
        # A number of the history is a number also where it is not taken from by `Operations.take`.
        history = {name: value if len(value.shape) else as_it_is(value) for name, value in self.history.items()}
        if tf.executing_eagerly() or not _in_training():  # the graphs of others, who may not compile, are kept plain
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
        rows = tf.range(self.store.rows, dtype=tf.int32)
        self.traced.settle(self.ops, self.history, self.store, rows, self._now())

    # ------------------------------------------------------------------ training

    def summed(self, gradient: RowGradient) -> RowGradient:
        """The same gradient with the sum of an id's in one of its places, and zeros in the others."""
        return gradient.with_values(self.traced.summed(self.ops, self.store, gradient.ids, gradient.values))

    def dense_gradient(self, ids: Any, values: Any) -> Any:
        self.settle()
        return tf.convert_to_tensor(tf.IndexedSlices(values, ids, self.variable.shape))

    def restart(self, optimizer: Any) -> None:
        """Go on from what has been written into Keras's variables, once released."""
        if self.traced.defers:
            self._go_on(optimizer, optimizer.row_state())

    def _go_on(self, optimizer: Any, state: Mapping[str, Any]) -> None:
        now = tf.cast(optimizer._iterations._value, tf.int32)
        self.clock.assign(now)
        self.store.variables["last"].assign(tf.fill((self.traced.rows,), now))
        for name, start in self.traced.family.arrays().items():
            self.history[name].assign(tf.cast(state.get(name, start), self.history[name].dtype))

    def _follow_iterations(self, optimizer: Any) -> None:
        def meet() -> None:
            self.settle()
            self.restart(optimizer)

        if self.traced.defers:
            tf.cond(self._now() == tf.cast(optimizer._iterations._value, tf.int32), lambda: None, meet)

    def _not_lost(self) -> Any:
        """For a compiled step, which goes on when another optimizer has taken the table: there, an error."""
        self.variable.graphs.guard()
        message = (
            f"{self.variable.path} was released, or taken over by another optimizer, since this step was compiled. Compile the"
            " model again, with a new optimizer."
        )
        return tf.control_dependencies([tf.debugging.Assert(tf.logical_not(self.lost), [message])])

    @contextmanager
    def dense_step(self, optimizer: Any, rate: Any) -> Iterator[None]:
        """Around a step that Keras makes, of the whole table or without it."""
        with self._not_lost():
            self._follow_iterations(optimizer)
            self.settle()
            yield
        if self.traced.defers:
            step = self._now() + 1
            self._keep(self.traced.family.advance(self.ops, self.history, step, self.ops.real(rate)))
            self.store.variables["last"].assign(tf.fill((self.traced.rows,), step))
            self.clock.assign(step)

    def prepare_step(self, optimizer: Any, variable: Any, rate: Any) -> None:
        """Get ready for a step; what can go wrong goes wrong here."""
        traced = Traced(optimizer.row_rule(variable, 0.001), self.traced.dtype, self.traced.rows)
        if traced != self.traced:
            if not tf.executing_eagerly():
                optimizer.refuse_change(variable)
            self.settle()
            self._follow(optimizer, optimizer.row_state())
        with self._not_lost():
            self._follow_iterations(optimizer)

    def make_step(self, gradient: RowGradient, rate: Any) -> None:
        """Make the step that was prepared."""
        now = self._now()
        rate = tf.where(self.lost, self.ops.real(float("nan")), self.ops.real(rate))  # XLA knows no errors
        self._keep(self.traced.step(self.ops, self.history, self.store, gradient.ids, gradient.values, now, rate))
        if self.traced.defers:
            self.clock.assign(now + 1)

    def _keep(self, history: Mapping[str, Any]) -> None:
        for name, value in history.items():
            if value is not self.history[name]:
                self.history[name].assign(value)


def _as_tensor(gradient: RowGradient, dtype: Any = None, name: Any = None, as_ref: bool = False) -> Any:
    return tf.convert_to_tensor(gradient.dense(), dtype)


tf.register_tensor_conversion_function(RowGradient, _as_tensor)
