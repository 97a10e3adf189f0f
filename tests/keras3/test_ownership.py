"""Which tables an optimizer trains by rows, and what happens to lost tables and to gradients out of its reach."""

from __future__ import annotations

import copy
import pickle
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from selection import product, slow, some

import unhot.keras

from .calls import ON, few
from .models import EPSILON, compiled_step

BACKEND = keras.backend.backend()
ROWS, DIM, IDS = 1_000, 2, 6

FIT: dict[str, Any] = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}

torch_only = pytest.mark.skipif(BACKEND != "torch", reason="gradients are parameters' attributes only there")


class Dense(keras.layers.Embedding):
    """Keras's layer, whose gradient is dense on every backend."""

    def call(self, ids: Any) -> Any:
        return ops.take(self.embeddings * 1.0, ids, axis=0)


STOCK_AND_OURS = ((Dense, keras.optimizers), (unhot.keras.Embedding, unhot.keras))


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 50, (32, IDS)).astype("int32"), rng.normal(size=(32, 1)).astype("float32")


def model_on(table: Any, optimizer: Any) -> Any:
    keras.utils.set_random_seed(0)
    ids = keras.Input((IDS,), dtype="int32")
    model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(table(ids))))
    model.compile(optimizer, "mse")
    return model


@(slow if BACKEND == "tensorflow" else lambda test: test)  # ten seconds
def test_optimizers_that_take_turns() -> None:
    """The one that has lost the table trains it densely then, or takes it back."""
    found = []
    for kind, module in STOCK_AND_OURS:
        keras.utils.set_random_seed(1)
        table = kind(ROWS, DIM)
        models = [model_on(table, module.Adam(0.01)) for _ in range(2)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", unhot.DenseFallbackWarning)
            for model in (*models, *models):
                model.fit(*data(), **FIT)
        state = [variable for model in models for variable in model.optimizer.variables]
        found.append([table.get_weights()[0], *(np.array(ops.convert_to_numpy(variable)) for variable in state)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_fit_after_release_without_compile() -> None:
    model = model_on(unhot.keras.Embedding(ROWS, DIM), unhot.keras.SGD(0.1, momentum=0.9))
    reference = model_on(Dense(ROWS, DIM), keras.optimizers.SGD(0.1, momentum=0.9))
    reference.set_weights(model.get_weights())
    for trained in (reference, model):
        trained.fit(*data(), **FIT)
    unhot.keras.release(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", unhot.DenseFallbackWarning)
        for trained in (reference, model):
            trained.fit(*data(), **FIT)
    np.testing.assert_allclose(model.get_weights()[0], reference.get_weights()[0], atol=1e-5)


class Subclassed(keras.Model):
    """A model that is built by its first call."""

    def __init__(self, table: Any) -> None:
        super().__init__()
        self.table, self.head = table, keras.layers.Dense(1)

    def call(self, ids: Any) -> Any:
        return self.head(ops.mean(self.table(ids), axis=1))


@pytest.mark.parametrize(("way", "called"), product(["Sequential", "subclassed"], [False, True], by=1))
def test_models_that_fit_builds_are_trained_by_rows(way: str, called: bool) -> None:
    """Their variables have no values yet when the table is made."""
    table = unhot.keras.Embedding(ROWS, DIM)
    if way == "Sequential":
        model = keras.Sequential([table, keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
    else:
        model = Subclassed(table)
    if called:
        model(data()[0])
    model.compile(unhot.keras.Adam(0.01), "mse")
    model.fit(*data(), **FIT)
    assert model.optimizer.table(table._embeddings) is not None
    names = [variable.path for variable in model.trainable_variables]
    assert len(set(names)) == len(names)


class Apart(keras.layers.Layer):
    """A lookup in a part of the model that JAX traces on its own."""

    def __init__(self, way: str, kind: Any) -> None:
        super().__init__()
        self.table, self.way = kind(ROWS, DIM, embeddings_initializer="ones"), way

    def build(self, shape: Any) -> None:
        self.table.build(None)
        self.built = True

    def call(self, ids: Any) -> Any:
        return WAYS[self.way](self.table, ids)


def scanned(table: Any, ids: Any) -> Any:
    start = ops.zeros(ops.shape(ids)[:1])
    return ops.expand_dims(ops.scan(lambda c, i: (c + ops.sum(table(i), -1), None), start, ops.transpose(ids))[0], -1)


def chosen(table: Any, ids: Any) -> Any:
    found = ops.cond(ops.sum(ids) > 3, lambda: ops.sum(table(ids), (1, 2)), lambda: ops.sum(table(ids * 0), (1, 2)))
    return ops.expand_dims(found, -1)


def mapped(table: Any, ids: Any) -> Any:
    return ops.expand_dims(ops.vectorized_map(lambda i: ops.sum(table(i)), ids), -1)


def rematerialized(table: Any, ids: Any) -> Any:
    return keras.remat(lambda i: ops.sum(table(i), (1, 2)))(ids)[:, None]


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "scan": scanned, "cond": chosen, "vectorized_map": mapped, "remat": rematerialized,
}  # fmt: skip


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's functions, of which Keras knows nothing")
@pytest.mark.parametrize("jit_compile", some([False, True], [False]))
def test_compiled_steps_take_turns(jit_compile: bool) -> None:
    """Two of ours, which take the table from each other and back after `release`, and one of Keras's: as with Keras's alone."""
    rng = np.random.default_rng(0)
    batches = [(rng.permutation(ROWS)[: 8 * IDS].reshape(8, IDS), rng.normal(size=(8, 1)).astype("float32")) for _ in range(6)]
    found: list[list[Any]] = []
    for kind, module in STOCK_AND_OURS:
        keras.utils.set_random_seed(1)
        table = kind(ROWS, DIM)
        optimizers = [module.Adam(0.05), module.SGD(0.05, momentum=0.9), keras.optimizers.Adagrad(0.05)]
        models = [model_on(table, optimizer) for optimizer in optimizers]
        steps = [compiled_step(model, jit_compile) for model in models]
        seen: list[Any] = []
        for i, number in enumerate([0, 0, 1, 0, 1, 2, 0, 0, 1, 2, 2, 0]):
            steps[number](*batches[i % 6])
            if i % 2:
                seen.append(models[0].predict(batches[0][0], verbose=0))
            if i == 8 and module is unhot.keras:
                unhot.keras.release(models[0])
        state = [np.array(variable.numpy()) for optimizer in optimizers for variable in optimizer.variables]
        found.append([*seen, table.get_weights()[0], *state])
        if module is unhot.keras:
            assert table.embeddings.ownership.owner is optimizers[0]
    for theirs, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=300 * EPSILON, atol=300 * EPSILON)  # as in `assert_same`


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's strategies")
def test_a_strategy_trains_densely() -> None:
    import tensorflow as tf

    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        model = model_on(unhot.keras.Embedding(ROWS, DIM), unhot.keras.Adam(0.01))
        start = model.get_weights()
        with pytest.warns(unhot.DenseFallbackWarning, match="trained densely.*tf.distribute strategy") as told:
            model.fit(*data(), **FIT)
    assert len([warning for warning in told if warning.category is unhot.DenseFallbackWarning]) == 1
    assert model.optimizer.table(model.layers[1].embeddings) is None
    reference = model_on(Dense(ROWS, DIM), keras.optimizers.Adam(0.01))
    reference.set_weights(start)
    reference.fit(*data(), **FIT)
    np.testing.assert_allclose(model.get_weights()[0], reference.get_weights()[0], rtol=300 * EPSILON, atol=300 * EPSILON)


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's devices")
def test_rows_laid_out_over_devices() -> None:
    """They are trained by rows, where Keras tells what calls a layer; see test_distribution for several devices."""
    devices = len(keras.distribution.list_devices())
    mesh = keras.distribution.DeviceMesh((1, devices), ("batch", "rows"))
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*embeddings"] = ("rows", None)
    distribution = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    keras.distribution.set_distribution(distribution)
    try:
        model = model_on(unhot.keras.Embedding(ROWS, DIM), unhot.keras.Adam(0.01))
        start = model.get_weights()
        with warnings.catch_warnings():
            warnings.simplefilter("error" if ON else "ignore", unhot.DenseFallbackWarning)
            model.fit(*data(), **FIT)
        assert (model.optimizer.table(model.layers[1].embeddings) is not None) == ON
        weights = model.get_weights()
    finally:
        keras.distribution.set_distribution(None)
    reference = model_on(Dense(ROWS, DIM), keras.optimizers.Adam(0.01))
    reference.set_weights(start)
    reference.fit(*data(), **FIT)
    np.testing.assert_allclose(weights[0], reference.get_weights()[0], rtol=300 * EPSILON, atol=300 * EPSILON)


@pytest.mark.skipif(BACKEND == "torch", reason="nothing is traced apart there")
@pytest.mark.parametrize("way", few(WAYS, ["scan" if BACKEND == "jax" else "vectorized_map"]))
def test_lookups_that_are_traced_apart(way: str) -> None:
    """In a loop's body, in a branch, under `vectorized_map` or `remat`: the gradient arrives, by rows or not."""
    found = []
    for kind, module in STOCK_AND_OURS:
        ids = keras.Input((IDS,), batch_size=32, dtype="int32")
        model = keras.Model(ids, Apart(way, kind)(ids))
        model.compile(module.SGD(0.001, momentum=0.9), "mse")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", unhot.DenseFallbackWarning)
            model.fit(*data(), batch_size=32, epochs=3, verbose=0)
        found.append([model.get_weights()[0], model.predict(data()[0], batch_size=32, verbose=0)])
    for theirs, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@torch_only
def test_gradients_changed_in_place() -> None:
    import torch

    found = []
    for kind, module in STOCK_AND_OURS:
        keras.utils.set_random_seed(1)
        model = model_on(kind(ROWS, DIM), module.SGD(1.0))
        ids, wanted = data()
        parameters = [variable.value for variable in model.trainable_weights]
        for _ in range(2):
            model.zero_grad()
            (model(ids) - torch.from_numpy(wanted)).pow(2).sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            parameters[0].grad.mul_(3.0).clamp_(-0.05, 0.05).add_(0.01)
            torch.nn.utils.clip_grad_value_(model.parameters(), 0.04)
            model.optimizer.apply([parameter.grad for parameter in parameters], model.trainable_weights)
        found.append(model.get_weights()[0])
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)


@torch_only
def test_a_gradient_that_has_been_seen() -> None:
    import torch

    found = []
    for kind, module in STOCK_AND_OURS:
        keras.utils.set_random_seed(1)
        model = model_on(kind(ROWS, DIM), module.SGD(1.0))
        ids, wanted = data()
        model.optimizer.build(model.trainable_variables)
        table = model.trainable_weights[0].value
        seen = []
        for i in range(4):  # the second adds to the first, the third is then another tensor
            loss = (model(ids + i) - torch.from_numpy(wanted)).pow(2).sum()
            (alone,) = torch.autograd.grad(loss, table, retain_graph=True)
            loss.backward(create_graph=i == 2)
            seen += [alone.to_dense(), table.grad.to_dense().clone()]
            copies = copy.deepcopy(table), pickle.loads(pickle.dumps(table))
            assert [copied.grad for copied in copies] == [None, None]
            if i == 2:
                table.grad = None
                assert table.grad is None
        table.grad = 2.0 * table.grad
        found.append([*seen, table.grad.clone()])
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs)


@torch_only
def test_a_gradient_is_let_go_of() -> None:
    import torch

    model = model_on(unhot.keras.Embedding(ROWS, DIM), unhot.keras.SGD(1.0))
    model.optimizer.build(model.trainable_variables)
    (model(data()[0])).sum().backward()
    table = model.trainable_weights[0].value
    held = weakref.ref(table.grad.values)
    assert isinstance(held(), torch.Tensor)
    model.zero_grad()
    assert held() is None


def scaled(optimizer: Any, tables: Any) -> None:
    optimizer.loss_scale_factor = 8.0


def constrained(optimizer: Any, tables: Any) -> None:
    tables[0].embeddings.constraint = keras.constraints.NonNeg()


def clipped(optimizer: Any, tables: Any) -> None:
    optimizer.global_clipnorm = 0.05


TABLES_ALONE = [("Nadam", None), ("Adam", scaled), ("Adam", clipped), *([("Adam", constrained)] if BACKEND == "torch" else [])]


@pytest.mark.parametrize(("name", "change"), few(TABLES_ALONE, []))
def test_a_model_of_tables_alone(name: str, change: Callable[[Any, Any], None] | None) -> None:
    """Its steps pass over Keras's own: what that changes beside variables and slots (Nadam's product), and on PyTorch more."""
    found = []
    for kind, module in STOCK_AND_OURS:
        keras.utils.set_random_seed(1)
        ids, tables = keras.Input((IDS,), dtype="int32"), (kind(ROWS, DIM), kind(ROWS, DIM))
        vectors = [keras.layers.GlobalAveragePooling1D()(table(ids)) for table in tables]
        model = keras.Model(ids, keras.layers.Dot(axes=1)(vectors))
        model.compile(getattr(module, name)(0.01), "mse")
        model.fit(*data(), **FIT)
        if change:
            change(model.optimizer, tables)
            model.compile(model.optimizer, "mse")
        model.fit(*data(), **FIT)
        state = (variable for variable in model.optimizer._variables if not variable.shape)
        found.append([*model.get_weights(), *(float(keras.ops.convert_to_numpy(variable)) for variable in state)])
    for ours, theirs in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
