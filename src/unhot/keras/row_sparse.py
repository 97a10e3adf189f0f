"""What the optimizers here add to Keras's: they own tables, and step the rows that have gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

import keras

from unhot.keras.backend import KerasBackend, Reason, RowGradient, Slot
from unhot.keras.backends import backend
from unhot.keras.growth import note_built
from unhot.keras.kinds import Gradient, Store, Tensor, Variable
from unhot.keras.untouched import Rates
from unhot.optimizers import Optimizer
from unhot.optimizers.base import flags
from unhot.optimizers.names import Names
from unhot.training import Ownership, warn_of_dense_training

if TYPE_CHECKING:
    from keras.optimizers import Optimizer as KerasOptimizer
else:
    KerasOptimizer = object


def stock(core: type[Optimizer]) -> Any:
    """Keras's own class of an optimizer, as the backend makes it."""
    public: Any = getattr(keras.optimizers, names_of(core).stock)
    return type(public.__new__(public))


def names_of(core: type[Optimizer]) -> Names:
    """What Keras calls an optimizer and what belongs to it."""
    assert core.KERAS is not None, f"{core.__name__} has no names in Keras"
    return core.KERAS


WHOLE = Reason(
    "its gradient is not only of rows that were looked up. The loss may read the whole table, or something has changed the"
    " gradient",
    "Take penalties from vectors that are looked up, and clip by the optimizer's options, to train by rows.",
)
"""Of a gradient that came as an array."""


class RowSparse(KerasOptimizer):  # type: ignore[misc]  # Keras comes without types
    """A mixin before one of Keras's optimizers: dense gradients take Keras's own path, those of tables go by rows.

    A table is owned from `build` on.  Its slots are Keras's variables, so that a checkpoint is Keras's own.  Small ones are
    left to Keras where its step of all their rows takes less time.
    """

    core: ClassVar[type[Optimizer]]
    """The optimizer of the core by which rows are trained."""

    _names: ClassVar[Names]
    """Keras's names of its hyperparameters and slots; a slot whose attribute is empty is not in use."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._names = names_of(cls.core)

    _tables: Mapping[Any, Ownership[KerasBackend]] = {}
    """The ties with the tables that this optimizer owns, or has owned."""

    # ------------------------------------------------------------------ ownership

    def build(self, variables: list[Variable]) -> None:
        """As Keras's; the tables among the variables are owned from now on."""
        if self.built:
            return
        super().build(variables)
        self.__dict__["_rates"] = Rates(self)
        note_built(self)
        for variable in self._trainable_variables:
            if backend.is_table(variable) and self.worth_owning(variable):
                self.own_if_possible(variable)

    def worth_owning(self, variable: Variable) -> bool:
        """Whether to train the rows of a table apart: of a large one, or one of which some rows must not train."""
        return bool(variable.shape[0] >= self.fewest_rows or len(variable.frozen_rows))

    @property
    def fewest_rows(self) -> int:
        """Tables of fewer rows are left to Keras, if its step does the same to them."""
        return 0 if self.core.NO_DENSE else backend.FEWEST_ROWS

    def own_if_possible(self, variable: Variable) -> None:
        """Train the rows of this table from now on, or warn that it is trained densely, and say why."""
        dense = self.reason_for_dense(variable)
        if dense is None:
            self.own(variable)
        else:
            warn_of_dense_training(variable, variable.path, *dense, stacklevel=3)

    def go_on_with(self, variable: Variable) -> None:
        """Train the rows of a table that was let go of while it was changed."""
        tie = self._tables.get(self._var_key(variable))
        if backend.EAGER and tie is not None:
            tie.regain()
        else:
            self.own_if_possible(variable)

    def reason_for_dense(self, variable: Variable) -> Reason | None:
        """Why this optimizer cannot train the rows of a table apart, and what to do about it; None if it can."""
        if self.use_ema:
            return Reason("use_ema=True averages all rows at every step", "Leave it out to train by rows.")
        if self.gradient_accumulation_steps:
            return Reason(
                "gradient_accumulation_steps adds up gradients of all rows", "Use larger batches instead to train by rows."
            )
        for name in ("regularizer", "constraint"):
            if getattr(variable, name) is not None:
                return Reason(f"its {name} takes all rows at every step", f"Leave the {name} out to train by rows.")
        return self._reason_of_numbers(variable, 0.001) or backend.reason_for_dense(variable)

    def own(self, variable: Variable) -> None:
        """Train the rows of this table from now on; another optimizer of `unhot.keras` loses it."""
        slots = {name: slot for name in self._names.slots if (slot := self.slot_of(variable, name)) is not None}
        made = backend(variable, slots, self)
        tie = Ownership(backend.ownable(variable), self, made)
        made.tied(tie)
        tie.regain()
        self.__dict__["_tables"] = {**self._tables, self._var_key(variable): tie}  # which Keras must not track, and save

    def slot_of(self, variable: Variable, name: str) -> Variable | None:
        """The slot of a variable, by the core's name."""
        held = getattr(self, self._names.slots[name], None)
        return held[self._get_variable_index(variable)] if held else None

    def averages(self) -> Sequence[Variable]:
        """The averages of variables over the steps, if it keeps such."""
        return [slot for slot in getattr(self, "_model_variables_moving_average", ()) if slot is not None]

    def row_optimizer(self, variable: Variable, rate: Tensor) -> Optimizer:
        """The optimizer of the core for a table, with the hyperparameters as they stand."""
        decay = self.weight_decay if self.decays(variable) else 0.0
        given = dict(self._names.implied)
        kind: Any = self.core  # which mypy takes for one that cannot be hashed, as its instances cannot be
        for ours, theirs in self._names.hyperparameters.items():
            value = getattr(self, str(theirs))
            given[ours] = bool(value) if ours in flags(kind) else value  # as Keras takes it
        return self.core(rate, weight_decay=decay, **given)

    def decays(self, variable: Variable) -> bool:
        """Whether the weights of a table decay."""
        return bool(self.weight_decay and self._use_weight_decay(backend.identity(variable)))

    def refuse_change(self, variable: Variable) -> None:
        """For graphs, in which the hyperparameters are constants."""
        raise ValueError(
            f"hyperparameters of {type(self).__name__} have changed since it was built, and {variable.path} is trained inside a"
            " graph, which was made with the old ones. Only the learning rate may change there. Make a new optimizer, and"
            " compile the model with it."
        )

    def row_state(self) -> dict[str, Variable]:
        """Numbers of the core's optimizer that Keras keeps beside the slots."""
        return {ours: getattr(self, theirs) for ours, theirs in self._names.numbers.items()}

    def table(self, variable: Variable) -> KerasBackend | None:
        """What trains the rows of this variable; None if nothing does, or another optimizer has taken it over."""
        tie = self._tables.get(self._var_key(variable))
        return tie.backend if tie is not None and tie.holds else None

    def _var_key(self, variable: Variable) -> Any:
        return backend.key_of(variable) or super()._var_key(backend.identity(variable))

    # ------------------------------------------------------------------ steps

    @backend.wrap_apply
    def apply(self, grads: Iterable[Gradient], trainable_variables: Iterable[Variable] | None = None) -> None:
        """As Keras's."""
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        if not self.built and variables:
            with keras.name_scope(self.name, caller=self):
                self.build(variables)
        if backend.EAGER:
            for tie in self._tables.values():
                tie.regain()
        for tie in self._tables.values():
            tie.backend.densely = None
        with backend.around_step(self):
            gradients = backend.row_gradients(self, list(grads), variables)
            self.__dict__["_kept"] = self._frozen_of_dense(gradients, variables)
            try:
                super().apply(gradients, variables)
                self._put_frozen_back()
            finally:
                self.__dict__["_kept"] = ()

    _kept: Sequence[tuple[Variable, Any, Tensor]] = ()
    """In a step: variables, rows of them that must stay as they are, and what these held before."""

    def _frozen_of_dense(self, gradients: list[Gradient], variables: list[Variable]) -> list[tuple[Variable, Any, Tensor]]:
        """Tables whose step is not by rows, with their slots, and the rows of them that do not train."""
        found = []
        for gradient, variable in zip(gradients, variables, strict=True):
            rows = getattr(variable, "frozen_rows", ())
            if len(rows) and not (isinstance(gradient, RowGradient) and self._steps_as_here):
                slots = (self.slot_of(variable, name) for name in self._names.slots)
                for held in (variable, *(slot for slot in slots if slot is not None)):
                    vectors = keras.ops.take(held.value, rows, axis=0)
                    found.append((held, rows, keras.ops.stop_gradient(vectors)))
        return found

    def _put_frozen_back(self) -> None:
        for variable, rows, vectors in self._kept:
            variable.assign(keras.ops.scatter_update(variable.value, rows[:, None], vectors))

    def _update_model_variables_moving_average(self, trainable_variables: list[Variable]) -> None:
        self._put_frozen_back()  # or the averages would be of what a dense step has made of these rows
        super()._update_model_variables_moving_average(trainable_variables)

    def finalize_variable_values(self, var_list: list[Variable]) -> None:
        """As Keras's."""
        if self.use_ema and self.built:
            self._rates.note_replaced()
        super().finalize_variable_values(var_list)

    def _backend_apply_gradients(self, grads: list[Gradient], trainable_variables: list[Variable]) -> None:
        rate = self._get_current_learning_rate()
        given = list(zip(grads, trainable_variables, strict=True))
        rows = {g.table: v for g, v in given if isinstance(g, RowGradient)}
        for gradient, variable in given:
            table = None if isinstance(gradient, RowGradient) else self.table(variable)
            if table is not None and table.densely is None:
                table.note_dense_step(WHOLE)
        with ExitStack() as stack:
            for tie in self._tables.values():
                if tie.holds and tie.backend not in rows:
                    stack.enter_context(tie.backend.dense_step(self, rate))
                elif not tie.holds and tie.table is not None:
                    self._warn_of_lost(tie.backend.variable)
            if not rows:
                super()._backend_apply_gradients(grads, trainable_variables)
                return
            if self._steps_as_here and (reason := self._prepared(rows, rate)) is not None:
                for table in rows:
                    table.note_dense_step(reason)
                    stack.enter_context(table.dense_step(self, rate))
                dense = [g.table.dense_gradient(g.ids, g.values) if isinstance(g, RowGradient) else g for g in grads]
                self.__dict__["_kept"] = self._frozen_of_dense(dense, trainable_variables)
                super()._backend_apply_gradients(dense, trainable_variables)
                return
            if self._clips:
                summed = [g.table.summed(g) if isinstance(g, RowGradient) else g for g in grads]
                values = self._clip_gradients([g.values if isinstance(g, RowGradient) else g for g in summed])
                grads = [g.with_values(c) if isinstance(g, RowGradient) else c for g, c in zip(summed, values, strict=True)]
            if not self._steps_as_here:
                for table, variable in rows.items():
                    table.prepare_step(self, variable, rate)
                    table.rate = rate
            others = [v for g, v in given if not isinstance(g, RowGradient)]
            if others:
                self._apply_weight_decay(others)
            self._backend_update_step(grads, trainable_variables, rate)
            if not others:
                self._no_dense_step()

    def _prepared(self, rows: Mapping[KerasBackend, Variable], rate: Tensor) -> Reason | None:
        """Prepare the steps of tables, or say why they cannot be by rows: what `build` saw may have changed since then."""
        try:
            backend.prepare_steps(self, rows, rate)  # an error must leave everything as it was
        except (TypeError, ValueError):
            for variable in rows.values() if backend.EAGER else ():  # in graphs they are constants
                reason = self._reason_of_numbers(variable, float(rate))
                if reason is not None:
                    return reason
            raise
        return None

    def _reason_of_numbers(self, variable: Variable, rate: Tensor) -> Reason | None:
        """Why rows cannot be trained apart with this rate and the other hyperparameters as they stand; None if they can."""
        try:
            backend.check_optimizer(self.row_optimizer(variable, rate), variable)
        except (TypeError, ValueError) as error:
            return Reason(str(error).rstrip("."), "Change these hyperparameters to train by rows.")
        return None

    def _backend_update_step(self, grads: list[Gradient], trainable_variables: list[Variable], learning_rate: Tensor) -> None:
        given = list(zip(grads, trainable_variables, strict=True))
        others = [(g, v) for g, v in given if not isinstance(g, RowGradient)]
        if others and backend.EAGER and not self._steps_as_here:
            for gradient, variable in others:  # Keras's optimizers would step them all at once
                self.update_step(gradient, variable, learning_rate)
        elif others:
            super()._backend_update_step(*map(list, zip(*others, strict=True)), learning_rate)
        if self._steps_as_here:
            backend.make_steps([g for g in grads if isinstance(g, RowGradient)], learning_rate)
            return
        for gradient, variable in given:
            if isinstance(gradient, RowGradient):
                self._update_table(gradient, variable, learning_rate)

    def _all_reduce_sum_gradients(self, grads_and_vars: Iterable[tuple[Gradient, Variable]]) -> list[tuple[Gradient, Variable]]:
        """As Keras's on TensorFlow; without a strategy nothing is to be summed, lest TensorFlow keep the graph for ever."""
        if not backend.in_strategy():
            return list(grads_and_vars)
        summed: list[tuple[Gradient, Variable]] = super()._all_reduce_sum_gradients(grads_and_vars)
        return summed

    @property
    def _steps_as_here(self) -> bool:
        """Whether `update_step` is ours, so that the steps of several tables may be made together."""
        return getattr(self.update_step, "__func__", None) is RowSparse.update_step

    def _update_table(self, gradient: RowGradient, variable: Variable, rate: Tensor) -> None:
        """A step of a table by `update_step`, which a subclass may have changed."""
        table = gradient.table
        table.stepped = False
        self.update_step(gradient, variable, rate)  # on TensorFlow, too, where Keras's optimizers get what shows unsettled rows
        if not table.stepped:
            table.note_dense_step(
                Reason(
                    f"{type(self).__name__}.update_step does more with its gradient than to scale it",
                    "Change only the rate and the scale of the gradient before calling `super().update_step` to train by rows.",
                )
            )
            with table.dense_step(self, rate):
                pass

    def update_step(self, gradient: Gradient, variable: Variable, learning_rate: Tensor) -> None:
        """As Keras's; a gradient by rows makes a step of these rows."""
        if isinstance(gradient, RowGradient):
            table = gradient.table
            if learning_rate is not table.rate:
                table.prepare_step(self, table.variable, learning_rate)
            table.make_step(gradient, learning_rate)
            table.stepped = True
        else:
            super().update_step(gradient, variable, learning_rate)

    def _warn_of_lost(self, variable: Variable) -> None:
        warn_of_dense_training(
            variable,
            variable.path,
            f"it was released, or taken over by another optimizer, and {type(self).__name__} '{self.name}' goes on with it",
            "Compile the model with a new optimizer to train by rows.",
        )

    @property
    def _clips(self) -> bool:
        return not (self.clipnorm is None and self.global_clipnorm is None and self.clipvalue is None)

    def _no_dense_step(self) -> None:
        """What Keras's step would have changed beside variables and slots."""

    # ------------------------------------------------------------------ state

    def add_variable_from_reference(
        self, reference_variable: Variable, name: str | None = None, initializer: Any = "zeros"
    ) -> Variable:
        """As Keras's; the slots of tables are variables of their own kind."""
        if not backend.is_table(reference_variable):
            made: Variable = super().add_variable_from_reference(reference_variable, name=name, initializer=initializer)
            self._note_slot(reference_variable, made, initializer)
            return made
        shape = self.slot_shape(reference_variable)
        alike = tuple(shape) == tuple(reference_variable.shape)  # else it is small, and on each device
        with keras.name_scope(self.name, caller=self):
            variable = backend.SLOT_VARIABLE(
                initializer=keras.initializers.get(initializer),
                shape=shape,
                layout=getattr(reference_variable, "_layout", None) if alike else None,
                dtype=reference_variable.dtype,
                trainable=False,
                name=f"{reference_variable.path.replace('/', '_')}_{name or 'var'}",
            )
        self._track_variable(variable)
        self._note_slot(reference_variable, variable, initializer)
        return variable

    _slots_made: Sequence[Slot] = ()
    """What it keeps for variables."""

    def _note_slot(self, variable: Variable, slot: Variable, initializer: Any) -> None:
        self.__dict__["_slots_made"] = [*self._slots_made, Slot(variable, slot, keras.initializers.get(initializer))]

    def slot_shape(self, variable: Variable) -> tuple[int, ...]:
        """The shape of the slots of a table."""
        shape: tuple[int, ...] = variable.shape
        return shape

    def load_own_variables(self, store: Store) -> None:
        """As Keras's."""
        self._write_state(super().load_own_variables, store)

    def set_weights(self, weights: list[Tensor]) -> None:
        """As Keras's."""
        self._write_state(super().set_weights, weights)

    def _write_state(self, write: Callable[[Any], None], state: Any) -> None:
        """Write slots and step: settled before, and from there on after."""
        tables = [tie.backend for tie in self._tables.values() if tie.holds]
        for table in tables:
            table.settle()
        write(state)
        for table in tables:
            table.restart(self)
        if self.built:
            self._rates.restart()
