"""On JAX, what loops do with the values of variables, as arrays or by `stateless_values`, is as with Keras's layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import unhot.keras

from .calls import BACKEND, ON, few
from .test_variables import (
    DIM,
    FIT,
    IDS,
    ROWS,
    Take,
    as_arrays,
    assert_alike,
    batches,
    data,
    for_steps,
    functions,
    give,
    go_on,
    model_on,
    numbers,
    trained,
    values_of,
)  # fmt: skip

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="loops of functions without side effects")
WAYS = few([as_arrays, for_steps], [for_steps])


@pytest.fixture(autouse=True)
def _dense_is_fine() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", unhot.DenseFallbackWarning)
        yield


def stepped(model: Any, take: Take, count: int = 3, **options: Any) -> Any:
    """The values after some steps of a compiled function, which are not assigned."""
    import jax

    values, step = values_of(model, take), jax.jit(functions(model)[1], **options)
    for batch in batches(3)[:count]:
        values, _ = step(values, batch)
    return values


def written(model: Any, values: Any, order: str) -> None:
    """The variables are given these values; in between, others look at them."""
    lists = list(zip((model.trainable_variables, model.optimizer.variables), values, strict=True))
    for variables, given in reversed(lists) if order == "optimizer first" else lists:
        for variable, value in zip(variables, given, strict=True):
            variable.assign(value)
            if order == "a slot between" and "momentum" in variable.path:
                numbers(variable)
        if order == "weights between":
            model.get_weights()
        elif order == "evaluate between":
            model.evaluate(*data(), verbose=0)


ORDERS = ["as they are", "optimizer first", "weights between", "a slot between", "evaluate between"]


@pytest.mark.parametrize("take", WAYS)
@pytest.mark.parametrize("order", few(ORDERS, ["evaluate between"]))
def test_values_are_assigned_in_any_order(order: str, take: Take) -> None:
    def program(kind: Any, module: Any) -> list[Any]:
        model = trained(kind, module)
        written(model, stepped(model, take), order)
        return [*map(numbers, model.optimizer.variables), *model.get_weights(), *go_on(model)]

    assert_alike(program)


def test_slots_alone_that_are_assigned() -> None:
    """They stay with the table's value, without which an error says that it is missing; nothing is trained with others."""
    model = trained(unhot.keras.Embedding, unhot.keras)
    values = stepped(model, for_steps)
    for variable, value in zip(model.optimizer.variables, values[1], strict=True):
        variable.assign(value)
    with pytest.raises(ValueError, match="is an array of the table's value"):
        numbers(model.optimizer.variables[2])
    with pytest.raises(ValueError, match="is an array of the table's value"):
        model.fit(*data(), **FIT)
    give(model, values, optimizer_too=False)
    expected = trained(unhot.keras.Embedding, unhot.keras)
    give(expected, stepped(expected, for_steps))
    np.testing.assert_allclose(*(numbers(one.optimizer.variables[2]) for one in (model, expected)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("take", few([as_arrays, for_steps], [as_arrays]))
@pytest.mark.parametrize("donate", few([False, True], [False]))
def test_nadam(take: Take, donate: bool) -> None:
    """It keeps a number beside its slots, which is assigned last."""

    def program(kind: Any, module: Any) -> list[Any]:
        model = trained(kind, module, "Nadam")
        kept = [[np.array(v) for v in variables] for variables in (model.trainable_variables, model.optimizer.variables)]
        give(model, stepped(model, take, donate_argnums=(0,) if donate else ()))
        found = [*model.get_weights(), *go_on(model)]
        give(model, kept)
        return [*found, *go_on(model)]

    assert_alike(program)


def test_frozen_rows_in_a_function_made_before() -> None:
    """They stay, and train again once they are let go."""
    import jax

    model = trained(unhot.keras.Embedding, unhot.keras)
    layer, step = model.layers[1], jax.jit(functions(model)[1])
    for frozen in ([], [0, 3, 7], None):
        layer.frozen = frozen
        before, values = model.get_weights()[0], values_of(model, as_arrays)
        for batch in batches(3):
            values, _ = step(values, batch)
        give(model, values)
        moved = np.abs(model.get_weights()[0] - before)[[0, 3, 7]]
        assert (moved == 0).all() if frozen else (moved > 0).all()


@pytest.mark.parametrize("jit", [False, True])
def test_values_from_before_rows_were_frozen(jit: bool) -> None:
    """A loop goes on with them."""
    import jax

    def program(kind: Any, module: Any) -> list[Any]:
        model = trained(kind, module)
        step = jax.jit(functions(model)[1]) if jit else functions(model)[1]
        values, _ = step(values_of(model, for_steps), batches(3)[0])
        if module is unhot.keras:
            model.layers[1].frozen = [ROWS - 1]  # which no batch has
        values, _ = step(values, batches(3)[1])
        give(model, values)
        return [*map(numbers, model.optimizer.variables), model.get_weights()[0][:-1]]

    assert_alike(program)


# ---------------------------------------------------------------- hyperparameters


def anew(model: Any) -> list[Any]:
    """Go on by a function that knows the hyperparameters: they are constants of those that Keras has compiled."""
    model.make_train_function(force=True)
    return go_on(model)


@pytest.mark.parametrize("name", few(["weight_decay", "beta_1"], ["beta_1"]))
@pytest.mark.parametrize("take", WAYS)
def test_the_optimizer_first_after_a_hyperparameter_has_changed(name: str, take: Take) -> None:
    import jax

    def program(kind: Any, module: Any) -> list[Any]:
        model = trained(kind, module)
        setattr(model.optimizer, name, 0.1)
        slots = take(model.optimizer.variables)
        found = [np.array(value) for value in (slots if take is as_arrays else as_arrays(model.optimizer.variables))]
        values, _ = jax.jit(functions(model)[1])((take(model.trainable_variables), slots), batches(3)[0])
        give(model, values)
        return [*found, *model.get_weights(), *anew(model)]

    assert_alike(program)


@pytest.mark.parametrize("take", WAYS)
def test_a_hyperparameter_that_changes_while_arrays_are_donated(take: Take) -> None:
    def program(kind: Any, module: Any) -> list[Any]:
        model = trained(kind, module)
        values = stepped(model, take, donate_argnums=0)
        model.optimizer.beta_1 = 0.8
        give(model, values)
        return [*model.get_weights(), *anew(model)]

    assert_alike(program)


class Failing(keras.utils.PyDataset):  # type: ignore[misc]
    """Data that end in an error in the second epoch."""

    count = 0

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        self.count += 1
        if self.count == 4:
            raise KeyError("data")
        return batches(1)[index]


class Changing(keras.callbacks.Callback):  # type: ignore[misc]
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.optimizer.beta_1 = 0.8
        self.model.get_weights()


def test_an_error_of_the_data_after_a_hyperparameter_has_changed() -> None:
    """It is that error, and no variable is lost."""

    def program(kind: Any, module: Any) -> list[Any]:
        model = trained(kind, module)
        with pytest.raises(KeyError, match="data"):
            model.fit(Failing(workers=1), epochs=2, shuffle=False, verbose=0, callbacks=[Changing()])
        return [*model.get_weights(), *map(numbers, model.optimizer.variables), *anew(model)]

    assert_alike(program)


# ---------------------------------------------------------------- arrays that are lost


def by_a_file(model: Any, path: Path) -> None:
    model.load_weights(path)


def by_assigning(model: Any, path: Path) -> None:
    with np.load(path.with_suffix(".npz")) as kept:
        values = list(kept.values())
    give(model, (values[: len(model.trainable_variables)], values[len(model.trainable_variables) :]))


@pytest.mark.parametrize("take", WAYS)
@pytest.mark.parametrize("back", few([by_a_file, by_assigning], [by_a_file]))
@pytest.mark.parametrize("large", few([False, True], [False]))
def test_back_to_a_checkpoint(back: Callable[[Any, Path], None], take: Take, large: bool, tmp_path: Path) -> None:
    """After a step to which all arrays were given, and whose result is dropped."""

    def program(kind: Any, module: Any) -> list[Any]:
        keras.utils.set_random_seed(0)
        ids = keras.Input((IDS,), dtype="int32")
        layer = kind(20_000, 64) if large else kind(ROWS, DIM)  # large pages
        model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(layer(ids))))
        # The steps of the large one are linear: an element among a million may have a gradient that is rounding alone.
        model.compile(module.SGD(0.03, momentum=0.9) if large else module.Nadam(0.03), "mse")
        model.fit(*data(), **FIT)
        path = tmp_path / f"{module.__name__}.weights.h5"
        model.save_weights(path)
        np.savez(path.with_suffix(".npz"), *(np.array(v) for v in (*model.trainable_variables, *model.optimizer.variables)))
        stepped(model, take, 1, donate_argnums=0)
        back(model, path)
        found = [*model.get_weights(), *go_on(model)]
        if module is unhot.keras:
            assert model.optimizer.table(layer.embeddings) is not None
        return found

    assert_alike(program)


# ---------------------------------------------------------------- slots in a step


class Logging(keras.Model):  # type: ignore[misc]
    """Logs the norm of a slot from before each step."""

    def train_step(self, state: Any, data: Any) -> Any:
        given = [*zip(self.trainable_variables, state[0], strict=True), *zip(self.optimizer.variables, state[2], strict=True)]
        with keras.StatelessScope(given):
            slot = self.optimizer.variables[2]
            norm = ops.sum(slot * slot) + ops.sum(ops.clip(slot, -1.0, 1.0)) + ops.sum(slot.value)
        logs, state = super().train_step(state, data)
        return {**logs, "norm": norm}, state


@pytest.mark.skipif(not ON, reason="needs names that JAX does not publish")
def test_a_slot_that_a_train_step_reads() -> None:
    def program(kind: Any, module: Any) -> list[Any]:
        model = model_on(kind(ROWS, DIM), module.Adam(0.03), kind=Logging)
        return [np.array(model.fit(*data(), **FIT).history["norm"]), *model.get_weights()]

    assert_alike(program)


@pytest.mark.skipif(not ON, reason="needs names that JAX does not publish")
def test_slots_that_apply_changes() -> None:
    def program(kind: Any, module: Any) -> list[Any]:
        class Damped(module.Adam):  # type: ignore[misc, name-defined]
            def apply(self, grads: Any, trainable_variables: Any = None) -> None:
                super().apply(grads, trainable_variables)
                for slot in self._momentums:
                    slot.assign(slot * 0.9)

        return go_on(model_on(kind(ROWS, DIM), Damped(0.03)))

    assert_alike(program)


def test_lazy_adam_says_that_it_moves_all_rows() -> None:
    model = model_on(unhot.keras.Embedding(ROWS, DIM), unhot.keras.LazyAdam(0.03))
    with pytest.warns(unhot.DenseFallbackWarning, match="as arrays, so LazyAdam moves all rows"):
        stepped(model, as_arrays, 1)


def test_what_is_fetched_for_steps_is_not_settled() -> None:
    """Or each call of `train_on_batch` would cost all rows."""
    model = trained(unhot.keras.Embedding, unhot.keras)
    table = model.optimizer.table(model.layers[1].embeddings)
    assert table is not None
    for_steps(model.optimizer.variables)
    for_steps(model.trainable_variables)
    model.train_on_batch(*batches()[0])
    assert table.has_deferred_steps()
