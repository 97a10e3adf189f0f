"""What programs do with the lists of variables, with gradients and with optimizers, is with a table what it is without.

Each is done with Keras's layer (of which all gradients are dense) and optimizer, and with those under test.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import unhot.keras

from .calls import BACKEND, few, numbers, slow_but_on_torch

ROWS, DIM, IDS = 50, 3, 4
FIT: dict[str, Any] = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}


class Dense(keras.layers.Embedding):
    """Keras's layer, whose gradient is dense on every backend."""

    def call(self, ids: Any) -> Any:
        return ops.take(self.embeddings * 1.0, ids, axis=0)


KINDS = ((Dense, keras.optimizers), (unhot.keras.Embedding, unhot.keras))


@pytest.fixture(autouse=True)
def _dense_is_fine() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", unhot.DenseFallbackWarning)
        yield


def data(seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, ROWS - 5, (24, IDS)).astype("int32"), rng.normal(size=(24, 1)).astype("float32")


def model_on(table: Any, optimizer: Any, kind: Any = keras.Model, seed: int = 0, **options: Any) -> Any:
    keras.utils.set_random_seed(seed)
    ids = keras.Input((IDS,), dtype="int32")
    model = kind(ids, keras.layers.Dense(1)(keras.layers.Flatten()(table(ids))))
    table.set_weights([np.random.default_rng(seed).normal(size=(ROWS, DIM))])
    model.compile(optimizer, "mse", **options)
    return model


def trained(kind: Any, module: Any, name: str = "Adam", seed: int = 0) -> Any:
    """A model in the middle of its training: most rows have deferred steps."""
    model = model_on(kind(ROWS, DIM), getattr(module, name)(0.03), seed=seed)
    model.fit(*data(), **FIT)
    return model


def state(model: Any) -> list[Any]:
    return [*model.get_weights(), *map(numbers, model.optimizer.variables)]


def go_on(model: Any, seed: int = 1) -> list[Any]:
    model.fit(*data(seed), **FIT)
    return state(model)


def assert_alike(program: Callable[[Any, Any], list[Any]], rtol: float = 2e-4, atol: float = 2e-6) -> None:
    theirs, ours = (program(*both) for both in KINDS)
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        np.testing.assert_allclose(mine, other, rtol=rtol, atol=atol, err_msg=f"number {number} of what the program gives")


# ---------------------------------------------------------------- the lists

LISTS: dict[str, Callable[[Any], list[Any]]] = {
    "model.variables": lambda model: model.variables,
    "model.trainable_variables": lambda model: model.trainable_variables,
    "model.weights": lambda model: model.weights,
    "layer.variables": lambda model: model.layers[1].variables,
    "layer.trainable_weights": lambda model: model.layers[1].trainable_weights,
    "optimizer.variables": lambda model: model.optimizer.variables,
}

READS: dict[str, Callable[[Any], Any]] = {
    "numpy": lambda variable: variable.numpy(),
    "np.array": np.array,
    "convert_to_numpy": ops.convert_to_numpy,
    "value": lambda variable: ops.convert_to_numpy(variable.value),
    "arithmetic": lambda variable: numbers(0.5 * variable + variable * 0.5),
    "square": lambda variable: numbers(variable**2) ** 0.5 * np.sign(variable.numpy()),
    "indexing": lambda variable: variable.numpy() if not len(variable.shape) else numbers(variable[: variable.shape[0]]),
}


@slow_but_on_torch
def test_lists_and_reads() -> None:
    def program(kind: Any, module: Any) -> list[Any]:
        model = trained(kind, module)
        found = []
        for name, variables in LISTS.items():
            for read in READS.values():
                found += [read(variable) for variable in variables(model)]
            model.train_on_batch(*data(len(name)))
        return found

    assert_alike(program)


def test_what_lists_tell() -> None:
    def told(kind: Any, module: Any) -> list[Any]:
        model = trained(kind, module)
        listed = [[(v.shape, v.dtype, v.trainable, v.name) for v in variables(model)] for variables in LISTS.values()]
        return [listed[:-1], [told[:3] for told in listed[-1]], model.count_params()]

    assert told(*KINDS[0]) == told(*KINDS[1])


def mean_teacher(kind: Any, module: Any) -> list[Any]:
    model, target = trained(kind, module), trained(kind, module, seed=1)
    for seed in range(3):
        model.train_on_batch(*data(seed))
        for slow, fast in zip(target.trainable_variables, model.trainable_variables, strict=True):
            slow.assign(0.75 * slow + 0.25 * fast)
    return [*go_on(model), *go_on(target)]


def best_weights(kind: Any, module: Any) -> list[Any]:
    model = trained(kind, module)
    kept = [np.array(variable) for variable in model.trainable_variables]
    model.fit(*data(2), **FIT)
    for variable, value in zip(model.trainable_variables, kept, strict=True):
        variable.assign(value)
    return go_on(model)


def another_run(kind: Any, module: Any) -> list[Any]:
    """Weights and the optimizer's state go into another model, by hand."""
    model, other = trained(kind, module), model_on(kind(ROWS, DIM), module.Adam(0.03), seed=3)
    other.optimizer.build(other.trainable_variables)
    for sources, targets in ((model.weights, other.weights), (model.optimizer.variables, other.optimizer.variables)):
        for source, target in zip(sources, targets, strict=True):
            target.assign(np.array(source))
    return [*go_on(other), *go_on(model)]


def reset_state(kind: Any, module: Any) -> list[Any]:
    model = trained(kind, module)
    for variable in model.optimizer.variables:
        variable.assign(ops.zeros(variable.shape, variable.dtype) if len(variable.shape) else variable * 1)
    return go_on(model)


def state_trees(kind: Any, module: Any) -> list[Any]:
    model, other = trained(kind, module), trained(kind, module, seed=3)
    tree = model.get_state_tree(value_format="numpy_array")
    names = [[*model.get_state_tree()[part]] for part in tree], [[*other.get_state_tree()[part]] for part in tree]
    for part, (old, new) in zip(tree, zip(*names, strict=True), strict=True):  # layers and optimizers have other names
        tree[part] = {there: tree[part][here] for here, there in zip(old, new, strict=True)}
    del tree["optimizer_variables"], tree["metrics_variables"]
    other.set_state_tree(tree)
    return [*go_on(other), *go_on(model)]


def back_to_a_state(kind: Any, module: Any) -> list[Any]:
    model = trained(kind, module)
    tree = model.get_state_tree(value_format="numpy_array")
    model.fit(*data(2), **FIT)
    model.set_state_tree(tree)
    return go_on(model)


PROGRAMS = [mean_teacher, best_weights, another_run, reset_state, state_trees, back_to_a_state]


@pytest.mark.parametrize("program", few(PROGRAMS, PROGRAMS[:1]))
def test_programs_on_lists(program: Callable[[Any, Any], list[Any]]) -> None:
    assert_alike(program)


# ---------------------------------------------------------------- losses


class Penalized(keras.Model):
    """A penalty of one's own on all weights."""

    def compute_loss(self, *args: Any, **given: Any) -> Any:
        penalty = sum(ops.sum(ops.square(variable)) for variable in self.trainable_variables)
        return super().compute_loss(*args, **given) + 0.01 * penalty


class LookedUpAgain(keras.Model):
    """A penalty on rows that are looked up for it."""

    def compute_loss(self, x: Any = None, *args: Any, **given: Any) -> Any:
        return super().compute_loss(x, *args, **given) + 0.1 * ops.mean(self.layers[1](x[:, :2]) ** 2)


class Head(keras.layers.Layer):
    """A layer that holds another's variable."""

    def __init__(self, table: Any) -> None:
        super().__init__()
        self.table = table

    def call(self, vectors: Any) -> Any:
        return ops.matmul(vectors, ops.transpose(self.table))


def penalized(kind: Any, module: Any) -> list[Any]:
    model = model_on(kind(ROWS, DIM), module.Adam(0.03), Penalized)
    losses = model.fit(*data(), **FIT).history["loss"]
    return [*losses, *go_on(model)]


def looked_up_again(kind: Any, module: Any) -> list[Any]:
    return go_on(model_on(kind(ROWS, DIM), module.Adam(0.03), LookedUpAgain))


def held_by_two_layers(kind: Any, module: Any) -> list[Any]:
    keras.utils.set_random_seed(0)
    table = kind(ROWS, DIM)
    table.build(None)
    ids = keras.Input((IDS,), dtype="int32")
    model = keras.Model(ids, Head(table.embeddings)(keras.layers.GlobalAveragePooling1D()(table(ids))))
    model.compile(module.Adam(0.03), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(data()[0], data()[0][:, 0], **FIT)
    return state(model)


LOSSES = [penalized, looked_up_again, held_by_two_layers]


@pytest.mark.parametrize("program", few(LOSSES, LOSSES[:1]))
def test_losses(program: Callable[[Any, Any], list[Any]]) -> None:
    assert_alike(program)


# ---------------------------------------------------------------- optimizers


def slower(self: Any, gradient: Any, variable: Any, rate: Any) -> tuple[Any, Any]:
    return gradient, rate * (0.1 if "emb" in variable.name else 1.0)


def scaled(self: Any, gradient: Any, variable: Any, rate: Any) -> tuple[Any, Any]:
    return -gradient * 2.0 / 4.0, rate


def signs(self: Any, gradient: Any, variable: Any, rate: Any) -> tuple[Any, Any]:
    return ops.sign(gradient) * 0.1, rate


def centred(self: Any, gradient: Any, variable: Any, rate: Any) -> tuple[Any, Any]:
    return gradient - ops.mean(gradient, axis=0, keepdims=True), rate


def by_the_slot(self: Any, gradient: Any, variable: Any, rate: Any) -> tuple[Any, Any]:
    slot = self._momentums[self._get_variable_index(variable)]
    return ops.add(gradient, ops.multiply(slot, 0.1)), rate


CHANGES = {change.__name__: (change, rows) for change, rows in (
    (slower, True), (scaled, True), (signs, False), (centred, False), (by_the_slot, False),
)}  # fmt: skip


@pytest.mark.parametrize("name", few(CHANGES, ["slower"]))
def test_an_update_step_of_ones_own(name: str) -> None:
    """A rate of its own for a layer; by rows if the gradient is only scaled."""
    change, by_rows = CHANGES[name]

    def program(kind: Any, module: Any) -> list[Any]:
        class Changed(module.Adam):  # type: ignore[misc, name-defined]
            def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
                super().update_step(*_reordered(variable, change(self, gradient, variable, learning_rate)))

        model = model_on(kind(ROWS, DIM), Changed(0.03))
        with warnings.catch_warnings():
            warnings.simplefilter("error" if by_rows else "ignore", unhot.DenseFallbackWarning)
            return go_on(model)

    assert_alike(program)


def _reordered(variable: Any, changed: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    return changed[0], variable, changed[1]


def clips(self: Any, step: Any, variable: Any, rate: Any) -> None:
    step(rate)
    self.assign(variable, ops.clip(variable, -0.02, 0.02))


def decays(self: Any, step: Any, variable: Any, rate: Any) -> None:
    self.assign_sub(variable, ops.multiply(variable, 0.05))
    step(rate)


def trusts(self: Any, step: Any, variable: Any, rate: Any) -> None:
    step(ops.multiply(rate, 0.1 * ops.sqrt(ops.sum(ops.square(variable)))))


USES = {use.__name__: use for use in (clips, decays, trusts)}


@pytest.mark.parametrize("name", few(USES, ["clips"]))
def test_an_update_step_that_uses_the_variable(name: str) -> None:
    """What it reads and writes has all steps applied."""

    def program(kind: Any, module: Any) -> list[Any]:
        class Using(module.Adam):  # type: ignore[misc, name-defined]
            def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
                USES[name](self, partial(self.by, gradient, variable), variable, learning_rate)

            def by(self, gradient: Any, variable: Any, rate: Any) -> None:
                super().update_step(gradient, variable, rate)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", unhot.DenseFallbackWarning)
            return go_on(model_on(kind(ROWS, DIM), Using(0.03)))

    assert_alike(program)


@slow_but_on_torch
def test_an_update_step_that_does_it_all() -> None:
    """Without Keras's: plain descent. Another optimizer then goes on from there."""

    def program(kind: Any, module: Any) -> list[Any]:
        class Own(module.Adam):  # type: ignore[misc, name-defined]
            def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
                self.assign_sub(variable, ops.multiply(gradient, ops.cast(learning_rate, variable.dtype)))

        model = model_on(kind(ROWS, DIM), Own(0.03))
        model.fit(*data(), **FIT)
        model.compile(module.Adam(0.03), "mse")
        return go_on(model)

    assert_alike(program)


class Several(keras.optimizers.Optimizer):
    """An optimizer of optimizers, each for some variables."""

    def __init__(self, parts: Any) -> None:
        super().__init__(0.001)
        self.parts = parts

    def build(self, variables: Any) -> None:
        if not self.built:
            super().build(variables)
            for optimizer, its in self.parts:
                optimizer.build(its)

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        given = dict(zip([v.path for v in trainable_variables or self._trainable_variables], grads, strict=True))
        for optimizer, its in self.parts:
            optimizer.apply([given[v.path] for v in its], its)

    @property
    def variables(self) -> Any:
        return [self._iterations, self._learning_rate, *(v for optimizer, _ in self.parts for v in optimizer.variables)]


@slow_but_on_torch
def test_an_optimizer_of_optimizers() -> None:
    def program(kind: Any, module: Any) -> list[Any]:
        model = model_on(kind(ROWS, DIM), "sgd")
        table, _, head = model.layers[1:]
        rest = keras.optimizers.SGD(0.1)
        model.compile(Several([(module.Adam(0.03), table.trainable_variables), (rest, head.trainable_variables)]), "mse")
        return go_on(model)

    assert_alike(program)


@slow_but_on_torch
def test_gradients_changed_by_apply() -> None:
    """A subclass that halves and clips them by hand."""

    def dense(gradient: Any) -> Any:
        if BACKEND != "tensorflow":
            return ops.convert_to_tensor(gradient)
        import tensorflow as tf

        return tf.convert_to_tensor(gradient)  # Keras leaves row-sparse gradients of its own layer as they are

    def program(kind: Any, module: Any) -> list[Any]:
        class Clipped(module.SGD):  # type: ignore[misc, name-defined]
            def apply(self, grads: Any, trainable_variables: Any = None) -> None:
                super().apply([ops.clip(dense(g) * 0.5, -0.01, 0.01) for g in grads], trainable_variables)

        return go_on(model_on(kind(ROWS, DIM), Clipped(0.3, momentum=0.9), run_eagerly=BACKEND == "tensorflow"))

    assert_alike(program)


# ---------------------------------------------------------------- loops in JAX

jax_only = pytest.mark.skipif(BACKEND != "jax", reason="a loop of functions without side effects")


def functions(model: Any) -> tuple[Any, Any]:
    """The loss of values of the trainable variables, and a step of values of all variables."""
    import jax

    def loss(trainable: Any, ids: Any, wanted: Any) -> Any:
        found, _ = model.stateless_call(trainable, [], ids)
        return ops.mean((found - wanted) ** 2)

    def step(values: Any, batch: Any) -> tuple[Any, Any]:
        value, gradients = jax.value_and_grad(loss)(values[0], *batch)
        return model.optimizer.stateless_apply(values[1], gradients, values[0]), value

    return loss, step


Take = Callable[[Any], list[Any]]
"""What gives the values of variables."""


def as_arrays(variables: Any) -> list[Any]:
    return [v.value for v in variables]


def values_of(model: Any, take: Take) -> tuple[Any, Any]:
    model.optimizer.build(model.trainable_variables)
    return take(model.trainable_variables), take(model.optimizer.variables)


def give(model: Any, values: Any, optimizer_too: bool = True) -> None:
    for variable, value in zip(model.trainable_variables, values[0], strict=True):
        variable.assign(value)
    for variable, value in zip(model.optimizer.variables, values[1] if optimizer_too else (), strict=optimizer_too):
        variable.assign(value)


def batches(seed: int = 0) -> list[Any]:
    ids, wanted = data(seed)
    return [(ids[i : i + 8], wanted[i : i + 8]) for i in range(0, 24, 8)]


def jitted(model: Any, take: Take, **options: Any) -> list[Any]:
    import jax

    values, step = values_of(model, take), jax.jit(functions(model)[1], **options)
    losses = []
    for batch in batches():
        values, loss = step(values, batch)
        losses.append(loss)
    give(model, values)
    return losses


def donated(model: Any, take: Take) -> list[Any]:
    return jitted(model, take, donate_argnums=0)


def eagerly(model: Any, take: Take) -> list[Any]:
    values, (_, step) = values_of(model, take), functions(model)
    for batch in batches():
        values, _ = step(values, batch)
    give(model, values)
    return []


def scanned(model: Any, take: Take) -> list[Any]:
    import jax

    _, step = functions(model)
    many = [np.stack(parts) for parts in zip(*batches(), strict=True)]
    values, losses = jax.jit(lambda values: jax.lax.scan(step, values, many))(values_of(model, take))
    give(model, values)
    return list(losses)


def accumulated(model: Any, take: Take) -> list[Any]:
    """The gradients of several batches, added up in a scan, make one step."""
    import jax

    loss, _ = functions(model)
    many = [np.stack(parts) for parts in zip(*batches(), strict=True)]

    @jax.jit
    def step(values: Any) -> Any:
        def add(total: Any, batch: Any) -> Any:
            return jax.tree.map(lambda a, b: a + b, total, jax.grad(loss)(values[0], *batch)), None

        total, _ = jax.lax.scan(add, jax.tree.map(ops.zeros_like, values[0]), many)
        return model.optimizer.stateless_apply(values[1], total, values[0])

    values = values_of(model, take)
    for _ in range(3):
        values = step(values)
    give(model, values)
    return []


def two_functions(model: Any, take: Take) -> list[Any]:
    """One computes the gradients and another applies them; in between, they are clipped."""
    import jax

    loss, _ = functions(model)
    gradient, apply = jax.jit(jax.grad(loss)), jax.jit(model.optimizer.stateless_apply)
    values = values_of(model, take)
    norms = []
    for batch in batches():
        gradients = gradient(values[0], *batch)
        norms.append(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(gradients)))
        gradients = jax.tree.map(lambda leaf, norm=norms[-1]: leaf / max(1.0, norm), gradients)
        values = apply(values[1], gradients, values[0])
    give(model, values)
    return norms


def checkpointed(model: Any, take: Take) -> list[Any]:
    import jax

    loss, _ = functions(model)
    values = values_of(model, take)
    for batch in batches():
        gradients = jax.jit(jax.grad(jax.checkpoint(loss)))(values[0], *batch)
        values = model.optimizer.stateless_apply(values[1], gradients, values[0])
    give(model, values)
    return []


def for_each_example(model: Any, take: Take) -> list[Any]:
    """The mean of the gradients of single examples."""
    import jax

    loss, _ = functions(model)

    @jax.jit
    def step(values: Any, ids: Any, wanted: Any) -> Any:
        each = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(values[0], ids[:, None], wanted[:, None])
        return model.optimizer.stateless_apply(values[1], jax.tree.map(lambda g: g.mean(0), each), values[0])

    values = values_of(model, take)
    for batch in batches():
        values = step(values, *batch)
    give(model, values)
    return []


def weights_alone(model: Any, take: Take) -> list[Any]:
    """The loop leaves the optimizer as it was."""
    import jax

    values, step = values_of(model, take), jax.jit(functions(model)[1])
    for batch in batches():
        values, _ = step(values, batch)
    give(model, values, optimizer_too=False)
    return []


def values_kept(model: Any, take: Take) -> list[Any]:
    """The values of the weights from before are put back."""
    import jax

    kept = jax.tree.map(lambda array: array.copy(), take(model.trainable_variables))
    model.fit(*data(3), **FIT)
    give(model, (kept,), optimizer_too=False)
    return []


def values_averaged(model: Any, take: Take) -> list[Any]:
    kept = [value + 0.0 for value in take(model.trainable_variables)]
    model.fit(*data(3), **FIT)
    give(model, ([(now + before) / 2 for now, before in zip(take(model.trainable_variables), kept, strict=True)],), False)
    return []


def scaled_values(model: Any, take: Take) -> list[Any]:
    give(model, ([value * 0.9 for value in take(model.trainable_variables)],), False)
    return []


LOOPS = [
    jitted, donated, eagerly, scanned, accumulated, two_functions, checkpointed, for_each_example, weights_alone, values_kept,
    values_averaged, scaled_values,
]  # fmt: skip


def for_steps(variables: Any) -> list[Any]:
    return unhot.keras.stateless_values(variables)


Loop = Callable[[Any, Take], list[Any]]


@jax_only
@pytest.mark.parametrize("take", [as_arrays, for_steps])
@pytest.mark.parametrize("loop", few(LOOPS, [accumulated]))
def test_loops_in_jax(loop: Loop, take: Take) -> None:
    def program(kind: Any, module: Any) -> list[Any]:
        model = trained(kind, module)
        return [*loop(model, take), *model.get_weights(), *go_on(model)]

    assert_alike(program)


@jax_only
@pytest.mark.parametrize("loop", few([donated, scanned, eagerly], [donated]))
def test_loops_in_jax_that_go_by_rows(loop: Loop) -> None:
    model = trained(unhot.keras.Embedding, unhot.keras)
    with warnings.catch_warnings():
        warnings.simplefilter("error", unhot.DenseFallbackWarning)
        loop(model, for_steps)


@jax_only
@pytest.mark.slow
@pytest.mark.parametrize("name", ["Nadam", "Ftrl", "Adagrad"])
def test_a_loop_that_donates_arrays(name: str) -> None:
    """Also those of numbers that an optimizer keeps beside its slots, and of none."""

    def program(kind: Any, module: Any) -> list[Any]:
        model = trained(kind, module, name)
        return [*donated(model, as_arrays), *model.get_weights(), *go_on(model)]

    assert_alike(program)


@jax_only
def test_a_version_of_keras_whose_trainer_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are then trained densely."""
    from unhot.keras import jax_tables

    monkeypatch.setattr(jax_tables, "trainer_fetches", lambda: False)
    with pytest.warns(unhot.DenseFallbackWarning, match="more than arrays"):
        model = trained(unhot.keras.Embedding, unhot.keras)
    assert model.optimizer.table(model.layers[1].embeddings) is None


@jax_only
def test_arrays_in_a_loop_are_trained_densely() -> None:
    with pytest.warns(unhot.DenseFallbackWarning, match=r"values of its variables as arrays.*unhot\.keras\.stateless_values"):
        jitted(trained(unhot.keras.Embedding, unhot.keras), as_arrays)


@jax_only
def test_a_slot_that_is_read_away_from_its_table() -> None:
    """Its array is part of the table's value: an error says so, and no other state is shown."""
    import jax

    model = trained(unhot.keras.Embedding, unhot.keras)
    values, step = values_of(model, for_steps), jax.jit(functions(model)[1])
    values, _ = step(values, batches()[0])
    with pytest.raises(ValueError, match=r"is an array of the table's value.*convert_to_numpy\(variable\)"):
        np.asarray(values[1][2])
    give(model, values)
    np.testing.assert_array_equal(np.asarray(values[1][2]), model.optimizer.variables[2].numpy())


@jax_only
def test_values_taken_in_two_ways() -> None:
    """With the slots as arrays, those are the ones that count; the slots alone of a table are an error, and nothing is lost."""
    import jax

    def program(kind: Any, module: Any) -> list[Any]:
        model = trained(kind, module)
        values = for_steps(model.trainable_variables), [v.value * 0.5 for v in model.optimizer.variables]
        values, _ = jax.jit(functions(model)[1])(values, batches()[0])
        give(model, values)
        return [*model.get_weights(), *go_on(model)]

    assert_alike(program)
    model = trained(unhot.keras.Embedding, unhot.keras)
    before = model.get_weights(), [np.array(v) for v in model.optimizer.variables]
    values = as_arrays(model.trainable_variables), for_steps(model.optimizer.variables)
    with pytest.raises(ValueError, match="Take the values of the model's and of the optimizer's variables both in this way"):
        functions(model)[1](values, batches()[0])
    after = model.get_weights(), [np.array(v) for v in model.optimizer.variables]
    jax.tree.map(np.testing.assert_array_equal, after, before)


@jax_only
def test_values_are_arrays_to_jax() -> None:
    """Those of tables and slots are settled, have the leaves of arrays, and go through what takes arrays alone."""
    import jax
    from jax.flatten_util import ravel_pytree

    def program(kind: Any, module: Any) -> list[Any]:
        model = trained(kind, module)
        trainable, slots = as_arrays(model.trainable_variables), as_arrays(model.optimizer.variables)
        table, momentum = model.trainable_variables[0], model.optimizer.variables[2]
        read_in_jit = jax.jit(lambda x: x * ops.sum(momentum) + ops.sum(table) + ops.sum(momentum.value))
        return [
            *jax.tree.leaves([trainable, slots]),
            ravel_pytree(trainable)[0],
            *jax.tree.map(lambda x: (x * x).sum(), trainable),
            jax.lax.mul(trainable[0], trainable[0]),
            jax.vmap(lambda row: row.sum())(trainable[0]),
            jax.vmap(lambda row: row.sum())(slots[2]),
            read_in_jit(2.0),
            table + 1.0,
            2.0 * momentum,
        ]

    assert_alike(program)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="variables of TensorFlow cannot be copied so")
def test_a_copy_of_a_variable() -> None:
    """It is nobody's, and settled."""
    model = trained(unhot.keras.Embedding, unhot.keras)
    copied = pickle.loads(pickle.dumps(model.layers[1].embeddings)) if BACKEND == "jax" else None
    if copied is not None:
        np.testing.assert_array_equal(np.array(copied), model.get_weights()[0])
