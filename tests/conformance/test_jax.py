"""The registry through `unhot.jax`: compiled lookups and updates, against dense training in NumPy.

float32 tables are trained as JAX is by default, without any float64; float64 ones with `jax.enable_x64`.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection import label, product, some

import unhot
import unhot.jax
from unhot import arrays
from unhot.graph import history

from . import signs
from .compiled import assert_no_copies
from .dense import Array
from .registry import RULES, Rule, every_option, named
from .streams import make
from .training import agree, dense_copy, train, versions

REFUSED = ("dampening", "weight_decay")
"""Of PyTorch's SGD."""


def has_a_form(rule: Rule) -> bool:
    if rule.convention == "keras":
        return True
    return rule.name != "Adamax" and not (rule.name == "SGD" and any(name in rule.hyper for name in REFUSED))


LINES = [rule for rule in RULES if has_a_form(rule)]
FRONT_END = [*LINES, *(case for rule in RULES if rule.id in ("Adam-keras", "Adam-torch") for case in rule.with_betas())]
"""What has a form inside a graph; all betas for Adam only, since it is compiling that takes the time."""

FAMILIES = named(
    "SGD-keras-momentum=0.9-weight_decay=0.03",
    "RMSprop-keras-momentum=0.8-weight_decay=0.3",
    "AdamW-keras-weight_decay=0.3",
    "Adamax-keras-weight_decay=0.3",
    "Lion-keras-beta_1=0.95-beta_2=0.98-weight_decay=0.3",
    "Ftrl-keras-l2_shrinkage_regularization_strength=0.1-l1_regularization_strength=0.05-weight_decay=0.03",
)
"""One rule of each, of which the fast set trains a float64 table too."""

CASES = [(rule, dtype) for rule in FRONT_END for dtype in ("float32", "float64")]
FAST = [(rule, dtype) for rule, dtype in CASES if rule in (every_option(LINES) if dtype == "float32" else FAMILIES)]

STREAMS = (("closed", "wandering"), ("mixed", "cosine"), ("tiny", "constant"), ("gaps", "constant"))

SCHEDULED = {"learning_rate"}
"""What may change from step to step in a compiled function."""


LOOKUP, UPDATE, WEIGHTS = jax.jit(unhot.jax.lookup), jax.jit(unhot.jax.update, donate_argnums=0), jax.jit(unhot.jax.weights)


class StateCopy:
    """A state under `jax.jit`; every third step comes as two dimensions of ids, and every other `weights` only looks."""

    def __init__(self, rule: Rule, weights: Array, dtype: str) -> None:
        self.wide = dtype == "float64"
        self.rate = rule.rate
        with jax.enable_x64(self.wide):
            self.state = unhot.jax.from_array(jnp.asarray(weights, dtype), optimizer=rule.optimizer())
        self.looks = 0

    def lookup(self, ids: Array) -> Array:
        with jax.enable_x64(self.wide):
            return np.asarray(LOOKUP(self.state, self._padded(ids)))[: len(ids)]

    def _padded(self, ids: Array) -> Any:
        """As many ids in every call, so that one compilation serves: those beyond the table take no part."""
        return jnp.asarray(np.concatenate([ids, np.full(16 - len(ids) % 16, len(self.state.rows["weights"]))]).astype(np.int32))

    def step(self, ids: Array, gradients: Array) -> None:
        with jax.enable_x64(self.wide):
            dtype = self.state.rows["weights"].dtype
            padded = self._padded(ids)
            given = np.zeros((len(padded), gradients.shape[1]), dtype)
            given[: len(ids)] = gradients
            self.state = UPDATE(self.state, padded, jnp.asarray(given), jnp.asarray(self.rate, dtype))
            assert all(array.dtype in (dtype, jnp.int32) for array in jax.tree.leaves(self.state))

    def assign(self, hyper: dict[str, Any]) -> None:
        self.rate = hyper.get("learning_rate", self.rate)

    def weights(self) -> Array:
        self.looks += 1
        with jax.enable_x64(self.wide):
            if self.looks % 2:
                return np.asarray(WEIGHTS(self.state))
        return self.lookup(np.arange(self.state.shape[0]))


@pytest.mark.timeout(1800)  # XLA compiles the 27 panels of some betas for minutes
@pytest.mark.parametrize(("rule", "dtype"), some(CASES, FAST), ids=label)
def test_as_dense_training(rule: Rule, dtype: str) -> None:
    for stream, schedule in STREAMS:
        given = make(stream, schedule, rule.rate)
        for step in given.steps:
            for name in set(step.hyper) - SCHEDULED:
                del step.hyper[name]
        reference = dense_copy(rule, versions(given.weights), "float64")
        copies = [dense_copy(rule, given.weights, "float32"), StateCopy(rule, given.weights, dtype)]
        train(given, reference, copies, agree, guard=signs.guard(rule, given))


LONG = [
    unhot.SGD(0.05, momentum=0.95, weight_decay=0.01),
    unhot.RMSprop(0.01, weight_decay=0.01),
    unhot.Adam(0.01, amsgrad=True, weight_decay=0.01),
    unhot.NAdam(0.01, convention="torch"),
    unhot.Lion(0.01, weight_decay=0.01),
    unhot.Ftrl(0.1, l2_shrinkage_regularization_strength=0.1, l1_regularization_strength=0.05),
]


@pytest.mark.parametrize("optimizer", some(LONG, LONG[:1]), ids=lambda optimizer: type(optimizer).__name__)
def test_rests_longer_than_the_ring(optimizer: unhot.optimizers.Optimizer) -> None:
    """Rows that rest through three rings of history, settled in turn on the way, in one compiled loop."""
    rows, dim, steps = 5000, 2, 3 * history.SMALL_RING
    rng = np.random.default_rng(0)
    start = rng.normal(size=(rows, dim)) * 0.05
    ids = rng.integers(0, 6, (steps, 2)).astype(np.int32)
    ids[::1000] = rng.integers(0, rows, ids[::1000].shape)
    gradients = rng.normal(size=(steps, 2, dim))
    rates = optimizer.learning_rate * (0.1 + np.abs(np.sin(np.arange(steps) / 700)))
    table = unhot.Table.from_array(start, optimizer=optimizer)
    rate = optimizer.learning_rate
    for i in range(steps):
        optimizer.learning_rate = float(rates[i])
        table.step(ids[i], gradients[i])
    optimizer.learning_rate = rate
    with jax.enable_x64(True):
        state = unhot.jax.from_array(jnp.asarray(start), optimizer=optimizer)
        assert state.trained.chunk > 1, "each step settles some rows in turn"

        def step(state: Any, batch: Any) -> tuple[Any, None]:
            return unhot.jax.update(state, *batch), None

        state, _ = jax.jit(partial(jax.lax.scan, step))(state, (jnp.asarray(ids), jnp.asarray(gradients), jnp.asarray(rates)))
        found = np.asarray(unhot.jax.weights(state))
    np.testing.assert_allclose(found, table.array, rtol=1e-9, atol=1e-9 * np.abs(table.array).max())


def test_ids_outside_the_table_read_and_write_nothing() -> None:
    """Where they are known they are errors; a compiled function gives NaN for them, and leaves their gradients out."""
    state = unhot.jax.from_array(jnp.ones((5, 2)), optimizer=unhot.SGD(1.0))
    for bad in (5, -1, 2**31 - 1, -(2**31)):
        ids = jnp.asarray([1, bad], jnp.int32)
        for use in (unhot.jax.lookup, lambda state, ids: unhot.jax.update(state, ids, jnp.ones((2, 2)))):
            with pytest.raises(IndexError, match="at position 1 is out of range: the table has rows 0 to 4"):
                use(state, ids)
        assert np.isnan(LOOKUP(state, ids)).tolist() == [[False, False], [True, True]]
        after = unhot.jax.weights(jax.jit(unhot.jax.update)(state, ids, jnp.ones((2, 2))))
        assert after.tolist() == [[1, 1], [0, 0], [1, 1], [1, 1], [1, 1]]


def test_bad_input_says_so() -> None:
    state = unhot.jax.from_array(jnp.ones((5, 2)), optimizer=unhot.Adam(0.1))
    with pytest.raises(TypeError, match="`ids` must be integers"):
        unhot.jax.lookup(state, jnp.ones(3))
    with pytest.raises(TypeError, match=r"`ids` must be integers\. Received: a boolean among them"):
        unhot.jax.lookup(state, [1, True])
    with pytest.raises(ValueError, match="`gradients` must have the shape"):
        unhot.jax.update(state, jnp.arange(3), jnp.ones((3, 3)))
    with pytest.raises(TypeError, match="a table must be float32 or float64"):
        unhot.jax.from_array(jnp.ones((5, 2), jnp.int32), optimizer=unhot.Adam(0.1))
    with pytest.raises(ValueError, match="must have the shape"):
        unhot.jax.from_array(jnp.ones(5), optimizer=unhot.Adam(0.1))
    with pytest.raises(ValueError, match="has no form inside a graph"):
        unhot.jax.from_array(jnp.ones((5, 2)), optimizer=unhot.Adamax(convention="torch"))
    with pytest.raises(ValueError, match="not supported inside a graph"):
        unhot.jax.from_array(jnp.ones((5, 2)), optimizer=unhot.SGD(0.1, weight_decay=0.1, convention="torch"))
    for wrong in (None, "adam", unhot.Adam, lambda step: 0.1):
        with pytest.raises(
            TypeError, match=r"`optimizer` must be one of unhot's optimizers, e\.g\. unhot\.Adam\(1e-3\)\. Received: "
        ):
            unhot.jax.from_array(jnp.ones((5, 2)), optimizer=wrong)  # type: ignore[arg-type]


def test_differentiating_the_state_is_an_error() -> None:
    """JAX's own for `jax.grad`, as it looks at the inputs before any of our code; docs/jax.md explains its words."""
    state = unhot.jax.from_array(jnp.ones((5, 2)), optimizer=unhot.Adam(0.1))

    def loss(state: Any) -> Any:
        return unhot.jax.lookup(state, jnp.array([1])).sum()

    with pytest.raises(TypeError, match="not differentiated as a whole"):
        jax.grad(loss, allow_int=True)(state)
    with pytest.raises(TypeError, match="not differentiated as a whole"):
        jax.vjp(loss, state)
    page = " ".join((Path(__file__).parents[2] / "docs" / "jax.md").read_text().split())
    quoted = page.partition('`jax.grad` words it as "')[2].partition('"')[0]
    assert quoted
    for differentiate in (jax.grad, jax.value_and_grad):
        with pytest.raises(TypeError) as caught:
            differentiate(loss)(state)
        assert re.match(re.escape(quoted).replace(re.escape("[...]"), ".*"), str(caught.value))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (40,), (5, 8)], ids=str)
def test_sum_by_id(shape: tuple[int, ...]) -> None:
    """The sums of the dense gradient, each once; `update` does the same with them; what lies outside the table is left out."""
    rng = np.random.default_rng(0)
    state = unhot.jax.from_array(jnp.ones((9, 2)), optimizer=unhot.SGD(0.1))
    for compile_ in (lambda function: function, jax.jit):
        outside = 0 if compile_ is not jax.jit else 3
        ids = jnp.asarray(rng.integers(-outside, 9 + outside, shape), jnp.int32)
        gradients = jnp.asarray(rng.normal(size=(*shape, 2)), jnp.float32)
        sums = compile_(unhot.jax.sum_by_id)(state, ids, gradients)
        assert (sums.shape, sums.dtype) == (gradients.shape, gradients.dtype)
        flat, lines = np.asarray(ids).reshape(-1), np.asarray(sums).reshape(-1, 2)
        expected = np.zeros((9, 2))
        for i, gradient in zip(flat, np.asarray(gradients).reshape(-1, 2), strict=True):
            if 0 <= i < 9:
                expected[i] += gradient
        for row in range(9):
            found = lines[flat == row]
            np.testing.assert_allclose(found[:1], expected[[row] * len(found[:1])], rtol=0, atol=1e-5)
            assert not found[1:].any()
        assert not lines[(flat < 0) | (flat >= 9)].any()
        update = jax.jit(unhot.jax.update)
        after = [unhot.jax.weights(update(state, ids, given)) for given in (gradients, sums)]
        np.testing.assert_array_equal(*after)
    with pytest.raises(ValueError, match="`gradients` must have the shape"):
        unhot.jax.sum_by_id(state, jnp.arange(3), jnp.ones((3, 3)))
    with pytest.raises(IndexError, match="id 9 at position"):
        unhot.jax.sum_by_id(state, jnp.array([9]), jnp.ones((1, 2)))


def test_a_zero_based_schedule_is_compiled_once() -> None:
    """Two tables of one schedule, as two layers would have it, share what is compiled."""
    traced: list[Any] = []

    def halving(steps: Any) -> Any:
        traced.append(steps)
        return 0.5**steps

    update = jax.jit(unhot.jax.update)
    for _ in range(2):
        state = unhot.jax.from_array(jnp.zeros((3, 1)), optimizer=unhot.SGD(unhot.zero_based(halving)))
        for _ in range(3):
            state = update(state, jnp.array([2]), jnp.ones((1, 1)))
        assert unhot.jax.weights(state)[2, 0] == -1.75
    assert len(traced) == 1


def test_a_learning_rate_of_the_step() -> None:
    """A callable is traced with the step, whose first is 1; a constant closed over does not disturb gradients of others."""
    state = unhot.jax.from_array(jnp.zeros((3, 1)), optimizer=unhot.SGD(lambda step: 1.0 * step))
    for _ in range(3):
        state = unhot.jax.update(state, jnp.array([2]), jnp.ones((1, 1)))
    assert unhot.jax.weights(state)[2, 0] == -6.0
    assert jax.grad(lambda scale: (scale * unhot.jax.lookup(state, jnp.array([2]))).sum())(2.0) == -6.0


@jax.jit
def of_a_function(state: unhot.jax.TableState, ids: Any) -> Any:
    return unhot.jax.lookup(state, ids).sum()


READS: dict[str, tuple[Any, Any]] = {
    "a loss": (lambda vectors: ((vectors - 1) ** 2).sum(), None),
    "a linear loss": (jnp.sum, None),
    "other ids": (lambda vectors: ((vectors - 1) ** 2).sum(), lambda state, ids: unhot.jax.lookup(state, ids[:3] + 1)),
    "other ids, a linear loss": (jnp.sum, lambda state, ids: unhot.jax.lookup(state, ids[:3, None] + 1).sum()),
    "no ids": (jnp.sum, lambda state, ids: unhot.jax.lookup(state, ids[:0])),
    "a product": (jnp.sum, lambda state, ids: unhot.jax.lookup(state, ids) @ jnp.ones(8)),
}
"""A loss of the vectors, and what else is read in the same compiled step."""


OPTIMIZERS = {
    "Adam": unhot.Adam(0.1), "SGD": unhot.SGD(0.1), "momentum": unhot.SGD(0.1, momentum=0.9), "Lion": unhot.Lion(0.1),
    "rowwise": unhot.RowwiseAdagrad(0.1, weight_decay=0.1),
}  # fmt: skip


@pytest.mark.parametrize(("optimizer", "reads"), product(OPTIMIZERS, READS, by=1))
def test_a_step_copies_no_table(optimizer: str, reads: str) -> None:
    """Donated, a compiled step has no copy of an array of the table's size, and what it reads is of before the step."""
    rows = 50_000
    start = np.random.default_rng(0).normal(size=(rows, 8)).astype(np.float32)
    state = unhot.jax.from_array(start, optimizer=OPTIMIZERS[optimizer])
    loss, more = READS[reads]

    def step(state: unhot.jax.TableState, ids: Any) -> Any:
        read = () if more is None else more(state, ids)
        vectors = unhot.jax.lookup(state, ids)
        return (vectors, read), unhot.jax.update(state, ids, jax.grad(loss)(vectors))

    ids = jnp.arange(16)
    compiled = jax.jit(step, donate_argnums=0).lower(state, ids).compile()
    assert_no_copies(compiled.as_text(), rows, 8)
    (vectors, _), _ = compiled(state, ids)
    np.testing.assert_array_equal(vectors, start[:16])


def test_reads_that_jax_traces_on_their_own() -> None:
    """A lookup inside of a loop, a branch, a batch or a function of its own leaves nothing for a step to trip over."""
    state = unhot.jax.from_array(jnp.ones((5, 2)), optimizer=unhot.Adam(0.1))

    def step(state: unhot.jax.TableState, ids: Any) -> Any:
        look = partial(unhot.jax.lookup, state)
        loop = jax.lax.scan(lambda sums, i: (sums + look(i), None), jnp.zeros(2), ids)[0]
        branch = jax.lax.cond(ids[0] > 0, lambda: look(ids).sum(), lambda: 0.0)
        read = loop, branch, jax.vmap(look)(ids), jax.checkpoint(look)(ids), of_a_function(state, ids), jax.jit(look)(ids)
        return read, unhot.jax.update(state, ids, jnp.ones((3, 2)))

    ids = jnp.array([3, 1, 3])
    with jax.checking_leaks():
        jax.eval_shape(step, state, ids)
    read, after = jax.jit(step)(state, ids)
    np.testing.assert_array_equal(read[0], [3.0, 3.0])
    plain = jax.jit(unhot.jax.update)(state, ids, jnp.ones((3, 2)))
    np.testing.assert_array_equal(unhot.jax.weights(after), unhot.jax.weights(plain))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
def test_ids_of_every_integer_dtype(dtype: str) -> None:
    """Also of those that cannot hold the number of rows."""
    state = unhot.jax.from_array(jnp.ones((70_000, 2)), optimizer=unhot.SGD(0.5))
    ids = jnp.array([3, 100, 3], dtype)
    for update in (unhot.jax.update, jax.jit(unhot.jax.update)):
        found = jax.jit(unhot.jax.lookup)(update(state, ids, jnp.ones((3, 2))), jnp.array([3, 100, 4], dtype))
        np.testing.assert_array_equal(found[:, 0], [0.0, 0.5, 1.0])


def test_tables_lie_in_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system is asked for them once, since donated steps stay in the same memory; and again where that is left."""
    asked: set[int] = set()
    monkeypatch.setattr(arrays, "LARGE", 0)
    monkeypatch.setattr(arrays, "into_large_pages", lambda address, size: asked.add(address))

    def places(state: Any) -> set[int]:
        return {array.unsafe_buffer_pointer() for array in state.rows.values()}

    state = unhot.jax.from_array(jnp.ones((100, 4)), optimizer=unhot.SGD(0.1, momentum=0.9))
    assert asked == places(state)
    step = jax.jit(unhot.jax.update, donate_argnums=0)
    for _ in range(3):
        state = step(state, jnp.arange(7), jnp.ones((7, 4)))
    assert asked == places(state)
    assert places(unhot.jax.settle(state)) <= asked
    jax.jit(unhot.jax.settle)(state)  # where there is no memory yet
