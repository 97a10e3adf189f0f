"""What people do between `backward` and `step`, with tables in several processes: clipping, scaling, accumulation, Join."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.algorithms.join import Join

import unhot.torch
from pytorch.distributed import models
from pytorch.distributed.models import Recommender, batches, part, weights_of
from pytorch.distributed.ranks import OTHERS, beside_ddp
from unhot.torch.distributed import JoinTables, ShardedEmbedding, shard

CLIPS = {"torch": torch.nn.utils.clip_grad_norm_, "unhot": unhot.torch.clip_grad_norm_}


def clipped(group: Any, which: str, kind: str, norm_type: float) -> Any:
    """The weights after training with clipped gradients, and the norms; in one process without a group."""
    norms = []

    def clip(model: Any) -> None:
        norms.append(float(CLIPS[which](model.parameters(), 0.05, norm_type)))

    if group is None:
        return models.in_one_process(20, clip, kind), norms
    model: Any = Recommender(0)
    shard(model, group)
    model = nn.parallel.DistributedDataParallel(model, process_group=group)
    module = unhot.torch if hasattr(unhot.torch, kind) else torch.optim
    models.train(model, getattr(module, kind)(model.parameters(), lr=0.01), group.rank(), group.size(), 20, clip)
    return weights_of(model, group), norms


@beside_ddp
@pytest.mark.parametrize(("which", "norm_type"), [("torch", 2.0), ("unhot", 2.0), ("unhot", float("inf")), ("torch", 1.0)])
def test_clipping(pool: Any, which: str, norm_type: float) -> None:
    """The norm is that of the whole tables, the same in all processes."""
    expected, expected_norms = clipped(None, which, "Adam", norm_type)
    found = pool.run(clipped, which, "Adam", norm_type, world=3)
    assert found[0][1] == found[1][1] == found[2][1]
    torch.testing.assert_close(torch.tensor(found[0][1]), torch.tensor(expected_norms), rtol=1e-4, atol=0)
    for name, weight in found[0][0].items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=2e-6)


REDUCTIONS = {
    "sum": lambda g: g.sum(), "mean": lambda g: g.mean(), "std": lambda g: g.std(), "max": lambda g: g.max(),
    "min": lambda g: g.min(), "finite": lambda g: g.isfinite().all(), "nan": lambda g: g.isnan().any(),
    "count": lambda g: g.count_nonzero(), "norm": lambda g: g.norm(), "one": lambda g: g.norm(1),
    "inf": lambda g: g.norm(float("inf")), "square": lambda g: g.square().sum(),
}  # fmt: skip


def reduced(group: Any, infinite: bool, dense: bool) -> dict[str, float]:
    """Reductions of a gradient, in one process or of a shard."""
    if group is None:
        layer: Any = unhot.torch.Embedding(2, 3)
        rank, world = 0, 1
    else:
        layer = ShardedEmbedding(2, 3, group=group, reduction="sum")
        rank, world = group.rank(), group.size()
    optimizer = unhot.torch.Adam(layer.parameters())
    ids, factors = torch.tensor([0, 1, 1, 0, 1, 1]), torch.arange(18.0).view(6, 3) - 7
    if infinite:
        factors[5, 2] = torch.inf
    (layer(ids.tensor_split(world)[rank]) * factors.tensor_split(world)[rank]).sum().backward()
    if dense:
        layer.weight.grad.data_ptr()
    found = {name: float(reduce(layer.weight.grad)) for name, reduce in REDUCTIONS.items()}
    optimizer.zero_grad()
    return found


@pytest.mark.filterwarnings("ignore::unhot.DenseFallbackWarning")
@pytest.mark.parametrize("infinite", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_reductions_are_of_the_whole_gradient(pool: Any, infinite: bool, dense: bool) -> None:
    """Also where a process has no row of the table. What an elementwise function makes of a dense gradient is the shard's."""
    own = ("finite", "nan", "square") if dense else ()
    expected = reduced(None, infinite, dense)
    for found in pool.run(reduced, infinite, dense, world=3):
        for name in REDUCTIONS.keys() - own:
            assert found[name] == pytest.approx(expected[name], rel=1e-6, nan_ok=True), name


def scaled(group: Any) -> Any:
    """The weights after training with a scale, where one process has an infinite gradient in one step; and the scales."""
    rank, world = (0, 1) if group is None else (group.rank(), group.size())
    model: Any = Recommender(0)
    if group is not None:
        shard(model, group)
        model = nn.parallel.DistributedDataParallel(model, process_group=group)
    optimizer = unhot.torch.Adam(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=4)
    scales = []
    for k, batch in enumerate(batches(12)):
        own = part(batch, rank, world)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(own), own["target"])
        scaler.scale(loss).backward()
        if k == 5:  # in one of the processes
            inner = model if group is None else model.module
            if group is None or len(inner.words.shard.own(torch.tensor([1]))):
                inner.words.weight.grad.mul_(torch.inf)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return weights_of(model, group) if group is not None else dict(model.named_parameters()), scales


@beside_ddp
def test_scaled_gradients(pool: Any) -> None:
    """A gradient that is not finite in one process is a step that none makes."""
    expected, expected_scales = scaled(None)
    for weights, scales in pool.run(scaled, world=2):
        assert scales == expected_scales
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected[name].detach(), rtol=1e-4, atol=2e-6)


def accumulated(group: Any) -> Any:
    """The weights of a layer that steps after every third batch."""
    rank, world = (0, 1) if group is None else (group.rank(), group.size())
    if group is None:
        layer: Any = unhot.torch.Embedding(50, 3)
        first = torch.arange(150.0).view(50, 3) / 100
    else:
        layer = ShardedEmbedding(50, 3, group=group, reduction="sum")
        first = (torch.arange(150.0).view(50, 3) / 100)[layer.rows_here()]
    with torch.no_grad():
        layer.weight.copy_(first)
    optimizer = unhot.torch.Adam(layer.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    for k in range(30):
        ids = torch.randint(50, (14,), generator=generator)
        factors = torch.randn((14, 3), generator=generator)
        (layer(ids.tensor_split(world)[rank]) * factors.tensor_split(world)[rank]).sum().backward()
        if k % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
    rows = torch.arange(50) if group is None else layer.rows_here()
    return rows, layer.weight.detach().clone()


def test_accumulated_gradients(pool: Any) -> None:
    _, expected = accumulated(None)
    for rows, weights in pool.run(accumulated, world=3):
        assert torch.equal(weights, expected[rows])


def steps_of(way: str, optimizer: Any) -> Any:
    """What is done with the gradients of the k-th call."""
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7) if way == "schedule" else None

    def stepped(k: int) -> None:
        if way == "skipped" and k % 3 == 1:
            return
        optimizer.step()
        if schedule is not None:
            schedule.step()

    return stepped


def joined(group: Any, way: str) -> Any:
    """The weights after each process has made as many steps as it had batches; twice, where each time is the same."""
    model: Any = Recommender(0)
    if way == "buffers":
        model.head = nn.Sequential(nn.BatchNorm1d(13, affine=False), model.head)
    shard(model, OTHERS[group.size()])
    model = nn.parallel.DistributedDataParallel(model, process_group=group)
    optimizer = unhot.torch.SGD(model.parameters(), lr=0.1)
    stepped = steps_of(way, optimizer)
    own = [part(batch, group.rank(), group.size()) for batch in batches(9)][: (9, 4, 6)[group.rank()]]
    for _ in range(1 if way == "schedule" else 2):
        with Join([JoinTables(model, optimizer), model]):
            for k, batch in enumerate(own):
                optimizer.zero_grad()
                nn.functional.mse_loss(model(batch), batch["target"]).backward()
                stepped(k)
    return weights_of(model, group)


def joined_in_one_process(way: str) -> Any:
    """The same: gradients of processes without a batch are zero, and they are divided by the number of all processes."""
    model = Recommender(0)
    optimizer = unhot.torch.SGD(model.parameters(), lr=0.1)
    stepped = steps_of(way, optimizer)
    for k, batch in [*enumerate(batches(9))] * (1 if way == "schedule" else 2):
        optimizer.zero_grad()
        for rank, count in enumerate((9, 4, 6)):
            if k < count:
                own = part(batch, rank, 3)
                (nn.functional.mse_loss(model(own), own["target"]) / 3).backward()
        stepped(k)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def accumulated_under_join(group: Any) -> Any:
    """The weights after steps of two calls each; in one process without a group."""
    if group is None:
        model = nn.Sequential(unhot.torch.Embedding(20, 3))
    else:
        model = nn.Sequential(ShardedEmbedding(20, 3, group=OTHERS[group.size()], reduction="sum"))
    rows = torch.arange(20) if group is None else model[0].rows_here()
    with torch.no_grad():
        model[0].weight.copy_((torch.arange(60.0).view(20, 3) / 100)[rows])
    optimizer = unhot.torch.Adam(model.parameters(), lr=0.1)

    def call(k: int, rank: int) -> None:
        generator = torch.Generator().manual_seed(10 * k + rank)
        model(torch.randint(20, (5,), generator=generator)).mul(torch.randn((5, 3), generator=generator)).sum().backward()

    counts = (10, 4, 7)  # one ends between the two calls of a step, whose gradients are no part of any then
    with nullcontext() if group is None else Join([JoinTables(model, optimizer, group)]):
        for k in range(counts[0] if group is None else counts[group.rank()]):
            if k % 2 == 0:
                optimizer.zero_grad()
            for rank in range(3) if group is None else [group.rank()]:
                if k < counts[rank]:
                    call(k, rank)
            if k % 2 == 1:
                optimizer.step()
    return rows, model[0].weight.detach().clone()


def test_accumulated_gradients_of_unequal_numbers_of_steps(pool: Any) -> None:
    _, expected = accumulated_under_join(None)
    for rows, weights in pool.run(accumulated_under_join, world=3):
        torch.testing.assert_close(weights, expected[rows], rtol=1e-5, atol=1e-6)


@beside_ddp
@pytest.mark.parametrize("way", ["", "schedule", "skipped"])
def test_unequal_numbers_of_steps(pool: Any, way: str) -> None:
    expected = joined_in_one_process(way)
    for weights in pool.run(joined, way, world=3):
        for name, weight in weights.items():
            torch.testing.assert_close(
                weight, expected[name], rtol=1e-4, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
            )


@beside_ddp
def test_unequal_numbers_of_steps_with_buffers(pool: Any) -> None:
    """DistributedDataParallel sends buffers before each step, for which it waits."""
    first, *others = pool.run(joined, "buffers", world=3)
    for weights in others:
        for name, weight in weights.items():
            assert torch.equal(weight, first[name]), name


def refused_under_join(group: Any, what: str) -> str:
    """The error of what all processes would have to take part in, in the first step already."""
    model = nn.Sequential(ShardedEmbedding(20, 3, group=OTHERS[group.size()]))
    optimizer = unhot.torch.SGD(model.parameters(), lr=0.1)
    ids = torch.arange(4) + group.rank()
    refused = pytest.raises(RuntimeError, match="under `Join`, a process that has no batches left takes no part in")
    with Join([JoinTables(model, optimizer, group)]):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        scaler.scale(model(ids).sum()).backward()
        with refused as found:
            if what == "scaler":
                scaler.step(optimizer)
            elif what == "prefetch":
                model[0].prefetch(ids)
            else:
                CLIPS[what](model.parameters(), 1.0)
    CLIPS["unhot"](model.parameters(), 1.0)  # afterwards, all take part again
    return str(found.value)


def joined_in_the_group_of_the_tables(group: Any) -> None:
    own = OTHERS[group.size()]
    model: Any = nn.Sequential(ShardedEmbedding(20, 3, group=own), nn.Linear(3, 1))
    model = nn.parallel.DistributedDataParallel(model, process_group=own)
    tables = JoinTables(model, unhot.torch.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="another process group than the tables"), Join([tables, model]):
        raise AssertionError


def test_join_needs_a_group_of_its_own(pool: Any) -> None:
    pool.run(joined_in_the_group_of_the_tables, world=2)


@pytest.mark.parametrize("what", ["torch", "unhot", "scaler", "prefetch"])
def test_what_all_processes_take_part_in_is_refused_under_join(pool: Any, what: str) -> None:
    for message in pool.run(refused_under_join, what, world=2):
        assert "empty batches" in message
