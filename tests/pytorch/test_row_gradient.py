"""`RowGradient` against the dense tensor that holds the same: what is computed from it, and what it holds afterwards."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from selection import slow
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import unhot
import unhot.torch
from unhot.torch._private import ON
from unhot.torch.gradient import RowGradient
from unhot.torch.gradient_content import Content, Rows

ROWS, DIM = 12, 3


def gradients(seed: int = 0, ids: tuple[int, ...] = (4, 1, 4, 7)) -> tuple[RowGradient, Tensor]:
    """One with a repeated id, and the dense one."""
    values = torch.randn((len(ids), DIM), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = torch.tensor(ids, dtype=torch.int64)
    return RowGradient.of(rows, values, ROWS), torch.zeros(ROWS, DIM, dtype=torch.float64).index_add_(0, rows, values)


def held(value: Any) -> Any:
    """What a gradient holds, as a dense tensor; of anything else, itself."""
    if not isinstance(value, RowGradient):
        return value
    return value.content.made_dense() if value.content.rows is not None else value.content.dense


def agree(found: Any, wanted: Any) -> None:
    if isinstance(wanted, str):
        assert found == wanted
    else:
        torch.testing.assert_close(tree_map(held, found), wanted, equal_nan=True, check_stride=False)


def stays_by_rows(gradient: RowGradient) -> bool:
    """Whether only rows were computed with."""
    return gradient.ids is not None and gradient.content.dense is None


REDUCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "sum": torch.sum, "mean": torch.mean, "std": torch.std, "var": lambda g: g.var(correction=0), "max": torch.max,
    "min": torch.min, "amax": torch.amax, "amin": lambda g: g.amin(dim=(0, 1)), "norm": lambda g: g.norm(),
    "norm 1": lambda g: g.norm(1), "norm 3": lambda g: torch.linalg.vector_norm(g, 3.0), "norm 0": lambda g: g.norm(0),
    "norm inf": lambda g: g.norm(float("inf")), "sum float": lambda g: g.sum(dtype=torch.float32),
    "sum of both": lambda g: g.sum(dim=(0, 1)), "sum of -1": lambda g: g.sum((-1, -2)),
    "count": torch.count_nonzero, "isfinite": lambda g: torch.isfinite(g).all(), "isnan": lambda g: torch.isnan(g).any(),
    "isinf": lambda g: g.isinf().any(), "not": lambda g: (~torch.isnan(g)).sum(), "zeros": lambda g: (g == 0).sum(),
    "nonzero share": lambda g: (g != 0).float().mean(), "abs max": lambda g: g.abs().max(),
    "mean square": lambda g: g.pow(2).mean(), "rms": lambda g: g.square().mean().sqrt().item(),
    "shifted": lambda g: (g + 1.5).sum(), "shifted norm": lambda g: (g - g.mean()).abs().amax(),
    "exponentials": lambda g: g.exp().sum(), "logarithms": lambda g: g.abs().log().amax(), "inverse": lambda g: (1 / g).amax(),
    "twice": lambda g: (g * 2 + g / 3).norm(), "total": lambda g: nn.utils.get_total_norm([g, g]),
    "total foreach": lambda g: nn.utils.get_total_norm([g], foreach=True), "float": lambda g: g.float().sum(),
    "cosine": lambda g: (g * g).sum(), "shape": lambda g: str((g.shape, g.dtype, g.device, g.layout, g.stride(), len(g))),
    "bool": lambda g: g.is_sparse or g.requires_grad, "like": lambda g: torch.zeros_like(g),
    "new": lambda g: g.new_full((2,), 3.0), "ones": lambda g: torch.ones_like(g, dtype=torch.float32),
}  # fmt: skip


@pytest.mark.parametrize("ids", [(4, 1, 4, 7), (), tuple(range(ROWS)), (5,) * 3], ids=["some", "none", "all", "one"])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_what_the_rows_can_answer(name: str, ids: tuple[int, ...]) -> None:
    ours, theirs = gradients(ids=ids)
    agree(REDUCTIONS[name](ours), REDUCTIONS[name](theirs))
    assert stays_by_rows(ours)
    agree(ours, theirs)


MASK = (torch.arange(ROWS) >= 4).double().unsqueeze(1)

ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "mul": lambda g: g * 2, "rmul": lambda g: 0.5 * g, "div": lambda g: g / torch.tensor(4.0), "neg": torch.neg,
    "by a tensor": lambda g: g * torch.tensor(2.0), "clamp": lambda g: g.clamp(-0.5, 0.5), "sign": torch.sign,
    "abs": torch.abs, "pow": lambda g: g**3, "tanh": torch.tanh, "nan_to_num": torch.nan_to_num, "sqrt": torch.sqrt,
    "add": lambda g: g + g * 2, "sub": lambda g: g - 0.5 * g, "mask": lambda g: g * MASK, "mask first": lambda g: MASK * g,
    "a column": lambda g: g * torch.arange(float(DIM)).double(), "filled": lambda g: g.masked_fill(MASK.bool(), 0),
    "filled with a tensor": lambda g: g.masked_fill(MASK.bool(), torch.tensor(0.0)), "clone": torch.clone,
    "detach": lambda g: g.detach(), "data": lambda g: g.data, "float": lambda g: g.to(torch.float32),
    "integers": lambda g: (g * 3).to(torch.int64), "complex": lambda g: g.to(torch.complex64),
    "same": lambda g: g.to("cpu"), "contiguous": lambda g: g.contiguous(), "where it is large": lambda g: g * (g.abs() > 0.5),
    "floor": lambda g: torch.div(g, 0.3, rounding_mode="floor"), "deepcopy": copy.deepcopy,
    "pickle": lambda g: pickle.loads(pickle.dumps(g)), "shrunk": lambda g: nn.functional.softshrink(g, 0.2),
}  # fmt: skip


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_functions_of_a_gradient_are_by_rows(name: str) -> None:
    ours, theirs = gradients()
    found, wanted = ELEMENTWISE[name](ours), ELEMENTWISE[name](theirs)
    assert isinstance(found, RowGradient)
    assert found.dtype == wanted.dtype
    assert stays_by_rows(found)
    assert stays_by_rows(ours)
    agree(found, wanted)
    agree(ours, theirs)


IN_PLACE: dict[str, Callable[[Tensor], Any]] = {
    "mul_": lambda g: g.mul_(2), "*=": lambda g: g.__imul__(0.5), "div_": lambda g: g.div_(torch.tensor(3.0)),
    "clamp_": lambda g: g.clamp_(-0.5, 0.5), "clamp_min_": lambda g: g.clamp_(min=-0.1), "neg_": lambda g: g.neg_(),
    "zero_": lambda g: g.zero_(), "fill_": lambda g: g.fill_(0.0), "add_": lambda g: g.add_(g.clone(), alpha=3),
    "sub_": lambda g: g.sub_(g * 0.5), "add others": lambda g: g.add_(gradients(1, (1, 9))[isinstance(g, RowGradient) ^ 1]),
    "nan_to_num_": lambda g: torch.nan_to_num_(g, 0.0), "copy_": lambda g: g.copy_(g * 3), "mask": lambda g: g.mul_(MASK),
    "masked_fill_": lambda g: g.masked_fill_(MASK.bool(), 0.0), "data": lambda g: g.data.mul_(2),
    "detach": lambda g: g.detach().mul_(2), "detach_": lambda g: g.detach_().mul_(2), "lerp_": lambda g: g.lerp_(g * 5, 0.5),
    "foreach": lambda g: torch._foreach_mul_([g, torch.ones(2)], 0.5),
    "foreach by a tensor": lambda g: torch._foreach_div_([g], torch.tensor(0.5)),
    "foreach clamp": lambda g: torch._foreach_clamp_max_([g], 0.1), "foreach neg": lambda g: torch._foreach_neg_([g]),
    "foreach zero": lambda g: torch._foreach_zero_([g]), "foreach add": lambda g: torch._foreach_add_([g], [g * 2], alpha=2),
    "foreach list": lambda g: torch._foreach_mul_([g, torch.ones(3)], [2.0, 3.0]),
    "foreach lerp": lambda g: torch._foreach_lerp_([g], [g * 5], 0.5),
    "foreach addcmul": lambda g: torch._foreach_addcmul_([g], [g], [g], 2.0),
    "unscale": lambda g: torch._amp_foreach_non_finite_check_and_unscale_([g], torch.zeros(1), torch.tensor(0.25)),
    "assigned data": lambda g: setattr(g, "data", g * 3), "grow": lambda g: g.copy_(g + g.mul(2)),
}  # fmt: skip


KEYS: dict[str, Any] = {
    "slice": slice(None, -5), "slice up to row 4": slice(2, 5), "slice from row 4": slice(4, 8),
    "every second": slice(1, None, 2), "all": slice(None), "ellipsis": ..., "none": slice(3, 3),
    "row": 4, "last": -1, "NumPy's": np.int64(4), "list": [1, -2, 4], "array": np.array([1, 4]),
    "tensor": torch.tensor([1, 4]), "of 32 bits": torch.tensor([4, -1], dtype=torch.int32), "number": torch.tensor(4),
    "matrix": torch.tensor([[1], [4]]), "mask": torch.arange(ROWS) % 3 == 1, "list of flags": [i % 2 == 0 for i in range(ROWS)],
    "with all columns": (slice(2, 6), slice(None)), "with the rest": (torch.tensor([1, 4]), ...), "nothing": [],
}  # fmt: skip
"""What names whole rows in an assignment."""

IN_PLACE.update({f"zeros in rows: {name}": lambda g, key=key: g.__setitem__(key, 0) for name, key in KEYS.items()})
IN_PLACE.update({
    "index_fill_": lambda g: g.index_fill_(0, torch.tensor([1, 4]), 0.0),
    "a zero of torch's": lambda g: g.data.__setitem__(slice(3), torch.tensor(0.0)),
})  # fmt: skip


def test_rows_that_there_are_not() -> None:
    for key in (ROWS, [0, -ROWS - 1], torch.tensor([ROWS]), torch.ones(ROWS + 1, dtype=torch.bool), "a"):
        ours, theirs = gradients()
        for gradient in (ours, theirs):
            with pytest.raises((IndexError, TypeError)):
                gradient[key] = 0.0  # type: ignore[index]
        agree(ours, theirs)


@pytest.mark.parametrize("name", IN_PLACE)
def test_changes_of_the_rows_alone(name: str) -> None:
    """Also seen through an alias, and not by a copy."""
    if name == "detach_" and not ON:
        pytest.skip("the fallback's gradients are views, which torch does not detach in place")
    ours, theirs = gradients()
    aliases = [(g.detach(), g.clone()) for g in (ours, theirs)]
    copies, before = aliases[0][1], theirs.clone()
    for gradient in (ours, theirs):
        IN_PLACE[name](gradient)
    assert stays_by_rows(ours)
    agree(ours, theirs)
    agree(copies, before)
    if name != "assigned data":
        agree(aliases[0][0], aliases[1][0])


def written_view(g: Tensor) -> None:
    flat = g.view(-1)
    g.mul_(2)
    flat[3] = 7.0
    g.mul_(2)


def written_array(g: Tensor) -> None:
    g.numpy()[4, 1] = 5.0


WRITES: dict[str, Callable[[Tensor], Any]] = {
    "a column": lambda g: g.__setitem__((slice(None), 1), 0.0), "ones": lambda g: g.__setitem__(slice(2), 1.0),
    "rows of a tensor": lambda g: g.__setitem__([1, 4], torch.zeros(2, DIM).double()), "a view": written_view,
    "numpy": written_array, "noise": lambda g: g.add_(MASK),
    "add_ of a number": lambda g: g.add_(0.5), "normal_": lambda g: g.normal_(generator=torch.Generator().manual_seed(0)),
    "copy_": lambda g: g.copy_(MASK.expand(ROWS, DIM)), "index_fill_": lambda g: g.index_fill_(0, torch.tensor([0]), 2.0),
    "a row": lambda g: g[3].add_(1.0), "select": lambda g: g.select(0, 4).zero_(),
    "out": lambda g: torch.mul(MASK, torch.ones(DIM).double(), out=g),
    "T": lambda g: g.T[0].fill_(1.0), "exp_": lambda g: g.exp_(), "foreach": lambda g: torch._foreach_add_([g], 1.0),
    "memory": lambda g: g.untyped_storage().fill_(0), "fill": lambda g: g.fill_(torch.tensor(3.0)),
    "data": lambda g: setattr(g, "data", MASK.expand(ROWS, DIM).clone()), "unbind": lambda g: g.unbind()[4].zero_(),
    "split": lambda g: torch.split(g, 4)[1].zero_(), "maximum": lambda g: torch._foreach_maximum_([g], 0.1),
    "dlpack": lambda g: torch.from_dlpack(g)[4].zero_(),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITES)
def test_whatever_else_writes_it(name: str) -> None:
    """The gradient is dense from then on, for all of its aliases."""
    ours, theirs = gradients()
    alias, copied = ours.detach(), ours.clone()
    before = theirs.clone()
    for gradient in (ours, theirs):
        WRITES[name](gradient)
    assert ours.ids is None
    agree(ours, theirs)
    if name != "data":
        agree(alias, theirs)
    agree(copied, before)
    for gradient in (ours, theirs):  # and what is written later
        gradient.mul_(0.5)
        gradient[0] = 4.0
        gradient.add_(gradients(3)[gradient is theirs])
        gradient.copy_(gradient + gradients(5)[gradient is theirs])
    agree(ours, theirs)
    agree(ours.clone(), theirs)
    agree(copy.deepcopy(ours).sum(), theirs.sum())
    agree(pickle.loads(pickle.dumps(ours)), theirs)


READS: dict[str, Callable[[Tensor], Any]] = {
    "matmul": lambda g: g @ torch.ones(DIM, 2).double(), "sum of rows": lambda g: g.sum(1), "cat": lambda g: torch.cat([g, g]),
    "stack": lambda g: torch.stack([g * 2, g]), "norms": lambda g: g.norm(dim=1), "argmax": torch.argmax,
    "indexed": lambda g: g[torch.tensor([4, 0])], "where": lambda g: torch.where(MASK.bool(), g, torch.tensor(2.0).double()),
    "plus dense": lambda g: g + MASK, "histogram": lambda g: torch.histc(g.float(), 5), "list": lambda g: g.tolist(),
    "median": torch.median, "kthvalue": lambda g: g.sum(0).kthvalue(2), "equal": lambda g: torch.equal(g, held(g)),
    "nonzero": torch.nonzero, "sorted": lambda g: g.sort(0)[0], "divided": lambda g: g / g.norm(dim=1, keepdim=True),
    "times infinity, in place": lambda g: g.clone().mul_(float("inf")).isnan().sum(),
    "times infinity": lambda g: (g * float("inf")).isnan().sum(), "by infinities": lambda g: g * (MASK / 0),
}  # fmt: skip


@pytest.mark.parametrize("name", READS)
def test_whatever_else_reads_it(name: str) -> None:
    """The gradient stays one by rows, which later changes find."""
    ours, theirs = gradients()
    agree(READS[name](ours), READS[name](theirs))
    assert ours.ids is not None
    for gradient in (ours, theirs):
        gradient.mul_(2)
    agree(READS[name](ours), READS[name](theirs))
    agree(ours, theirs)


def test_into_dense_tensors() -> None:
    (ours, theirs), start = gradients(), torch.arange(ROWS * DIM).reshape(ROWS, DIM).double()
    for write in (
        lambda dense, g: dense.add_(g, alpha=-0.1), lambda dense, g: dense.sub_(g), lambda dense, g: dense.copy_(g),
        lambda dense, g: dense.copy_(g + 1), lambda dense, g: torch._foreach_add_([dense, dense * 2], [g, g]),
        lambda dense, g: dense.addcmul_(g, g), lambda dense, g: dense.lerp_(g, 0.3), lambda dense, g: dense.mul_(g),
        lambda dense, g: torch._foreach_copy_([dense], [g]),
    ):  # fmt: skip
        first, second = start.clone(), start.clone()
        write(first, ours)
        write(second, theirs)
        agree(first, second)
    agree(start + ours, start + theirs)
    agree(start - ours, start - theirs)
    single = torch.zeros(ROWS, DIM)
    agree(single.copy_(ours), theirs.float())


def test_what_is_shown() -> None:
    ours, _ = gradients()
    assert str(ours).startswith("RowGradient(shape=(12, 3), ids=tensor([4, 1, 4, 7])")
    assert "fill=1.0" in repr(ours + 1)
    ours[0] = 1.0
    assert repr(ours).startswith("RowGradient(tensor([[ 1.")


def test_files() -> None:
    """Under torch's default, which reads plain data only."""
    ours, theirs = gradients()
    for gradient in (ours, ours + 1):
        file = io.BytesIO()
        torch.save(gradient, file)
        file.seek(0)
        agree(torch.load(file), held(gradient))
    ours.sum()
    agree(ours, theirs)


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_collectives_change_the_gradient(group: None) -> None:
    """Their operators do not say what they write."""
    ours, theirs = gradients()
    dist.all_reduce(ours, op=dist.ReduceOp.SUM)
    dist.broadcast(ours, 0)
    assert ours.ids is None
    agree(ours, theirs)


def test_one_warning_for_each_table() -> None:
    layer = unhot.torch.Embedding(ROWS, DIM)
    optimizer = unhot.torch.Adam(layer.parameters())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.tensor([1, 2])).sum().backward()
            layer.weight.grad.norm(), layer.weight.grad.mul_(2)
            assert not told
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.tensor([1, 2])).sum().backward()
            layer.weight.grad.sum(1)
    assert [warning.category for warning in told] == [unhot.DenseFallbackWarning]
    assert "`sum` needs it" in str(told[0].message)


SAMPLED = ("mul", "norm", "index_put", "nn.functional.dropout", "where", "copysign", "masked_fill", "addmm")


PARTS = 10
"""Each takes a few seconds at quiet times, and minutes beside other programs."""


@slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_operator_of_torch(part: int) -> None:
    """PyTorch's own catalogue of its operators, with its own samples, called as functions and in place."""
    pytest.importorskip("expecttest")
    from torch.testing._internal.common_methods_invocations import op_db

    random.seed(part)
    torch.manual_seed(part)
    operators = [op for op in op_db if torch.float32 in op.supported_dtypes("cpu") and op.name != "empty_like"][part::PARTS]
    compared = {
        op.name: sum(compare(getattr(op, variant), sample) for variant in ("op", "inplace_variant") for sample in samples(op))
        for op in operators
    }
    assert sum(map(bool, compared.values())) > 300 / PARTS
    assert [name for name in SAMPLED if not compared.get(name, 1)] == []


def samples(op: Any) -> Iterator[Any]:
    """Those of the operator whose input could be a gradient."""
    try:
        found = list(itertools.islice(op.sample_inputs("cpu", torch.float32), 12))
    except Exception:  # what this build of torch lacks
        return
    for sample in found:
        given = sample.input
        plain = type(given) is Tensor and given.layout == torch.strided and given.dtype == torch.float32
        if plain and given.dim() == 2 and 0 < given.numel() < 20000:
            yield sample


def compare(function: Any, sample: Any) -> bool:
    """Call it with a dense tensor and with a gradient by rows; whether it takes a dense one."""
    if function is None:
        return False
    dense = sample.input.detach().clone(memory_format=torch.contiguous_format)
    dense[1:3] = 0.0
    ids = (dense != 0).any(1).nonzero()[:, 0]
    ours = RowGradient(Content(dense.shape, Rows(ids, dense[ids])))

    def call(given: Tensor) -> Any:
        args, kwargs = tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, (sample.args, sample.kwargs))
        torch.manual_seed(0)
        return function(given, *args, **kwargs)

    try:
        wanted = call(dense)
    except Exception:  # not in place, or not of this dtype
        return False
    found = tree_map(held, call(ours))
    torch.testing.assert_close(found, wanted, equal_nan=True, rtol=1e-4, atol=1e-5, check_stride=False)
    torch.testing.assert_close(held(ours), dense, equal_nan=True, rtol=1e-4, atol=1e-5, check_stride=False)
    return True
