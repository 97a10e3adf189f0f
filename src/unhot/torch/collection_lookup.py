"""The lookup of several features together: one call for all tables that make their steps together, one node of autograd."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unhot.kernels.structs import MODES, Bags, Segment
from unhot.torch._private import without_torch_functions
from unhot.torch.backend import TorchBackend, require_indices
from unhot.torch.gradient import RowGradient
from unhot.torch.gradient_content import Bagged
from unhot.torch.lookup import owner_of
from unhot.torch.parameter import TableParameter


class Feature(NamedTuple):
    """The ids of one feature of a batch."""

    name: str
    weight: Any
    """The table's parameter."""
    ids: Tensor
    """Of any shape; flat where they are pooled."""
    shape: torch.Size
    """That of the vectors, without the last dimension."""
    starts: Tensor | None = None
    """Where each sample's ids begin, and their number at the end; None where they are not pooled."""
    mode: str = ""


class Looked(NamedTuple):
    """A feature whose ids are checked, with what trains its table."""

    feature: Feature
    backend: TorchBackend
    ids: Tensor
    """Flat, and our own."""
    flat: Any
    """The same in the memory of the kernels."""


def joint_lookup(features: Sequence[Feature], concatenated: bool) -> Tensor | tuple[Tensor, ...] | None:
    """The vectors of the features; None if the tables are not all trained by rows here."""
    if torch.compiler.is_compiling():
        return None
    return without_torch_functions(_joint_lookup, features, concatenated)


def _joint_lookup(features: Sequence[Feature], concatenated: bool) -> Tensor | tuple[Tensor, ...] | None:
    looked = []
    for feature in features:
        weight = feature.weight
        backend = owner_of(weight, None) if isinstance(weight, TableParameter) else None
        if backend is None or not backend.in_host_memory() or weight.dtype != features[0].weight.dtype:
            return None
        require_indices(feature.ids)
        own, flat = backend.memory.copied(feature.ids)
        backend.memory.require_rows(flat, len(weight), feature.ids.shape)
        looked.append(Looked(feature, backend, own, flat))
    tables = list({id(feature.weight): feature.weight for feature in features}.values())
    found: Any = CollectionLookup.apply(looked, concatenated, *tables)  # type: ignore[no-untyped-call]
    return found[0] if concatenated else tuple(found)


class CollectionLookup(torch.autograd.Function):
    """Forward: settled rows of all features, pooled or not.  Backward: the gradient of each table."""

    @staticmethod
    def forward(ctx: Any, looked: list[Looked], concatenated: bool, *tables: Any) -> tuple[Tensor, ...]:
        dims = [one.feature.weight.size(1) for one in looked]
        like = tables[0]
        shapes = [(*one.feature.shape, dim) for one, dim in zip(looked, dims, strict=True)]
        if concatenated:
            shapes = [(*looked[0].feature.shape, sum(dims))]
        outs = tuple(like.new_empty(shape) for shape in shapes)
        starts = [sum(dims[:k]) for k in range(len(dims) + 1)]
        flat = [out.detach().view(-1, out.size(-1)) for out in outs]
        parts = [flat[0][:, starts[k] : starts[k + 1]] for k in range(len(looked))] if concatenated else flat
        for group in by_engine(looked):
            backend = looked[group[0]].backend
            work = partial(read, [looked[k] for k in group], [parts[k] for k in group])
            backend.lock.holding(work)
        ctx.looked, ctx.concatenated, ctx.dims, ctx.starts = looked, concatenated, dims, starts
        ctx.tables = [(id(table), tuple(table.shape), table.notes) for table in tables]
        ctx.set_materialize_grads(False)
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        return CollectionLookup._gradients(ctx, grads)

    @staticmethod
    def _gradients(ctx: Any, grads: tuple[Tensor | None, ...]) -> tuple[Any, ...]:
        looked: list[Looked] = ctx.looked
        graph = torch.is_grad_enabled()  # `create_graph=True`
        if not graph:  # others have that gradient, too, and may change theirs
            grads = tuple(None if grad is None else grad.clone(memory_format=torch.contiguous_format) for grad in grads)
        of: dict[int, list[tuple[Looked, Tensor]]] = {}
        for k, one in enumerate(looked):
            grad = grads[0] if ctx.concatenated else grads[k]
            if grad is None:
                continue
            values = grad.reshape(-1, grad.size(-1))
            if ctx.concatenated:
                values = values[:, ctx.starts[k] : ctx.starts[k + 1]]
            of.setdefault(id(one.feature.weight), []).append((one, values))
        found = []
        for table, (rows, dim), notes in ctx.tables:
            parts = of.get(table, [])
            if graph:
                found.append(sum(dense_part(one, values, rows) for one, values in parts) if parts else None)
            elif not parts:  # the table makes the step, too
                like = looked[0].feature.weight
                none = torch.empty((0, dim), dtype=like.dtype)
                found.append(RowGradient.of(torch.empty(0, dtype=torch.int64), none, rows, notes))
            else:
                found.append(row_gradient(parts, rows, notes))
        return (None, None, *found)


def by_engine(looked: Sequence[Looked]) -> list[list[int]]:
    """The features by the engine of their tables, those of one table side by side; tables without an engine alone."""
    groups: dict[Any, list[int]] = {}
    for k, one in enumerate(looked):
        engine = one.backend.engine
        groups.setdefault((None, k) if engine is None else id(engine), []).append(k)
    return [sorted(group, key=lambda k: looked[k].backend.place) for group in groups.values()]


def read(looked: list[Looked], outs: list[Tensor]) -> None:
    """Write the vectors of features, all of one engine."""
    backend = looked[0].backend
    engine = backend.engine
    views = [one.backend.memory.view(out) for one, out in zip(looked, outs, strict=True)]
    places = [0 if engine is None else one.backend.place for one in looked]
    ids = [one.flat if engine is None else one.backend.numbered(one.flat) for one in looked]
    rows: Any = backend.memory.kernels.stores([[backend.weights_array()]], [0], None) if engine is None else engine
    flat = backend.memory.kernels.joined(ids)
    if looked[0].feature.starts is None:
        segments = [Segment(place, view) for place, view in zip(places, views, strict=True)]
        (rows.gather if engine is None else rows.read)(flat, segments)
        return
    bags, before = [], 0
    for one, place, view in zip(looked, places, views, strict=True):
        starts = one.feature.starts
        assert starts is not None
        bags.append(Bags(place, view, backend.memory.view(starts + before), None, MODES[one.feature.mode]))
        before += len(one.flat)
    rows.pool(flat, bags)


def row_gradient(parts: list[tuple[Looked, Tensor]], rows: int, notes: Any) -> RowGradient:
    """The gradient of a table from those of its features' vectors."""
    ids = torch.cat([one.ids for one, _ in parts]) if len(parts) > 1 else parts[0][0].ids
    values = torch.cat([values for _, values in parts]) if len(parts) > 1 else parts[0][1]
    if parts[0][0].feature.starts is None:
        return RowGradient.of(ids, values, rows, notes)
    bags, factors, before = [], [], 0
    for one, part in parts:
        bag, factor = bags_of(one)
        bags.append(bag + before)
        factors.append(factor)
        before += len(part)
    weighted = any(factor is not None for factor in factors)
    by = torch.cat([torch.ones(len(b), dtype=torch.float64) if f is None else f for b, f in zip(bags, factors, strict=True)])
    return RowGradient.of_bags(Bagged(ids, values, torch.cat(bags), by if weighted else None), rows, notes)


def bags_of(one: Looked) -> tuple[Tensor, Tensor | None]:
    """The bag of each id, and what its gradient is multiplied by."""
    starts = one.feature.starts
    assert starts is not None
    counts = starts.diff()
    bags = torch.repeat_interleave(torch.arange(len(counts)), counts, output_size=len(one.ids))
    return bags, (1.0 / counts.to(torch.float64))[bags] if one.feature.mode == "mean" else None


def dense_part(one: Looked, values: Tensor, rows: int) -> Tensor:
    """A feature's part of the dense gradient of its table, through which autograd goes on."""
    if one.feature.starts is not None:
        values = Bagged(one.ids, values, *bags_of(one)).expanded().values
    return values.new_zeros((rows, values.size(1))).index_add(0, one.ids, values)
