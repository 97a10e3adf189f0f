"""Activations by the names that Keras gives them, with their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Elementwise = Callable[[Array], Any]


class Activation(NamedTuple):
    """A function of each element, and its derivative at the same place."""

    name: str
    function: Elementwise
    derivative: Elementwise


def as_activation(activation: Any) -> Activation | None:
    """What is meant by a name, a pair of callables or None; None for "linear"."""
    if activation is None or (isinstance(activation, str) and activation == "linear"):
        return None
    if isinstance(activation, str) and activation in ACTIVATIONS:
        return Activation(activation, *ACTIVATIONS[activation])
    if isinstance(activation, tuple) and len(activation) == 2 and all(map(callable, activation)):
        function, derivative = activation
        return Activation(
            getattr(function, "__name__", repr(function)), _Checked(function, "function"), _Checked(derivative, "derivative")
        )
    raise ValueError(
        f"`activation` must be one of {', '.join(map(repr, ('linear', *ACTIVATIONS)))}, or a pair of callables, (function,"
        f" derivative), both of the same array. Received: {activation!r}."
    )


class _Checked:
    """A function of the caller's, which has to keep the shape."""

    def __init__(self, function: Elementwise, what: str) -> None:
        self.function, self.what = function, what

    def __call__(self, z: Array) -> Array:
        found = np.asarray(self.function(z))
        if found.shape != z.shape or found.dtype.kind not in "fiub":
            raise ValueError(
                f"the activation's {self.what} must return real numbers of its argument's shape, {z.shape}. Received: shape"
                f" {found.shape}, dtype {found.dtype}."
            )
        return found.astype(z.dtype, copy=False)


# ------------------------------------------------------------------ sigmoids
# Exponentials are of numbers of at most 0, so that none overflows.


def sigmoid(z: Array) -> Array:
    small = np.exp(-np.abs(z))
    found: Array = np.where(z >= 0, 1.0, small) / (1 + small)
    return found


def _sigmoid_slope(z: Array) -> Array:
    small = np.exp(-np.abs(z))
    found: Array = small / np.square(1 + small)
    return found


def _tanh_slope(z: Array) -> Array:
    return 4 * _sigmoid_slope(2 * z)  # 1 - tanh(z)^2 would cancel


def softplus(z: Array) -> Array:
    return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))


def _log_sigmoid(z: Array) -> Array:
    return -softplus(-z)


def _log_sigmoid_slope(z: Array) -> Array:
    return sigmoid(-z)


def _silu(z: Array) -> Array:
    return z * sigmoid(z)


def _silu_slope(z: Array) -> Array:
    found: Array = sigmoid(z) * (1 + z * sigmoid(-z))
    return found


def _mish(z: Array) -> Array:
    return z * np.tanh(softplus(z))


def _mish_slope(z: Array) -> Array:
    inner = softplus(z)
    found: Array = np.tanh(inner) + z * _tanh_slope(inner) * sigmoid(z)
    return found


def _softsign(z: Array) -> Array:
    found: Array = z / (1 + np.abs(z))
    return found


def _softsign_slope(z: Array) -> Array:
    found: Array = 1 / np.square(1 + np.abs(z))
    return found


# ------------------------------------------------------------------ the normal distribution


def _normal(z: Array) -> Array:
    """The probability that a normal number is at most z; NumPy has no error function."""
    flat = map(math.erfc, (z * -math.sqrt(0.5)).ravel().tolist())
    return 0.5 * np.fromiter(flat, z.dtype, z.size).reshape(z.shape)


def _gelu(z: Array) -> Array:
    return z * _normal(z)


def _gelu_slope(z: Array) -> Array:
    return _normal(z) + z * np.exp(-0.5 * np.square(z)) / math.sqrt(2 * math.pi)


# ------------------------------------------------------------------ pieces
# Where two pieces meet, the derivative is the one that PyTorch, JAX and TensorFlow take.

LEAK = 0.2
"""Keras's default; PyTorch's is 0.01."""

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
"""Klambauer et al., Self-Normalizing Neural Networks, 2017."""


def _relu(z: Array) -> Array:
    return np.maximum(z, 0)


def _relu_slope(z: Array) -> Array:
    return (z > 0).astype(z.dtype)


def _relu6(z: Array) -> Array:
    return np.clip(z, 0, 6)


def _relu6_slope(z: Array) -> Array:
    return ((z > 0) & (z < 6)).astype(z.dtype)


def _leaky_relu(z: Array) -> Array:
    return np.where(z > 0, z, LEAK * z)


def _leaky_relu_slope(z: Array) -> Array:
    return np.where(z > 0, 1.0, LEAK).astype(z.dtype)


def _elu(z: Array) -> Array:
    return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))


def _elu_slope(z: Array) -> Array:
    return np.exp(np.minimum(z, 0))


def _selu(z: Array) -> Array:
    return SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(np.minimum(z, 0)))


def _selu_slope(z: Array) -> Array:
    return SELU_SCALE * np.where(z > 0, 1, SELU_ALPHA * np.exp(np.minimum(z, 0)))


def _hard_sigmoid(z: Array) -> Array:
    return np.clip(z / 6 + 0.5, 0, 1)


def _hard_sigmoid_slope(z: Array) -> Array:
    return np.where(np.abs(z) < 3, 1 / 6, 0).astype(z.dtype)


ACTIVATIONS: dict[str, tuple[Elementwise, Elementwise]] = {
    "relu": (_relu, _relu_slope),
    "relu6": (_relu6, _relu6_slope),
    "leaky_relu": (_leaky_relu, _leaky_relu_slope),
    "elu": (_elu, _elu_slope),
    "selu": (_selu, _selu_slope),
    "gelu": (_gelu, _gelu_slope),
    "silu": (_silu, _silu_slope),
    "swish": (_silu, _silu_slope),
    "mish": (_mish, _mish_slope),
    "sigmoid": (sigmoid, _sigmoid_slope),
    "hard_sigmoid": (_hard_sigmoid, _hard_sigmoid_slope),
    "log_sigmoid": (_log_sigmoid, _log_sigmoid_slope),
    "softplus": (softplus, sigmoid),
    "softsign": (_softsign, _softsign_slope),
    "tanh": (np.tanh, _tanh_slope),
    "exponential": (np.exp, np.exp),
}
"""Function and derivative by name; "linear" is none."""
