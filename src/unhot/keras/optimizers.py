"""Keras's optimizers, with steps of a table that cost only the rows with gradients."""

from __future__ import annotations

from typing import Any

import keras

import unhot
from unhot.keras.dense_steps import DenseRAdam, DenseRowwiseAdagrad
from unhot.keras.kinds import Variable
from unhot.keras.row_sparse import RowSparse, stock

__all__ = [
    "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "LazyAdam", "Lion", "Nadam", "RAdam", "RMSprop",
    "RowwiseAdagrad",
]  # fmt: skip

GENERAL = """
        clipnorm: the largest norm of each gradient, or None. Default: None.
        clipvalue: the largest magnitude of an element of a gradient, or None. Default: None.
        global_clipnorm: the largest norm of all gradients together, or None. Default: None.
        use_ema: whether to average the variables. Tables are then trained densely. Default: False.
        ema_momentum: the decay of these averages. Default: 0.99.
        ema_overwrite_frequency: after how many steps the averages replace the variables, or None. Default: None.
        loss_scale_factor: a factor by which the loss is scaled, and gradients are divided, or None. Default: None.
        gradient_accumulation_steps: of how many batches gradients are averaged for a step, or None. Tables are then trained
            densely. Default: None.
        name: the optimizer's name, or None for that of its class. Default: None.
        kwargs: Keras refuses any other."""
"""The arguments that all of Keras's optimizers have."""


def registered(cls: Any) -> Any:
    """The optimizer as Keras saves and loads it, with the arguments that all have in its documentation."""
    if cls.__doc__ is not None:
        cls.__doc__ = cls.__doc__.replace("\n        {general}", GENERAL)
    return keras.saving.register_keras_serializable("unhot")(cls)


@registered
class SGD(RowSparse, stock(unhot.SGD)):  # type: ignore[misc]
    """`keras.optimizers.SGD`, exact for tables at the cost of the touched rows, including momentum and Nesterov.

    Args:
        learning_rate: a number, a schedule, or a callable without arguments. Default: 0.01.
        momentum: the decay of the momentum. Default: 0.
        nesterov: whether to use Nesterov's momentum. Default: False.
        weight_decay: decoupled. Default: None.
        {general}

    Raises: what `keras.optimizers.SGD` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.SGD(0.1, momentum=0.9).momentum
        0.9

    References: keras/src/optimizers/sgd.py.
    """

    core = unhot.SGD


@registered
class Adagrad(RowSparse, stock(unhot.Adagrad)):  # type: ignore[misc]
    """`keras.optimizers.Adagrad`, exact for tables at the cost of the touched rows.

    Args:
        learning_rate: a number, a schedule, or a callable without arguments. Default: 0.001.
        initial_accumulator_value: what the sums of squares start from. Default: 0.1.
        epsilon: what is added to what is under the root. Default: 1e-7.
        weight_decay: decoupled. Default: None.
        {general}

    Raises: what `keras.optimizers.Adagrad` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.Adagrad(0.1).initial_accumulator_value
        0.1

    References: keras/src/optimizers/adagrad.py.
    """

    core = unhot.Adagrad


@registered
class RMSprop(RowSparse, stock(unhot.RMSprop)):  # type: ignore[misc]
    """`keras.optimizers.RMSprop`, exact for tables at the cost of the touched rows, including `centered` and momentum.

    Args:
        learning_rate: a number, a schedule, or a callable without arguments. Default: 0.001.
        rho: the decay of the averages. Default: 0.9.
        momentum: the decay of the momentum. Default: 0.
        epsilon: what is added to what is under the root. Default: 1e-7.
        centered: whether to divide by the root of the variance instead of the mean square. Default: False.
        weight_decay: decoupled. Default: None.
        {general}

    Raises: what `keras.optimizers.RMSprop` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.RMSprop(0.1, centered=True).rho
        0.9

    References: keras/src/optimizers/rmsprop.py.
    """

    core = unhot.RMSprop


@registered
class Adadelta(RowSparse, stock(unhot.Adadelta)):  # type: ignore[misc]
    """`keras.optimizers.Adadelta`, exact for tables at the cost of the touched rows.

    Args:
        learning_rate: a number, a schedule, or a callable without arguments. Default: 0.001.
        rho: the decay of the averages. Default: 0.95.
        epsilon: what is added to what is under the roots. Default: 1e-7.
        weight_decay: decoupled. Default: None.
        {general}

    Raises: what `keras.optimizers.Adadelta` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.Adadelta(0.1).rho
        0.95

    References: keras/src/optimizers/adadelta.py.
    """

    core = unhot.Adadelta


@registered
class Adam(RowSparse, stock(unhot.Adam)):  # type: ignore[misc]
    """`keras.optimizers.Adam`, exact for tables at the cost of the touched rows, including AMSGrad.

    Args:
        learning_rate: a number, a schedule, or a callable without arguments. Default: 0.001.
        beta_1: the decay of the momentum. Default: 0.9.
        beta_2: the decay of the second moment. Default: 0.999.
        epsilon: what is added to the root. Default: 1e-7.
        amsgrad: whether to divide by the root of the largest second moment so far. Default: False.
        weight_decay: decoupled. Default: None.
        {general}

    Raises: what `keras.optimizers.Adam` raises.

    Example:
        >>> import numpy as np, keras, unhot.keras
        >>> model = keras.Sequential([unhot.keras.Embedding(1000, 4), keras.layers.Flatten(), keras.layers.Dense(1)])
        >>> model.compile(optimizer=unhot.keras.Adam(0.01), loss="mse")
        >>> history = model.fit(np.array([[3, 7], [3, 5]]), np.array([[1.0], [0.0]]), epochs=2, verbose=0)

    References: keras/src/optimizers/adam.py.
    """

    core = unhot.Adam


@registered
class AdamW(RowSparse, stock(unhot.AdamW)):  # type: ignore[misc]
    """`keras.optimizers.AdamW`, exact for tables at the cost of the touched rows, including AMSGrad.

    Args:
        learning_rate: a number, a schedule, or a callable without arguments. Default: 0.001.
        weight_decay: decoupled. Default: 0.004.
        beta_1: the decay of the momentum. Default: 0.9.
        beta_2: the decay of the second moment. Default: 0.999.
        epsilon: what is added to the root. Default: 1e-7.
        amsgrad: whether to divide by the root of the largest second moment so far. Default: False.
        {general}

    Raises: what `keras.optimizers.AdamW` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.AdamW(0.1).weight_decay
        0.004

    References: keras/src/optimizers/adamw.py.
    """

    core = unhot.AdamW


@registered
class Adamax(RowSparse, stock(unhot.Adamax)):  # type: ignore[misc]
    """`keras.optimizers.Adamax`, exact for tables at the cost of the touched rows.

    Args:
        learning_rate: a number, a schedule, or a callable without arguments. Default: 0.001.
        beta_1: the decay of the momentum. Default: 0.9.
        beta_2: the decay of the norm. Default: 0.999.
        epsilon: what is added to the norm. Default: 1e-7.
        weight_decay: decoupled. Default: None.
        {general}

    Raises: what `keras.optimizers.Adamax` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.Adamax(0.1).beta_2
        0.999

    References: keras/src/optimizers/adamax.py.
    """

    core = unhot.Adamax


@registered
class Nadam(RowSparse, stock(unhot.NAdam)):  # type: ignore[misc]
    """`keras.optimizers.Nadam`, exact for tables at the cost of the touched rows.

    Args:
        learning_rate: a number, a schedule, or a callable without arguments. Default: 0.001.
        beta_1: the decay of the momentum. Default: 0.9.
        beta_2: the decay of the second moment. Default: 0.999.
        epsilon: what is added to the root. Default: 1e-7.
        weight_decay: decoupled. Default: None.
        {general}

    Raises: what `keras.optimizers.Nadam` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.Nadam(0.1).beta_1
        0.9

    References: keras/src/optimizers/nadam.py.
    """

    core = unhot.NAdam

    def _no_dense_step(self) -> None:
        step = keras.ops.cast(self.iterations + 1, self._u_product.dtype)
        self._u_product.assign(self._u_product * self.beta_1 * (1.0 - 0.5 * keras.ops.power(0.96, step)))


@registered
class Lion(RowSparse, stock(unhot.Lion)):  # type: ignore[misc]
    """`keras.optimizers.Lion`, exact for tables at the cost of the touched rows.

    Args:
        learning_rate: a number, a schedule, or a callable without arguments. Default: 0.001.
        beta_1: the part of the momentum in a step's direction. Default: 0.9.
        beta_2: the decay of the momentum. Default: 0.99.
        weight_decay: decoupled. Default: None.
        {general}

    Raises: what `keras.optimizers.Lion` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.Lion(0.1).beta_2
        0.99

    References: keras/src/optimizers/lion.py.
    """

    core = unhot.Lion


@registered
class Ftrl(RowSparse, stock(unhot.Ftrl)):  # type: ignore[misc]
    """`keras.optimizers.Ftrl`, exact for tables at the cost of the touched rows.

    Args:
        learning_rate: a number, a schedule, or a callable without arguments. Default: 0.001.
        learning_rate_power: a number of at most 0. Default: -0.5.
        initial_accumulator_value: what the sums of squares start from. Default: 0.1.
        l1_regularization_strength: a number of at least 0. Default: 0.
        l2_regularization_strength: a number of at least 0. Default: 0.
        l2_shrinkage_regularization_strength: a number of at least 0. Default: 0.
        beta: a number of at least 0. Default: 0.
        weight_decay: decoupled. Default: None.
        {general}

    Raises: what `keras.optimizers.Ftrl` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.Ftrl(0.1).learning_rate_power
        -0.5

    References: keras/src/optimizers/ftrl.py.
    """

    core = unhot.Ftrl


@registered
class RAdam(RowSparse, DenseRAdam):
    """PyTorch's RAdam, which Keras has not, exact for tables at the cost of the touched rows.

    Args:
        learning_rate: a number, a schedule, or a callable without arguments. Default: 0.001.
        beta_1: the decay of the momentum. Default: 0.9.
        beta_2: the decay of the second moment, in (2/3, 1). Default: 0.999.
        epsilon: what is added to the root. Default: 1e-8.
        weight_decay: decoupled. Default: None.
        {general}

    Raises: ValueError for betas or an epsilon outside of their range; what a Keras optimizer raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.RAdam(0.1).epsilon
        1e-08

    References: torch/optim/radam.py; Liu et al. 2020, arXiv:1908.03265.
    """

    core = unhot.RAdam


@registered
class LazyAdam(RowSparse, stock(unhot.Adam)):  # type: ignore[misc]
    """Not dense training: Adam that leaves rows of tables without a gradient as they are, as TensorFlow Addons' LazyAdam did.

    All other variables are trained by `keras.optimizers.Adam`. So is a table whose gradient is dense, in such a step, and one
    that cannot be trained by rows. `unhot.keras.Adam` trains tables as dense training does, also at a cost proportional to the
    rows touched.

    Args:
        learning_rate: a number, a schedule, or a callable without arguments. Default: 0.001.
        beta_1: the decay of the momentum. Default: 0.9.
        beta_2: the decay of the second moment. Default: 0.999.
        epsilon: what is added to the root. Default: 1e-7.
        amsgrad: whether to divide by the root of the largest second moment so far. Default: False.
        weight_decay: decoupled, for variables that are no tables: exclude those (`exclude_from_weight_decay`). Default: None.
        {general}

    Raises: what `keras.optimizers.Adam` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.LazyAdam(0.1).epsilon
        1e-07

    References: tensorflow_addons/optimizers/lazy_adam.py; keras/src/optimizers/adam.py.
    """

    core = unhot.LazyAdam


@registered
class RowwiseAdagrad(RowSparse, DenseRowwiseAdagrad):
    """Adagrad with one sum for each row of a table, as FBGEMM's EXACT_ROWWISE_ADAGRAD, and exact: rows at rest decay, too.

    A step adds the mean of the squares of a row's gradient to its sum, and divides the gradient by the sum's root plus epsilon.
    The slot of a table is (rows, 1), and takes next to no memory. A table whose gradient is dense is trained in the same way.
    All other variables are trained by `keras.optimizers.Adagrad`, which adds epsilon inside of the root.

    Args:
        learning_rate: a number, a schedule, or a callable without arguments. Default: 0.01.
        initial_accumulator_value: what the sums start from. Default: 0.
        epsilon: what is added to the root. Default: 1e-8.
        weight_decay: decoupled. Default: None.
        {general}

    Raises: what `keras.optimizers.Adagrad` raises.

    Example:
        >>> import unhot.keras
        >>> unhot.keras.RowwiseAdagrad(0.1).epsilon
        1e-08

    References: fbgemm_gpu/split_table_batched_embeddings_ops_training.py; keras/src/optimizers/adagrad.py.
    """

    core = unhot.RowwiseAdagrad

    def slot_shape(self, variable: Variable) -> tuple[int, ...]:
        return variable.shape[0], 1
