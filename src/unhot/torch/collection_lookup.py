"""The lookup of several features together: one call for all tables that make their steps together, one node of autograd."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unhot.ids import in_range
from unhot.kernels import active as kernels
from unhot.kernels.structs import MODES, Bags, Segment
from unhot.torch._private import in_data_parallel, without_torch_functions
from unhot.torch.aliases import has_memory
from unhot.torch.backend import DTYPES, TorchBackend, require_indices
from unhot.torch.gradient import RowGradient
from unhot.torch.gradient_content import Bagged, bags_of
from unhot.torch.joint import Joint, JointPart
from unhot.torch.parameter import TableParameter

Array = np.ndarray[Any, np.dtype[Any]]


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
    given: Tensor | None = None
    """The ids as they were given, where `ids` are others."""
    of_bags: tuple[Array, Array] | None = None
    """The bag of each id, and its factor, where what is pooled elsewhere has its gradient here."""
    factors: Tensor | None = None
    """What the vector of each id is multiplied by before it is pooled."""

    def with_own_factors(self) -> Feature:
        """The same with factors in float64 that stay as they are until the step, whatever becomes of the given ones."""
        if self.factors is None:
            return self
        return self._replace(factors=self.factors.detach().to(torch.float64, copy=True))


def joint_lookup(features: Sequence[Feature], concatenated: bool) -> Tensor | tuple[Tensor, ...] | None:
    """The vectors of the features; None if the tables are not all trained by rows here. Nothing traces or transforms it."""
    return without_torch_functions(_joint_lookup, features, concatenated)


def _joint_lookup(features: Sequence[Feature], concatenated: bool) -> Tensor | tuple[Tensor, ...] | None:
    if in_data_parallel() or any(feature.factors is not None and feature.factors.requires_grad for feature in features):
        return None
    owners = owners_of(features)
    if owners is None:
        return None
    features = [feature.with_own_factors() for feature in features]
    tables = list({id(feature.weight): feature.weight for feature in features}.values())
    found: Any = CollectionLookup.apply(features, owners, concatenated, *tables)  # type: ignore[no-untyped-call]
    return found[0] if concatenated else tuple(found)


def owners_of(features: Sequence[Feature]) -> list[list[tuple[int, TorchBackend]]] | None:
    """What reads the features, those of one owner together; None if they are not all trained by rows here, in one dtype."""
    dtype = features[0].weight.dtype
    by_lock: dict[int, list[tuple[int, TorchBackend]]] = {}
    for k, feature in enumerate(features):
        tie = feature.weight.ownership if isinstance(feature.weight, TableParameter) else None
        if tie is None or tie.owner is None or feature.weight.dtype != dtype or not tie.backend.in_host_memory():
            return None
        require_indices(feature.ids)
        by_lock.setdefault(id(tie.backend.lock), []).append((k, tie.backend))
    return list(by_lock.values())


def read_features(
    features: Sequence[Feature], members: Sequence[tuple[int, TorchBackend]], outs: Sequence[Array]
) -> list[Looked]:
    """Write the vectors of the features of one owner, whose lock is held: a step may give a table another engine."""
    by_engine: dict[Any, list[tuple[int, TorchBackend]]] = {}
    for k, backend in members:
        by_engine.setdefault(id(features[k].weight) if backend.engine is None else backend.engine, []).append((k, backend))
    looked = [Looked(features, sharing) for sharing in by_engine.values()]
    for group in looked:
        group.read(features, outs)
    return looked


class Looked:
    """The features whose tables share an engine, or of one table without an engine, in the order of the tables."""

    def __init__(self, features: Sequence[Feature], members: list[tuple[int, TorchBackend]]) -> None:
        """Check the ids, and number them among the rows of the engine.

        Raises: IndexError for an id out of range.
        """
        members.sort(key=lambda member: member[1].place)
        self.backend = members[0][1]
        self.order = [k for k, _ in members]
        """Which of all features these are."""
        self.engine = engine = self.backend.engine
        self.places = [0 if engine is None else backend.place for _, backend in members]
        self.firsts = [0 if engine is None else engine.stores[place].first for place in self.places]
        own = [features[k] for k in self.order]
        counts = [feature.ids.numel() for feature in own]
        self.begins = [0, *accumulate(counts)]
        self.numbers: Array = torch.cat([feature.ids.reshape(-1) for feature in own]).to(torch.int64).numpy()
        bad = kernels.number_rows(self.numbers, counts, [feature.weight.size(0) for feature in own], self.firsts)
        if bad >= 0:
            k = next(k for k, end in enumerate(self.begins[1:]) if bad < end)
            refuse(own[k], self.numbers[self.begins[k] : self.begins[k + 1]].reshape(own[k].ids.shape))

    def read(self, features: Sequence[Feature], outs: Sequence[Array]) -> None:
        """Write the vectors of the features, or of their bags. `outs` are those of all features."""
        engine = self.engine
        weights: Any = kernels.stores([[self.backend.weights_array()]], [0], None) if engine is None else None
        parts = zip(self.order, self.places, self.begins, strict=False)
        if features[self.order[0]].starts is None:
            segments = [Segment(place, outs[k]) for k, place, _ in parts]
            (weights.gather if engine is None else engine.read)(self.numbers, segments)
            return
        bags = []
        weighted = any(features[k].factors is not None for k in self.order)
        factors = np.ones(len(self.numbers)) if weighted else None  # of all ids, among which those of a feature begin anywhere
        for k, place, begin in parts:
            starts, own, by = features[k].starts, features[k].factors, None
            assert starts is not None
            if own is not None and factors is not None:
                factors[begin : begin + len(own)], by = own.numpy(), factors
            bags.append(Bags(place, outs[k], starts.numpy() + begin, by, MODES[features[k].mode]))
        (weights.pool if engine is None else engine.pool)(self.numbers, bags)

    def ids(self) -> Iterator[tuple[int, Array]]:
        """Each feature, and its flat ids."""
        for i, k in enumerate(self.order):
            yield k, self.numbers[self.begins[i] : self.begins[i + 1]] - self.firsts[i]

    def gradient(self, features: Sequence[Feature], values: Sequence[Array | None], like: Tensor) -> dict[int, JointPart]:
        """The gradient of each table that has one, by the identity of its parameter; `values` are those of all features."""
        given = [(i, k, values[k]) for i, k in enumerate(self.order) if values[k] is not None]
        numbers = self.numbers
        if len(given) < len(self.order):
            some = [numbers[self.begins[i] : self.begins[i + 1]] for i, _, _ in given]
            numbers = kernels.joined(some)
        segments = [Segment(self.places[i], own, *pooled(features[k])) for i, k, own in given]
        begins = [0, *accumulate(self.begins[i + 1] - self.begins[i] for i, _, _ in given)]
        spans: dict[int, tuple[int, int]] = {}
        for place, (_, k, _) in enumerate(given):
            table = id(features[k].weight)
            spans[table] = spans.get(table, (place, place))[0], place + 1
        stores = None if self.engine is None else self.engine.stores
        joint = Joint(stores, numbers, segments, like, len(spans))
        return {
            table: JointPart(joint, range(start, stop), slice(begins[start], begins[stop]), self.firsts[given[start][0]])
            for table, (start, stop) in spans.items()
        }


def refuse(feature: Feature, ids: Array) -> None:
    """Raise IndexError for ids of which one is out of range; if it can be told, its position is that among the ids as given."""
    for held in (ids if feature.given is None else feature.given.numpy(), ids):
        in_range(held, feature.weight.size(0), "raise", "Use a larger table.", feature.name)


class CollectionLookup(torch.autograd.Function):
    """Forward: settled rows of all features, pooled or not.  Backward: the gradient of each table."""

    @staticmethod
    def forward(
        ctx: Any, features: Sequence[Feature], owners: Sequence[Any], concatenated: bool, *tables: Any
    ) -> tuple[Tensor, ...]:
        dims = [feature.weight.size(1) for feature in features]
        like = tables[0]
        shapes = [(*feature.shape, dim) for feature, dim in zip(features, dims, strict=True)]
        if concatenated:
            shapes = [(*features[0].shape, sum(dims))]
        outs = tuple(like.new_empty(shape) for shape in shapes)
        parts = by_feature(outs, dims, concatenated)
        looked: list[Looked] = []
        for members in owners:
            looked += members[0][1].lock.holding(partial(read_features, features, members, parts))
        ctx.features, ctx.looked, ctx.concatenated, ctx.dims = features, looked, concatenated, dims
        ctx.tables = [(id(table), table.shape, table.notes) for table in tables]
        ctx.set_materialize_grads(False)
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        return CollectionLookup._gradients(ctx, grads)

    @staticmethod
    def _gradients(ctx: Any, grads: tuple[Tensor | None, ...]) -> tuple[Any, ...]:
        features: Sequence[Feature] = ctx.features
        if torch.is_grad_enabled() or not all(grad is None or has_memory(grad) for grad in grads):
            # `create_graph=True`, or many gradients at once
            ids = {k: torch.from_numpy(own) for group in ctx.looked for k, own in group.ids()}
            return (None, None, None, *dense_gradients(features, ids, grads, ctx.dims, ctx.concatenated, ctx.tables))
        # others have these gradients, too, and may change theirs
        own = [None if grad is None else grad.clone(memory_format=torch.contiguous_format) for grad in grads]
        like = next((grad for grad in own if grad is not None), features[0].weight)
        values = by_feature(own, ctx.dims, ctx.concatenated)
        return (None, None, None, *row_gradients(features, ctx.looked, values, like, ctx.tables))


def all_step(features: Sequence[tuple[Any, Any]]) -> list[Any]:
    """The vectors of features, each given with its table: each of the tables makes the steps that one of them makes.

    The vectors were looked up one by one. What is no table that is trained by rows may stand in its place.
    """
    return without_torch_functions(_all_step, features)


def _all_step(features: Sequence[tuple[Any, Any]]) -> list[Any]:
    vectors = [given for _, given in features]
    uses: dict[int, list[int]] = {}
    tables: dict[int, Any] = {}
    for k, (table, _) in enumerate(features):
        tie = table.ownership if isinstance(table, TableParameter) else None
        if tie is not None and tie.owner is not None and table.dtype in DTYPES and table.requires_grad:
            tables[id(table)] = table
            uses.setdefault(id(table), []).append(k)
    if not tables or not torch.is_grad_enabled() or in_data_parallel():
        return vectors
    matter: set[int] = set()
    end = StepsOfAll.apply(matter, list(uses.values()), *tables.values())  # type: ignore[no-untyped-call]
    return [
        Matters.apply(matter, k, given, end) if isinstance(given, Tensor) and given.requires_grad else given  # type: ignore[no-untyped-call]
        for k, given in enumerate(vectors)
    ]


class StepsOfAll(torch.autograd.Function):
    """Forward: what all vectors depend on.  Backward, after theirs: a gradient of no rows for tables that do not matter."""

    @staticmethod
    def forward(ctx: Any, matter: set[int], uses: Sequence[Sequence[int]], *tables: Any) -> Tensor:
        ctx.matter = matter
        ctx.tables = [
            (places, table.shape, table.notes, table.new_empty(0)) for places, table in zip(uses, tables, strict=True)
        ]
        return torch.empty(0, device="cpu")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        dense = torch.is_grad_enabled()  # `create_graph=True`
        found: list[Tensor | None] = []
        for places, shape, notes, like in ctx.tables:
            if ctx.matter.intersection(places):
                found.append(None)  # it has its own
            else:
                found.append(like.new_zeros(shape) if dense else of_no_rows(like, shape, notes))
        ctx.matter.clear()
        return (None, None, *found)


class Matters(torch.autograd.Function):
    """Forward: a copy of vectors.  Backward: it is noted that they matter to the loss."""

    @staticmethod
    def forward(ctx: Any, matter: set[int], place: int, vectors: Tensor, end: Tensor) -> Tensor:
        ctx.matter, ctx.place = matter, place
        return vectors.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, Tensor]:
        ctx.matter.add(ctx.place)
        return None, None, grad, torch.empty(0, device="cpu")


def row_gradients(
    features: Sequence[Feature], looked: Sequence[Looked], values: Sequence[Array | None], like: Tensor, tables: Iterable[Any]
) -> list[Tensor]:
    """The gradient of each table, from those of the features, (ids, dim) or (bags, dim); of some, there may be none."""
    parts: dict[int, JointPart] = {}
    for group in looked:
        parts |= group.gradient(features, values, like)
    found: list[Tensor] = []
    for table, shape, notes in tables:
        if table in parts:
            found.append(RowGradient.made_of(parts[table], shape, notes))
        else:  # the table makes the step, too
            found.append(of_no_rows(like, shape, notes))
    return found


def of_no_rows(like: Tensor, shape: torch.Size, notes: Any) -> Tensor:
    """The gradient of a table that makes the step though nothing of it matters to the loss."""
    return RowGradient.of(like.new_empty(0, dtype=torch.int64), like.new_empty((0, shape[1])), shape[0], notes)


def by_feature(tensors: Sequence[Tensor | None], dims: Sequence[int], concatenated: bool) -> list[Any]:
    """The vectors of each feature, (vectors, dim), as arrays in the memory of the tensors, which may hold all side by side."""
    arrays = [None if tensor is None else tensor.numpy().reshape(-1, tensor.size(-1)) for tensor in tensors]
    if not concatenated:
        return arrays
    whole = arrays[0]
    return [None if whole is None else whole[:, end - dim : end] for end, dim in zip(accumulate(dims), dims, strict=True)]


def pooled(feature: Feature) -> tuple[Any, Any]:
    """The bag of each id, and what its gradient is multiplied by; None for both where features are not pooled."""
    if feature.of_bags is not None:
        return feature.of_bags
    if feature.starts is None:
        return None, None
    bags, shares = bags_of(feature.starts, feature.mode == "mean")
    return bags, shares if feature.factors is None else feature.factors.numpy()


def dense_gradients(
    features: Sequence[Feature],
    ids: Mapping[int, Tensor],
    grads: Sequence[Tensor | None],
    dims: Sequence[int],
    concatenated: bool,
    tables: Iterable[Any],
) -> Iterable[Tensor]:
    """The gradients of the tables, through which autograd goes on; zeros for one that does not matter to the loss."""
    ends = list(accumulate(dims))
    like = next((grad for grad in grads if grad is not None), features[0].weight)
    for table, shape, _ in tables:
        total: Tensor | None = None
        for k, feature in enumerate(features):
            grad = grads[0 if concatenated else k]
            if id(feature.weight) != table or grad is None:
                continue
            values = grad.reshape(-1, grad.size(-1))
            values = values.narrow(1, ends[k] - dims[k], dims[k]) if concatenated else values
            bags, factors = pooled(feature)
            if bags is not None:
                by = None if factors is None else torch.from_numpy(factors)
                values = Bagged(ids[k], values, torch.from_numpy(bags), by).expanded().values
            part = values.new_zeros(shape).index_add(0, ids[k], values)
            total = part if total is None else total + part
        yield like.new_zeros(shape) if total is None else total
