"""The table in docs/jax.md is true: each rule that it names trains as that optimizer of Optax on the dense table.

Optax in float64 is the reference, and Optax in float32 sets the bounds (see training.py).
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from selection import label, some

import unhot
import unhot.jax

from . import signs
from .dense import Array
from .registry import Rule
from .streams import Stream, make
from .training import Copy, UnhotCopy, agree, dense_gradient, train, versions

PAGE = (Path(__file__).parents[2] / "docs" / "jax.md").read_text()
ROW = re.compile(r"^\| `(optax\..*?)` \| `(unhot\..*?)`(.*?) \| (?:`(.*?)`)? ?\|$", re.M)

VALUES = {
    "b1": 0.8, "b2": 0.95, "eps": 1e-3, "wd": 0.1, "m": 0.7, "start": 0.3, "decay": 0.8, "rho": 0.8, "nesterov": True,
    "centered": True,
}  # fmt: skip
"""Hyperparameters of which none is a default."""

SLOW_RATES = {"lion": 0.01, "adam": 0.01}
"""The largest learning rates by the beginning of an optimizer's name; 0.1 for the others."""

STEPS = 80


class Line:
    """A line of the table: the two calls, what Optax's defaults are, and whether `unhot.jax` has the rule."""

    def __init__(self, theirs: str, ours: str, remark: str, defaults: str) -> None:
        self.theirs, self.ours = theirs, ours
        self.defaults: dict[str, Any] = eval(f"dict({defaults})")
        self.compiles = not remark
        assert remark in ("", " (in `unhot.Table` only)")

    @property
    def id(self) -> str:
        return re.sub(r"optax\.|(\w+)=\1", lambda found: found[1] or "", self.theirs)

    @property
    def calls(self) -> list[tuple[str, dict[str, str]]]:
        """Each optimizer of Optax in the left column, with its options."""
        found = [node for node in ast.walk(ast.parse(self.theirs)) if isinstance(node, ast.Call)]
        return [
            (node.func.attr, {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg})
            for node in found
            if isinstance(node.func, ast.Attribute)
        ]

    @property
    def rate(self) -> float:
        name = self.calls[0][0]
        return next((rate for start, rate in SLOW_RATES.items() if name.startswith(start)), 0.1)

    def optimizer(self, rate: Any, values: dict[str, Any]) -> optax.GradientTransformation:
        found: optax.GradientTransformation = eval(self.theirs, {"optax": optax, "rate": rate, **values})
        return found

    def rule(self, rate: Any, values: dict[str, Any]) -> unhot.optimizers.Optimizer:
        found: unhot.optimizers.Optimizer = eval(self.ours, {"unhot": unhot, "rate": rate, **values})
        return found


LINES = [Line(*found.groups("")) for found in ROW.finditer(PAGE)]
COMPILED = [line for line in LINES if line.compiles]


class OptaxCopy:
    """A dense array under an optimizer of Optax."""

    def __init__(self, optimizer: optax.GradientTransformation, weights: Array, dtype: str) -> None:
        self.wide = dtype == "float64"
        with jax.enable_x64(self.wide):
            self.w = jnp.asarray(weights, dtype)
            self.state = optimizer.init(self.w)

        @jax.jit
        def step(w: Any, state: Any, gradient: Any) -> Any:
            updates, state = optimizer.update(gradient, state, w)
            return optax.apply_updates(w, updates), state

        self.compiled = step

    def lookup(self, ids: Array) -> Array:
        return self.weights()[..., ids, :]

    def step(self, ids: Array, gradients: Array) -> None:
        with jax.enable_x64(self.wide):
            self.w, self.state = self.compiled(self.w, self.state, dense_gradient(self.weights(), ids, gradients))

    def assign(self, hyper: dict[str, Any]) -> None:
        assert not hyper

    def weights(self) -> Array:
        return np.asarray(self.w)


class StateCopy:
    """A state of `unhot.jax` in compiled functions."""

    def __init__(self, rule: unhot.optimizers.Optimizer, weights: Array, dtype: str) -> None:
        self.wide = dtype == "float64"
        with jax.enable_x64(self.wide):
            self.state = unhot.jax.from_array(jnp.asarray(weights, dtype), optimizer=rule)
        self.update, self.settled = jax.jit(unhot.jax.update), jax.jit(unhot.jax.weights)

    def lookup(self, ids: Array) -> Array:
        return self.weights()[ids]

    def step(self, ids: Array, gradients: Array) -> None:
        """As many ids in every call, so that one compilation serves: those beyond the table take no part."""
        rows, dim = self.state.shape
        more = 8 - len(ids)
        with jax.enable_x64(self.wide):
            given = np.concatenate([gradients, np.zeros((more, dim))]).astype(self.state.rows["weights"].dtype)
            self.state = self.update(self.state, jnp.asarray([*ids, *[rows] * more], jnp.int32), jnp.asarray(given))

    def assign(self, hyper: dict[str, Any]) -> None:
        assert not hyper

    def weights(self) -> Array:
        with jax.enable_x64(self.wide):
            return np.asarray(self.settled(self.state))


def stream_of(rate: float) -> tuple[Stream, Any]:
    """A closed loop at rates that vary, and a schedule that gives them as Optax's do: the first step is 0."""
    given = make("closed", "warm-up", rate)
    del given.steps[STEPS:]
    rates = np.array([step.hyper.pop("learning_rate") for step in given.steps], np.float32)
    return given, lambda step: jnp.asarray(rates)[step]


def as_optax(line: Line, values: dict[str, Any], make_copy: Callable[[unhot.optimizers.Optimizer, Array, str], Copy]) -> None:
    """Train the optimizer, the rule on the right in both dtypes, and compare."""
    given, schedule = stream_of(line.rate)
    optimizer, rule = line.optimizer(schedule, values), line.rule(unhot.zero_based(schedule), values)
    reference = OptaxCopy(optimizer, versions(given.weights), "float64")
    ours = [make_copy(rule, given.weights, dtype) for dtype in ("float32", "float64")]
    betas = {f"beta_{i}": values[f"b{i}"] for i in (1, 2)}
    guard = signs.guard(Rule(type(rule).__name__, "keras", line.rate, betas), given)
    train(given, reference, [OptaxCopy(optimizer, given.weights, "float32"), *ours], agree, guard=guard)


def test_every_line_is_read() -> None:
    """And the values that they are trained with are not the defaults."""
    section = PAGE[PAGE.index("| Optax | unhot |") :]
    assert len(LINES) == section[: section.index("\n\n")].count("\n") - 1
    for line in LINES:
        assert all(VALUES[name] != value for name, value in line.defaults.items())


@pytest.mark.parametrize("line", LINES, ids=label)
def test_defaults_are_optax_s(line: Line) -> None:
    """The third column says what the installed Optax takes for an option that is left out."""
    for name, options in line.calls:
        defaults = inspect.signature(getattr(optax, name)).parameters
        for option, value in options.items():
            if value in line.defaults:
                assert defaults[option].default == line.defaults[value], option


CASES = [(line, values) for line in LINES for values in ("others", "defaults")]


@pytest.mark.parametrize(("line", "values"), some(CASES, [(line, "others") for line in LINES]), ids=label)
def test_in_a_table(line: Line, values: str) -> None:
    chosen = VALUES if values == "others" else {**VALUES, **line.defaults}
    as_optax(line, chosen, lambda rule, w, dtype: UnhotCopy(unhot.Table.from_array(w.astype(dtype), optimizer=rule)))


@pytest.mark.parametrize("line", some(COMPILED, COMPILED[1:2]), ids=label)
def test_compiled(line: Line) -> None:
    """In the fast set for momentum alone, since it is compiling that takes the time; test_jax.py has all rules."""
    as_optax(line, VALUES, StateCopy)


def test_what_does_not_compile_says_so() -> None:
    for line in LINES:
        if not line.compiles:
            with pytest.raises(ValueError, match="inside a graph"):
                unhot.jax.from_array(jnp.ones((3, 2)), optimizer=line.rule(0.1, VALUES))


def test_an_optimizer_of_optax_says_so() -> None:
    """With its name, what to use instead, and where that stands; whatever makes it."""
    table = unhot.Table(3, 2, optimizer=unhot.Adam(0.1))
    chain = optax.chain(optax.clip(1.0), optax.scale(-0.1))
    plain = optax.GradientTransformation(chain.init, chain.update)
    for wrong in (optax.adam(0.1), chain, plain, optax.inject_hyperparams(optax.sgd)(0.1)):
        for use in (
            lambda wrong: unhot.Table(3, 2, optimizer=wrong),
            lambda wrong: unhot.Table.from_array(np.ones((3, 2)), optimizer=wrong),
            lambda wrong: setattr(table, "optimizer", wrong),
            lambda wrong: unhot.compare([1, 2], optimizer=wrong),
            lambda wrong: unhot.jax.from_array(jnp.ones((3, 2)), optimizer=wrong),
        ):
            with pytest.raises(TypeError, match=r"an optimizer of Optax \(of type GradientTransformation.*docs/jax\.md"):
                use(wrong)


def test_clipped_by_the_global_norm() -> None:
    """As the page says to: the dense parameters and a table whose ids repeat, as Optax clips and trains the dense model."""
    rows, dim, steps = 30, 4, 20
    rng = np.random.default_rng(0)
    chain = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1))
    clip, sgd = optax.clip_by_global_norm(0.5), optax.sgd(0.1)

    def loss(dense: Any, vectors: Any, targets: Any) -> Any:
        return ((vectors @ dense - targets) ** 2).sum()

    @jax.jit
    def expected(parameters: Any, state: Any, ids: Any, targets: Any) -> Any:
        def whole(parameters: Any) -> Any:
            return loss(parameters["dense"], parameters["table"][ids], targets)

        gradients = jax.grad(whole)(parameters)
        updates, state = chain.update(gradients, state)
        return optax.apply_updates(parameters, updates), state, optax.tree.norm(gradients)

    @jax.jit
    def step(table: Any, dense: Any, state: Any, ids: Any, targets: Any) -> Any:
        vectors = unhot.jax.lookup(table, ids)
        g_dense, g_vectors = jax.grad(loss, argnums=(0, 1))(dense, vectors, targets)
        g_vectors = unhot.jax.sum_by_id(table, ids, g_vectors)
        norm = optax.tree.norm((g_dense, g_vectors))
        (g_dense, g_vectors), _ = clip.update((g_dense, g_vectors), clip.init(None))
        updates, state = sgd.update(g_dense, state)
        return unhot.jax.update(table, ids, g_vectors), optax.apply_updates(dense, updates), state, norm

    with jax.enable_x64(True):
        parameters = {"table": jnp.asarray(rng.normal(size=(rows, dim))), "dense": jnp.asarray(rng.normal(size=dim))}
        chain_state, dense, state = chain.init(parameters), parameters["dense"], sgd.init(parameters["dense"])
        table = unhot.jax.from_array(parameters["table"], optimizer=unhot.SGD(0.1))
        clipped = 0
        for number in range(steps):
            ids = jnp.asarray(rng.integers(0, 8, (3, 4)))
            targets = jnp.asarray(rng.normal(size=(3, 4))) + parameters["table"][ids] @ parameters["dense"] * (number % 2)
            parameters, chain_state, whole_norm = expected(parameters, chain_state, ids, targets)
            table, dense, state, norm = step(table, dense, state, ids, targets)
            np.testing.assert_allclose(norm, whole_norm, rtol=1e-9)
            clipped += int(norm > 0.5)
        assert clipped > 0
        np.testing.assert_allclose(unhot.jax.weights(table), parameters["table"], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(dense, parameters["dense"], rtol=1e-9, atol=1e-9)
