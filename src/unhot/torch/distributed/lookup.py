"""Lookups of tables whose rows are spread over processes: the vectors of this process's ids, with gradients for all owners."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unhot.kernels import active as kernels
from unhot.torch.collection_lookup import Feature, by_feature, owners_of, read_features, row_gradients
from unhot.torch.distributed.routing import Asked, Route
from unhot.torch.gradient_content import bags_of
from unhot.torch.lookup import lookup
from unhot.torch.parameter import TableParameter


class Options(NamedTuple):
    """How a table is looked up, as `torch.nn.functional.embedding` has it; `padding_idx` is a row of this shard, or -1."""

    padding_idx: int = -1
    max_norm: float | None = None
    norm_type: float = 2.0
    scale_grad_by_freq: bool = False
    sparse: bool | None = None

    @property
    def plain(self) -> bool:
        """Whether it is the lookup alone."""
        return self.max_norm is None and self.padding_idx < 0 and not self.scale_grad_by_freq and self.sparse is None


class Repeats(NamedTuple):
    """Where distinct ids occur among all ids."""

    places: Tensor
    """Which of the distinct ids each id is."""
    order: Tensor
    """The ids by what they are, in the order in which they occur."""
    starts: Tensor
    """Where each distinct id begins in that order, and the number of all ids."""


class Wanted(NamedTuple):
    """What is looked up of one feature."""

    name: str
    weight: TableParameter
    """The rows that are here."""
    asked: Asked
    """The ids, as numbers of the whole table's rows."""
    options: Options
    starts: Tensor | None = None
    """Where each bag begins among the ids, and the number of ids; None where they are not pooled."""
    mode: str = ""
    factors: Tensor | None = None
    """What each vector is multiplied by, as it was given, with its gradient."""
    kept: Tensor | None = None
    """Which of the ids as they were given these are; None for all."""
    missing: Tensor | None = None
    """How many ids of each bag have a vector of zeros; None if none has."""
    repeats: Repeats | None = None
    """Where the ids occur, if each is sent once; None if they are sent as often as they occur."""
    occurring: Asked | None = None
    """The ids as they occur, if each is sent once."""

    @property
    def plain(self) -> bool:
        """Whether the kernels do all of it."""
        by_torch = self.mode == "max" or (self.factors is not None and self.factors.requires_grad)
        return self.options.plain and not by_torch


def look_up(wanted: Sequence[Wanted], route: Route, mean: bool) -> list[Tensor]:
    """The vectors of each feature, (ids, dim) or (bags, dim), of which `route` has the ids.

    The gradients are summed over all processes, and divided by their number if `mean` says so. To be called where tables are
    tensors as any others (`without_torch_functions`).
    """
    here = [
        Feature(feature.name, feature.weight, asked.ids, asked.ids.shape)
        for feature, asked in zip(wanted, route.asked, strict=True)
    ]
    tables = list({id(feature.weight): feature.weight for feature in wanted}.values())
    owners = owners_of(here) if all(feature.plain for feature in wanted) else None
    if owners is not None:
        found: Any = JointLookup.apply(wanted, route, mean, here, owners, *tables)  # type: ignore[no-untyped-call]
        return [
            part if feature.repeats is None else repeated(feature, part) for feature, part in zip(wanted, found, strict=True)
        ]
    rows = []
    for feature, asked in zip(wanted, route.asked, strict=True):
        padding_idx, max_norm, norm_type, scaled, sparse = feature.options
        rows.append(
            lookup(asked.ids, feature.weight, None if padding_idx < 0 else padding_idx, max_norm, norm_type, scaled, sparse)
        )
    vectors: Any = RowsSent.apply(route, mean, *rows)  # type: ignore[no-untyped-call]
    return [by_torch(feature, part) for feature, part in zip(wanted, vectors, strict=True)]


def asked_of(ids: Tensor, starts: Tensor | None, mode: str, factors: Tensor | None, device: torch.device) -> Asked:
    """The ids, flat and on the device; of pooled ones also the bag of each, and the factor of its gradient."""
    flat = ids.detach().reshape(-1).to(device, torch.int64)
    if starts is None:
        return Asked(flat)
    bags, shares = bags_of(starts.cpu(), mode == "mean")
    by = None if shares is None else torch.from_numpy(shares)
    if factors is not None:
        by = factors.detach().to(torch.float64, copy=True)  # until the backward pass, whatever becomes of the given
    return Asked(flat, torch.from_numpy(bags).to(device), None if by is None else by.to(device))


def deduplicated(feature: Wanted) -> Wanted:
    """The same, where each id is sent once."""
    ids = feature.asked.ids
    if ids.is_cpu:
        plan = kernels.group(np.ascontiguousarray(ids.numpy()))
        order, starts = torch.from_numpy(plan.order), torch.from_numpy(plan.starts)
        places = torch.empty_like(ids)
        places[order] = torch.arange(len(plan.rows), device=ids.device).repeat_interleave(starts.diff())
        distinct = torch.from_numpy(plan.rows.copy())
    else:
        distinct, places, counts = torch.unique(ids, return_inverse=True, return_counts=True)
        order, starts = torch.argsort(places, stable=True), nn.functional.pad(counts.cumsum(0), (1, 0))
    return feature._replace(asked=Asked(distinct), occurring=feature.asked, repeats=Repeats(places, order, starts))


def repeated(feature: Wanted, vectors: Tensor) -> Tensor:
    """The vector of each id or bag, from those of the distinct ids."""
    found: Any = Repeated.apply(feature, vectors)  # type: ignore[no-untyped-call]
    made: Tensor = found
    return made


class Repeated(torch.autograd.Function):
    """Forward: vectors of ids or bags, from those of the distinct ids.  Backward: sums in float64, rounded once.

    All in host memory.
    """

    @staticmethod
    def forward(ctx: Any, feature: Wanted, vectors: Tensor) -> Tensor:
        ctx.feature = feature
        assert feature.repeats is not None
        if feature.starts is None:
            return vectors.index_select(0, feature.repeats.places)
        return pooled(vectors, feature.repeats.places, feature.starts, feature.factors, feature.mode)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        repeats, occurring = ctx.feature.repeats, ctx.feature.occurring
        order, factors = repeats.order, occurring.factors
        bags = order if occurring.bags is None else occurring.bags[order]
        by = None if factors is None else factors[order]
        return None, pooled(gradient.contiguous(), bags, repeats.starts, by, "sum")


def pooled(vectors: Tensor, places: Tensor, starts: Tensor, factors: Tensor | None, mode: str) -> Tensor:
    """out[b] = the sum or mean of vectors[places[i]], times a factor, from starts[b] to starts[b + 1]; in host memory."""
    out = vectors.new_empty((len(starts) - 1, vectors.size(1)))
    by = None if factors is None else factors.detach().double().numpy()
    kernels.pool(vectors.detach().numpy(), places.numpy(), starts.numpy(), by, mode, out.numpy())
    return out


def by_torch(feature: Wanted, vectors: Tensor) -> Tensor:
    """The vectors of ids or bags, by torch's operations."""
    repeats = feature.repeats
    if not feature.mode:
        return vectors if repeats is None else vectors.index_select(0, repeats.places)
    assert feature.starts is not None
    places = torch.arange(len(vectors), device=vectors.device) if repeats is None else repeats.places
    return nn.functional.embedding_bag(
        places, vectors, feature.starts, mode=feature.mode, include_last_offset=True,
        per_sample_weights=feature.factors,
    )  # fmt: skip


class RowsSent(torch.autograd.Function):
    """Forward: rows go to those who asked for them.  Backward: their gradients come here."""

    @staticmethod
    def forward(ctx: Any, route: Route, mean: bool, *rows: Tensor) -> tuple[Tensor, ...]:
        ctx.route, ctx.mean = route, mean
        return tuple(route.send_rows(rows))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        found: Any = GradientsSent.apply(ctx.route, ctx.mean, *gradients)  # type: ignore[no-untyped-call]
        return (None, None, *found)


class GradientsSent(torch.autograd.Function):
    """Forward: gradients go to where the rows are.  Backward: the gradients of these come here."""

    @staticmethod
    def forward(ctx: Any, route: Route, mean: bool, *gradients: Tensor) -> tuple[Tensor, ...]:
        ctx.route, ctx.mean = route, mean
        return tuple(received(route, gradients, mean, of_bags=False))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        found: Any = RowsSent.apply(ctx.route, False, *gradients)  # type: ignore[no-untyped-call]
        size = ctx.route.peers.size
        return (None, None, *(part / size if ctx.mean else part for part in found))


def received(route: Route, gradients: Sequence[Tensor], mean: bool, *, of_bags: bool) -> list[Tensor]:
    """The gradients of the rows that are here, or of their bags."""
    found = route.send_gradients(gradients, of_bags=of_bags)
    size = route.peers.size
    return [part.div_(size) for part in found] if mean and size > 1 else found


class JointLookup(torch.autograd.Function):
    """Forward: settled rows of all features, pooled or not.  Backward: the gradient of each table, by rows.

    All tables are trained by rows, and lie in host memory.
    """

    @staticmethod
    def forward(
        ctx: Any, wanted: Sequence[Wanted], route: Route, mean: bool, here: Sequence[Feature], owners: Any, *tables: Any
    ) -> tuple[Tensor, ...]:
        dims = [feature.weight.size(1) for feature in wanted]
        like = tables[0]
        rows = [like.new_empty((len(asked.ids), dim)) for asked, dim in zip(route.asked, dims, strict=True)]
        outs = by_feature(rows, dims, False)
        looked: list[Any] = []
        for members in owners:
            looked += members[0][1].lock.holding(partial(read_features, here, members, outs))
        ctx.wanted, ctx.here, ctx.looked, ctx.route, ctx.mean, ctx.dims = wanted, here, looked, route, mean, dims
        ctx.tables = [(id(table), table.shape, table.notes) for table in tables]
        found = zip(wanted, route.send_rows(rows), strict=True)
        return tuple(pooled_here(feature, part) if route.router.pooled else part for feature, part in found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return JointLookup._gradients(ctx, gradients)

    @staticmethod
    def _gradients(ctx: Any, gradients: tuple[Tensor, ...]) -> tuple[Any, ...]:
        route, pooled = ctx.route, ctx.route.router.pooled
        features: list[Feature] = ctx.here
        if pooled:
            features = [
                feature._replace(of_bags=(bags.numpy(), factors.numpy()))
                for feature, (_, bags, factors) in zip(features, route.asked, strict=True)
            ]
        if torch.is_grad_enabled():  # `create_graph=True`
            return (None, None, None, None, None, *differentiable(ctx, gradients))
        own = received(route, [part.contiguous() for part in gradients], ctx.mean, of_bags=pooled)
        values = by_feature(own, ctx.dims, False)
        return (None, None, None, None, None, *row_gradients(features, ctx.looked, values, own[0], ctx.tables))


def differentiable(ctx: Any, gradients: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of the tables, dense, through which autograd goes on."""
    route: Route = ctx.route
    if route.router.pooled:
        gradients = [of_ids(feature.asked, part) for feature, part in zip(ctx.wanted, gradients, strict=True)]
    values: Any = GradientsSent.apply(route, ctx.mean, *gradients)  # type: ignore[no-untyped-call]
    found = []
    for table, shape, _ in ctx.tables:
        total = values[0].new_zeros(shape)
        for feature, asked, part in zip(ctx.here, route.asked, values, strict=True):
            if id(feature.weight) == table:
                total = total.index_add(0, asked.ids, part)
        found.append(total)
    return found


def of_ids(asked: Asked, gradient: Tensor) -> Tensor:
    """The gradient of each id, from those of the bags."""
    assert asked.bags is not None
    values = gradient[asked.bags]
    return values if asked.factors is None else (values * asked.factors.unsqueeze(1)).to(values.dtype)


def pooled_here(feature: Wanted, vectors: Tensor) -> Tensor:
    """The bags of vectors, one for each id; the same as the kernels give where the rows are in one process."""
    assert feature.starts is not None
    factors = feature.asked.factors if feature.mode == "sum" else None
    return pooled(vectors, torch.arange(len(vectors), device=vectors.device), feature.starts, factors, feature.mode)
