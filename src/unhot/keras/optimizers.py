"""Keras's optimizers, with steps of a table that cost only the rows with gradients."""

from __future__ import annotations

from typing import Any

import keras

import unhot
from unhot.keras.row_sparse import RowSparse, stock

registered: Any = keras.saving.register_keras_serializable("unhot")


@registered
class SGD(RowSparse, stock("SGD")):  # type: ignore[misc]
    """`keras.optimizers.SGD`, exact for tables at the cost of the touched rows, including momentum and Nesterov.

    Args: those of `keras.optimizers.SGD`.

    Raises: what `keras.optimizers.SGD` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.SGD(0.1, momentum=0.9).momentum
        0.9

    References: keras/src/optimizers/sgd.py.
    """

    rule = unhot.SGD
    slots = {"momentum": "momentums"}
    hyperparameters = ("momentum", "nesterov")


@registered
class Adagrad(RowSparse, stock("Adagrad")):  # type: ignore[misc]
    """`keras.optimizers.Adagrad`, exact for tables at the cost of the touched rows.

    Args: those of `keras.optimizers.Adagrad`.

    Raises: what `keras.optimizers.Adagrad` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.Adagrad(0.1).initial_accumulator_value
        0.1

    References: keras/src/optimizers/adagrad.py.
    """

    rule = unhot.Adagrad
    slots = {"sum": "_accumulators"}
    hyperparameters = ("initial_accumulator_value", "epsilon")


@registered
class RMSprop(RowSparse, stock("RMSprop")):  # type: ignore[misc]
    """`keras.optimizers.RMSprop`, exact for tables at the cost of the touched rows, including `centered` and momentum.

    Args: those of `keras.optimizers.RMSprop`.

    Raises: what `keras.optimizers.RMSprop` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.RMSprop(0.1, centered=True).rho
        0.9

    References: keras/src/optimizers/rmsprop.py.
    """

    rule = unhot.RMSprop
    slots = {"velocity": "_velocities", "momentum": "_momentums", "average_gradient": "_average_gradients"}
    hyperparameters = ("rho", "momentum", "epsilon", "centered")


@registered
class Adadelta(RowSparse, stock("Adadelta")):  # type: ignore[misc]
    """`keras.optimizers.Adadelta`, exact for tables at the cost of the touched rows.

    Args: those of `keras.optimizers.Adadelta`.

    Raises: what `keras.optimizers.Adadelta` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.Adadelta(0.1).rho
        0.95

    References: keras/src/optimizers/adadelta.py.
    """

    rule = unhot.Adadelta
    slots = {"velocity": "_accumulated_grads", "delta": "_accumulated_delta_vars"}
    hyperparameters = ("rho", "epsilon")


@registered
class Adam(RowSparse, stock("Adam")):  # type: ignore[misc]
    """`keras.optimizers.Adam`, exact for tables at the cost of the touched rows, including AMSGrad.

    Args: those of `keras.optimizers.Adam`.

    Raises: what `keras.optimizers.Adam` raises.

    Example:
        >>> import numpy as np, keras, unhot.keras
        >>> model = keras.Sequential([unhot.keras.Embedding(1000, 4), keras.layers.Flatten(), keras.layers.Dense(1)])
        >>> model.compile(optimizer=unhot.keras.Adam(0.01), loss="mse")
        >>> history = model.fit(np.array([[3, 7], [3, 5]]), np.array([[1.0], [0.0]]), epochs=2, verbose=0)

    References: keras/src/optimizers/adam.py.
    """

    rule = unhot.Adam
    slots = {"momentum": "_momentums", "velocity": "_velocities", "largest_velocity": "_velocity_hats"}
    hyperparameters = ("beta_1", "beta_2", "epsilon", "amsgrad")


@registered
class AdamW(RowSparse, stock("AdamW")):  # type: ignore[misc]
    """`keras.optimizers.AdamW`, exact for tables at the cost of the touched rows, including AMSGrad.

    Args: those of `keras.optimizers.AdamW`.

    Raises: what `keras.optimizers.AdamW` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.AdamW(0.1).weight_decay
        0.004

    References: keras/src/optimizers/adamw.py.
    """

    rule = unhot.AdamW
    slots = Adam.slots
    hyperparameters = Adam.hyperparameters


@registered
class Adamax(RowSparse, stock("Adamax")):  # type: ignore[misc]
    """`keras.optimizers.Adamax`, exact for tables at the cost of the touched rows.

    Args: those of `keras.optimizers.Adamax`.

    Raises: what `keras.optimizers.Adamax` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.Adamax(0.1).beta_2
        0.999

    References: keras/src/optimizers/adamax.py.
    """

    rule = unhot.Adamax
    slots = {"momentum": "_m", "norm": "_u"}
    hyperparameters = ("beta_1", "beta_2", "epsilon")


@registered
class Nadam(RowSparse, stock("Nadam")):  # type: ignore[misc]
    """`keras.optimizers.Nadam`, exact for tables at the cost of the touched rows.

    Args: those of `keras.optimizers.Nadam`.

    Raises: what `keras.optimizers.Nadam` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.Nadam(0.1).beta_1
        0.9

    References: keras/src/optimizers/nadam.py.
    """

    rule = unhot.NAdam
    slots = {"momentum": "_momentums", "velocity": "_velocities"}
    hyperparameters = ("beta_1", "beta_2", "epsilon")

    def row_state(self) -> dict[str, Any]:
        return {"momentum_product": self._u_product}

    def _no_dense_step(self) -> None:
        step = keras.ops.cast(self.iterations + 1, self._u_product.dtype)
        self._u_product.assign(self._u_product * self.beta_1 * (1.0 - 0.5 * keras.ops.power(0.96, step)))


@registered
class Lion(RowSparse, stock("Lion")):  # type: ignore[misc]
    """`keras.optimizers.Lion`, exact for tables at the cost of the touched rows.

    Args: those of `keras.optimizers.Lion`.

    Raises: what `keras.optimizers.Lion` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.Lion(0.1).beta_2
        0.99

    References: keras/src/optimizers/lion.py.
    """

    rule = unhot.Lion
    slots = {"momentum": "_momentums"}
    hyperparameters = ("beta_1", "beta_2")


@registered
class Ftrl(RowSparse, stock("Ftrl")):  # type: ignore[misc]
    """`keras.optimizers.Ftrl`, exact for tables at the cost of the touched rows.

    Args: those of `keras.optimizers.Ftrl`.

    Raises: what `keras.optimizers.Ftrl` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.Ftrl(0.1).learning_rate_power
        -0.5

    References: keras/src/optimizers/ftrl.py.
    """

    rule = unhot.Ftrl
    slots = {"accumulator": "_accumulators", "linear": "_linears"}
    hyperparameters = (
        "learning_rate_power", "initial_accumulator_value", "l1_regularization_strength", "l2_regularization_strength",
        "l2_shrinkage_regularization_strength", "beta",
    )  # fmt: skip
