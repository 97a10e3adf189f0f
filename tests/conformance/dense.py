"""Dense optimizers in plain NumPy: what one-hot x Dense does, every element at every step, written from the frameworks.

One class for each rule and convention, from the sources of torch.optim (2.13: the `_single_tensor_*` functions) and
keras.optimizers (3.15: `update_step`, preceded by `_apply_weight_decay`); nothing here comes from unhot.  Hyperparameters
have Keras's names.  They are plain Python floats, so that an array of float32 stays float32 and each scalar is rounded to
float32 once, as PyTorch does it: with float32 weights this is dense float32 training, with float64 weights the reference.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class Dense:
    """A dense parameter `w` and its optimizer; `h` holds the hyperparameters, which may be assigned between steps."""

    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, weights: Array, **hyper: Any) -> None:
        unknown = set(hyper) - set(self.defaults)
        if unknown:
            raise TypeError(f"{type(self).__name__} has no {sorted(unknown)}")
        self.w = weights.copy()
        self.h = SimpleNamespace(**{**self.defaults, **hyper})
        self.t = 0
        self.begin()

    def begin(self) -> None:
        """Make the slots."""

    def step(self, g: Array) -> None:
        """One step with the dense gradient `g`."""
        self.t += 1
        self.move(g, self.h)

    def move(self, g: Array, h: SimpleNamespace) -> None:
        raise NotImplementedError

    def full(self, value: float = 0.0) -> Array:
        return np.full_like(self.w, value)

    def decay(self, h: SimpleNamespace) -> None:
        """Decoupled weight decay, which comes before the rest of the step, as PyTorch forms it."""
        if h.weight_decay:
            self.w *= 1 - h.learning_rate * h.weight_decay


# ---------------------------------------------------------------- torch.optim


class TorchSGD(Dense):
    """torch/optim/sgd.py; `weight_decay` is coupled, and the first buffer is a copy of the gradient, undampened."""

    defaults = {"learning_rate": 1e-3, "momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0}

    def begin(self) -> None:
        self.b: Array | None = None

    def move(self, g: Array, h: SimpleNamespace) -> None:
        if h.weight_decay:
            g = g + h.weight_decay * self.w
        if h.momentum:
            self.b = g.copy() if self.b is None else self.b * h.momentum + (1 - h.dampening) * g
            g = g + h.momentum * self.b if h.nesterov else self.b
        self.w -= h.learning_rate * g


class TorchAdagrad(Dense):
    """torch/optim/adagrad.py."""

    defaults = {"learning_rate": 1e-2, "lr_decay": 0.0, "initial_accumulator_value": 0.0, "epsilon": 1e-10}

    def begin(self) -> None:
        self.sum = self.full(self.h.initial_accumulator_value)

    def move(self, g: Array, h: SimpleNamespace) -> None:
        self.sum += g * g
        self.w -= h.learning_rate / (1 + (self.t - 1) * h.lr_decay) * (g / (np.sqrt(self.sum) + h.epsilon))


class TorchRMSprop(Dense):
    """torch/optim/rmsprop.py; rho is called alpha there."""

    defaults = {"learning_rate": 1e-2, "rho": 0.99, "epsilon": 1e-8, "momentum": 0.0, "centered": False}

    def begin(self) -> None:
        self.v, self.mean, self.b = self.full(), self.full(), self.full()

    def move(self, g: Array, h: SimpleNamespace) -> None:
        self.v = h.rho * self.v + (1 - h.rho) * (g * g)
        variance = self.v
        if h.centered:
            self.mean += (1 - h.rho) * (g - self.mean)
            variance = self.v - self.mean * self.mean
        q = g / (np.sqrt(variance) + h.epsilon)
        if h.momentum > 0:
            q = self.b = h.momentum * self.b + q
        self.w -= h.learning_rate * q


class TorchAdadelta(Dense):
    """torch/optim/adadelta.py."""

    defaults = {"learning_rate": 1.0, "rho": 0.9, "epsilon": 1e-6}

    def begin(self) -> None:
        self.v, self.d = self.full(), self.full()

    def move(self, g: Array, h: SimpleNamespace) -> None:
        self.v = h.rho * self.v + (1 - h.rho) * (g * g)
        q = np.sqrt(self.d + h.epsilon) / np.sqrt(self.v + h.epsilon) * g
        self.d = h.rho * self.d + (1 - h.rho) * (q * q)
        self.w -= h.learning_rate * q


class TorchAdam(Dense):
    """torch/optim/adam.py, with decoupled_weight_decay=True."""

    defaults = {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0, "amsgrad": False}

    def begin(self) -> None:
        self.m, self.v, self.v_max = self.full(), self.full(), self.full()

    def moments(self, g: Array, h: SimpleNamespace) -> None:
        self.m += (1 - h.beta_1) * (g - self.m)
        self.v = h.beta_2 * self.v + (1 - h.beta_2) * (g * g)

    def move(self, g: Array, h: SimpleNamespace) -> None:
        self.decay(h)
        self.moments(g, h)
        v = self.v
        if h.amsgrad:
            v = self.v_max = np.maximum(self.v_max, self.v)
        correction = (1 - h.beta_2**self.t) ** 0.5
        self.w -= h.learning_rate / (1 - h.beta_1**self.t) * (self.m / (np.sqrt(v) / correction + h.epsilon))


class TorchAdamW(TorchAdam):
    """torch/optim/adamw.py."""

    defaults = {**TorchAdam.defaults, "weight_decay": 1e-2}


class TorchAdamax(Dense):
    """torch/optim/adamax.py."""

    defaults = {"learning_rate": 2e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}

    def begin(self) -> None:
        self.m, self.u = self.full(), self.full()

    def move(self, g: Array, h: SimpleNamespace) -> None:
        self.m += (1 - h.beta_1) * (g - self.m)
        self.u = np.maximum(h.beta_2 * self.u, np.abs(g) + h.epsilon)
        self.w -= h.learning_rate / (1 - h.beta_1**self.t) * (self.m / self.u)


class TorchNAdam(TorchAdam):
    """torch/optim/nadam.py, with decoupled_weight_decay=True."""

    defaults = {
        "learning_rate": 2e-3,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "epsilon": 1e-8,
        "momentum_decay": 4e-3,
        "weight_decay": 0.0,
    }

    def begin(self) -> None:
        super().begin()
        self.product = 1.0

    def move(self, g: Array, h: SimpleNamespace) -> None:
        self.decay(h)
        mu = h.beta_1 * (1 - 0.5 * 0.96 ** (self.t * h.momentum_decay))
        mu_next = h.beta_1 * (1 - 0.5 * 0.96 ** ((self.t + 1) * h.momentum_decay))
        self.product *= mu
        self.moments(g, h)
        divisor = np.sqrt(self.v / (1 - h.beta_2**self.t)) + h.epsilon
        self.w -= h.learning_rate * (1 - mu) / (1 - self.product) * (g / divisor)
        self.w -= h.learning_rate * mu_next / (1 - self.product * mu_next) * (self.m / divisor)


class TorchRAdam(TorchAdam):
    """torch/optim/radam.py, with decoupled_weight_decay=True."""

    defaults = {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0}

    def move(self, g: Array, h: SimpleNamespace) -> None:
        self.decay(h)
        self.moments(g, h)
        correction_2 = 1 - h.beta_2**self.t
        rho_inf = 2 / (1 - h.beta_2) - 1
        rho = rho_inf - 2 * self.t * (h.beta_2**self.t) / correction_2
        step = self.m / (1 - h.beta_1**self.t) * h.learning_rate
        if rho > 5.0:
            rect = ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5
            step = step * (correction_2**0.5 / (np.sqrt(self.v) + h.epsilon)) * rect
        self.w -= step


# ---------------------------------------------------------------- keras.optimizers


class Keras(Dense):
    """keras/src/optimizers/base_optimizer.py: its weight decay."""

    def decay(self, h: SimpleNamespace) -> None:
        if h.weight_decay:
            self.w = self.w - self.w * h.weight_decay * h.learning_rate


class KerasSGD(Keras):
    """keras/src/optimizers/sgd.py; the buffer holds the rate."""

    defaults = {"learning_rate": 1e-2, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}

    def begin(self) -> None:
        self.b = self.full()

    def move(self, g: Array, h: SimpleNamespace) -> None:
        self.decay(h)
        if not h.momentum:
            self.w -= h.learning_rate * g
            return
        self.b = h.momentum * self.b - h.learning_rate * g
        self.w += h.momentum * self.b - h.learning_rate * g if h.nesterov else self.b


class KerasAdagrad(Keras):
    """keras/src/optimizers/adagrad.py."""

    defaults = {"learning_rate": 1e-3, "initial_accumulator_value": 0.1, "epsilon": 1e-7, "weight_decay": 0.0}

    def begin(self) -> None:
        self.sum = self.full(self.h.initial_accumulator_value)

    def move(self, g: Array, h: SimpleNamespace) -> None:
        self.decay(h)
        self.sum += g * g
        self.w -= h.learning_rate * g / np.sqrt(self.sum + h.epsilon)


class KerasRMSprop(Keras):
    """keras/src/optimizers/rmsprop.py; epsilon is inside the root, and the momentum holds the rate."""

    defaults = {"learning_rate": 1e-3, "rho": 0.9, "momentum": 0.0, "epsilon": 1e-7, "centered": False, "weight_decay": 0.0}

    def begin(self) -> None:
        self.v, self.mean, self.b = self.full(), self.full(), self.full()

    def move(self, g: Array, h: SimpleNamespace) -> None:
        self.decay(h)
        self.v = h.rho * self.v + (1 - h.rho) * (g * g)
        variance = self.v
        if h.centered:
            self.mean = h.rho * self.mean + (1 - h.rho) * g
            variance = self.v - self.mean * self.mean
        q = h.learning_rate * g / np.sqrt(variance + h.epsilon)
        if h.momentum > 0:
            q = self.b = h.momentum * self.b + q
        self.w -= q


class KerasAdadelta(Keras):
    """keras/src/optimizers/adadelta.py."""

    defaults = {"learning_rate": 1e-3, "rho": 0.95, "epsilon": 1e-7, "weight_decay": 0.0}

    def begin(self) -> None:
        self.v, self.d = self.full(), self.full()

    def move(self, g: Array, h: SimpleNamespace) -> None:
        self.decay(h)
        self.v = h.rho * self.v + (1 - h.rho) * (g * g)
        q = np.sqrt(self.d + h.epsilon) * g / np.sqrt(self.v + h.epsilon)
        self.d = h.rho * self.d + (1 - h.rho) * (q * q)
        self.w -= h.learning_rate * q


class KerasAdam(Keras, TorchAdam):
    """keras/src/optimizers/adam.py; epsilon is added to the uncorrected root."""

    defaults = {**TorchAdam.defaults, "epsilon": 1e-7}

    def move(self, g: Array, h: SimpleNamespace) -> None:
        self.decay(h)
        self.moments(g, h)
        v = self.v
        if h.amsgrad:
            v = self.v_max = np.maximum(self.v_max, self.v)
        alpha = h.learning_rate * (1 - h.beta_2**self.t) ** 0.5 / (1 - h.beta_1**self.t)
        self.w -= self.m * alpha / (np.sqrt(v) + h.epsilon)


class KerasAdamW(KerasAdam):
    """keras/src/optimizers/adamw.py."""

    defaults = {**KerasAdam.defaults, "weight_decay": 4e-3}


class KerasAdamax(Keras):
    """keras/src/optimizers/adamax.py."""

    defaults = {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "weight_decay": 0.0}

    def begin(self) -> None:
        self.m, self.u = self.full(), self.full()

    def move(self, g: Array, h: SimpleNamespace) -> None:
        self.decay(h)
        self.m += (1 - h.beta_1) * (g - self.m)
        self.u = np.maximum(h.beta_2 * self.u, np.abs(g))
        self.w -= h.learning_rate * self.m / ((1 - h.beta_1**self.t) * (self.u + h.epsilon))


class KerasNadam(Keras, TorchAdam):
    """keras/src/optimizers/nadam.py."""

    defaults = {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "weight_decay": 0.0}

    def begin(self) -> None:
        super().begin()
        self.product = 1.0

    def move(self, g: Array, h: SimpleNamespace) -> None:
        self.decay(h)
        u = h.beta_1 * (1 - 0.5 * 0.96**self.t)
        u_next = h.beta_1 * (1 - 0.5 * 0.96 ** (self.t + 1))
        self.product *= u
        self.moments(g, h)
        m_hat = u_next * self.m / (1 - self.product * u_next) + (1 - u) * g / (1 - self.product)
        self.w -= m_hat * h.learning_rate / (np.sqrt(self.v / (1 - h.beta_2**self.t)) + h.epsilon)


class KerasLion(Keras):
    """keras/src/optimizers/lion.py."""

    defaults = {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.99, "weight_decay": 0.0}

    def begin(self) -> None:
        self.m = self.full()

    def move(self, g: Array, h: SimpleNamespace) -> None:
        self.decay(h)
        self.w -= h.learning_rate * np.sign(self.m * h.beta_1 + g * (1 - h.beta_1))
        self.m = self.m * h.beta_2 + g * (1 - h.beta_2)


def rounded_power(x: Array, exponent: float) -> Array:
    """x**exponent, rounded once: NumPy's float32 powers are not, and little may be left of their difference."""
    return np.asarray((x.astype(np.float64) ** exponent).astype(x.dtype))


class KerasFtrl(Keras):
    """keras/src/optimizers/ftrl.py."""

    defaults = {
        "learning_rate": 1e-3,
        "learning_rate_power": -0.5,
        "initial_accumulator_value": 0.1,
        "l1_regularization_strength": 0.0,
        "l2_regularization_strength": 0.0,
        "l2_shrinkage_regularization_strength": 0.0,
        "beta": 0.0,
        "weight_decay": 0.0,
    }

    def begin(self) -> None:
        self.n, self.z = self.full(self.h.initial_accumulator_value), self.full()

    def move(self, g: Array, h: SimpleNamespace) -> None:
        self.decay(h)
        power, rate = -h.learning_rate_power, h.learning_rate
        l1, l2 = h.l1_regularization_strength, h.l2_regularization_strength + h.beta / (2 * rate)
        if h.l2_shrinkage_regularization_strength:
            n_new, g = self.n + g * g, g + 2 * h.l2_shrinkage_regularization_strength * self.w
        else:
            n_new = self.n + g * g
        risen = rounded_power(n_new, power)
        self.z += g - (risen - rounded_power(self.n, power)) / rate * self.w
        self.w = (np.clip(self.z, -l1, l1) - self.z) / (risen / rate + 2 * l2)
        self.n = n_new


# ---------------------------------------------------------------- others


class FbgemmRowwiseAdagrad(Dense):
    """EXACT_ROWWISE_ADAGRAD of fbgemm_gpu's table-batched embeddings, with a decoupled decay, on all rows at every step."""

    defaults = {"learning_rate": 1e-2, "epsilon": 1e-8, "initial_accumulator_value": 0.0, "weight_decay": 0.0}

    def begin(self) -> None:
        self.sum = np.full_like(self.w[..., :1], self.h.initial_accumulator_value)

    def move(self, g: Array, h: SimpleNamespace) -> None:
        self.decay(h)
        self.sum = self.sum + np.mean(g * g, axis=-1, keepdims=True)
        self.w -= h.learning_rate * g / (np.sqrt(self.sum) + h.epsilon)


RULES: dict[tuple[str, str], type[Dense]] = {
    ("SGD", "torch"): TorchSGD,
    ("Adagrad", "torch"): TorchAdagrad,
    ("RMSprop", "torch"): TorchRMSprop,
    ("Adadelta", "torch"): TorchAdadelta,
    ("Adam", "torch"): TorchAdam,
    ("AdamW", "torch"): TorchAdamW,
    ("Adamax", "torch"): TorchAdamax,
    ("NAdam", "torch"): TorchNAdam,
    ("RAdam", "torch"): TorchRAdam,
    ("SGD", "keras"): KerasSGD,
    ("Adagrad", "keras"): KerasAdagrad,
    ("RMSprop", "keras"): KerasRMSprop,
    ("Adadelta", "keras"): KerasAdadelta,
    ("Adam", "keras"): KerasAdam,
    ("AdamW", "keras"): KerasAdamW,
    ("Adamax", "keras"): KerasAdamax,
    ("NAdam", "keras"): KerasNadam,
    ("Lion", "keras"): KerasLion,
    ("Ftrl", "keras"): KerasFtrl,
    ("RowwiseAdagrad", "keras"): FbgemmRowwiseAdagrad,
}
"""By unhot's name of the rule and the convention."""
