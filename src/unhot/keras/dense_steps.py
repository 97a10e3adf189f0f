"""Dense steps of optimizers that Keras has not, for what is not trained by rows."""

from __future__ import annotations

from typing import Any

import keras

import unhot
from unhot.clock import Hyper
from unhot.keras.backends import backend
from unhot.keras.kinds import Gradient, Tensor, Variable
from unhot.keras.row_sparse import stock


class DenseRAdam(keras.optimizers.Optimizer):  # type: ignore[misc]  # Keras comes without types
    """RAdam for variables that are not trained by rows, since Keras has none."""

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self._rectified()

    def _rectified(self) -> unhot.RAdam:
        """The formulas."""
        return unhot.RAdam(beta_1=self.beta_1, beta_2=self.beta_2, epsilon=self.epsilon)

    def build(self, variables: list[Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self._momentums, self._velocities = self.add_optimizer_variables(variables, ["momentum", "velocity"])

    def update_step(self, gradient: Tensor, variable: Variable, learning_rate: Tensor) -> None:
        ops, dtype, index = keras.ops, variable.dtype, self._get_variable_index(variable)
        wide = dtype if dtype == "float64" else "float32"  # in which 1 - beta_2 ** step has digits
        step, rate, gradient = ops.cast(self.iterations + 1, wide), ops.cast(learning_rate, wide), ops.cast(gradient, dtype)
        m, v, core = self._momentums[index], self._velocities[index], self._rectified()
        self.assign_add(m, (gradient - m) * (1 - self.beta_1))
        self.assign_add(v, (ops.square(gradient) - v) * (1 - self.beta_2))
        alpha, _, _ = core.corrections(step, Hyper(rate, self.beta_1, 0.0), 1.0, ops)
        divisor = ops.where(step > core.undivided, ops.sqrt(v) + self.epsilon, ops.ones_like(gradient))
        self.assign_sub(variable, m * ops.cast(alpha, dtype) / divisor)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


class DenseRowwiseAdagrad(stock(unhot.Adagrad)):  # type: ignore[misc]
    """Keras's Adagrad, but with one sum for each row of a table; see `unhot.keras.RowwiseAdagrad`."""

    def __init__(
        self,
        learning_rate: Any = 0.01,
        initial_accumulator_value: float = 0.0,
        epsilon: float = 1e-8,
        weight_decay: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, initial_accumulator_value, epsilon, weight_decay=weight_decay, **kwargs)

    def build(self, variables: list[Variable]) -> None:
        if self.built:
            return
        self._tables_at = frozenset(i for i, variable in enumerate(variables) if is_table(variable))
        super().build(variables)

    def add_variable_from_reference(
        self, reference_variable: Variable, name: str | None = None, initializer: Any = "zeros"
    ) -> Variable:
        """As Keras's. Of tables it makes those slots that are not trained by rows, in float16, say."""
        if not is_table(reference_variable):
            made: Variable = super().add_variable_from_reference(reference_variable, name=name, initializer=initializer)
            return made
        shape, full_name = (reference_variable.shape[0], 1), f"{reference_variable.path.replace('/', '_')}_{name or 'var'}"
        slot: Variable = self.add_variable(shape, initializer, reference_variable.dtype, name=full_name)
        return slot

    def _backend_update_step(self, grads: list[Gradient], trainable_variables: list[Variable], learning_rate: Tensor) -> None:
        if not backend.EAGER:
            super()._backend_update_step(grads, trainable_variables, learning_rate)
            return
        given = list(zip(grads, trainable_variables, strict=True))  # which Keras would step all at once, by elements
        others = [(gradient, variable) for gradient, variable in given if not is_table(variable)]
        if others:
            super()._backend_update_step(*map(list, zip(*others, strict=True)), learning_rate)
        for gradient, variable in given:
            if is_table(variable):
                self.update_step(gradient, variable, learning_rate)

    def update_step(self, gradient: Tensor, variable: Variable, learning_rate: Tensor) -> None:
        ops, index = keras.ops, self._get_variable_index(variable)
        if index not in self._tables_at:
            super().update_step(gradient, variable, learning_rate)
            return
        total = self._accumulators[index]
        wide = keras.backend.result_type(total.dtype, "float32")  # half of a precision has no such small epsilon
        rate, gradient = ops.cast(learning_rate, wide), ops.cast(ops.convert_to_tensor(gradient, sparse=False), wide)
        self.assign_add(total, ops.cast(ops.mean(ops.square(gradient), axis=-1, keepdims=True), total.dtype))
        move = rate * gradient / (ops.sqrt(ops.cast(total, wide)) + self.epsilon)
        self.assign_sub(variable, ops.cast(move, total.dtype))


def is_table(variable: Variable) -> bool:
    """Whether the variable is that of a table, of whatever dtype."""
    return isinstance(variable, backend.TABLE_VARIABLE)  # type: ignore[arg-type]  # a class
