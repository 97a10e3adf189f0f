"""Lookups of a table parameter: torch's own until an unhot optimizer owns it, then settled, with a row-sparse gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unhot.torch._private import in_data_parallel, is_exporting, is_traced_by_proxies, is_transformed, without_tracers
from unhot.torch.aliases import has_memory, settle_memory
from unhot.torch.backend import DTYPES, TorchBackend, wrong_dtype
from unhot.torch.gradient import RowGradient
from unhot.torch.gradient_content import Bagged, bags_of
from unhot.torch.renorm import renormed
from unhot.training import Ownership


def lookup(
    input: Tensor,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool | None = None,
) -> Tensor:
    """`torch.nn.functional.embedding` of a table parameter.

    `sparse` None lets the parameter decide: row-sparse gradients once an unhot optimizer owns it.
    """
    hidden = hidden_from_compiler(weight, sparse)
    if hidden is not None:
        return hidden.outside_graph(lookup, input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    backend = owner_of(weight, sparse)
    if backend is None:
        max_norm = renormed(weight, input, max_norm, norm_type)
        weight = known_to_tracers(weight)
        return nn.functional.embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, bool(sparse))
    padding_idx = -1 if padding_idx is None else _counted(padding_idx, weight)
    return owned_lookup(weight, backend, input, padding_idx, max_norm, norm_type, scale_grad_by_freq, bool(sparse))


def owned_lookup(
    weight: Any,
    backend: TorchBackend,
    ids: Tensor,
    padding_idx: int,
    max_norm: float | None,
    norm_type: float,
    scale_grad_by_freq: bool,
    sparse: bool = False,
) -> Tensor:
    """The settled rows of `ids`, renormed before if so asked, with a row-sparse gradient; `sparse`: as PyTorch's own."""
    if max_norm is not None:
        backend.renorm(ids, max_norm, norm_type)
    found: Tensor = RowLookup.apply(weight, ids, backend, padding_idx, scale_grad_by_freq, sparse)  # type: ignore[no-untyped-call]
    return found


ASKED_FOR = "the layer was made with sparse=False"
DATA_PARALLEL = (
    "DistributedDataParallel exchanges dense gradients of layers that were not made with sparse=True. Make this one with"
    " sparse=True, if it is looked up in every step and not used otherwise"
)
TRANSFORMED = (
    "torch.func, torch.jit or another tracer looks at its lookups, and these know only torch's own. Train without them"
)


def hidden_from_compiler(weight: Any, sparse: bool | None) -> TorchBackend | None:
    """What looks up rows outside the graph that `torch.compile` makes; None where none is made, or one with torch's lookup.

    The compiler must not ask for anything else of a table: where a mode is active, as for a default device, it would ask
    `__torch_function__`, which is not to be traced.
    """
    if not torch.compiler.is_compiling() or is_exporting() or sparse is False:
        return None
    tie: Ownership[TorchBackend] | None = getattr(weight, "ownership", None)
    return None if tie is None or tie.owner is None else tie.backend


def owner_of(weight: Any, sparse: bool | None) -> TorchBackend | None:
    """What settles and trains the rows, or None where torch's own code is to run; the weight is settled for it.

    That is so, too, where what torch does is traced, or transformed by `torch.func`: none of that knows `RowLookup`.
    """
    tie: Ownership[TorchBackend] | None = getattr(weight, "ownership", None)
    if tie is None:
        settle_memory(weight)
        return None
    if tie.owner is None:
        tie.release()
        settle_memory(weight)
        return None
    why = ""
    if sparse is False:
        why = ASKED_FOR
    elif weight.dtype not in DTYPES:
        why = wrong_dtype(weight.dtype)
    elif is_transformed():
        why = TRANSFORMED
    elif not sparse and weight.other_shards is None and in_data_parallel():
        why = DATA_PARALLEL
    if not why:
        return tie.backend
    weight.notes.reason_for_dense = why
    tie.backend.hand_over()
    return None


def known_to_tracers(value: Any) -> Any:
    """The numbers of a parameter, where `make_fx` traces: it takes none of a class that it does not know."""
    if not isinstance(value, nn.Parameter) or not is_traced_by_proxies():
        return value
    return without_tracers(value.detach)


def _counted(padding_idx: int, weight: Any) -> int:
    """`padding_idx` counted from the first row."""
    if not -weight.size(0) <= padding_idx < weight.size(0):
        raise AssertionError("Padding_idx must be within num_embeddings")
    return padding_idx % int(weight.size(0))


def bag_lookup(
    input: Tensor,
    weight: Any,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool | None = None,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """`torch.nn.functional.embedding_bag` of a table parameter: torch's own pooling of the rows that `lookup` gives."""
    bag = nn.functional.embedding_bag
    hidden = hidden_from_compiler(weight, sparse)
    if hidden is not None:
        return hidden.outside_graph(
            bag_lookup, input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse, per_sample_weights,
            include_last_offset, padding_idx,
        )  # fmt: skip
    backend = owner_of(weight, sparse)
    if backend is None:
        max_norm = renormed(weight, input, max_norm, norm_type)
        weight = known_to_tracers(weight)
        return bag(
            input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, bool(sparse), per_sample_weights,
            include_last_offset, padding_idx,
        )  # fmt: skip
    last_one = include_last_offset and (padding_idx is not None or offsets is None)  # which torch may leave out
    by_torch = sparse or max_norm is not None or scale_grad_by_freq or last_one
    if not by_torch and backend.in_host_memory():
        starts = bag_starts(input, offsets, include_last_offset, mode, per_sample_weights)
        if starts is not None:
            counting = input, starts, per_sample_weights
            if padding_idx is not None:
                backend.require_rows(input)
                counting = without_padding(*counting, _counted(padding_idx, weight))
            pooled: Tensor = BagLookup.apply(weight, *counting, mode, backend)  # type: ignore[no-untyped-call]
            return pooled
    if scale_grad_by_freq and mode == "max":
        raise ValueError("max mode does not support scaling the gradient by the frequency")
    if isinstance(offsets, Tensor):  # torch takes other integers here, which the offsets' dtype widens
        input = input.to(torch.promote_types(input.dtype, offsets.dtype))
    rows = lookup(input.reshape(-1), weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    places = torch.arange(input.numel(), device=input.device).reshape(input.shape)
    if padding_idx is not None:
        padding = input == _counted(padding_idx, weight)
        padding_idx = int(padding.byte().argmax()) if bool(padding.any()) else None
        if padding_idx is not None:  # the first place of padding stands for all of them
            places = places.masked_fill(padding, padding_idx)
        elif include_last_offset and isinstance(offsets, Tensor):  # where there is padding, torch does not look at the last one
            offsets = torch.cat([offsets[:-1], offsets[-1:].clamp(min=input.numel())])
    return bag(
        places, rows, offsets, mode=mode, per_sample_weights=per_sample_weights, include_last_offset=include_last_offset,
        padding_idx=padding_idx,
    )  # fmt: skip


class RowLookup(torch.autograd.Function):
    """Forward: settled rows.  Backward: the gradient of these rows."""

    @staticmethod
    def forward(
        ctx: Any, weight: Any, ids: Tensor, backend: TorchBackend, padding_idx: int, scale_grad_by_freq: bool, sparse: bool
    ) -> Tensor:
        own, rows = backend.read(ids)
        ctx.save_for_backward(own)
        ctx.set_materialize_grads(False)  # vectors that do not matter to the loss give no gradient, as torch's own
        ctx.notes, ctx.shape = weight.notes, tuple(weight.shape)
        ctx.padding_idx, ctx.scaled, ctx.sparse = padding_idx, scale_grad_by_freq, sparse
        found: Tensor = rows
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None, None, None, None]:
        return None if grad is None else RowLookup._gradient(ctx, grad), None, None, None, None, None

    @staticmethod
    def _gradient(ctx: Any, grad: Tensor) -> Tensor:
        """The gradient of the table: dense where it needs a graph, sparse as PyTorch's where the layer was given that."""
        (ids,) = ctx.saved_tensors
        rows, dim = ctx.shape
        values = grad.reshape(len(ids), dim)
        if ctx.scaled:
            _, inverse, counts = torch.unique(ids, return_inverse=True, return_counts=True)
            values = values / counts[inverse].unsqueeze(1)
        if ctx.padding_idx >= 0:
            kept = (ids != ctx.padding_idx).nonzero()[:, 0]
            ids, values = ids[kept], values[kept]
        if (torch.is_grad_enabled() or not has_memory(grad)) and not ctx.sparse:  # `create_graph=True`, or many at once
            return values.new_zeros((rows, dim)).index_add(0, ids, values)
        if values.data_ptr() == grad.data_ptr():  # others have that gradient, too, and may change theirs
            values = values.clone(memory_format=torch.contiguous_format)
        return sparse_tensor(ids, values, rows) if ctx.sparse else RowGradient.of(ids, values, rows, ctx.notes)


def bag_starts(
    input: Tensor, offsets: Tensor | None, include_last_offset: bool, mode: str, per_sample_weights: Tensor | None
) -> Tensor | None:
    """Where bags begin and end among the flat ids; None for what torch has to look at, to refuse it or to do it its own way."""
    if mode not in ("sum", "mean") or input.dtype not in INDICES or (offsets is None) != (input.dim() == 2):
        return None
    if per_sample_weights is not None and (
        mode != "sum" or per_sample_weights.requires_grad or per_sample_weights.shape != input.shape
    ):
        return None
    if offsets is None:
        return torch.arange(input.size(0) + 1, device=input.device) * input.size(1)
    if input.dim() != 1 or offsets.dim() != 1 or offsets.dtype not in INDICES or not offsets.numel():
        return None
    starts = offsets.to(torch.int64)
    if not include_last_offset:
        starts = torch.cat([starts, starts.new_full((1,), len(input))])
    rises = bool((starts[1:] >= starts[:-1]).all())
    return starts.contiguous() if rises and int(starts[0]) == 0 and int(starts[-1]) == len(input) else None


def without_padding(
    input: Tensor, starts: Tensor, factors: Tensor | None, padding_idx: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The ids, starts and factors of bags of which the ids that are padding are no part."""
    return of_those(input.reshape(-1) != padding_idx, input, starts, factors)


def of_those(
    counts: Tensor, input: Tensor, starts: Tensor, factors: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The ids, starts and factors of bags that have only those ids that count, which `counts`, (n,), says of each."""
    if bool(counts.all()):
        return input, starts, factors
    before = starts.new_zeros(len(counts) + 1)
    torch.cumsum(counts, 0, out=before[1:])
    return input.reshape(-1)[counts], before[starts], None if factors is None else factors.reshape(-1)[counts]


INDICES = (torch.int64, torch.int32)


class BagLookup(torch.autograd.Function):
    """Forward: pooled settled rows.  Backward: the gradient of these rows, of which each has that of its bag."""

    @staticmethod
    def forward(
        ctx: Any, weight: Any, ids: Tensor, starts: Tensor, factors: Tensor | None, mode: str, backend: TorchBackend
    ) -> Tensor:
        if factors is not None:
            factors = factors.detach().reshape(-1).to(torch.float64, copy=True)  # until the step, whatever becomes of the given
        own, pooled = backend.read_bags(ids, starts, factors, mode)
        ctx.save_for_backward(own, starts)
        ctx.set_materialize_grads(False)  # as above
        ctx.factors, ctx.mean = factors, mode == "mean"
        ctx.notes, ctx.rows = weight.notes, len(weight)
        return pooled

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None, None, None, None]:
        return None if grad is None else BagLookup._gradient(ctx, grad), None, None, None, None, None

    @staticmethod
    def _gradient(ctx: Any, grad: Tensor) -> Tensor:
        """The gradient of the table: dense where it needs a graph."""
        ids, starts = ctx.saved_tensors
        own_bags, shares = bags_of(starts, ctx.mean)
        bags, factors = torch.from_numpy(own_bags), ctx.factors if shares is None else torch.from_numpy(shares)
        if torch.is_grad_enabled() or not has_memory(grad):  # `create_graph=True`, or many at once
            values = Bagged(ids, grad, bags, factors).expanded().values
            return values.new_zeros((ctx.rows, grad.size(1))).index_add(0, ids, values)
        own = grad.clone(memory_format=torch.contiguous_format)  # others have that gradient, too, and may change theirs
        return RowGradient.made_of(Bagged(ids, own, bags, factors), torch.Size((ctx.rows, own.size(1))), ctx.notes)


def sparse_tensor(ids: Tensor, values: Tensor, rows: int) -> Tensor:
    """A sparse COO tensor of so many rows, of which it holds some, possibly repeated. It shares memory with both."""
    return torch.sparse_coo_tensor(
        ids.unsqueeze(0), values, (rows, values.size(1)), device=values.device, check_invariants=False
    )
