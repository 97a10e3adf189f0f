"""What the layers take beside ids: options of torch's layers, unknown ids, prefetches, copies, other devices, and FSDP."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
import torch
from selection import slow, some
from torch import nn
from torch.distributed.fsdp import fully_shard

import unhot.torch
from pytorch.distributed import models
from pytorch.distributed.models import Recommender, weights_of
from pytorch.distributed.programs import (
    DIM,
    ROWS,
    first_weights,
    made,
    optimizer_of,
    put_together,
    sharded_training,
    share,
    steps,
    train,
    vectors_of,
    whole_training,
)
from pytorch.distributed.ranks import beside_ddp
from unhot.torch.distributed import ShardedEmbedding, shard, tables

ADAM = ("Adam", {"lr": 0.05})

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "padding": ("", {"padding_idx": 1}), "negative padding": ("", {"padding_idx": -2}), "max_norm": ("", {"max_norm": 1.0}),
    "frequency": ("", {"scale_grad_by_freq": True}), "bias": ("", {"bias": True}),
    "activation": ("", {"activation": torch.tanh}),
    "padding in bags": ("mean", {"padding_idx": 1}), "max_norm of bags": ("sum", {"max_norm": 1.0}),
    "bias of bags": ("sum", {"bias": True}), "sparse": ("", {"sparse": True}), "dense": ("", {"sparse": False}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::unhot.DenseFallbackWarning")
@pytest.mark.parametrize("name", some(OPTIONS, ["padding", "max_norm", "frequency", "bias", "padding in bags", "sparse"]))
def test_options_of_torchs_layers(pool: Any, name: str) -> None:
    pooling, options = OPTIONS[name]
    expected = whole_training(pooling, options, ADAM, 40)
    found = put_together(pool.run(sharded_training, "mod", pooling, options, ADAM, 40, world=2))
    torch.testing.assert_close(found[0], expected[1], rtol=1e-5, atol=1e-6)
    if "bias" not in options:  # which is for DistributedDataParallel to sum
        torch.testing.assert_close(found[2], expected[2], rtol=1e-5, atol=1e-6)


def unknown(group: Any, pooling: str, policy: Any, dedup: bool) -> Any:
    """Vectors and gradients where some ids are no rows; in one process without a group."""
    rank, world = (0, 1) if group is None else (group.rank(), group.size())
    layer = made(pooling, {"out_of_range": policy, **({"dedup": dedup} if group is not None else {})}, group)
    optimizer = unhot.torch.SGD(layer.parameters(), lr=1.0)
    found = []
    for step in steps(4):
        ids = step.ids.clone()
        ids[::3] = torch.where(ids[::3] % 2 == 0, -1, ROWS + 7)
        own = share(step._replace(ids=ids), rank, world, bool(pooling))
        vectors = vectors_of(layer, own, pooling)
        (vectors * own.gradients[: len(vectors)]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(vectors.detach())
    rows = torch.arange(ROWS) if group is None else layer.rows_here()
    return rows, layer.weight.detach().clone(), found


@pytest.mark.parametrize(
    ("pooling", "policy", "dedup"),
    [("", "zero", False), ("", 5, True), ("mean", "zero", True), ("max", "zero", False), ("sum", 3, False)],
)
def test_unknown_ids(pool: Any, pooling: str, policy: Any, dedup: bool) -> None:
    _, expected, vectors = unknown(None, pooling, policy, False)
    parts = pool.run(unknown, pooling, policy, dedup, world=2)
    for rows, weights, _ in parts:
        torch.testing.assert_close(weights, expected[rows], rtol=1e-5, atol=1e-6)
    for step, whole in enumerate(vectors):
        torch.testing.assert_close(torch.cat([found[step] for *_, found in parts]), whole, rtol=1e-5, atol=1e-6)


def prefetched(group: Any) -> list[str]:
    """Look up ids that were sent before, in messages of different rooms; and others, which is an error."""
    layer = made("", {}, group)
    generator = torch.Generator().manual_seed(group.rank())
    batches = [torch.randint(ROWS, (size,), generator=generator) for size in (900, 700, 2, 500, 40)]
    layer.prefetch(batches[0])
    layer.prefetch(batches[1])
    for k, ids in enumerate(batches):
        with torch.no_grad():
            assert torch.equal(layer(ids), first_weights()[ids])
        if k + 2 < len(batches):
            layer.prefetch(batches[k + 2])
    layer.prefetch(batches[0])
    layer.prefetch(batches[2])
    batches[2] += 1  # as who fills the same tensor again and again
    said = []
    for ids in batches[1:3]:
        try:
            layer(ids)
        except ValueError as error:
            said.append(str(error))
    return said


def test_prefetched_ids(pool: Any) -> None:
    for said in pool.run(prefetched, world=2):
        assert len(said) == 2
        assert all("other ids than `prefetch`" in text for text in said)


def prefetched_bags(group: Any) -> None:
    """Look up bags that were sent before, in all forms of a call."""
    layer = made("sum", {}, group)
    ids, starts = torch.arange(12) + group.rank(), torch.tensor([0, 5, 5])
    calls: list[tuple[Any, dict[str, Any]]] = [
        ((ids.view(4, 3),), {}),
        ((ids, starts), {}),
        ((ids,), {"offsets": starts}),
        ((ids, starts, torch.linspace(0, 1, 12)), {}),
        ((), {"input": ids.view(4, 3), "per_sample_weights": torch.ones(4, 3)}),
    ]
    whole = nn.EmbeddingBag(ROWS, DIM, _weight=first_weights(), mode="sum")
    for given, named in calls:
        layer.prefetch(*given, **named)
    for given, named in calls:
        expected = whole(*given, **named)
        torch.testing.assert_close(layer(*given, **named), expected)


def test_prefetched_bags(pool: Any) -> None:
    pool.run(prefetched_bags, world=2)


def copies(group: Any) -> Any:
    """A copy of a layer, and the layer, after the copy was trained."""
    layer = made("", {}, group)
    other = copy.deepcopy(layer)
    optimizer = unhot.torch.Adam(other.parameters(), lr=0.1)
    for step in steps(5):
        own = share(step, group.rank(), group.size(), False)
        (other(own.ids) * own.gradients).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(layer.weight, first_weights()[layer.rows_here()])
    third = copy.deepcopy(other)
    trainer = unhot.torch.Adam(third.parameters(), lr=0.1)
    trainer.load_state_dict(optimizer.state_dict())
    assert torch.equal(trainer.state[third.weight]["exp_avg"], optimizer.state[other.weight]["exp_avg"])
    return layer.rows_here(), other.weight.detach().clone(), [], {}


def test_copies(pool: Any) -> None:
    weights, _, _ = put_together(pool.run(copies, world=2))
    layer = made("", {})
    optimizer = unhot.torch.Adam(layer.parameters(), lr=0.1)
    for step in steps(5):
        (layer(step.ids) * step.gradients[: len(step.ids)]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(weights, layer.weight)


def on_other_kernels(group: Any, pooling: str, count: int) -> Any:
    """Training by the kernels for other devices."""
    os.environ["UNHOT_TORCH_KERNELS"] = "torch"
    try:
        return sharded_training(group, "hash", pooling, {}, ADAM, count)
    finally:
        del os.environ["UNHOT_TORCH_KERNELS"]


@pytest.mark.parametrize("pooling", ["", "mean"])
def test_kernels_of_other_devices(pool: Any, pooling: str) -> None:
    expected = whole_training(pooling, {}, ADAM, 30)
    found = put_together(pool.run(on_other_kernels, pooling, 30, world=2))
    torch.testing.assert_close(found[0], expected[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[2], expected[2], rtol=1e-5, atol=1e-6)


def elsewhere(group: Any, layout: str, pooling: str, sharding: dict[str, Any]) -> Any:
    """Training on the CPU where new tensors are, if nothing else is said, on a device on which nothing can be read."""
    with torch.device("meta"):
        layer = made(pooling, {"device": "cpu"}, group, layout=layout, **sharding)
        trainer = optimizer_of(layer, *ADAM)
        batches = [share(step, group.rank(), group.size(), bool(pooling)) for step in steps(20)]
        found = train(layer, trainer, batches, pooling)
        if layout == "mod":
            layer.grow(1, [[1.0] * DIM])
        other = made(pooling, {"device": "cpu"}, group, layout=layout) if layout != "mod" else copy.deepcopy(layer)
        other.load_state_dict(layer.state_dict())
        slots = {name: slot for name, slot in trainer.state.get(layer.weight, {}).items() if slot.dim() == 2}
        here = layer.rows_here()
    old = here < ROWS
    return here[old], other.weight.detach()[old].clone(), found, {name: slot[old] for name, slot in slots.items()}


@pytest.mark.parametrize(
    ("world", "layout", "pooling", "sharding"),
    [
        (2, "mod", "", {}),
        (3, "hash", "mean", {}),
        (2, "range", "weighted", {"dedup": True}),
        (3, "mod", "sum", {"dedup": True}),
    ],
)
def test_tables_are_elsewhere_than_new_tensors(pool: Any, world: int, layout: str, pooling: str, sharding: Any) -> None:
    expected = whole_training(pooling, {}, ADAM, 20)
    found = put_together(pool.run(elsewhere, layout, pooling, sharding, world=world))
    for ours, theirs in ((found[0], expected[1]), (found[1], expected[3]), (found[2], expected[2])):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def frozen(group: Any) -> Any:
    """A model some rows of which do not train."""
    model = nn.Sequential(unhot.torch.Embedding(30, DIM, frozen=[3, 4, 11]))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    shard(model, group)
    layer: Any = model[0]
    optimizer = unhot.torch.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        layer(torch.arange(30)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return layer.rows_here(), (layer.weight == 1).all(1)


def test_frozen_rows(pool: Any) -> None:
    for rows, still in pool.run(frozen, world=2):
        assert sorted(rows[still].tolist()) == sorted(set(rows.tolist()) & {3, 4, 11})


def with_fsdp(group: Any, count: int) -> Any:
    """The weights of a model whose dense part is FSDP's."""
    model: Any = Recommender(0)
    shard(model, group)
    mesh = torch.distributed.DeviceMesh.from_group(group, "cpu")
    fully_shard(model, mesh=mesh, ignored_params=tables(model))
    models.train(model, unhot.torch.Adam(model.parameters(), lr=0.01), group.rank(), group.size(), count)
    found = weights_of(model, group)
    return {name: weight.full_tensor() if hasattr(weight, "full_tensor") else weight for name, weight in found.items()}


def test_beside_fsdp(pool: Any) -> None:
    expected = models.in_one_process(12)
    for weights in pool.run(with_fsdp, 12, world=2):
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=2e-6)


def with_unused(group: Any) -> Any:
    """The weights where DistributedDataParallel looks for parameters without a gradient, and a table has none."""
    model: Any = Recommender(0, unused=True)
    shard(model, group)
    model = nn.parallel.DistributedDataParallel(model, process_group=group, find_unused_parameters=True)
    models.train(model, unhot.torch.Adam(model.parameters(), lr=0.01), group.rank(), group.size(), 6)
    return weights_of(model, group)


@beside_ddp
def test_unused_tables(pool: Any) -> None:
    expected = models.in_one_process(6, unused=True)
    for weights in pool.run(with_unused, world=2):
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=2e-6)


def with_mesh(group: Any) -> int:
    """A layer on a mesh; those of several dimensions are refused."""
    mesh = torch.distributed.DeviceMesh.from_group(group, "cpu")
    layer = ShardedEmbedding(ROWS, DIM, group=mesh)
    return layer(torch.tensor([1, 2])).size(0)


def test_device_mesh(pool: Any) -> None:
    assert pool.run(with_mesh, world=2) == [2, 2]


def converted(group: Any) -> dict[str, str]:
    """What `convert` leaves alone of a sharded model, which goes on to work."""
    model: Any = Recommender(0)
    shard(model, group)
    left = unhot.torch.convert(model, to="stock").left
    model(models.part(models.batches(1)[0], group.rank(), group.size()))
    return left


def test_convert_leaves_them_alone(pool: Any) -> None:
    for left in pool.run(converted, world=2):
        assert left["words.weight"] == "its rows are spread over processes"
        assert "tags.weight" in left


@beside_ddp
@slow  # it compiles
def test_compiled(pool: Any) -> None:
    expected = models.in_one_process(6)
    for weights in pool.run(with_compile, world=2):
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=2e-6)


def with_compile(group: Any) -> Any:
    """The weights of a model of which torch compiles what it can."""
    model: Any = Recommender(0)
    shard(model, group)
    wrapped = nn.parallel.DistributedDataParallel(model, process_group=group)
    optimizer = unhot.torch.Adam(wrapped.parameters(), lr=0.01)
    models.train(torch.compile(wrapped), optimizer, group.rank(), group.size(), 6)
    return weights_of(wrapped, group)


def second_derivatives(group: Any, pooling: str) -> Any:
    """The gradient of the square of a gradient's norm; in one process without a group."""
    rank, world = (0, 1) if group is None else (group.rank(), group.size())
    layer = made(pooling, {}, group)
    optimizer = unhot.torch.SGD(layer.parameters(), lr=0.1)
    own = share(next(steps(1)), rank, world, bool(pooling))
    vectors = vectors_of(layer, own, pooling)
    (gradient,) = torch.autograd.grad((vectors**3).sum(), layer.weight, create_graph=True)
    (second,) = torch.autograd.grad((gradient**2).sum(), layer.weight)
    rows = torch.arange(ROWS) if group is None else layer.rows_here()
    assert optimizer.param_groups  # it owns the table as long as it is there
    return rows, torch.as_tensor(second).detach().clone()


@pytest.mark.parametrize("pooling", ["", "mean", "weighted"])
def test_second_derivatives(pool: Any, pooling: str) -> None:
    """Gradients of which a graph was asked for are dense."""
    _, expected = second_derivatives(None, pooling)
    for rows, found in pool.run(second_derivatives, pooling, world=2):
        torch.testing.assert_close(found, expected[rows], rtol=1e-4, atol=1e-5)


def hooked(group: Any) -> Any:
    """How often the hooks of a sharded layer are called, of both kinds; what is left alone, and what an error calls the ids."""
    model = nn.ModuleDict({"words": unhot.torch.Embedding(9, 2), "pair": unhot.torch.EmbeddingCollection({"a": (5, 2)})})
    calls: list[str] = []
    model["words"].register_forward_hook(lambda *given: calls.append("plain"))
    model["words"].register_forward_pre_hook(lambda *given: calls.append(f"with {len(given)}"), with_kwargs=True)
    model["pair"].layers["a"].register_forward_hook(lambda *given: None)
    left = shard(model, group).left
    model["words"](torch.tensor([1]))
    said = ""
    try:
        model["words"](torch.tensor([99]))
    except IndexError as error:
        said = str(error)
    return calls, left, said


def test_hooks_and_names(pool: Any) -> None:
    for calls, left, said in pool.run(hooked, world=2):
        assert calls[:2] == ["with 3", "plain"]
        assert "hooks or options" in left["pair"]
        assert "id 99 of 'words'" in said
