"""The dense optimizers, written again from the frameworks' own formulas, for whole arrays with one gradient each.

They share only the hyperparameters with `unhot.optimizers` and `unhot._native`, no formulas: the comparison would not notice a
mistake made in both. Each is (optimizer, step, hyperparameters of the step, gradient, weights, *slots) -> (weights, *slots).
The sources are keras/src/optimizers and torch/optim, and the tests compare every function with them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from unhot.clock import Hyper
from unhot.optimizers import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Ftrl,
    Lion,
    NAdam,
    Optimizer,
    RMSprop,
)

Array = npt.NDArray[Any]
State = tuple[Array, ...]


def _decayed(h: Hyper, w: Array) -> Array:
    """Decoupled weight decay."""
    return w - h.rate * h.decay * w if h.decay else w


def sgd(o: SGD, n: int, h: Hyper, g: Array, w: Array, *momentum: Array) -> State:
    if o.convention == "torch":
        g = g + h.decay * w
        b = tuple(h.momentum * b + (g if n == 1 else (1 - o.dampening) * g) for b in momentum)
        step = b[0] if b else g
        return w - h.rate * (g + h.momentum * step if o.nesterov else step), *b
    b = tuple(h.momentum * b - h.rate * g for b in momentum)
    step = b[0] if b else -h.rate * g
    return _decayed(h, w) + (h.momentum * step - h.rate * g if o.nesterov else step), *b


def adagrad(o: Adagrad, n: int, h: Hyper, g: Array, w: Array, total: Array) -> State:
    total = total + g * g
    if o.convention == "torch":
        return w - h.rate / (1 + (n - 1) * o.lr_decay) * g / (np.sqrt(total) + o.epsilon), total
    return _decayed(h, w) - h.rate * g / np.sqrt(total + o.epsilon), total


def rmsprop(o: RMSprop, n: int, h: Hyper, g: Array, w: Array, v: Array, *rest: Array) -> State:
    v = o.rho * v + (1 - o.rho) * g * g
    mean = tuple(o.rho * mean + (1 - o.rho) * g for mean in rest[: o.centered])
    variance = v - mean[0] * mean[0] if mean else v
    if o.convention == "torch":
        step = g / (np.sqrt(variance) + o.epsilon)
        b = tuple(h.momentum * b + step for b in rest[o.centered :])
        return w - h.rate * (b[0] if b else step), v, *mean, *b
    step = h.rate * g / np.sqrt(variance + o.epsilon)
    b = tuple(h.momentum * b + step for b in rest[o.centered :])
    return _decayed(h, w) - (b[0] if b else step), v, *mean, *b


def adadelta(o: Adadelta, n: int, h: Hyper, g: Array, w: Array, v: Array, d: Array) -> State:
    v = o.rho * v + (1 - o.rho) * g * g
    step = g * np.sqrt(d + o.epsilon) / np.sqrt(v + o.epsilon)
    return _decayed(h, w) - h.rate * step, v, o.rho * d + (1 - o.rho) * step * step


def adam(o: Adam, n: int, h: Hyper, g: Array, w: Array, m: Array, v: Array, *largest: Array) -> State:
    m = h.momentum * m + (1 - h.momentum) * g
    v = o.beta_2 * v + (1 - o.beta_2) * g * g
    largest = tuple(np.maximum(largest, v) for largest in largest)
    root = np.sqrt(largest[0] if largest else v)
    correction_1, correction_2 = 1 - h.momentum**n, sqrt(1 - o.beta_2**n)
    if o.convention == "torch":
        step = h.rate / correction_1 * m / (root / correction_2 + o.epsilon)
    else:
        step = h.rate * correction_2 / correction_1 * m / (root + o.epsilon)
    return _decayed(h, w) - step, m, v, *largest


def adamax(o: Adamax, n: int, h: Hyper, g: Array, w: Array, m: Array, u: Array) -> State:
    m = h.momentum * m + (1 - h.momentum) * g
    torch = o.convention == "torch"
    u = np.maximum(o.beta_2 * u, np.abs(g) + o.epsilon if torch else np.abs(g))
    return _decayed(h, w) - h.rate / (1 - h.momentum**n) * m / (u if torch else u + o.epsilon), m, u


def nadam(o: NAdam, n: int, h: Hyper, g: Array, w: Array, m: Array, v: Array) -> State:
    m = h.momentum * m + (1 - h.momentum) * g
    v = o.beta_2 * v + (1 - o.beta_2) * g * g
    mu = [h.momentum * (1 - 0.5 * 0.96 ** (i * o.momentum_decay)) for i in range(1, n + 2)]
    mean = h.rate * mu[n] / (1 - prod(mu)) * m + h.rate * (1 - mu[n - 1]) / (1 - prod(mu[:n])) * g
    return _decayed(h, w) - mean / (np.sqrt(v / (1 - o.beta_2**n)) + o.epsilon), m, v


def lion(o: Lion, n: int, h: Hyper, g: Array, w: Array, m: Array) -> State:
    step = h.rate * np.sign(h.momentum * m + (1 - h.momentum) * g)
    return _decayed(h, w) - step, o.beta_2 * m + (1 - o.beta_2) * g


def ftrl(o: Ftrl, n: int, h: Hyper, g: Array, w: Array, total: Array, z: Array) -> State:
    w = _decayed(h, w)
    power, l1 = -o.learning_rate_power, o.l1_regularization_strength
    new = total + g * g
    z = z + g + 2 * o.l2_shrinkage_regularization_strength * w - (new**power - total**power) / h.rate * w
    quadratic = (new**power + o.beta) / h.rate + 2 * o.l2_regularization_strength
    return (np.clip(z, -l1, l1) - z) / quadratic, new, z


RULES: dict[type[Optimizer], Callable[..., State]] = {
    SGD: sgd, Adagrad: adagrad, RMSprop: rmsprop, Adadelta: adadelta, Adam: adam, AdamW: adam, Adamax: adamax,
    NAdam: nadam, Lion: lion, Ftrl: ftrl,
}  # fmt: skip

SLOTS: dict[type[Optimizer], Callable[[Any], tuple[float, ...]]] = {
    SGD: lambda o: (0.0,) * bool(o.momentum),
    Adagrad: lambda o: (o.initial_accumulator_value,),
    RMSprop: lambda o: (0.0,) * (1 + bool(o.centered) + bool(o.momentum)),
    Adadelta: lambda o: (0.0, 0.0),
    Adam: lambda o: (0.0,) * (3 if o.amsgrad else 2),
    AdamW: lambda o: (0.0,) * (3 if o.amsgrad else 2),
    Adamax: lambda o: (0.0, 0.0),
    NAdam: lambda o: (0.0, 0.0),
    Lion: lambda o: (0.0,),
    Ftrl: lambda o: (o.initial_accumulator_value, 0.0),
}
"""What the slots start from; no slot that the hyperparameters do not ask for."""
