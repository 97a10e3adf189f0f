"""Tables that grow while they are spread over processes, against one process."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from workers import FailedError

from pytorch.distributed.programs import DIM, ROWS, Step, collection_of, made, optimizer_of, share, steps, train, vectors_of

MORE = 7


def ids_of_all(batches: Any, rows: int) -> list[Step]:
    """The same batches with ids among so many rows."""
    return [step._replace(ids=(step.ids * 5) % rows) for step in batches]


def grown(group: Any, pooling: str, optimizer: tuple[str, dict[str, Any]], init: Any) -> Any:
    """Train, grow while a loss is open, and train on; in one process without a group."""
    rank, world = (0, 1) if group is None else (group.rank(), group.size())
    layer = made(pooling, {}, group)
    trainer = optimizer_of(layer, *optimizer)
    batches = [share(step, rank, world, bool(pooling)) for step in ids_of_all(steps(20), ROWS)]
    train(layer, trainer, batches, pooling)
    kept = copy.deepcopy(layer)
    trainer.zero_grad()
    vectors = vectors_of(layer, batches[0], pooling)
    numbers = layer.grow(MORE, init)
    (vectors * batches[0].gradients[: len(vectors)]).sum().backward()
    trainer.step()
    assert numbers.tolist() == list(range(ROWS, ROWS + MORE))
    assert layer.num_embeddings == ROWS + MORE
    assert kept.num_embeddings == ROWS
    later = [share(step, rank, world, bool(pooling)) for step in ids_of_all(steps(30, seed=3), ROWS + MORE)]
    found = train(layer, trainer, later, pooling)
    layer.grow(2, torch.ones(2, DIM))  # fewer than there may be processes
    found += train(layer, trainer, later[:3], pooling)
    train(kept, optimizer_of(kept, *optimizer), batches[:2], pooling)
    state = layer.state_dict()["weight"]
    rows = torch.arange(ROWS + MORE + 2) if group is None else layer.rows_here()
    return rows, layer.weight.detach().clone(), found, state if group is None else state.full_tensor()


RULES: list[tuple[str, dict[str, Any]]] = [
    ("AdamW", {"lr": 0.05, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    ("RowwiseAdagrad", {"lr": 0.05}),
]


@pytest.mark.parametrize("init", ["zeros", "mean", "given"])
@pytest.mark.parametrize(("pooling", "world", "rule"), [("", 2, 0), ("", 3, 1), ("sum", 3, 2)])
def test_one_process(pool: Any, init: str, pooling: str, world: int, rule: int) -> None:
    """The same but for rounding: the rows that there were have made the steps that they had deferred at once."""
    given = {"zeros": nn.init.zeros_, "mean": "mean", "given": torch.arange(MORE * DIM).view(MORE, DIM) / 10}[init]
    _, expected, vectors, _ = grown(None, pooling, RULES[rule], given)
    parts = pool.run(grown, pooling, RULES[rule], given, world=world)
    assert sorted(row for rows, *_ in parts for row in rows.tolist()) == list(range(ROWS + MORE + 2))
    for rows, weights, _, state in parts:
        torch.testing.assert_close(weights, expected[rows], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(state, expected, rtol=1e-5, atol=1e-6)
    for step, whole in enumerate(vectors):
        torch.testing.assert_close(torch.cat([found[step] for _, _, found, _ in parts]), whole, rtol=1e-5, atol=1e-5)


def grown_collection(group: Any) -> Any:
    """The vectors of new rows of one of the tables, and what is said of an id outside."""
    layer = collection_of(True, group, **({} if group is None else {"layout": "mod"}))
    layer.layers["kind"].grow(2, torch.ones(2, 2))
    features = {name: torch.tensor([[4], [0]] if name == "kind" else [[1], [0]]) for name in layer.features}
    found = layer(features)
    if group is None:
        return found.detach(), ""
    try:
        layer({**features, "kind": torch.tensor([[5], [0]])})
    except IndexError as error:
        return found.detach(), str(error)
    return found.detach(), ""


def test_collections(pool: Any) -> None:
    expected, _ = grown_collection(None)
    for found, said in pool.run(grown_collection, world=2):
        assert torch.equal(found, expected)
        assert "rows 0 to 4" in said, said


def layouts_that_cannot(group: Any, layout: str) -> None:
    made("", {}, group, layout=layout).grow(1)


@pytest.mark.parametrize("layout", ["range", "hash"])
def test_layouts_that_cannot(pool: Any, layout: str) -> None:
    with pytest.raises(FailedError, match="only a table that is spread with layout='mod' can grow"):
        pool.run(layouts_that_cannot, layout, world=1)
