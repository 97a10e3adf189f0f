"""Activations and their derivatives against PyTorch's functions and autograd, and a caller's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from unhot.activations import ACTIVATIONS, as_activation

PLACES = np.concatenate([np.linspace(-9, 9, 361), [-200.0, -40, -1e-9, 1e-9, 40, 200], np.array([-0.0, 3, -3, 6])])
"""Among them those where two pieces meet."""


def torch_functions() -> dict[str, Callable[[Any], Any]]:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    same = ("relu", "relu6", "elu", "selu", "gelu", "silu", "mish", "sigmoid", "softplus", "softsign", "tanh")
    return {name: getattr(functional, name) for name in same} | {
        "leaky_relu": lambda z: functional.leaky_relu(z, 0.2),
        "swish": functional.silu,
        "hard_sigmoid": lambda z: functional.relu6(z + 3) / 6,  # torch's own gradient has a float32 sixth
        "log_sigmoid": functional.logsigmoid,
        "exponential": torch.exp,
    }


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_as_torch(name: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")

    function, derivative = ACTIVATIONS[name]
    places = PLACES.astype(dtype)
    z = torch.tensor(PLACES.astype(dtype).astype("float64"), requires_grad=True)
    wanted = torch_functions()[name](z)
    wanted.sum().backward()
    assert z.grad is not None
    epsilon = float(np.finfo(dtype).eps)
    with np.errstate(over="ignore"):
        expected = (wanted.detach().numpy().astype(dtype), z.grad.numpy().astype(dtype))
        found = function(places), derivative(places)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        # Some are differences of terms of up to 1; `test_tails_keep_their_digits` looks at the small ones.
        np.testing.assert_allclose(ours, theirs, rtol=50 * epsilon, atol=4 * epsilon)


def test_all_names_of_the_oracle() -> None:
    assert torch_functions().keys() == ACTIVATIONS.keys()


TAILS: dict[str, tuple[float, float, float]] = {
    "tanh": (12.0, math.tanh(12.0), 1 / math.cosh(12.0) ** 2),
    "softplus": (-30.0, math.log1p(math.exp(-30.0)), math.exp(-30.0) / (1 + math.exp(-30.0))),
    "sigmoid": (-90.0, math.exp(-90.0), math.exp(-90.0)),
    "gelu": (
        -6.0,
        -6.0 * 0.5 * math.erfc(6 / math.sqrt(2)),
        0.5 * math.erfc(6 / math.sqrt(2)) - 6 * math.exp(-18) / math.sqrt(2 * math.pi),
    ),
    "elu": (-1e-12, math.expm1(-1e-12), math.exp(-1e-12)),
}


@pytest.mark.parametrize("name", TAILS)
def test_tails_keep_their_digits(name: str) -> None:
    place, value, slope = TAILS[name]
    function, derivative = ACTIVATIONS[name]
    np.testing.assert_allclose(function(np.array([place])), value, rtol=1e-13)
    np.testing.assert_allclose(derivative(np.array([place])), slope, rtol=1e-13)


def test_what_is_meant() -> None:
    assert as_activation(None) is as_activation("linear") is None
    own = as_activation((np.sin, np.cos))
    assert own is not None
    assert own.name == "sin"
    np.testing.assert_array_equal(own.derivative(np.ones((2, 3))), np.full((2, 3), math.cos(1)))


@pytest.mark.parametrize("activation", ["rellu", 3, (np.sin,), (np.sin, "cos"), np.sin, [np.sin, np.cos]])
def test_what_is_none(activation: Any) -> None:
    with pytest.raises(ValueError, match=r"`activation` must be one of 'linear', 'relu'.*a pair of callables"):
        as_activation(activation)
