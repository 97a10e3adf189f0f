"""The registry through `unhot.keras`: a table in a model that is trained step by step, against dense training.

A step is `train_on_batch`, which does what `fit` does with one batch: on TensorFlow and JAX a compiled function, on PyTorch the
eager one.  The loss of a batch is the sum of its vectors, each times the gradient that it is to get.  The reference is dense
training in NumPy, or Keras's own optimizer on a dense variable.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import keras
import numpy as np
import pytest
from conformance import lazy, signs
from conformance.dense import Array
from conformance.registry import MOMENTS, RULES, Rule, every_option, named
from conformance.streams import DIM, ROWS, SCHEDULES, Step, Stream, generator, make, rounded
from conformance.training import agree, dense_copy, dense_gradient, train, versions
from selection import label, some

import unhot
import unhot.keras
from unhot.graph import history
from unhot.keras._private import ON
from unhot.keras.backends import backend

from .calls import by_rows
from .models import OneHotDense

BACKEND = keras.backend.backend()

WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "torch": {"eager": {"jit_compile": False}, "compiled": {"jit_compile": True}},
    "jax": {"compiled": {"jit_compile": True}, "eager": {"run_eagerly": True}},
    "tensorflow": {"compiled": {"jit_compile": True}, "graph": {"jit_compile": False}, "eager": {"run_eagerly": True}},
}
"""How a step can run: what `compile` is given."""

FIRST = {"torch": "eager", "jax": "compiled", "tensorflow": "graph"}[BACKEND]

BATCH = 8
"""Ids of a step, so that one compilation serves: no stream has more."""


def as_here(rule: Rule) -> Rule:
    """The rule with the accumulators' start that Keras makes of it: on TensorFlow, a float32 number."""
    start = "initial_accumulator_value"
    if BACKEND != "tensorflow" or start not in rule.defaults:
        return rule
    return Rule(rule.name, rule.convention, rule.rate, {**rule.hyper, start: rounded(rule.defaults[start])})


OWN = ("RAdam", "RowwiseAdagrad")
"""Optimizers of `unhot.keras` that Keras has not: they are PyTorch's and FBGEMM's."""

LINES = [as_here(rule) for rule in RULES if rule.convention == "keras" or rule.name in OWN]
MAIN = [as_here(rule) for rule in named(
    "SGD-keras-momentum=0.9-nesterov-weight_decay=0.03",
    "Adagrad-keras-weight_decay=0.03",
    "RMSprop-keras-momentum=0.8-weight_decay=0.3",
    "Adadelta-keras-weight_decay=0.003",
    "Adam-keras-amsgrad-weight_decay=0.3",
    "AdamW-keras-weight_decay=0.3",
    "NAdam-keras-weight_decay=0.3",
    "Adamax-keras-weight_decay=0.3",
    "Lion-keras-beta_1=0.95-beta_2=0.98-weight_decay=0.3",
    "Ftrl-keras-l2_shrinkage_regularization_strength=0.1-l1_regularization_strength=0.05-weight_decay=0.03",
    "RAdam-torch-weight_decay=0.3",
    "RowwiseAdagrad-keras-weight_decay=0.03-initial_accumulator_value=0.2",
)]  # fmt: skip
"""One of each optimizer, the one that keeps most."""

OTHER_BETAS = [as_here(case) for rule in RULES if rule.convention == "keras" for case in rule.with_betas()[1:]]
if BACKEND != "torch":  # for one of each optimizer: compiling is what takes the time
    OTHER_BETAS = [rule.with_betas()[3] for rule in MAIN if rule.name in MOMENTS]

FEW = MAIN[0], MAIN[5], MAIN[8]
"""One of each family that has a history."""

DTYPES = ("float32", "float64")
FEW_WIDE = [(rule, dtype) for rule in FEW for dtype in DTYPES]


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Keras's default dtypes, for a while; JAX has float64 only where that is asked for."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    wide: Any = nullcontext()
    if BACKEND == "jax":
        import jax

        wide = jax.enable_x64(dtype == "float64")
    try:
        with wide:
            yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


def numbers(tensor: Any) -> Array:
    return np.array(keras.ops.convert_to_numpy(tensor))


class Given(keras.losses.Loss):
    """The loss whose gradient is what stands in place of targets."""

    def __init__(self) -> None:
        super().__init__(reduction="sum")

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.sum(y_true * y_pred, axis=-1)


class ModelCopy:
    """A model of an `unhot.keras.Embedding` alone, under the optimizer of the rule's name.

    With `lookups=2`, each step looks up twice: a sample is two ids.  A step takes a multiple of `batch` ids.  With
    `stock=True`, the model is one-hot x kernel, under Keras's own optimizer.
    """

    def __init__(
        self,
        rule: Rule,
        weights: Array,
        dtype: str,
        way: str = FIRST,
        *,
        rate: Any = None,
        lookups: int = 1,
        batch: int = BATCH,
        stock: bool = False,
    ) -> None:
        self.dtype, self.lookups, self.batch = dtype, lookups, batch
        self.rows, self.looks = len(weights), 0
        layers, optimizers = (OneHotDense, keras.optimizers) if stock else (unhot.keras.Embedding, unhot.keras)
        with precision(dtype):
            ids = keras.Input((lookups,), dtype="int32")
            self.layer = layers(*weights.shape)
            found = [self.layer(ids[:, i : i + 1]) for i in range(lookups)]
            self.model = keras.Model(ids, found[0] if lookups == 1 else keras.ops.concatenate(found, axis=1))
            cls = getattr(optimizers, {"NAdam": "Nadam"}.get(rule.name, rule.name))
            self.optimizer = cls(rate or rule.rate, **rule.hyper)
            self.model.compile(self.optimizer, loss=Given(), **WAYS[BACKEND][way])
            self.optimizer.build(self.model.trainable_variables)
            self.started = [numbers(variable) for variable in self.optimizer._variables]
        self.restart(weights)

    def restart(self, weights: Array) -> None:
        """Begin anew from these weights."""
        with precision(self.dtype):
            self.layer.set_weights([weights])
            self.optimizer.set_weights(self.started)

    def _filled(self, ids: Array) -> Array:
        """As many ids as a step takes: the first once more, or the last row."""
        more = -len(ids) % self.batch or (0 if len(ids) else self.batch)
        ids = np.concatenate([ids, np.full(more, ids[0] if len(ids) else self.rows - 1)])
        return ids.astype("int32").reshape(-1, self.lookups)

    def lookup(self, ids: Array) -> Array:
        with precision(self.dtype):
            found: Array = self.model.predict_on_batch(self._filled(ids))
        return found.reshape(-1, found.shape[-1])[: len(ids)]

    def step(self, ids: Array, gradients: Array) -> None:
        filled = self._filled(ids)
        given = np.zeros((filled.size, gradients.shape[1]), self.dtype)  # a gradient of 0 is none
        given[: len(ids)] = gradients
        with precision(self.dtype):
            self.model.train_on_batch(filled, given.reshape(*filled.shape, -1))

    def assign(self, hyper: dict[str, Any]) -> None:
        with precision(self.dtype):
            for name, value in hyper.items():
                setattr(self.optimizer, name, value)

    def weights(self) -> Array:
        self.looks += 1
        with precision(self.dtype):
            found = numbers(self.layer(np.arange(self.rows))) if self.looks % 2 else np.array(self.layer.get_weights()[0])
        assert found.dtype == self.dtype, "or a float64 table would be judged as a float32 one"
        return found

    @property
    def by_rows(self) -> bool:
        """Whether the optimizer trains the table by rows."""
        return self.optimizer.table(self.layer._embeddings) is not None


def copies_of(rule: Rule, dtypes: tuple[str, ...] = DTYPES, *, any_size: bool = False, **options: Any) -> list[ModelCopy]:
    """With `any_size`, steps take as many ids as the stream has, but on JAX, which would compile anew for each number."""
    options["batch"] = options.get("lookups", 1) if any_size and BACKEND != "jax" else BATCH
    weights = closed(rule).weights
    return [ModelCopy(rule, weights, dtype, **options) for dtype in dtypes]


def check(rule: Rule, copies: list[ModelCopy], *streams: Stream, dense: ModelCopy | None = None) -> None:
    """Train the copies on each of the streams; `dense` is dense float32 training, NumPy's if there is none."""
    for given in streams:
        for copy in copies:
            copy.restart(given.weights)
        reference = dense_copy(rule, versions(given.weights), "float64")
        float32 = dense or dense_copy(rule, given.weights, "float32")
        train(given, reference, [float32, *copies], agree, guard=signs.guard(rule, given))


def closed(rule: Rule) -> Stream:
    """A closed loop: each gradient depends on the row looked up."""
    return make("closed", "wandering", rule.rate)


def one_touch_and_rest(rule: Rule) -> Stream:
    """Weights of 0, each touched once, by gradients of 1e-14 to 1e3, then at rest.

    The weight is the movement, so the movement itself must be right to the last places, for every ratio of the root to epsilon.
    """
    random = generator("rest", rule.id)
    sizes = 10.0 ** random.uniform(-14, 3, size=(ROWS, DIM))
    gradients = rounded(sizes * random.choice((-1.0, 1.0), size=(ROWS, DIM)))
    touches = {at: np.arange(BATCH * i, BATCH * (i + 1)) for i, at in enumerate((1, 3, 45, 90))}
    steps = []
    for number in range(1, 190):
        rows = touches.get(number, np.arange(0))
        rate = rounded(rule.rate * SCHEDULES["wandering"](number))
        steps.append(Step(rows, gradients[rows], hyper={"learning_rate": rate}))
    return Stream(np.zeros((ROWS, DIM)), np.zeros((ROWS, DIM)), steps)


CASES = [*((rule, dtype) for rule in LINES for dtype in DTYPES), *((rule, "float32") for rule in OTHER_BETAS)]
FAST = [(rule, "float32") for rule in every_option(LINES)] + [(rule, "float64") for rule in FEW]
if BACKEND != "torch":  # compiling takes seconds; what is compiled is tested in test_jax.py, in float64 and by every option too
    FAST = [(rule, "float32") for rule in MAIN] + [(FEW[1], "float64")]


@pytest.mark.parametrize(("rule", "dtype"), some(CASES, FAST), ids=label)
def test_as_dense_training(rule: Rule, dtype: str) -> None:
    """Under rates that change at every step; the second stream begins anew in the same compiled model."""
    copies = copies_of(rule, (dtype,), any_size=BACKEND == "torch")
    check(rule, copies, closed(rule), one_touch_and_rest(rule))
    assert all(copy.by_rows for copy in copies)


@pytest.mark.parametrize(
    ("rule", "dtype"),
    some([(rule, dtype) for rule in MAIN for dtype in DTYPES], [(FEW[1], "float32")] * (BACKEND != "tensorflow")),
    ids=label,
)
def test_streams(rule: Rule, dtype: str) -> None:
    """Gradients of all sizes, and long gaps."""
    streams = ("mixed", "cosine"), ("tiny", "constant"), ("huge", "warm-up"), ("gaps", "constant")
    check(rule, copies_of(rule, (dtype,)), *(make(name, schedule, rule.rate) for name, schedule in streams))


# On torch a graph holds nothing of unhot's, and takes the longest to compile.
COMPILED_TOO = FEW if BACKEND == "torch" else MAIN
OTHERS = [
    (way, rule, dtype)
    for way in WAYS[BACKEND] if way != FIRST
    for rule in (COMPILED_TOO if way == "compiled" else FEW)
    for dtype in (DTYPES if rule in FEW else DTYPES[:1])
]  # fmt: skip
OTHERS_FAST = [("compiled", FEW[1], "float32")] if BACKEND == "tensorflow" else []
"""`test_fit` has the others: on torch it compiles a step, which takes a quarter of a minute, elsewhere it makes eager ones."""


@pytest.mark.parametrize(("way", "rule", "dtype"), some(OTHERS, OTHERS_FAST), ids=label)
def test_other_ways_to_run_a_step(way: str, rule: Rule, dtype: str, everything: bool) -> None:
    given = closed(rule)
    if way == "eager":
        del given.steps[60 if everything else 20 :]  # Keras's eager steps are slow
    with by_rows() if BACKEND == "torch" else nullcontext():
        check(rule, copies_of(rule, (dtype,), way=way, any_size=way == "eager"), given)


@pytest.mark.skipif(BACKEND == "jax" and not ON, reason="the table is trained densely then, and rounded as Keras does")
@pytest.mark.parametrize(("rule", "dtype"), some(FEW_WIDE, [(FEW[1], "float32")]), ids=label)
def test_two_lookups_in_a_step(rule: Rule, dtype: str) -> None:
    check(rule, copies_of(rule, (dtype,), lookups=2, any_size=BACKEND == "torch"), closed(rule))


STOCK = [rule for rule in MAIN if rule.name not in OWN]


@pytest.mark.parametrize("rule", some(STOCK, FEW[1:2] if BACKEND == "torch" else []), ids=label)
def test_as_keras_trains(rule: Rule) -> None:
    """One-hot vectors, and Keras's own optimizer: in float32 the yardstick, in float64 as near to dense training in NumPy.

    The hyperparameters are float32 numbers, to which Keras on TensorFlow rounds some of them; Nadam's 0.96 too, which leaves it
    out in float64.  On PyTorch, Keras's product of float64 matrices is float32, which leaves out all of them there.
    """
    names = set(inspect.signature(getattr(unhot, rule.name)).parameters) & set(rule.defaults) - {"learning_rate"}
    given = {name: rule.defaults[name] for name in names}
    exact = Rule(rule.name, "keras", rule.rate, {k: rounded(v) if type(v) is float else v for k, v in given.items()})
    dense, wide = copies_of(exact, stock=True)
    left_out = BACKEND == "torch" or (BACKEND == "tensorflow" and rule.name == "NAdam")
    check(exact, [*([] if left_out else [wide]), *copies_of(exact)], closed(exact), dense=dense)


class VariableCopy:
    """A dense variable under an optimizer that Keras has not."""

    def __init__(self, rule: Rule, weights: Array, dtype: str) -> None:
        self.dtype = dtype
        with precision(dtype):
            self.variable = keras.Variable(weights, dtype=dtype, name="weights")
            self.optimizer = getattr(unhot.keras, rule.name)(rule.rate, **rule.hyper)
            self.optimizer.build([self.variable])

    def lookup(self, ids: Array) -> Array:
        return self.weights()[ids]

    def step(self, ids: Array, gradients: Array) -> None:
        with precision(self.dtype):
            gradient = keras.ops.convert_to_tensor(dense_gradient(self.weights(), ids, gradients))
            self.optimizer.apply([gradient], [self.variable])

    def assign(self, hyper: dict[str, Any]) -> None:
        with precision(self.dtype):
            for name, value in hyper.items():
                setattr(self.optimizer, name, value)

    def weights(self) -> Array:
        with precision(self.dtype):
            return numbers(self.variable.value)


@pytest.mark.parametrize("rule", [rule for rule in LINES if rule.name == "RAdam"], ids=label)
def test_variables_that_are_not_tables(rule: Rule) -> None:
    """RAdam trains them, too; the decay is a float32 number, to which TensorFlow rounds it. RowwiseAdagrad leaves them to
    Keras's Adagrad (test_own_optimizers.py).
    """
    exact = Rule(rule.name, rule.convention, rule.rate, {name: rounded(value) for name, value in rule.hyper.items()})
    given = closed(exact)
    reference, dense = dense_copy(exact, versions(given.weights), "float64"), dense_copy(exact, given.weights, "float32")
    train(given, reference, [dense, *(VariableCopy(exact, given.weights, dtype) for dtype in DTYPES)], agree)


LAZY: dict[str, dict[str, Any]] = {"plain": {}, "amsgrad": {"amsgrad": True}, "betas": {"beta_1": 0.99999, "beta_2": 0.9}}


@pytest.mark.parametrize(
    ("options", "dtype"), some([(name, d) for name in LAZY for d in DTYPES], [("plain", "float32"), ("amsgrad", "float64")])
)
def test_lazy_adam(options: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are not in the batch stand still, also in tables so small that others would be left to Keras."""
    monkeypatch.setattr(backend, "FEWEST_ROWS", 1 << 14)
    hyper = {"epsilon": 1e-7, **LAZY[options]}
    given = make("closed", "wandering", lazy.RATE)
    reference, dense = (lazy.lazy(w, d, **hyper) for w, d in ((versions(given.weights), "float64"), (given.weights, "float32")))
    copy = ModelCopy(Rule("LazyAdam", "keras", lazy.RATE, LAZY[options]), given.weights, dtype)
    train(given, reference, [dense, copy], agree)
    assert copy.by_rows


# ---------------------------------------------------------------- long rests


class Rates(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of each step."""

    def __init__(self, rates: Array) -> None:
        super().__init__()
        self.rates = rates

    def __call__(self, step: Any) -> Any:
        return keras.ops.take(keras.ops.convert_to_tensor(self.rates, dtype="float64"), keras.ops.cast(step, "int32"))


SHORT_RING = 1 << 10


@pytest.mark.skipif(BACKEND == "torch", reason="its engine is the core's: tests/conformance/test_long_runs.py")
@pytest.mark.parametrize("rule", some(FEW, FEW[1:2]), ids=label)
def test_rests_longer_than_the_ring(rule: Rule, monkeypatch: pytest.MonkeyPatch, everything: bool) -> None:
    """Rows that rest through two rings of history, settled in turn on the way, in one `fit`."""
    if not everything:
        monkeypatch.setattr(history, "SMALL_RING", SHORT_RING)
    rows, dim, steps = 5000, 2, 2 * history.SMALL_RING
    random = np.random.default_rng(0)
    start = random.normal(size=(rows, dim)) * 0.05
    batches = random.integers(0, 6, (steps, BATCH)).astype("int32")
    batches[:: steps // 8] = random.integers(0, rows, batches[:: steps // 8].shape)
    gradients = random.normal(size=(steps, BATCH, dim))
    rates = rule.rate * (0.1 + np.abs(np.sin(np.arange(steps) / 700)))
    table = unhot.Table.from_array(start, optimizer=rule.optimizer(learning_rate=lambda step: float(rates[step - 1])))
    for step in range(steps):
        table.step(batches[step], gradients[step])
    way = {"jax": "compiled", "tensorflow": "graph"}[BACKEND]
    copy = ModelCopy(rule, start, "float64", way, rate=Rates(rates))
    with precision("float64"):
        targets = gradients.reshape(-1, 1, dim)
        copy.model.fit(batches.reshape(-1, 1), targets, batch_size=BATCH, epochs=1, shuffle=False, verbose=0)
    traced = copy.optimizer.table(copy.layer._embeddings).traced
    assert traced.chunk > 1, "each step settles some rows in turn"
    assert traced.family.capacity == history.SMALL_RING
    np.testing.assert_allclose(copy.weights(), table.array, rtol=1e-9, atol=1e-9 * np.abs(table.array).max())


# ---------------------------------------------------------------- the comparison notices


class StaleReads(ModelCopy):
    """Looks rows up as they were after their last touch."""

    def restart(self, weights: Array) -> None:
        super().restart(weights)
        self.held = weights.astype(self.dtype)

    def lookup(self, ids: Array) -> Array:
        return self.held[ids]

    def step(self, ids: Array, gradients: Array) -> None:
        super().step(ids, gradients)
        self.held[ids] = super().lookup(ids)


class LastOfRepeated(ModelCopy):
    """Takes one gradient of a repeated id instead of their sum."""

    def step(self, ids: Array, gradients: Array) -> None:
        rows, first = np.unique(ids, return_index=True)
        super().step(rows, gradients[first])


class LateRate(ModelCopy):
    """Every step has the rate of the step before."""

    def assign(self, hyper: dict[str, Any]) -> None:
        before = vars(self).get("hyper", hyper)
        self.hyper = hyper
        super().assign(before)


class LittleOff(ModelCopy):
    """A decay that is 1e-4 larger."""

    def __init__(self, rule: Rule, *args: Any) -> None:
        off = Rule(rule.name, rule.convention, rule.rate, {**rule.hyper, "weight_decay": rule.hyper["weight_decay"] * 1.0001})
        super().__init__(off, *args)


MISTAKES = [StaleReads, LastOfRepeated, LateRate, LittleOff]


@pytest.mark.parametrize(
    "wrong", some(MISTAKES, MISTAKES if BACKEND == "torch" else MISTAKES[:1]), ids=lambda cls: cls.__name__
)
def test_a_mistake_is_noticed(wrong: type[ModelCopy]) -> None:
    rule = FEW[1]
    given = closed(rule)
    with pytest.raises(AssertionError, match="units in the last place away"):
        check(rule, [wrong(rule, given.weights, "float32")], given)
