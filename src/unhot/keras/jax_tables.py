"""Tables on Keras's JAX backend: the engine of `unhot.traced` on variables that Keras's trainer carries through its steps.

Keras hands a compiled step the model's trainable variables, and nothing else is known both in the forward pass and in the
optimizer.  So while an optimizer owns a table, `layer.variables` shows in its place what a `unhot.jax.TableState` holds, as
float variables: *carriers*.  The layer's own variable, and Keras's slots, become *facing* variables: they have no value of
their own, and show what the carriers amount to, settled.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from keras.src.backend import Variable
from keras.src.backend.common.stateless_scope import get_stateless_scope, in_stateless_scope

from unhot.jax.operations import Operations, after
from unhot.keras.gradients import RowGradient
from unhot.keras.jax_ledger import PROBES, Ledger, read
from unhot.keras.jax_variables import CarriedRows, Carrier, Counter, Facing, carried, integers
from unhot.keras.settled import become
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
    variable.is_table = variable.dtype in DTYPES and variable._layout is None and type(variable) is Variable


def is_table(variable: Any) -> bool:
    """Whether `make_table` has made this variable one."""
    return getattr(variable, "is_table", False)


def seen(variable: Any) -> None:
    """The variable has been read."""


def obstacle(variable: Any) -> str | None:
    """Why the rows of the table cannot be trained apart here, if so."""
    return None


def training_of(variable: Any) -> Training | None:
    """What trains the rows of this variable, if an optimizer owns them."""
    training: Training | None = getattr(variable, "training", None)
    if training is not None and training.optimizer is None and not in_stateless_scope():
        training.give_back()
        return None
    return training


def lookup(variable: Any, ids: Any) -> Any:
    """The settled vectors of an owned table, whose gradient reaches the optimizer by rows; None of another variable.

    The ids are in range.
    """
    training = training_of(variable)
    if training is None:
        return None
    found = read(training.ledger, training.rows, training.state(), jnp.reshape(ids, -1))
    return jnp.reshape(found, (*ids.shape, variable.shape[1]))


def ready(ids: Any) -> bool:
    """Whether `lookup` may be asked for ids that nobody has converted or checked; not here."""
    return False


def concrete(ids: Any) -> Any:
    """The ids as an array, if they are known now."""
    return None if isinstance(ids, jax.core.Tracer) else np.asarray(ids)


def refuse_later(ids: Any, bad: Any, given: Any, layer: Any) -> tuple[Any, Any]:
    """The ids, which refuse those `given` that are bad once they are known; and the mask of bad ones, if they cannot."""
    return ids, bad


# ---------------------------------------------------------------- training


def state_variables(variables: list[Any]) -> list[Any]:
    """The variables of a layer as a trainer sees them."""
    shown: list[Any] = []
    for variable in variables:
        training = training_of(variable)
        shown += [variable] if training is None else training.carriers.values()
    return shown


def stock_variables(variables: list[Any]) -> list[Any]:
    """The variables that a trainer hands to an optimizer, as Keras's own optimizer would be given them."""
    found = []
    for variable in variables:
        if not isinstance(variable, Carrier):
            found.append(variable)
        elif variable is variable.training.carriers["weights"]:
            found.append(variable.training.variable)
    return found


def unread(variable: Any) -> Any:
    """What stands for the variable, and can be asked who it is without a look at its value."""
    return variable


def built(optimizer: Any, variables: Any, tables: Iterable[Training]) -> None:
    """The optimizer owns these tables from now on: what it is given, and what it is asked for, are the carriers."""
    if not isinstance(optimizer._iterations, Counter):
        become(optimizer._iterations, Counter, None)
        optimizer._iterations.owner = weakref.ref(optimizer)
    optimizer._trainable_variables[:] = state_variables(optimizer._trainable_variables)
    if isinstance(variables, list):
        # The loss-scale optimizer around this one goes on with the list that it handed to `build`.
        variables[:] = optimizer._trainable_variables


def own_variables(optimizer: Any, variables: list[Any]) -> list[Any]:
    """The variables of the optimizer that a trainer has to carry: those of its slots are carried by the tables."""
    return [v for v in variables if not hasattr(v, "carrier")]


def outside_graph(function: Any) -> Any:
    """The function as it is: rows are settled and stepped within the graph."""
    return function


def check_rule(rule: Optimizer, variable: Any) -> None:
    """Raise TypeError or ValueError for a rule that cannot train the rows of this table apart."""
    Traced(rule, variable.dtype, variable.shape[0])


def by_rows(optimizer: Any, gradients: list[Any], variables: list[Any]) -> tuple[list[Any], list[Any]]:
    """The gradients, those of owned tables by rows; and the variables, those of tables in place of their carriers."""
    given = {id(v): g for g, v in zip(gradients, variables, strict=True)}
    found, named = [], []
    for gradient, variable in zip(gradients, variables, strict=True):
        if isinstance(variable, Carrier):
            training = variable.training
            if variable is not training.carriers["weights"]:
                continue
            gradient = training.collect(gradient, given.get(id(training.carriers["probe"])))
            variable = training.variable
        found.append(gradient)
        named.append(variable)
    return found, named


class Training:
    """A table and the optimizer that owns it."""

    variable: Any
    over: bool
    """Whether the variables show what the carriers hold as it is: in a step of Keras's, and when another has taken over."""

    def __init__(self, variable: Any, slots: Mapping[str, Any], optimizer: Any) -> None:
        previous = training_of(variable)
        if previous is not None:
            previous.settle()
            previous.over = True
        self._optimizer = weakref.ref(optimizer)
        self.variable, self.ledger = variable, Ledger(variable.path)
        self.over = False
        dtype, rows = variable.dtype, variable.shape[0]
        self.traced = Traced(optimizer.row_rule(variable, 0.001), dtype, rows)
        self.ops = Operations(jnp.dtype(dtype))
        self.slots = {name: slots[name] for name in self.traced.slots}
        arrays = {"weights": variable._value, **{name: slot._value for name, slot in self.slots.items()}}
        clock = int(optimizer._iterations.value)
        if self.traced.defers:
            arrays |= self._at(jnp.int32(clock)) | self._begun(optimizer)
        arrays["place"] = carried(jnp.zeros(rows, jnp.int32))
        # Another owner's has another length, and what was compiled under one is compiled anew under the other.
        variable.owners = getattr(variable, "owners", -1) + 1
        self.probes = PROBES + variable.owners
        arrays["probe"] = jnp.zeros(self.probes, dtype)
        self.carriers = {name: Carrier(self, name, array) for name, array in arrays.items()}
        for name, facing in {"weights": variable, **self.slots}.items():
            if not isinstance(facing, Facing):
                del facing._value
            become(facing, Facing, self)
            facing.carrier = self.carriers[name]

    def _begun(self, optimizer: Any) -> dict[str, Any]:
        """The history of a table whose rows are all settled."""
        arrays = {name: jnp.asarray(value) for name, value in self.traced.family.arrays().items()}
        for name, value in optimizer.row_state().items():
            arrays[name] = jnp.array(value.value, arrays[name].dtype, copy=True)  # or one buffer would be donated twice
        return arrays

    @property
    def optimizer(self) -> Any:
        """The owner, or None once it is gone."""
        return self._optimizer()

    @property
    def current(self) -> bool:
        """Whether no other optimizer has taken the table over."""
        return getattr(self.variable, "training", None) is self

    def give_back(self) -> None:
        """The table is nobody's any more, and its variable as any other."""
        self.settle()
        array, variable = self.carriers["weights"]._value, self.variable
        variable.__class__ = Variable
        del variable.carrier, variable.training
        variable._value = array

    # ------------------------------------------------------------------ reading

    def state(self) -> dict[str, Any]:
        """The arrays as they are now: in a compiled step, those of its trace."""
        return {name: carrier.value for name, carrier in self.carriers.items()}

    def _parts(self, state: dict[str, Any]) -> tuple[CarriedRows, dict[str, Any], Any]:
        rows = {name: state[name] for name in (*self.traced.names, "place")}
        if not self.traced.defers:
            return CarriedRows(rows), {}, jnp.int32(0)
        rows["last"] = state["last"]
        history = {name: state[name] for name in state.keys() - rows.keys() - {"clock", "probe"}}
        return CarriedRows(rows), history, integers(state["clock"])

    def rows(self, state: dict[str, Any], ids: Any) -> Any:
        """The settled weights of the flat `ids`, or all of them."""
        store, history, now = self._parts(state)
        if ids is None:
            return self._settled(state)["weights"]
        found = self.traced.lookup(self.ops, history, store, ids, now)
        return found if self.traced.defers else jnp.where(jnp.isnan(state["probe"][0]), jnp.nan, found)

    def _settled(self, state: dict[str, Any]) -> dict[str, Any]:
        """The same state with all deferred steps applied."""
        if not self.traced.defers:
            return state
        store, history, now = self._parts(state)
        self.traced.settle(self.ops, history, store, jnp.arange(self.traced.rows, dtype=jnp.int32), now)
        return {**state, **store.arrays}

    def shown(self, facing: Any) -> Any:
        """What a facing variable shows."""
        if facing.carrier._value is None and get_stateless_scope() is None:
            return None
        if self.over:
            return facing.carrier.value
        state = self.state()
        if facing is self.variable and isinstance(state["weights"], jax.core.Tracer):
            return read(self.ledger, self.rows, state, None)
        if not in_stateless_scope():
            self.settle()
            return facing.carrier.value
        return self._settled(state)[next(name for name, c in self.carriers.items() if c is facing.carrier)]

    def settle(self) -> None:
        """Apply all deferred steps."""
        state = {} if self.over or not self.traced.defers else self.state()
        if not state or any(array is None for array in state.values()):
            return
        if not isinstance(state["last"], jax.core.Tracer) and bool((state["last"] == state["clock"]).all()):
            return
        self._keep(self._settled(state))

    release = settle

    def _keep(self, state: dict[str, Any]) -> None:
        for name, array in state.items():
            if name != "probe":
                self.carriers[name].assign(array)

    # ------------------------------------------------------------------ training

    def collect(self, gradient: Any, probe: Any) -> Any:
        """The gradient of the table: by rows, or all of it if the table was also read as a whole."""
        state = self.state()
        entries = self.ledger.take(state["weights"])
        probe = jnp.zeros(self.probes, gradient.dtype) if probe is None else jnp.asarray(probe, gradient.dtype)
        dim = gradient.shape[1]
        ids, values = [jnp.zeros(0, jnp.int32)], [jnp.zeros((0, dim), gradient.dtype)]
        lost = jnp.ones(self.probes, bool)
        for number, entry in enumerate(entries):
            lost = lost.at[number].set(not entry.filled)
            if entry.filled and not entry.whole:
                factor = probe[number]
                ids.append(entry.ids)
                values.append(jnp.where(factor == 0, 0, entry.gradients * factor))
        unknown = (lost & (probe != 0)).any()
        rows = RowGradient(jnp.concatenate(ids), jnp.concatenate(values))
        self._refuse_unknown(unknown)
        if any(entry.whole and entry.filled for entry in entries):
            return jnp.where(unknown, jnp.nan, gradient.at[rows.ids].add(rows.values))
        self._unknown = unknown
        # What a single lookup reads is what the step reads, and need not be waited for.
        self._reads = [entry.read for entry in entries] if len(entries) > 1 else []
        return rows

    def _refuse_unknown(self, unknown: Any) -> None:
        if not isinstance(unknown, jax.core.Tracer) and bool(unknown):
            raise ValueError(
                f"the gradient of {self.variable.path} was not computed where it is applied. On JAX, differentiate and apply"
                " within one compiled function, or both outside of any."
            )

    def summed(self, gradient: RowGradient) -> RowGradient:
        """The same gradient with the sum of an id's in one of its places, and zeros in the others."""
        store, _, _ = self._parts(self.state())
        sums = self.traced.summed(self.ops, store, gradient.ids, gradient.values)
        self.carriers["place"].assign(store.arrays["place"])
        return gradient.with_values(sums)

    def follow_iterations(self, optimizer: Any) -> None:
        """Go on from the optimizer's `iterations`, if someone has written it."""
        if not self.current or not self.traced.defers or self.carriers["clock"]._value is None:
            return
        if int(integers(self.carriers["clock"].value)) != int(optimizer._iterations.value):
            self.settle()
            self.restart(optimizer)

    def restart(self, optimizer: Any) -> None:
        """Go on from what has been written into Keras's variables, once released."""
        if self.traced.defers:
            now = jnp.asarray(optimizer._iterations.value, jnp.int32)
            self._keep(self._at(now) | self._begun(optimizer))

    def _at(self, now: Any) -> dict[str, Any]:
        """Clock and last touches of a table that is settled at `now`."""
        return {"last": carried(jnp.full((self.traced.rows,), now, jnp.int32)), "clock": carried(now)}

    @contextmanager
    def whole_step(self, optimizer: Any, rate: Any) -> Iterator[None]:
        """Around a step that Keras makes, of the whole table or without it."""
        self.settle()
        self.over = True
        try:
            yield
        finally:
            self.over = False
        if self.traced.defers:
            _, history, now = self._parts(self.state())
            rate = jnp.asarray(rate, self.ops.dtype)
            self._keep(self.traced.family.advance(self.ops, history, now + 1, rate) | self._at(now + 1))

    def prepare_step(self, optimizer: Any, variable: Any, rate: Any) -> None:
        """Get ready for a step; what can go wrong goes wrong here."""
        if Traced(optimizer.row_rule(variable, 0.001), self.traced.dtype, self.traced.rows) != self.traced:
            optimizer.refuse_change(variable)
        # A gradient not in the ledger, which only a compiled step can have got this far, spoils the table for all to see: by
        # the rate, or where no rows may be there to show it, by the probe.
        self._rate = jnp.where(self._unknown, jnp.nan, jnp.asarray(rate, self.ops.dtype))

    def make_step(self, gradient: RowGradient) -> None:
        """Make the step that was prepared."""
        state = self.state()
        store, history, now = self._parts(state)
        reads, self._reads = self._reads, []
        written = after(gradient.ids, self.traced.rows, reads)
        history = self.traced.step(self.ops, history, store, gradient.ids, gradient.values, now, self._rate, written)
        made = {**state, **store.arrays, **history}
        if self.traced.defers:
            made["clock"] = carried(now + 1)
        else:
            self.carriers["probe"].assign(jnp.where(self._unknown, jnp.nan, state["probe"]))
        self._keep(made)
