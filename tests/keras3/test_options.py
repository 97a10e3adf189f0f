"""What Keras's optimizers and `compile` offer beside the rule: exact with tables too."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import pytest
from selection import slow, some

import unhot
from unhot.keras.backends import backend

from .calls import few, slow_but_on_torch
from .models import DIM, LENGTH, ROWS, assert_same, data, model_with, one_hot, pair, table
from .test_fit import both

BACKEND = keras.backend.backend()


def by_one(*axes: Iterable[Any], fast: list[tuple[Any, ...]], off_torch: int) -> list[Any]:
    """All combinations, those in `fast` in the fast set, off torch the first of them."""
    return some(itertools.product(*axes), fast if BACKEND == "torch" else fast[:off_torch])


def fit_both(ours: keras.Model, theirs: keras.Model, **options: Any) -> None:
    ids, targets = data()
    options = {"batch_size": 12, "epochs": 4, "shuffle": False, "verbose": 0, **options}
    for model in (ours, theirs):
        model.fit(ids, targets, **options)
    owned = ours.optimizer if hasattr(ours.optimizer, "table") else ours.optimizer.inner_optimizer
    assert owned.table(ours.get_layer("table")._embeddings) is not None


def test_small_tables_are_trained_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is faster, and on repeated ids too, which Keras's optimizers on TensorFlow would take one by one."""
    monkeypatch.setattr(backend, "FEWEST_ROWS", ROWS + 1)
    ours, theirs = pair(*both("Adam", learning_rate=0.03))
    ids, targets = data()
    for model in (ours, theirs):
        model.fit(ids, targets, batch_size=12, epochs=4, shuffle=False, verbose=0)
    assert ours.optimizer.table(ours.get_layer("table")._embeddings) is None
    assert_same(ours, theirs)


FLAGS = {"nesterov": "SGD", "amsgrad": "Adam", "centered": "RMSprop"}


@pytest.mark.parametrize(
    ("flag", "value"), by_one(FLAGS, [1, 0, "no"], fast=[("amsgrad", "no"), ("nesterov", 1), ("centered", 0)], off_torch=0)
)
def test_what_keras_takes_for_true_or_false(flag: str, value: Any) -> None:
    name = FLAGS[flag]
    ours, theirs = pair(*both(name, learning_rate=0.03, **{flag: value}, **({"momentum": 0.9} if name == "SGD" else {})))
    fit_both(ours, theirs)
    assert_same(ours, theirs)


CLIPPING: list[dict[str, Any]] = [{"clipnorm": 0.05}, {"global_clipnorm": 0.05}, {"clipvalue": 0.01}]


@pytest.mark.parametrize(
    ("name", "options"),
    by_one(["Adam", "SGD"], CLIPPING, fast=list(zip(["SGD", "Adam", "Adam"], CLIPPING[::-1], strict=True)), off_torch=2),
    ids=str,
)
def test_clipping(name: str, options: dict[str, Any]) -> None:
    ours, theirs = pair(*both(name, learning_rate=0.03, **options))
    fit_both(ours, theirs)
    assert_same(ours, theirs)


def test_schedule_of_the_learning_rate() -> None:
    schedule = keras.optimizers.schedules.CosineDecay(0.05, 20, warmup_target=0.1, warmup_steps=5)
    ours, theirs = pair(*both("Adam", learning_rate=schedule))
    fit_both(ours, theirs)
    assert_same(ours, theirs)


@slow_but_on_torch
def test_callbacks_that_set_the_learning_rate() -> None:
    ours, theirs = pair(*both("SGD", learning_rate=0.1, momentum=0.9))
    rates = (0.1, 0.3, 0.02, 0.2)
    fit_both(ours, theirs, callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch, rate: rates[epoch])])
    assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("excluded", "by"),
    few([("embeddings", "name"), ("kernel", "name"), ("embeddings", "variable")], []),
)
def test_weight_decay_with_exclusions(excluded: str, by: str) -> None:
    """Keras looks for the words in the variables' names; the rows that no id touches show whether the table decays."""
    ours, theirs = pair(*both("AdamW", learning_rate=0.03, weight_decay=0.3))
    for model in (ours, theirs):
        variables = [variable for variable in model.trainable_variables if excluded in variable.name]
        assert variables, "or nothing would be excluded"
        given: dict[str, Any] = {"var_names": [excluded]} if by == "name" else {"var_list": variables}
        model.optimizer.exclude_from_weight_decay(**given)
    start = ours.get_weights()[0][-4:]
    fit_both(ours, theirs)
    stood_still = np.array_equal(ours.get_weights()[0][-4:], start)
    assert stood_still == (excluded == "embeddings")
    assert_same(ours, theirs)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has it on the other backends only")
def test_steps_per_execution() -> None:
    ours, theirs = pair(*both("Adam", learning_rate=0.03), steps_per_execution=2)
    fit_both(ours, theirs)
    assert_same(ours, theirs)


WHOLE: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("gradient_accumulation_steps", {"gradient_accumulation_steps": 2}, {}),
    ("use_ema", {"use_ema": True, "ema_overwrite_frequency": 3}, {}),
    ("regularizer", {}, {"embeddings_regularizer": "l2"}),
    ("constraint", {}, {"embeddings_constraint": "unit_norm"}),
]


@pytest.mark.parametrize(("what", "options", "layer_options"), few(WHOLE, WHOLE[:1]), ids=[what for what, _, _ in WHOLE])
def test_what_takes_all_rows_is_trained_whole(what: str, options: dict[str, Any], layer_options: dict[str, Any]) -> None:
    """Exact too, at the cost of all rows: a warning says why."""
    stock = keras.layers.Embedding(ROWS, DIM, name="table", **layer_options)
    ours, theirs = model_with(table(**layer_options)), model_with(stock if layer_options else one_hot())
    theirs.set_weights(ours.get_weights())
    for model, optimizer in zip((ours, theirs), both("SGD", learning_rate=0.1, momentum=0.9, **options), strict=True):
        model.compile(optimizer=optimizer, loss="mse")
    ids, targets = data()
    ids = np.argsort(np.random.default_rng(0).random((len(ids), ROWS)))[:, :LENGTH].astype("int32")  # no repeats in a sample
    with pytest.warns(UserWarning, match=f"trained densely, at the cost of all its rows: .*{what}"):
        ours.fit(ids, targets, batch_size=12, epochs=3, shuffle=False, verbose=0)
    theirs.fit(ids, targets, batch_size=12, epochs=3, shuffle=False, verbose=0)
    assert ours.optimizer.table(ours.get_layer("table")._embeddings) is None
    assert_same(ours, theirs)


@pytest.mark.parametrize("policy", few(["mixed_bfloat16", "mixed_float16"], []))
def test_mixed_precision(policy: str) -> None:
    """The table stays float32, and a loss scale that overflows at first skips those steps, as with any variable."""
    keras.config.set_dtype_policy(policy)
    try:
        ours, theirs = pair(*both("Adam", learning_rate=0.01))
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(ours.optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
    start = ours.get_weights()
    fit_both(ours, theirs, epochs=8)
    moved = max(np.abs(a - b).max() for a, b in zip(start, ours.get_weights(), strict=True))
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        # The dense gradient is summed in half precision: what is compared is that both made the same steps, in size.
        np.testing.assert_allclose(mine, other, atol=0.1 * moved, rtol=0)
    if policy == "mixed_float16":
        steps = [int(m.optimizer.iterations.value) for m in (ours, theirs)]
        assert steps[0] == steps[1] > 0


def test_loss_scaling_in_float32() -> None:
    """A loss-scale optimizer skips the steps that overflow, and its scales, powers of two, leave no trace in the others."""
    scaled = [keras.optimizers.LossScaleOptimizer(o, initial_scale=2.0**127) for o in both("Adam", learning_rate=0.03)]
    ours, theirs = pair(*scaled)
    ids, targets = data()
    for model in (ours, theirs):
        model.fit(ids, 64 * targets, batch_size=12, epochs=6, shuffle=False, verbose=0)
    steps = [int(m.optimizer.iterations.value) for m in (ours, theirs)]
    assert 0 < steps[0] == steps[1] < 24, "some steps must overflow, and be skipped by both"
    assert_same(ours, theirs)


BUILDS: dict[str, Callable[[Any], keras.Model]] = {}


def model(build: Callable[[Any], keras.Model]) -> Callable[[Any], keras.Model]:
    BUILDS[build.__name__] = build
    return build


@model
def shared_by_two_inputs(layer: Any) -> keras.Model:
    ids = keras.Input((LENGTH,), dtype="int32")
    vectors = keras.ops.concatenate([layer(ids[:, :2]), layer(ids[:, 1:])], axis=1)
    return keras.Model(ids, keras.layers.Dense(1, name="out")(keras.layers.Flatten()(vectors)))


@model
def frozen(layer: Any) -> keras.Model:
    other = type(layer).from_config({**layer.get_config(), "name": "frozen"})
    other.trainable = False
    ids = keras.Input((LENGTH,), dtype="int32")
    vectors = keras.ops.concatenate([layer(ids), other(ids)], axis=1)
    return keras.Model(ids, keras.layers.Dense(1, name="out")(keras.layers.Flatten()(vectors)))


@model
def two_tables_and_an_unused_row(layer: Any) -> keras.Model:
    other = type(layer).from_config({**layer.get_config(), "name": "other"})
    ids = keras.Input((LENGTH,), dtype="int32")
    vectors = keras.ops.concatenate([layer(ids), other(ids // 2)], axis=1)
    return keras.Model(ids, keras.layers.Dense(1, name="out")(keras.layers.Flatten()(vectors)))


@model
def table_alone(layer: Any) -> keras.Model:
    ids = keras.Input((LENGTH,), dtype="int32")
    return keras.Model(ids, keras.ops.sum(layer(ids), axis=(1, 2), keepdims=False)[:, None])


@model
def read_as_a_whole_too(layer: Any) -> keras.Model:
    """A loss that takes all rows of the table: its gradient is dense in every step."""

    class Tied(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer
            self.out = keras.layers.Dense(1, name="out")

        def build(self, shape: Any) -> None:
            if not self.layer.built:
                self.layer.build(shape)
            self.out.build((None, DIM))
            self.built = True

        def call(self, ids: Any) -> Any:
            vectors = keras.ops.mean(self.layer(ids), axis=1)
            return self.out(vectors) + keras.ops.mean(keras.ops.convert_to_tensor(self.layer.embeddings) ** 2)

        def get_layer(self, name: str) -> Any:
            return self.layer

    made = Tied()
    made.build((None, LENGTH))
    return made


FAST = [
    ("shared_by_two_inputs", "Adam"), ("two_tables_and_an_unused_row", "SGD"), ("read_as_a_whole_too", "Nadam"),
    ("frozen", "Adam"), ("table_alone", "SGD"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "name"), by_one(BUILDS, ["Adam", "Nadam", "SGD"], fast=FAST, off_torch=2))
def test_models(build: str, name: str) -> None:
    options = {"learning_rate": 0.03} | ({"momentum": 0.9} if name == "SGD" else {})
    ours, theirs = pair(*both(name, **options), BUILDS[build])
    fit_both(ours, theirs)
    assert_same(ours, theirs)


@(slow if BACKEND == "jax" else lambda test: test)  # it compiles each operation of an eager step by itself
def test_a_table_that_gets_a_dense_gradient_now_and_then() -> None:
    """Steps by rows, of the whole table and without it, in turn: two models share the layer and the optimizer."""
    finals = []
    for optimizer, layer in zip(both("Nadam", learning_rate=0.03), (table(), one_hot()), strict=True):
        keras.utils.set_random_seed(3)
        layer.build((None, LENGTH))
        model = read_as_a_whole_too(layer)
        finals.append(_alternating(model, layer, optimizer))
    np.testing.assert_allclose(*finals, rtol=3e-5, atol=3e-5)


def _alternating(model: Any, layer: Any, optimizer: Any) -> Any:
    ids, targets = data()
    layer.embeddings.assign(np.sin(np.arange(ROWS * DIM)).reshape(ROWS, DIM))
    model.out.kernel.assign(np.ones((DIM, 1)))
    optimizer.build(model.trainable_variables)

    def loss(batch: Any, wanted: Any, whole: bool) -> Any:
        found = model(batch) if whole else model.out(keras.ops.mean(layer(batch), axis=1))
        return keras.ops.mean((found - keras.ops.convert_to_tensor(wanted)) ** 2)

    for step in range(12):
        batch = slice(4 * step, 4 * step + 4)
        apply(model, optimizer, lambda b=batch, s=step: loss(ids[b], targets[b], s % 3 == 1))
    return np.asarray(keras.ops.convert_to_numpy(layer.embeddings.value))


def apply(model: Any, optimizer: Any, loss: Callable[[], Any]) -> None:
    """One eager step of a custom loop, in the backend's own way."""
    variables = model.trainable_variables
    if BACKEND == "torch":
        model.zero_grad()
        loss().backward()
        optimizer.apply([v.value.grad for v in variables], variables)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss()
        optimizer.apply(tape.gradient(value, [v.value for v in variables]), variables)
    else:
        import jax

        def stateless(values: Any) -> Any:
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return loss()

        gradients = jax.grad(stateless)([v.value for v in variables])
        optimizer.apply(gradients, variables)


CHANGED: dict[str, Any] = {"learning_rate": -0.02, "beta_2": 1.0, "weight_decay": -0.5, "beta_1": "a tensor"}


@pytest.mark.skipif(BACKEND != "torch", reason="hyperparameters are constants of graphs")
@pytest.mark.filterwarnings("ignore::unhot.DenseFallbackWarning")
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", CHANGED)
def test_numbers_that_rows_cannot_be_trained_with_after_build(name: str, frozen: bool) -> None:
    """Steps are dense as long as they are there, and by rows before and after."""
    ours, theirs = pair(*both("Adam", learning_rate=0.03, weight_decay=0.1))
    layer, ids = ours.get_layer("table"), data()[0]
    rows = np.unique(ids)[:3]
    if frozen:
        layer.frozen = rows
        before = keras.ops.convert_to_numpy(layer.embeddings)[rows].copy()
    fit_both(ours, theirs)
    for model in (ours, theirs):
        value = CHANGED[name]
        setattr(model.optimizer, name, keras.ops.convert_to_tensor(0.5) if value == "a tensor" else value)
    fit_both(ours, theirs)
    if frozen:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.embeddings)[rows], before)
        return
    assert_same(ours, theirs)
    for model in (ours, theirs):
        setattr(model.optimizer, name, {"learning_rate": 0.01, "beta_2": 0.99}.get(name, 0.1))
    fit_both(ours, theirs)
    assert_same(ours, theirs)


@pytest.mark.parametrize("rate", [-0.02, "past its end"])
def test_rates_below_zero(rate: Any) -> None:
    """Ascent, and a linear schedule past its end."""

    class Linear(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
        def __call__(self, step: Any) -> Any:
            return 0.02 * (1.0 - keras.ops.cast(step, "float32") / 9.0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", unhot.DenseFallbackWarning)
        ours, theirs = pair(*both("Adam", learning_rate=Linear() if rate == "past its end" else rate))
        fit_both(ours, theirs, epochs=3)
    assert_same(ours, theirs)
