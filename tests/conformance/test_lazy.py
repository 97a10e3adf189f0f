"""LazyAdam against what it is: Adam, in dense NumPy, whose rows without an id in the step are put back; and SparseAdam.

It is no dense training, so it is no line of the registry; the streams, and the bounds of what counts as the same, are those of
the suite.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from selection import label, product

import unhot
import unhot.jax
import unhot.torch

from .dense import Array
from .lazy import RATE, lazy
from .registry import BETAS, Rule
from .streams import make
from .test_jax import StateCopy
from .training import agree, dense_gradient, train, unhot_copy, versions

DTYPES = ("float32", "float64")


def rule(convention: str, **hyper: Any) -> Rule:
    return Rule("LazyAdam", convention, RATE, hyper)


EPSILON = {"keras": 1e-7, "torch": 1e-8}
"""The default of each convention."""

OPTIONS: list[dict[str, Any]] = [{}, {"amsgrad": True}, *({"beta_1": b1, "beta_2": b2} for b1, b2 in (*BETAS, (0.99999, 0.9)))]
"""Betas also of which no window would hold what dense training does to resting rows."""

STREAMS = ("closed", "mixed", "tiny", "huge", "gaps")


@pytest.mark.parametrize(("convention", "options", "stream"), product(EPSILON, OPTIONS, STREAMS), ids=label)
def test_in_a_table(convention: str, options: dict[str, Any], stream: str) -> None:
    given = make(stream, "wandering", RATE)
    hyper = {"epsilon": EPSILON[convention], **options}
    tables = [unhot_copy(rule(convention, **options), given.weights, dtype) for dtype in DTYPES]
    dense = lazy(given.weights, "float32", **hyper)
    train(given, lazy(versions(given.weights), "float64", **hyper), [dense, *tables], agree)
    assert all(copy.table._engine.last is None for copy in tables), "nothing is deferred"


def test_a_rate_and_a_momentum_that_change() -> None:
    given = make("closed", "cosine", RATE)
    for number, step in enumerate(given.steps, start=1):
        step.hyper["beta_1"] = 0.9 + 0.09 * np.cos(number)
    tables = [unhot_copy(rule("keras"), given.weights, dtype) for dtype in DTYPES]
    train(given, lazy(versions(given.weights), "float64"), [lazy(given.weights, "float32"), *tables], agree)


class SparseAdamCopy:
    """torch.optim.SparseAdam, given the rows of the ids in the step."""

    def __init__(self, start: Array, dtype: str) -> None:
        self.parameter = torch.nn.Parameter(torch.tensor(start.astype(dtype)))
        self.optimizer: Any = torch.optim.SparseAdam([self.parameter], lr=RATE)

    def lookup(self, ids: Array) -> Array:
        return self.weights()[..., ids, :]

    def step(self, ids: Array, gradients: Array) -> None:
        rows = np.unique(ids).astype(np.int64)
        summed = dense_gradient(self.weights(), ids, gradients)[rows]
        with torch.sparse.check_sparse_tensor_invariants():
            self.parameter.grad = torch.sparse_coo_tensor(rows[None], torch.tensor(summed), self.parameter.shape)
        self.optimizer.step()

    def assign(self, hyper: dict[str, Any]) -> None:
        self.optimizer.param_groups[0]["lr"] = hyper["learning_rate"]

    def weights(self) -> Array:
        found: Array = self.parameter.detach().numpy()
        return found.copy()


class LayerCopy(SparseAdamCopy):
    """A layer under `unhot.torch.LazyAdam`."""

    def __init__(self, start: Array, dtype: str) -> None:
        self.layer = unhot.torch.Embedding.from_pretrained(torch.tensor(start.astype(dtype)), freeze=False)
        self.parameter = self.layer.weight
        self.optimizer = unhot.torch.LazyAdam(self.layer.parameters(), lr=RATE)

    def step(self, ids: Array, gradients: Array) -> None:
        self.optimizer.zero_grad()
        wanted = torch.from_numpy(gradients.astype(self.weights().dtype))
        (self.layer(torch.from_numpy(ids)) * wanted).sum().backward()
        self.optimizer.step()


@pytest.mark.parametrize("stream", ["closed", "mixed", "tiny"])
def test_as_sparse_adam(stream: str) -> None:
    """Dense Adam whose rows are put back, the table and the layer hold what torch.optim.SparseAdam makes of the gradients."""
    given = make(stream, "wandering", RATE)
    tables = [unhot_copy(rule("torch"), given.weights, dtype) for dtype in DTYPES]
    layers = [LayerCopy(given.weights, dtype) for dtype in DTYPES]
    sparse = [SparseAdamCopy(given.weights, dtype) for dtype in DTYPES]
    train(given, lazy(versions(given.weights), "float64", epsilon=1e-8), [*sparse, *tables, *layers], agree)
    for layer in layers:
        assert layer.optimizer.state_dict()["state"][0]["step"] == len(given.steps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"amsgrad": True}], ids=str)
def test_inside_a_graph(dtype: str, options: dict[str, Any]) -> None:
    given = make("closed", "wandering", RATE)
    state = StateCopy(rule("keras", **options), given.weights, dtype)
    assert not state.state.history, "there is none"
    dense = lazy(given.weights, "float32", **options)
    train(given, lazy(versions(given.weights), "float64", **options), [dense, state], agree)


def test_what_is_no_table_is_trained_by_adam() -> None:
    """So is a table in a step in which its gradient is dense; then its rows are trained apart again."""
    torch.manual_seed(0)
    models = [torch.nn.Sequential(module.Embedding(20, 4), torch.nn.Linear(4, 2)) for module in (torch.nn, unhot.torch)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = torch.optim.Adam(models[0].parameters(), lr=RATE), unhot.torch.LazyAdam(models[1].parameters(), lr=RATE)
    every = torch.arange(20)

    def trained_as_a_whole(model: Any, optimizer: Any) -> None:
        for _ in range(5):
            optimizer.zero_grad()
            (model(every).square().sum() + model[0].weight.square().sum()).backward()
            optimizer.step()

    trained_as_a_whole(models[0], optimizers[0])
    with pytest.warns(unhot.DenseFallbackWarning, match="its gradient is dense"):
        trained_as_a_whole(models[1], optimizers[1])
    for mine, other in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(mine.detach(), other.detach(), rtol=0, atol=0)
    before = models[1][0].weight.detach().clone()
    optimizers[1].zero_grad()
    models[1](every[:3]).square().sum().backward()
    optimizers[1].step()
    moved = (models[1][0].weight.detach() != before).any(dim=1)
    assert moved.tolist() == [True] * 3 + [False] * 17


def test_a_state_is_resumed() -> None:
    """Bit for bit; it is none of Adam's, nor can a table of Adam's go on so."""
    given = make("closed", "constant", RATE)
    tables = [unhot.Table.from_array(given.weights, optimizer=unhot.LazyAdam(RATE)) for _ in range(2)]
    for step in given.steps[:40]:
        tables[0].step(step.ids, step.noise)
    tables[1].load_state_dict(tables[0].state_dict())
    for table in tables:
        for step in given.steps[40:]:
            table.step(step.ids, step.noise)
    np.testing.assert_array_equal(tables[0].array, tables[1].array)
    adam = unhot.Table.from_array(given.weights, optimizer=unhot.Adam(RATE))
    with pytest.raises(ValueError, match="was trained with LazyAdam, and the table has Adam"):
        adam.load_state_dict(tables[0].state_dict())
    with pytest.raises(ValueError, match="cannot go on with LazyAdam"):
        adam.optimizer = unhot.LazyAdam(RATE)


def test_what_sparse_adam_has_trained_is_trained_on() -> None:
    """From its checkpoint, whose groups have no weight decay."""
    torch.manual_seed(0)
    layers: list[Any] = [torch.nn.Embedding(20, 4, sparse=True), unhot.torch.Embedding(20, 4)]
    optimizers = torch.optim.SparseAdam(layers[0].parameters(), lr=RATE), unhot.torch.LazyAdam(layers[1].parameters())
    for step in range(12):
        for layer, optimizer in zip(layers[: 1 if step < 6 else 2], optimizers, strict=False):
            optimizer.zero_grad()
            layer(torch.tensor([step % 5, 3])).sin().sum().backward()
            optimizer.step()
        if step == 5:
            layers[1].load_state_dict(layers[0].state_dict())
            optimizers[1].load_state_dict(optimizers[0].state_dict())
    torch.testing.assert_close(layers[1].weight.detach(), layers[0].weight.detach())
    assert unhot.torch.report(layers[1], optimizers[1]).by_rows == ["weight"]


def test_the_comparison_refuses_it() -> None:
    with pytest.raises(TypeError, match=r"no dense optimizer to compare LazyAdam with: it leaves rows without a gradient"):
        unhot.compare([1, 2, 3], optimizer=unhot.LazyAdam())


def test_betas_beyond_any_window() -> None:
    """Adam refuses them, since what it does to resting rows would take too long a window; nothing rests here."""
    betas = {"beta_1": 0.99999, "beta_2": 0.9}
    with pytest.raises(ValueError, match="too near to 1"):
        unhot.jax.from_array(jnp.ones((3, 2)), optimizer=unhot.Adam(**betas))
    state = unhot.jax.from_array(jnp.ones((3, 2)), optimizer=unhot.LazyAdam(**betas))
    after = unhot.jax.weights(jax.jit(unhot.jax.update)(state, jnp.array([1]), jnp.ones((1, 2))))
    assert (np.asarray(after) == 1.0).all(axis=1).tolist() == [True, False, True]
