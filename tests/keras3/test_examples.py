"""Whole models: the examples run.

In float64 both ways of training give the same losses and metrics.  In float32, rounding decides which way an element goes whose
gradient is nearly 0, since Adam moves it by as much as any other.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from selection import slow

import unhot.keras

from .calls import BACKEND, few
from .models import DenselyTrained

EXAMPLES = Path(__file__).parents[2] / "examples"
BOTH_WAYS = Path(__file__).parents[1] / "both_ways"
TENSORFLOW = BACKEND == "tensorflow"
STEPS = 20
ROUNDING = STEPS * 0.1 * 2.0**-24 / (1 - 0.999)
"""Keras's Adam forms 1 - beta_2^t in float32, and so is off by that part of a step of 0.1 at first, and by less later."""


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports an example, or a model that is trained both ways, which it forgets afterwards."""
    for folder in (EXAMPLES, BOTH_WAYS):
        monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if any((folder / f"{name}.py").exists() for folder in (EXAMPLES, BOTH_WAYS)):
            del sys.modules[name]


@pytest.fixture
def _float64() -> Iterator[None]:
    policy = keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)
    if keras.backend.backend() == "jax":
        jax.config.update("jax_enable_x64", False)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(
    ("name", "options"),
    few(
        [
            ("keras_text", {"samples": 3072, "rows": 5000, "epochs": 3}),
            ("keras_flights", {"samples": 4096, "room": 1000, "epochs": 3}),
        ],
        [],
    ),
)
def test_both_ways(name: str, options: dict[str, Any], example: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    if TENSORFLOW:  # Keras's Adam there takes the betas as float32, so these are such
        keras_ = example("keras_both_ways").KERAS
        monkeypatch.setattr(keras_, "Embedding", DenselyTrained)
        for names in (keras_, unhot.keras):
            monkeypatch.setattr(names, "Adam", partial(names.Adam, beta_1=0.875, beta_2=1 - 2.0**-10))
    stock, rows = example(name).main(**options)
    np.testing.assert_allclose(rows.losses, stock.losses, rtol=1e-9)
    np.testing.assert_allclose(rows.held_out, stock.held_out, rtol=1e-9)
    assert rows.losses[-1] < 0.99 * rows.losses[0]
    printed = capsys.readouterr().out
    assert "times faster" in printed
    assert "accuracy" in printed or "mean_absolute_error" in printed


def test_csv_example(example: Any, capsys: Any) -> None:
    error, guess = example("keras_csv").main()
    assert error < 0.6 * guess
    assert f"{error:.3f}" in capsys.readouterr().out


@(slow if BACKEND == "jax" else lambda test: test)  # there is nothing to see, and much to compile
def test_repeated_ids(example: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, everything: bool) -> None:
    """On TensorFlow, Keras's Embedding ends elsewhere with all settings but SGD and Lion; unhot's nowhere."""
    script = example("keras_repeated_ids")
    assert len(script.SETTINGS) == 12
    if not (TENSORFLOW and everything):  # to save time
        monkeypatch.setattr(script, "SETTINGS", [each for each in script.SETTINGS if each[0] in ("SGD", "Adagrad")])
    smallest, differences = script.main(steps=STEPS, rows=100, dim=4)
    np.testing.assert_allclose(smallest["one-hot x Dense"], [0.3, 0.3], atol=1e-3)
    np.testing.assert_allclose(smallest["unhot.keras"], smallest["one-hot x Dense"], rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(smallest["Keras's Embedding"], [0.385 if TENSORFLOW else 0.3, 0.3], atol=1e-3)
    assert len(differences) == len(script.SETTINGS)
    for setting, (stock, ours) in differences.items():
        assert ours < ROUNDING, setting
        assert (stock > 0.01) == (TENSORFLOW and not setting.startswith(("SGD", "Lion"))), setting
        assert stock > 0.01 or stock < ROUNDING, setting
    assert "0.385 0.300" in capsys.readouterr().out or not TENSORFLOW
