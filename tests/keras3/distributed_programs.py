"""What trains tables under `keras.distribution`: programs that a process with several devices runs with it and without."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import unhot.keras
from unhot.keras.backends import backend

from .models import EPSILON

ROWS, DIM, IDS, BATCH, STEPS = 96, 2, 4, 8, 4

WHOLE = "whole"
LAYOUTS: dict[str, tuple[tuple[int, int], tuple[Any, Any]]] = {
    "rows": ((1, 2), ("model", None)),
    "rows, and the batch": ((2, 2), ("model", None)),
    "rows along the batch": ((2, 1), ("batch", None)),
    "columns": ((1, 2), (None, "model")),
    "columns, and the batch": ((2, 2), (None, "model")),
}
"""How many devices there are along the batch and along the model, and along which of them a table is spread."""


def model_parallel(shape: tuple[int, int], spec: tuple[Any, Any]) -> Any:
    """A distribution over the first devices."""
    devices = keras.distribution.list_devices()[: shape[0] * shape[1]]
    layouts = keras.distribution.LayoutMap(keras.distribution.DeviceMesh(shape, ("batch", "model"), devices))
    layouts[".*table/(embeddings|lora_embeddings_a)$"] = spec
    return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False)


def distribution_of(layout: str) -> Any:
    """That of a layout; of tables that each device has, for `WHOLE`."""
    return keras.distribution.DataParallel(auto_shard_dataset=False) if layout == WHOLE else model_parallel(*LAYOUTS[layout])


def assert_close(found: list[Any], expected: list[Any]) -> None:
    """The same but for the order of sums in a batch."""
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=300 * EPSILON, atol=300 * EPSILON)  # as in `assert_same`


def under(distribution: Any, program: Callable[[], list[Any]]) -> list[Any]:
    """What the program gives under the distribution, or under none."""
    backend.FEWEST_ROWS = 0
    keras.distribution.set_distribution(distribution)
    keras.utils.set_random_seed(0)
    try:
        return program()
    finally:
        keras.distribution.set_distribution(None)


WITHOUT: dict[str, list[Any]] = {}
"""What programs give without a distribution, where that is known already."""


def as_without(layout: str, name: str) -> None:
    """A program gives under a distribution what it gives without."""
    program = PROGRAMS[name]
    if name not in WITHOUT:
        WITHOUT[name] = under(None, program)
    assert_close(under(distribution_of(layout), program), WITHOUT[name])


# ---------------------------------------------------------------- programs


def model_on(table: Any) -> keras.Model:
    ids = keras.Input((IDS,), dtype="int32")
    return keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(table(ids))))


def data(rows: int = 50) -> tuple[Any, Any]:
    """Ids, of which many repeat, and targets."""
    rng = np.random.default_rng(0)
    return rng.integers(0, rows, (BATCH * STEPS, IDS)).astype("int32"), rng.normal(size=(BATCH * STEPS, 1)).astype("float32")


def fit(model: Any, rows: int = 50, epochs: int = 1) -> None:
    model.fit(*data(rows), batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0)


def state(model: Any) -> list[Any]:
    return [*model.get_weights(), *(np.array(variable) for variable in model.optimizer.variables)]


def by_rows(train: Callable[[], list[Any]]) -> Callable[[], list[Any]]:
    """The program, which fails if it trains a table densely."""

    def program() -> list[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("error", unhot.DenseFallbackWarning)
            return train()

    return program


def densely(train: Callable[[], list[Any]]) -> Callable[[], list[Any]]:
    """The program, which fails if it does not warn once that it trains a table densely."""

    def program() -> list[Any]:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", unhot.DenseFallbackWarning)
            found = train()
        assert len([each for each in told if issubclass(each.category, unhot.DenseFallbackWarning)]) == 1
        return found

    return program


def optimizer(**options: Any) -> Any:
    """One that defers steps, and whose steps are quickly compiled."""
    return unhot.keras.SGD(0.1, momentum=0.9, **options)


def compiled(make: Callable[..., Any] = optimizer, more: Any = None, **options: Any) -> list[Any]:
    model = model_on(unhot.keras.Embedding(ROWS, DIM, name="table"))
    model.compile(make(**options), "mse", **more or {})
    fit(model, epochs=2)  # Keras cannot go on after `use_ema`: a variable and its average are then one array, donated twice
    return state(model)


def fitted(**options: Any) -> tuple[Any, Any]:
    """A table, and a model on it that has been trained."""
    table = unhot.keras.Embedding(ROWS, DIM, name="table")
    model = model_on(table)
    model.compile(optimizer(**options), "mse")
    fit(model)
    return table, model


def frozen_rows() -> list[Any]:
    """Some from the start, all but some later."""
    table = unhot.keras.Embedding(ROWS, DIM, frozen=[1, 4, 60], name="table")
    model = model_on(table)
    model.compile(optimizer(), "mse")
    drawn = np.unique(data()[0])
    for trained in (np.setdiff1d(drawn, [1, 4, 60]), drawn[(drawn >= 2) & (drawn < 30)]):
        before = table.get_weights()[0]
        fit(model)
        assert np.flatnonzero((table.get_weights()[0] != before).any(axis=1)).tolist() == trained.tolist()
        table.only_train(range(2, 30))
    return state(model)


def low_rank() -> list[Any]:
    """LoRA, once the table has been trained."""
    table, model = fitted()
    table.enable_lora(2)
    model.compile(optimizer(), "mse")
    fit(model)
    assert model.optimizer.table(table.lora_embeddings_a) is not None
    return state(model)


def reversible(tie_weights: bool) -> list[Any]:
    """The table's vectors as logits of its rows."""
    ids = keras.Input((IDS,), dtype="int32")
    table = unhot.keras.ReversibleEmbedding(ROWS, DIM, tie_weights=tie_weights, name="table")
    model = keras.Model(ids, table(keras.layers.Dense(DIM)(table(ids)), reverse=True))
    model.compile(optimizer(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, _ = data()
    model.fit(x, x[:, ::-1], batch_size=BATCH, shuffle=False, verbose=0)
    return [*state(model), model.predict(x[:BATCH], batch_size=BATCH, verbose=0)]


def own_loop() -> list[Any]:
    """A compiled step of one's own, whose values are assigned in between and at the end."""
    import jax  # which not all of Keras's backends come with

    model = model_on(unhot.keras.Embedding(ROWS, DIM, name="table"))
    trainer = optimizer()
    trainer.build(model.trainable_variables)

    def loss_of(trainable: Any, others: Any, x: Any, y: Any) -> Any:
        found, others = model.stateless_call(trainable, others, x)
        return ops.mean((found - y) ** 2), others

    @partial(jax.jit, donate_argnums=(0, 2))
    def step(trainable: Any, others: Any, slots: Any, x: Any, y: Any) -> Any:
        (loss, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(trainable, others, x, y)
        trainable, slots = trainer.stateless_apply(slots, gradients, trainable)
        return loss, trainable, others, slots

    x, y = data()
    losses = []
    variables = model.trainable_variables, model.non_trainable_variables, trainer.variables
    for _ in range(2):
        values: Any = [unhot.keras.stateless_values(each) for each in variables]
        for at in range(0, len(x), BATCH):
            loss, *values = step(*values, x[at : at + BATCH], y[at : at + BATCH])
            losses.append(float(loss))
        for each, taken in zip(variables, values, strict=True):
            for variable, value in zip(each, taken, strict=True):
                variable.assign(value)
    return [*losses, *map(np.array, [*model.variables, *trainer.variables])]


def growth() -> list[Any]:
    """Rows that are added and given back between steps, with decay."""
    table, model = fitted(weight_decay=0.1)
    table.remove([3, 5])
    assert table.grow(6).tolist() == [3, 5, *range(ROWS, ROWS + 4)]
    fit(model, ROWS + 4)
    assert model.optimizer.table(table.embeddings) is not None
    return state(model)


def assigned() -> list[Any]:
    """A table whose weights Keras's own layers are assigned, with its layout and with another."""
    table, model = fitted()
    found: list[Any] = []
    for name in ("table", "other"):
        stock = keras.layers.Embedding(ROWS, DIM, name=name)
        stock.build()
        stock.embeddings.assign(table.embeddings)
        found += [*stock.get_weights(), ops.sum(ops.convert_to_tensor(table.embeddings), axis=0)]
    fit(model)
    return [*found, *state(model)]


PROGRAMS: dict[str, Callable[[], list[Any]]] = {
    "frozen rows": by_rows(frozen_rows),
    "low rank": by_rows(low_rank),
    "eagerly": by_rows(partial(compiled, more={"run_eagerly": True})),
    "own loop": by_rows(own_loop),
    "growth": by_rows(growth),
    "assigned": by_rows(assigned),
    "clipnorm": by_rows(partial(compiled, clipnorm=0.1)),
    "clipvalue": by_rows(partial(compiled, clipvalue=0.01)),
    "scaled loss": by_rows(partial(compiled, loss_scale_factor=8.0)),
    "scaled loss, which changes": densely(
        partial(compiled, lambda: keras.optimizers.LossScaleOptimizer(optimizer(), initial_scale=8.0))
    ),
    "accumulation": densely(partial(compiled, gradient_accumulation_steps=2)),
    "averages": densely(partial(compiled, use_ema=True, ema_momentum=0.9)),
}
if hasattr(keras.layers, "ReversibleEmbedding"):
    PROGRAMS["reversible"] = by_rows(partial(reversible, False))
    PROGRAMS["reversible, tied"] = densely(partial(reversible, True))


def trains_densely(layout: str) -> None:
    """A table is trained as without a distribution, and a warning says that it is not trained by rows."""
    assert_close(under(distribution_of(layout), densely(compiled)), under(None, by_rows(compiled)))


def grows_by_equal_parts() -> None:
    """A number of rows that does not divide is refused, and everything stays as it was."""

    def program() -> list[Any]:
        table, model = fitted()
        before = state(model)
        with pytest.raises(ValueError, match=f"{ROWS + 1} rows of table/embeddings do not divide.* Add 1 more"):
            table.grow(1)
        assert table.input_dim == ROWS
        for ours, theirs in zip(state(model), before, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        fit(model)
        assert model.optimizer.table(table.embeddings) is not None
        return []

    under(distribution_of("rows"), program)


# ---------------------------------------------------------------- several processes


def trained_together(parts: int, part: int) -> list[Any]:
    """A table that is trained with one of so many equal parts of each batch; and all that this makes of it."""
    from unhot.jax.spread import known

    table = unhot.keras.Embedding(ROWS, DIM, name="table")
    model = model_on(table)
    model.compile(optimizer(), "mse")
    own = [array.reshape(STEPS, parts, BATCH // parts, -1)[:, part].reshape(-1, array.shape[1]) for array in data()]
    found: list[Any] = []
    for _ in range(2):
        model.fit(*own, batch_size=BATCH // parts, shuffle=False, verbose=0)
        found += [known(variable.__jax_array__()) for variable in (*model.variables, *model.optimizer.variables)]
    assert model.optimizer.table(table.embeddings) is not None
    return found


def trains_together(layout: str) -> None:
    """In each process: the table is trained as in one."""
    import jax

    count, rank = jax.process_count(), jax.process_index()
    assert count == 2
    everywhere = layout == WHOLE  # else the rows of a table are on the devices of both
    distribution = distribution_of(WHOLE) if everywhere else model_parallel((4, 1), ("batch", None))
    found = under(distribution, by_rows(partial(trained_together, count, rank)))
    assert_close(found, under(None, partial(trained_together, 1, 0)))
