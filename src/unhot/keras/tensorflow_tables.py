"""Tables on Keras's TensorFlow backend: the engine of `unhot.traced` on the memory of Keras's variables."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from keras.src.backend.common.global_state import get_global_attribute
from keras.src.backend.common.stateless_scope import in_stateless_scope

from unhot.keras._private import being_saved
from unhot.keras.gradients import RowGradient
from unhot.keras.settled import Settled, become
from unhot.keras.tensorflow_checks import all_or_nothing, stop_if_bad
from unhot.keras.tensorflow_graphs import Graphs
from unhot.keras.tensorflow_operations import Fused, Operations, VariableRows, as_it_is
from unhot.rules import Optimizer
from unhot.traced.engine import Traced

DTYPES = ("float32", "float64")

FEWEST_ROWS = 1 << 14
"""Tables of fewer rows are left to Keras: its dense step of so few takes less time, and is what ours is to equal."""

EAGER = False
"""Steps are traced, once: what Python does around them takes no time."""

# ---------------------------------------------------------------- tables and lookups


def make_table(variable: Any) -> None:
    """Let the new variable's rows be trained apart."""
    variable.is_table = variable.dtype in DTYPES and not tf.distribute.has_strategy()
    variable.graphs = Graphs()


def state_variables(variables: list[Any]) -> list[Any]:
    """The variables of a layer as a trainer sees them."""
    return variables


def is_table(variable: Any) -> bool:
    """Whether `make_table` has made this variable one."""
    return getattr(variable, "is_table", False)


def seen(variable: Any) -> None:
    """The variable has been read, maybe in a graph, which will go on reading it in the same way."""
    if is_table(variable):
        variable.graphs.note()


def obstacle(variable: Any) -> str | None:
    """Why the rows of the table cannot be trained apart here, if so."""
    if not variable.graphs.foreign():
        return None
    return (
        "a tf.function that was made before this optimizer was built reads the table as it is, and would not see deferred"
        " steps. Build the optimizer first, by optimizer.build(model.trainable_variables)"
    )


def training_of(variable: Any) -> Training | None:
    """What trains the rows of this variable, if an optimizer owns them."""
    training: Training | None = getattr(variable, "training", None)
    if training is not None and training.optimizer is None and tf.executing_eagerly():
        training.give_back()
        training = None
    return training


def lookup(variable: Any, ids: Any) -> Any:
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


def ready(ids: Any) -> bool:
    """Whether `lookup` may be asked for ids that nobody has converted or checked; not here."""
    return False


def concrete(ids: Any) -> Any:
    """The ids as an array, if they are known now."""
    return ids.numpy() if isinstance(ids, tf.Tensor) and tf.executing_eagerly() and hasattr(ids, "numpy") else None


def refuse_later(ids: Any, bad: Any, given: Any, layer: Any) -> tuple[Any, Any]:
    """The ids, which refuse those `given` that are bad once they are known; and the mask of bad ones, if they cannot."""
    return stop_if_bad(ids, bad, given, layer)


# ---------------------------------------------------------------- training


def stock_variables(variables: list[Any]) -> list[Any]:
    """The variables that a trainer hands to an optimizer, as Keras's own optimizer would be given them."""
    return variables


def unread(variable: Any) -> Any:
    """What stands for the variable, and can be asked who it is without a look at its value."""
    return variable._value if is_table(variable) else variable


def built(optimizer: Any, variables: Any, tables: Iterable[Training]) -> None:
    """The optimizer owns these tables from now on."""


def own_variables(optimizer: Any, variables: list[Any]) -> list[Any]:
    """The variables of the optimizer that a trainer has to carry."""
    return variables[:]


def outside_graph(function: Any) -> Any:
    """The function within the graph, where rows are settled and stepped, once all gradients are there."""
    return all_or_nothing(function)


def check_rule(rule: Optimizer, variable: Any) -> None:
    """Raise TypeError or ValueError for a rule that cannot train the rows of this table apart."""
    Traced(rule, variable.dtype, variable.shape[0])


def by_rows(optimizer: Any, gradients: list[Any], variables: list[Any]) -> tuple[list[Any], list[Any]]:
    """The gradients, those of owned tables by rows where they are row-sparse; and the variables."""
    found = []
    for gradient, variable in zip(gradients, variables, strict=True):
        if isinstance(gradient, tf.IndexedSlices):
            if optimizer.table(variable) is not None:
                gradient = RowGradient(gradient.indices, gradient.values)
            elif is_table(variable):
                gradient = tf.convert_to_tensor(gradient)  # Keras's optimizers would take the ids that repeat one by one
        found.append(gradient)
    return found, variables


class Training:
    """A table and the optimizer that owns it.

    Every row stands at the step `last`.  The clock follows the optimizer's `iterations`, which others may write.
    """

    lost: Any

    def __init__(self, variable: Any, slots: Mapping[str, Any], optimizer: Any) -> None:
        previous = training_of(variable)
        if previous is not None:
            with tf.init_scope():  # now, and not in the trace that this may be: TensorFlow discards traces that make variables
                previous.release()
                previous.lost.assign(True)
        variable.graphs.forget()
        with tf.init_scope():
            self.lost = tf.Variable(False, trainable=False, name="lost")  # which compiled steps look at
        self._optimizer = weakref.ref(optimizer)
        self.variable = variable
        self._ops = Operations(variable.dtype), Fused(variable.dtype)
        self.held = {"weights": variable._value, **{name: slot._value for name, slot in slots.items()}}
        self.traced: Traced
        self.history: dict[str, Any] = {}
        self.clock: Any = None
        self._follow(optimizer, {})
        self._rate: Any = None
        for settled in (variable, *slots.values()):
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
    def optimizer(self) -> Any:
        """The owner, or None once it is gone."""
        return self._optimizer()

    @property
    def current(self) -> bool:
        """Whether no other optimizer has taken the table over."""
        return self.variable.training is self

    def give_back(self) -> None:
        """The table is nobody's any more."""
        self.release()
        self.lost.assign(True)
        self.variable.graphs.forget()
        self.variable.training = None

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

    release = settle

    # ------------------------------------------------------------------ training

    def summed(self, gradient: RowGradient) -> RowGradient:
        """The same gradient with the sum of an id's in one of its places, and zeros in the others."""
        return gradient.with_values(self.traced.summed(self.ops, self.store, gradient.ids, gradient.values))

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
    def whole_step(self, optimizer: Any, rate: Any) -> Iterator[None]:
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
            self._rate = tf.where(self.lost, self.ops.real(float("nan")), self.ops.real(rate))  # XLA knows no errors

    def make_step(self, gradient: RowGradient) -> None:
        """Make the step that was prepared."""
        now = self._now()
        self._keep(self.traced.step(self.ops, self.history, self.store, gradient.ids, gradient.values, now, self._rate))
        if self.traced.defers:
            self.clock.assign(now + 1)

    def _keep(self, history: Mapping[str, Any]) -> None:
        for name, value in history.items():
            if value is not self.history[name]:
                self.history[name].assign(value)
