"""Tables on Keras's JAX backend: the engine of `unhot.graph` on values that Keras's trainer carries through its steps."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import jax
import jax.numpy as jnp
import keras
import numpy as np

from unhot.graph.engine import FROZEN, Traced
from unhot.jax import spread as spreading
from unhot.jax.operations import after
from unhot.keras._private import (
    batches_of,
    knows_entry_layers,
    layout_of,
    nnx_enabled,
    own_dtype,
    raw,
    same_trace,
    set_raw,
    stateless_scope,
    trained_by,
    trainer_fetches,
)
from unhot.keras.backend import DTYPES, Owner, Reason, RowGradient
from unhot.keras.callers import call_anew
from unhot.keras.jax_growth import put, require_between_steps
from unhot.keras.jax_layout import devices_of
from unhot.keras.jax_lookup import Lookups
from unhot.keras.jax_training import Arrays, TableTraining, carried, integers, traced
from unhot.keras.jax_value import SlotValue, TableValue
from unhot.keras.jax_variables import SlotVariable, TableVariable, a_step, for_steps
from unhot.keras.kinds import Gradient, Tensor, Variable
from unhot.optimizers import Optimizer


class JaxBackend(TableTraining):
    """A table and the optimizer that owns it.  The arrays are in the table's value."""

    TABLE_VARIABLE: ClassVar = TableVariable
    SLOT_VARIABLE: ClassVar = SlotVariable

    # ------------------------------------------------------------------ tables and lookups

    @staticmethod
    def is_table(variable: Variable) -> bool:
        return isinstance(variable, TableVariable) and own_dtype(variable) in DTYPES

    @staticmethod
    def look_up(variable: Variable, ids: Tensor) -> Tensor | None:
        if not isinstance(variable, TableVariable):
            return None
        variable.refresh()
        value = variable.held()
        if value is None:
            return None
        found = value.read(jnp.reshape(ids, -1))
        return jnp.reshape(found, (*ids.shape, variable.shape[1]))

    @staticmethod
    def concrete(ids: Tensor) -> Tensor | None:
        return None if isinstance(ids, jax.core.Tracer) else np.asarray(ids)

    @staticmethod
    def reason_for_dense(variable: Variable) -> Reason | None:
        if nnx_enabled():
            return Reason("flax's NNX tracks the values of variables", "Set KERAS_NNX_ENABLED=false to train by rows.")
        if not trainer_fetches():
            return Reason(
                "this version of Keras does not let its trainer be given more than arrays",
                "Use another version to train by rows.",
            )
        if layout_of(variable) is None and keras.distribution.distribution() is not None:
            return Reason("it was made before keras.distribution was set", "Make the layer afterwards to train by rows.")
        if layout_of(variable) is not None and not knows_entry_layers():
            return Reason(
                "it is laid out by keras.distribution, and this version of Keras does not tell which models call it",
                "Use another version to train by rows.",
            )
        if layout_of(variable) is not None and devices_of(variable) is None:
            return Reason(
                "keras.distribution spreads it over several axes of the device mesh",
                "Spread either its rows or its columns over one axis, as (axis, None) or (None, axis) does, to train by rows.",
            )
        return None

    arrays_in_steps: ClassVar[bool] = False
    """Whether a function was traced that makes dense steps of tables, in which frozen rows are constants."""

    @staticmethod
    def forget_frozen_rows() -> None:
        if JaxBackend.arrays_in_steps:  # JAX does not see that they have changed
            jax.clear_caches()  # type: ignore[no-untyped-call]
            JaxBackend.arrays_in_steps = False

    put = staticmethod(put)
    require_between_steps = staticmethod(require_between_steps)

    @staticmethod
    def stateless_values(variables: Iterable[Variable]) -> list[Tensor]:
        with for_steps():
            return [variable.value for variable in variables]

    @staticmethod
    def check_optimizer(optimizer: Optimizer, variable: Variable) -> None:
        Traced(optimizer, own_dtype(variable), variable.shape[0])

    # ------------------------------------------------------------------ an optimizer

    @staticmethod
    @contextmanager
    def around_step(optimizer: Owner) -> Iterator[None]:
        """A stateless scope: there, values are replaced, and never changed."""
        if stateless_scope() is not None or not optimizer._tables:
            with a_step():
                yield
            return
        with keras.StatelessScope() as scope, a_step():
            yield
        for variable in (*trained_by(optimizer), *optimizer.variables):
            value = scope.get_current_value(variable)
            if value is not None:
                variable.assign(value)

    @staticmethod
    def row_gradients(optimizer: Owner, gradients: list[Gradient], variables: list[Variable]) -> list[Gradient]:
        found = []
        for gradient, variable in zip(gradients, variables, strict=True):
            if isinstance(gradient, TableValue):
                gradient = gradient.arrays["weights"]
            table = None if gradient is None else optimizer.table(variable)
            made = table.rows_of(gradient, optimizer) if isinstance(table, JaxBackend) else gradient
            if isinstance(variable, TableVariable) and not isinstance(made, RowGradient):
                JaxBackend.arrays_in_steps |= traced([made])
            found.append(made)
        return found

    # ------------------------------------------------------------------ one table and its optimizer

    def __init__(self, variable: TableVariable, slots: Mapping[str, SlotVariable], optimizer: Owner) -> None:
        self._optimizer, self._variable = weakref.ref(optimizer), weakref.ref(variable)
        self.path: str = variable.path
        core = optimizer.row_optimizer(variable, 0.001)
        self.frozen = variable.frozen_rows
        super().__init__(Traced(core, own_dtype(variable), variable.shape[0], freezes=len(self.frozen) > 0), variable.shape)
        self.devices = devices_of(variable)
        self.slots = {name: weakref.ref(slots[name]) for name in self.traced.slots}

    @property
    def variable(self) -> TableVariable:  # type: ignore[override]
        """The table's variable."""
        variable = self._variable()
        assert variable is not None
        return variable

    @property
    def current(self) -> bool:
        """Whether the table's value is this one's."""
        variable = self._variable()
        return variable is not None and variable.ownership is not None and variable.ownership.backend is self

    # ------------------------------------------------------------------ outside of any step

    def has_deferred_steps(self) -> bool:
        value = raw(self.variable)
        return isinstance(value, TableValue) and not value.settled and self.late(value.arrays)

    def settle(self) -> None:
        value = raw(self.variable)
        if isinstance(value, TableValue) and value.alive():
            value.settle().in_large_pages()

    def _slots(self) -> dict[str, SlotVariable]:
        """The variables of the slots that there still are."""
        found = ((name, reference()) for name, reference in self.slots.items())
        return {name: slot for name, slot in found if slot is not None}

    def slot_variables(self) -> list[SlotVariable]:
        return list(self._slots().values())

    def abandon(self) -> None:
        variable = self.variable
        value = raw(variable)
        for slot in self.slot_variables():
            if isinstance(raw(slot), SlotValue):
                set_raw(slot, value.arrays[slot.name_here])
            slot.training = None
        variable.ownership, variable.before, variable.abandoned = None, None, self

    def regain(self) -> bool:
        optimizer, variable = self._optimizer(), self.variable
        if optimizer is None or variable.ownership is not None:
            return True
        numbers = [raw(number) for number in (batches_of(optimizer), *optimizer.row_state().values())]
        arrays = [raw(variable), *(raw(slot) for slot in self.slot_variables()), *numbers]
        if any(array is None or traced(array) or array.is_deleted() for array in arrays):
            return False
        optimizer.own_if_possible(variable)
        return True

    def hand_over(self) -> None:
        variable = self.variable
        variable.resolve()
        value = raw(variable)
        if isinstance(value, TableValue):
            set_raw(variable, value.settle().arrays["weights"])
        for name, slot in self._slots().items():
            if isinstance(value, TableValue) and isinstance(raw(slot), SlotValue):
                set_raw(slot, value.arrays[name])
            slot.training = None
        self._call_anew()

    def resume(self) -> None:
        variable = self.variable
        arrays = {"weights": raw(variable), "place": carried(jnp.zeros(self.shape[0], jnp.int32)), **self._begun()}
        slots = self._slots()
        for name, slot in slots.items():
            arrays[name], slot.training = raw(slot), self
        value = TableValue(self, self.placed(arrays), settled=True).in_large_pages()
        set_raw(variable, value)
        for name, slot in slots.items():
            set_raw(slot, value.slot(name))
        self._call_anew()

    def _call_anew(self) -> None:
        """After the value has become another: functions of Keras's trainer know where all arrays were when they were made."""
        if self.devices is not None:
            call_anew(self.variable)

    def _begun(self) -> Arrays:
        """Clock and history of a table whose rows are all settled."""
        optimizer = self._optimizer()
        assert optimizer is not None
        arrays = self._at(jnp.asarray(batches_of(optimizer).value, jnp.int32))
        if self.traced.defers:
            arrays |= {name: jnp.asarray(value) for name, value in self.traced.family.arrays().items()}
            for name, value in optimizer.row_state().items():
                arrays[name] = jnp.array(value.value, arrays[name].dtype, copy=True)  # or one buffer would be donated twice
        return dict(self.placed(arrays))

    def _at(self, now: jax.Array) -> Arrays:
        """Clock and last touches of a table that is settled at `now`."""
        if not self.traced.notes:
            return {"clock": carried(now)}
        last = jnp.full((self.shape[0],), now, jnp.int32)
        return {"clock": carried(now), "last": carried(last.at[self.frozen].set(FROZEN) if len(self.frozen) else last)}

    def _has_hyperparameters_of(self, optimizer: Owner) -> bool:
        """Whether the optimizer's hyperparameters are those by which this trains rows."""
        try:
            core = optimizer.row_optimizer(self.variable, 0.001)
        except (TypeError, ValueError):
            return False
        return (type(core), vars(core)) == (type(self.traced.optimizer), vars(self.traced.optimizer))

    def notice_writes(self) -> None:
        """Before the table is used outside of a step: notice what others have written in the meantime."""
        optimizer, variable = self._optimizer(), self.variable
        tie, value = variable.ownership, raw(variable)
        assert optimizer is not None
        assert tie is not None
        numbers = [raw(number) for number in (batches_of(optimizer), *optimizer.row_state().values())]
        if traced(value.arrays) or traced(numbers) or any(number is None or number.is_deleted() for number in numbers):
            return  # a step, or a loop of the user's, has them
        if self.written:
            tie.release()
        elif not self._has_hyperparameters_of(optimizer):
            tie.release()
            optimizer.own_if_possible(variable)
        elif int(numbers[0]) != self.clock(value.arrays):
            slots = [raw(slot) for slot in self.slot_variables()]
            if all(slot.is_of(value) for slot in slots if isinstance(slot, SlotValue)):  # else the table's value is to come
                self.restart(optimizer)
        elif self._restarted is not None and self._restarted[0] == int(numbers[0]):
            later = [a for a, b in zip(numbers[1:], self._restarted[1], strict=True) if a is not b]
            if later:  # they were assigned after `iterations`
                self.restart(optimizer)

    _restarted: tuple[int, list[Tensor]] | None = None
    """The step at which it has begun anew, with which numbers that the optimizer keeps beside its slots."""

    def restart(self, optimizer: Owner) -> None:
        value = raw(self.variable)
        if isinstance(value, TableValue):
            value = value.replaced(**self._begun())
            set_raw(self.variable, value)
            for name, slot in self._slots().items():
                set_raw(slot, value.slot(name))
            self._restarted = int(raw(batches_of(optimizer))), [raw(v) for v in optimizer.row_state().values()]

    # ------------------------------------------------------------------ reading

    def slot(self, value: SlotValue) -> jax.Array:
        self.variable.refresh()
        table = self.variable.held()
        slot = None if table is None else self._of(table, value)
        if slot is None:
            raise ValueError(
                f"the slot '{value.name}' of {self.path} is an array of the table's value, for which"
                " `unhot.keras.stateless_values` has given it a stand-in. Take the values of the model's and of the optimizer's"
                " variables both in this way, and anew after hyperparameters or frozen rows have changed. Outside of an"
                " optimizer's step, its variable shows it, once both are assigned: read it by"
                " keras.ops.convert_to_numpy(variable)."
            )
        return slot

    def slot_here(self, value: SlotValue, stepping: bool) -> jax.Array | None:
        table = self.variable.held()
        if not stepping:
            return None if table is None else self._of(table, value)
        if table is None or table.training is not self:
            return self.slot(value)  # raises
        slot: jax.Array = table.all_settled().arrays[value.name]
        return slot

    def _of(self, table: TableValue, value: SlotValue) -> jax.Array | None:
        """The settled slot, if it belongs to this value of the table."""
        clock, own = value.clock, table.arrays["clock"]
        here = same_trace(clock, own) if isinstance(clock, jax.core.Tracer) else value.is_of(table)
        slot: jax.Array | None = table.all_settled().arrays[value.name] if here and table.training is self else None
        return slot

    # ------------------------------------------------------------------ steps

    def rows_of(self, gradient: Tensor, optimizer: Owner) -> Gradient:
        """The gradient by rows, if it is as it came from the lookups; or as it is."""
        found: Lookups | None = self.gradients.get(gradient)
        if not self._given_for_step():
            self.note_dense_step(
                Reason(
                    "the step was given the values of its variables as arrays"
                    + (f", so {type(optimizer).__name__} moves all rows" if optimizer.core.NO_DENSE else ""),
                    "In a loop of your own, take the values of the model's and of the optimizer's variables by"
                    " `unhot.keras.stateless_values` to train by rows.",
                )
            )
            return gradient
        if found is None:
            self.note_dense_step(
                Reason(
                    "its gradient is not only of rows that this step has looked up. The loss may read the whole table, or"
                    " something has changed the gradients, or they come from a part that JAX traces on its own (a loop, a"
                    " branch, another compiled function)",
                    "Look ids up and apply the gradients, as they are, in one function, and clip by the optimizer's options, to"
                    " train by rows.",
                )
            )
            return gradient
        if not self._has_hyperparameters_of(optimizer):
            self.note_dense_step(
                Reason(
                    f"hyperparameters of {type(optimizer).__name__} have changed since the step was begun",
                    "Change them between steps to train by rows.",
                )
            )
            return gradient
        ids = jnp.concatenate([jnp.zeros(0, jnp.int32), *(jnp.asarray(i) for i in found.ids)])
        values = jnp.concatenate([jnp.zeros((0, self.shape[1]), gradient.dtype), *found.values])
        # What a single lookup reads is what the step reads, and need not be waited for.
        self._reads = found.page.reads if len(found.page.reads) > 1 else []
        return RowGradient(ids, values, self)

    def dense_gradient(self, ids: Tensor, values: Tensor) -> jax.Array:
        return jnp.zeros(self.shape, values.dtype).at[ids].add(values)

    def _held(self) -> TableValue:
        value = self.variable.held()
        assert value is not None
        return value

    def _given_for_step(self) -> bool:
        """Whether the step has this table's value, and its slots in it; if it has them as arrays, they are all arrays then."""
        held = self.variable.held()
        if held is None:
            return False
        if held.training is self and all(slot.is_in_table(self) for slot in self.slot_variables()):
            return True
        arrays = held.all_settled().arrays
        for name, slot in self._slots().items():
            if slot.is_in_table(held.training):  # as it was before the table changed
                slot.hold(arrays[name])
        self.variable.hold(arrays["weights"])
        return False

    def _keep(self, value: TableValue) -> None:
        self.variable.hold(value)
        for name, slot in self._slots().items():
            slot.hold(value.slot(name))

    def summed(self, gradient: RowGradient) -> RowGradient:
        held = self._held()
        store, _, _ = self.parts(held.arrays)
        if self.spread is None:
            sums, rows = self.traced.summed(self.ops, store, gradient.ids, gradient.values), store.arrays
        else:
            rows, sums = spreading.summed(self.spread, self.traced, store.arrays, gradient.ids, gradient.values)
        self.variable.hold(TableValue(self, {**held.arrays, "place": rows["place"]}, held.settled))
        return gradient.with_values(sums)

    @contextmanager
    def dense_step(self, optimizer: Owner, rate: Tensor) -> Iterator[None]:
        if not self._given_for_step():
            yield
            return
        self.variable.hold(self._held().all_settled())
        yield
        arrays = self._held().all_settled().arrays
        made = self._at(integers(arrays["clock"]) + 1)
        if self.traced.defers:
            _, history, now = self.parts(arrays)
            made |= self.traced.family.advance(self.ops, history, now + 1, jnp.asarray(rate, self.ops.dtype))
        self._keep(TableValue(self, self.placed({**arrays, **made}), settled=True))

    def prepare_step(self, optimizer: Owner, variable: Variable, rate: Tensor) -> None:
        """What can go wrong has gone wrong before the step was traced."""

    def make_step(self, gradient: RowGradient, rate: Tensor) -> None:
        arrays = self._held().arrays
        store, history, now = self.parts(arrays)
        reads, self._reads = self._reads, []
        # A batch may be spread over devices. Each makes the whole step: so nothing of the table's size has to travel.
        given = gradient.ids, gradient.values, after(gradient.ids, self.shape[0], reads)
        ids, values, written = map(self.on_all, given)
        rate = jnp.asarray(rate, self.ops.dtype)
        if self.spread is None:
            history, rows = self.traced.step(self.ops, history, store, ids, values, now, rate, written), store.arrays
        else:
            how = self.spread, self.traced
            rows, history = spreading.step(*how, store.arrays, history, ids, values, now, rate, written)
        self._keep(TableValue(self, self.placed({**arrays, **rows, **history, "clock": carried(now + 1)})))
