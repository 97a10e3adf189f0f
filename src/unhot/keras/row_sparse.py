"""What the optimizers here add to Keras's: they own tables, and step the rows that have gradients."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, ClassVar

import keras

from unhot.keras.backends import port
from unhot.keras.gradients import RowGradient
from unhot.rules import Optimizer
from unhot.rules.base import flags


def stock(name: str) -> Any:
    """Keras's optimizer of this name, as the backend makes it."""
    public: Any = getattr(keras.optimizers, name)
    return type(public.__new__(public))


class RowSparse:
    """A mixin before one of Keras's optimizers: dense gradients take Keras's own path, those of tables go by rows.

    A table is owned from `build` on.  Its slots are Keras's variables, so that a checkpoint is Keras's own.  Small ones are
    left to Keras where its step of all their rows takes less time.
    """

    rule: ClassVar[Callable[..., Optimizer]]
    """The rule of the same name."""

    slots: ClassVar[Mapping[str, str]]
    """The attributes that hold Keras's variables for the rule's slots; one that is empty is not in use."""

    hyperparameters: ClassVar[tuple[str, ...]]
    """Those beside rate and decay, which have the same name in the rule."""

    _tables: Mapping[Any, Any] = {}

    # ------------------------------------------------------------------ ownership

    def build(self, variables: Any) -> None:
        """As Keras's; the tables among the variables are owned from now on."""
        this: Any = self
        if this.built:
            return
        super().build(port.stock_variables(variables))  # type: ignore[misc]
        # Not `self._tables = ...`: Keras and TensorFlow would track what is assigned, to save it.
        vars(self)["_tables"] = {}
        for variable in this._trainable_variables:
            if port.is_table(variable) and variable.shape[0] >= port.FEWEST_ROWS:
                obstacle = self._obstacle(variable)
                if obstacle:
                    warnings.warn(
                        f"{variable.path} is trained as a whole, at the cost of all its rows: {obstacle}.", stacklevel=2
                    )
                else:
                    self._own(variable)
        port.built(self, variables, self._tables.values())

    def _obstacle(self, variable: Any) -> str | None:
        """Why the rows of a table cannot be trained apart, if so."""
        this: Any = self
        if this.use_ema:
            return "use_ema=True averages all rows at every step"
        if this.gradient_accumulation_steps:
            return "gradient_accumulation_steps adds up gradients of all rows"
        for name in ("regularizer", "constraint"):
            if getattr(variable, name) is not None:
                return f"its {name} takes all rows at every step"
        try:
            port.check_rule(self.row_rule(variable, 0.001), variable)
        except (TypeError, ValueError) as error:
            return str(error).rstrip(".")
        found: str | None = port.obstacle(variable)
        return found

    def _own(self, variable: Any) -> None:
        this: Any = self
        index = this._get_variable_index(variable)
        slots = {}
        for name, attribute in self.slots.items():
            held = getattr(this, attribute, None)
            if held:
                slots[name] = held[index]
        self._tables[this._var_key(variable)] = port.Training(variable, slots, self)  # type: ignore[index]

    def row_settings(self, variable: Any, rate: Any) -> dict[str, Any]:
        """The arguments of the rule for a table, as they stand."""
        this: Any = self
        decay = this.weight_decay if this.weight_decay and this._use_weight_decay(port.unread(variable)) else 0.0
        given = {"learning_rate": rate, "weight_decay": decay, **{name: getattr(this, name) for name in self.hyperparameters}}
        for name in flags(self.rule):
            if name in given:
                given[name] = bool(given[name])  # as Keras takes it
        return given

    def row_rule(self, variable: Any, rate: Any) -> Optimizer:
        """The rule for a table, with the hyperparameters as they stand."""
        return self.rule(**self.row_settings(variable, rate))

    def refuse_change(self, variable: Any) -> None:
        """For graphs, in which the hyperparameters are constants."""
        raise ValueError(
            f"hyperparameters of {type(self).__name__} have changed since it was built, and {variable.path} is trained inside a"
            " graph, which was made with the old ones. Only the learning rate may change there. Make a new optimizer, and"
            " compile the model with it."
        )

    def row_state(self) -> dict[str, Any]:
        """Numbers of the rule that Keras keeps beside the slots."""
        return {}

    # ------------------------------------------------------------------ steps

    @port.outside_graph  # type: ignore[untyped-decorator]
    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """As Keras's."""
        this: Any = self
        variables = this._trainable_variables if trainable_variables is None else list(trainable_variables)
        if not this.built and variables:
            with keras.name_scope(this.name, caller=self):
                self.build(variables)
        grads, variables = port.by_rows(self, list(grads), list(variables))
        if port.EAGER and grads and this.loss_scale_factor is None and all(map(_only_stepped, grads, variables)):
            self._backend_apply_gradients(grads, variables)
            this._iterations.assign_add(1)
        else:
            super().apply(grads, variables)  # type: ignore[misc]

    def stateless_apply(self, optimizer_variables: Any, grads: Any, trainable_variables: Any) -> Any:
        """As Keras's.

        Raises: ValueError if a table is no longer this optimizer's.
        """
        self._require_tables()
        return super().stateless_apply(optimizer_variables, grads, trainable_variables)  # type: ignore[misc]

    def _require_tables(self) -> None:
        lost = [table.variable.path for table in self._tables.values() if not table.current]
        if lost:
            raise ValueError(
                f"{', '.join(lost)} was released, or taken over by another optimizer, and cannot be trained by this"
                f" {type(self).__name__} any more. Compile the model again, with a new optimizer."
            )

    def _var_key(self, variable: Any) -> Any:
        return super()._var_key(port.unread(variable))  # type: ignore[misc]

    def table(self, variable: Any) -> Any:
        """What trains the rows of this variable; None if nothing does, or another optimizer has taken it over."""
        this: Any = self
        table = self._tables.get(this._var_key(variable)) if self._tables else None
        return table if table is not None and table.current else None

    def _backend_apply_gradients(self, grads: Any, trainable_variables: Any) -> None:
        this: Any = self
        rows, others = [], []
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            if isinstance(gradient, RowGradient):
                table = self.table(variable)
                rows.append((table.summed(gradient) if self._clips else gradient, variable, table))
            else:
                others.append((gradient, variable))
        stepped = {table for _, _, table in rows}
        whole = [table for table in self._tables.values() if table not in stepped and table.current]
        rate = this._get_current_learning_rate()
        with ExitStack() as stack:
            for table in whole:
                stack.enter_context(table.whole_step(self, rate))
            if rows:
                self._apply_rows(rows, others, rate)
            else:
                super()._backend_apply_gradients(grads, trainable_variables)  # type: ignore[misc]

    def _apply_rows(self, rows: Any, others: Any, rate: Any) -> None:
        """A step of the tables in `rows`, and of the dense variables in `others`, as Keras would make it."""
        this: Any = self
        clipped = this._clip_gradients([g.values for g, _, _ in rows] + [g for g, _ in others])
        for _, variable, table in rows:
            table.prepare_step(self, variable, rate)  # an error must leave everything as it was
        if others:
            variables = [variable for _, variable in others]
            this._apply_weight_decay(variables)
            this._backend_update_step(clipped[len(rows) :], variables, rate)
        for (gradient, _, table), values in zip(rows, clipped, strict=False):
            table.make_step(gradient.with_values(values))
        if not others:
            self._no_dense_step()

    @property
    def _clips(self) -> bool:
        this: Any = self
        return not (this.clipnorm is None and this.global_clipnorm is None and this.clipvalue is None)

    def _no_dense_step(self) -> None:
        """What Keras's step would have changed beside variables and slots."""

    # ------------------------------------------------------------------ state

    @property
    def variables(self) -> Any:
        """As Keras's; on JAX without the slots of tables, which the trainer carries with the layer's variables."""
        this: Any = self
        if sys._getframe(1).f_code.co_name == "_get_jax_state":  # a training begins, of which an error would lose the state
            self._require_tables()
        return port.own_variables(self, this._variables)

    def save_own_variables(self, store: Any) -> None:
        """As Keras's."""
        this: Any = self
        for i, variable in enumerate(this._variables):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """As Keras's, whose own would pass over the slots that a trainer carries with the layers' variables."""
        this: Any = self
        if len(store.keys()) != len(this._variables):
            warnings.warn(
                f"Skipping variable loading for optimizer '{this.name}', because it has {len(this._variables)} variables"
                f" whereas the saved optimizer has {len(store.keys())} variables.",
                stacklevel=2,
            )
            return
        self._write_state(self._assign_all, [store[str(i)] for i in range(len(this._variables))])

    def _assign_all(self, values: Any) -> None:
        this: Any = self
        for variable, value in zip(this._variables, values, strict=True):
            variable.assign(value)

    def set_weights(self, weights: Any) -> None:
        """As Keras's."""
        self._write_state(super().set_weights, weights)  # type: ignore[misc]

    def _write_state(self, write: Callable[[Any], None], state: Any) -> None:
        """Write slots and step: settled before, and from there on after."""
        tables = [table for table in self._tables.values() if table.current]
        for table in tables:
            table.release()
        write(state)
        for table in tables:
            table.restart(self)


def _only_stepped(gradient: Any, variable: Any) -> bool:
    """Whether the step is all that `BaseOptimizer.apply` does with this variable: a known one, that has its gradient."""
    return isinstance(gradient, RowGradient) and variable.constraint is None
