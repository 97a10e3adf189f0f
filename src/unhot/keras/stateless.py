"""Values of variables for functions without side effects."""

from __future__ import annotations

from collections.abc import Iterable

from unhot.keras.backends import backend
from unhot.keras.kinds import Tensor, Variable


def stateless_values(variables: Iterable[Variable]) -> list[Tensor]:
    """The values of variables for `stateless_call` and `stateless_apply`, with which tables are trained by rows.

    On JAX, some rows of a table that is trained by rows have deferred steps. `variable.value` applies them and gives an array,
    and a step with such arrays is dense. This function gives what Keras's own trainer uses: the weights as they are, with all
    that a step by rows needs. It looks like the settled array. Use it as one (`0.9 * value`), hand it to a step, or assign it
    to the variable, before or after those of the slots. JAX takes it apart, though: `jax.tree.map` finds weights that are not
    settled, so map gradients alone. The value of a slot is a stand-in, which belongs to the table's value.

    On PyTorch and TensorFlow, and for all other variables, it gives `variable.value`.

    Args:
        variables: Keras variables, such as `model.trainable_variables` and `optimizer.variables`.

    Returns: a list of their values.

    Raises: ValueError for a slot that was assigned without the value of its table.

    Example:
        >>> import numpy as np, keras, unhot.keras
        >>> model = keras.Sequential([unhot.keras.Embedding(100, 4), keras.layers.Flatten(), keras.layers.Dense(1)])
        >>> model.build((None, 3))
        >>> optimizer = unhot.keras.Adam(0.01)
        >>> optimizer.build(model.trainable_variables)
        >>> def step(weights, slots, ids):
        ...     import jax
        ...
        ...     def loss(weights):
        ...         return keras.ops.sum(model.stateless_call(weights, [], ids)[0] ** 2)
        ...
        ...     return optimizer.stateless_apply(slots, jax.grad(loss)(weights), weights)
        >>> if keras.backend.backend() == "jax":
        ...     lists = model.trainable_variables, optimizer.variables
        ...     values = step(*map(unhot.keras.stateless_values, lists), np.zeros((2, 3), "int32"))
        ...     for variables, given in zip(lists, values):
        ...         for variable, value in zip(variables, given):
        ...             _ = variable.assign(value)

    References: https://keras.io/guides/writing_a_custom_training_loop_in_jax/.
    """
    return backend.stateless_values(variables)
