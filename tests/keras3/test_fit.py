"""An unmodified `model.fit` with a table learns what it learns with one-hot vectors and Keras's own optimizer."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
import pytest
from conformance.compiled import assert_no_copies
from selection import some
from subsets import covering

import unhot.keras
from unhot import arrays
from unhot.keras._private import ON

from .calls import by_rows
from .models import assert_same, data, pair

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"learning_rate": 0.1}),
    ("SGD", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("Adagrad", {"learning_rate": 0.1}),
    ("RMSprop", {"learning_rate": 0.01, "centered": True, "momentum": 0.5}),
    ("Adadelta", {"learning_rate": 1.0}),
    ("Adam", {"learning_rate": 0.01}),
    ("Adam", {"learning_rate": 0.01, "amsgrad": True, "weight_decay": 0.1}),
    ("AdamW", {"learning_rate": 0.01, "weight_decay": 0.1}),
    ("Adamax", {"learning_rate": 0.01}),
    ("Nadam", {"learning_rate": 0.01}),
    ("Lion", {"learning_rate": 0.003}),
    ("Ftrl", {"learning_rate": 0.1, "l1_regularization_strength": 0.01}),
]
WAYS: list[dict[str, Any]] = [{"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": True}]
"""All that `compile` knows. On JAX the second compiles the step all the same; on torch the third is the second."""


def both(name: str, **options: Any) -> tuple[Any, Any]:
    """unhot's optimizer and Keras's."""
    return getattr(unhot.keras, name)(**options), getattr(keras.optimizers, name)(**options)


CASES = [(name, options, way) for way in WAYS for name, options in OPTIMIZERS]
TORCH = keras.backend.backend() == "torch"
if TORCH:  # unhot's part lies outside the graph for all optimizers
    CASES = [case for case in CASES if not case[2].get("jit_compile") or case[:2] in (OPTIMIZERS[0], OPTIMIZERS[5])]
FAST = [CASES[i] for i in covering([{str(way), *([name] if TORCH else [])} for name, _, way in CASES])]
"""Each way; and on torch, where nothing is compiled, each optimizer. Elsewhere each has its step in test_conformance.py."""


@pytest.mark.parametrize(
    ("name", "options", "way"), some(CASES, FAST), ids=lambda part: part if isinstance(part, str) else str(part)
)
def test_fit(name: str, options: dict[str, Any], way: dict[str, Any]) -> None:
    ours, theirs = pair(*both(name, **options), **way)
    if TORCH:
        theirs.compile(theirs.optimizer, loss="mse", jit_compile=False)  # compiling takes a quarter of a minute
    ids, targets = data()
    with by_rows() if ON else nullcontext():
        fits = [m.fit(ids, targets, batch_size=12, epochs=5, shuffle=False, verbose=0) for m in (ours, theirs)]
    np.testing.assert_allclose(*(fit.history["loss"] for fit in fits), rtol=1e-4)
    assert ours.optimizer.table(ours.get_layer("table")._embeddings) is not None
    assert_same(ours, theirs)


MORE = ["nothing", "the same for a metric", "a lookup in the loss", "a lookup for a metric", "a lookup without a gradient"]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the other backends write in place")
@pytest.mark.parametrize("more", some(MORE, MORE[1:4:2]))
def test_a_step_copies_no_table(more: str) -> None:
    """XLA copies a table that it might read after it is written: what a loss is linear in, or what has no part in it."""
    import jax

    rows = 50_000
    table, ids, others = unhot.keras.Embedding(rows, 8), keras.Input((3,), dtype="int32"), keras.Input((2,), dtype="int32")
    vectors, metrics = table(ids), {}
    outputs = {"sums": keras.ops.sum(vectors, axis=(1, 2))}
    if more == "the same for a metric":
        outputs["vectors"], metrics["vectors"] = vectors[:, :2], ["mae"]
    elif more == "a lookup in the loss":
        outputs["sums"] += keras.ops.sum(table(others), axis=(1, 2))
    elif more == "a lookup for a metric":
        outputs["vectors"], metrics["vectors"] = table(others), ["mae"]
    elif more == "a lookup without a gradient":
        outputs["sums"] += keras.ops.sum(keras.ops.stop_gradient(table(others)), axis=(1, 2))
    model = keras.Model([ids, others], outputs)
    model.compile(unhot.keras.Adam(0.1), loss={"sums": lambda targets, sums: targets * sums}, metrics=metrics)
    given = [np.zeros((4, 3), np.int32), np.zeros((4, 2), np.int32)]
    targets = {"sums": np.ones(4, np.float32)} | ({"vectors": np.ones((4, 2, 8), np.float32)} if metrics else {})
    model.train_on_batch(given, targets)
    assert model.optimizer.table(table._embeddings) is not None
    kinds = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")
    state = model._get_jax_state(**dict.fromkeys(kinds, True))
    lowered = jax.jit(model.train_step, donate_argnums=0).lower(state, (given, targets))
    compiled = lowered.compile(compiler_options={"xla_backend_optimization_level": 3})  # as is usual, whatever XLA_FLAGS say
    assert_no_copies(compiled.as_text(), rows, 8)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="elsewhere variables keep their memory, or their owners move it")
def test_tables_lie_in_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system is asked for them when a table is owned, in whose memory the steps then stay, and after it was settled."""
    asked: set[int] = set()
    monkeypatch.setattr(arrays, "LARGE", 0)
    monkeypatch.setattr(arrays, "into_large_pages", lambda address, size: asked.add(address))
    model, _ = pair(*both("Adam"))
    ids, targets = data()
    model.fit(ids, targets, batch_size=12, epochs=1, verbose=0)
    variable, names = model.get_layer("table")._embeddings, ("weights", "momentum", "velocity")
    places = [{variable.held().arrays[name].unsafe_buffer_pointer() for name in names}]
    model.get_layer("table").get_weights()
    model.fit(ids, targets, batch_size=12, epochs=1, verbose=0)
    places.append({variable.held().arrays[name].unsafe_buffer_pointer() for name in names})
    assert places[0] | places[1] <= asked
