"""What PyTorch's operators do with a `RowGradient`: by rows where the rows tell the result, otherwise with a dense tensor.

A rule returns `NotImplemented` where it does not apply; the operator is then called with dense tensors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unhot.torch._private import effects
from unhot.torch.gradient_assignment import index_filled
from unhot.torch.gradient_content import Content, HeldByRows, Rows
from unhot.torch.gradient_reductions import REDUCTIONS, over_all, shards_of
from unhot.torch.nested import mapped

aten: Any = torch.ops.aten
Rule = Callable[[Any, Any, Any], Any]

LINEAR = frozenset({aten.mul, aten.mul_, aten.div, aten.div_, aten.neg, aten.neg_, aten.true_divide, aten.multiply})
"""Elementwise functions with f(a) + f(b) = f(a + b), in their first argument."""


NOT_ELEMENTWISE = frozenset({aten.equal})
"""What PyTorch calls elementwise, and is not."""


def called(func: Any, args: Any, kwargs: Any) -> Any:
    """`func(*args, **kwargs)`, of which gradients are arguments."""
    rule = rule_of(func)
    result = NotImplemented if rule is None else rule(func, args, kwargs)
    return densely(func, args, kwargs) if result is NotImplemented else result


@functools.cache
def rule_of(func: Any) -> Rule | None:
    """What calls the operator by rows."""
    packet = func.overloadpacket
    name = str(packet).removeprefix("aten.")
    if packet in RULES:
        return RULES[packet]
    if name.startswith("_foreach_"):
        return one_by_one
    if name.endswith("_like") or name.startswith("new_"):
        return alike
    if (
        packet not in NOT_ELEMENTWISE
        and torch.Tag.pointwise in func.tags
        and torch.Tag.nondeterministic_seeded not in func.tags
    ):
        return elementwise
    return None


# ---------------------------------------------------------------- with dense tensors


def densely(func: Any, args: Any, kwargs: Any) -> Any:
    """Call the operator with dense tensors: one that is written, or of which the result is a view, counts from then on."""
    does = effects(func)
    written: dict[int, HeldByRows] = {}
    name = f"`{str(func.overloadpacket).removeprefix('aten.')}`"
    known = func.namespace in ("aten", "prims")  # others, such as those of torch.distributed, do not say what they write

    def plain(value: Any, writes: bool) -> Any:
        if not isinstance(value, HeldByRows):
            return value
        if not writes:
            return value.content.read(name)
        dense = value.content.write(name)
        written[id(dense)] = value
        return dense

    def of(key: int | str, value: Any) -> Any:
        return mapped(partial(plain, writes=key in does.writes or does.views or not known), value)

    result = func(*map(of, range(len(args)), args), **{key: of(key, value) for key, value in kwargs.items()})
    return mapped(lambda one: written.get(id(one), one), result) if written else result


# ---------------------------------------------------------------- the gradient as it is


def alias(func: Any, args: Any, kwargs: Any) -> Any:
    """The same content under another name."""
    return type(args[0])(args[0].content)


def copied(func: Any, args: Any, kwargs: Any) -> Any:
    """A copy, maybe of another dtype or on another device."""
    content = args[0].content
    kwargs = {name: value for name, value in kwargs.items() if name != "memory_format"}
    if content.rows is None:
        return type(args[0])(Content(content.shape, None, func(content.dense, *args[1:], **kwargs)))
    rows = content.rows if kwargs.get("dtype") in (None, args[0].dtype) else content.distinct()
    values = func(rows.values, *args[1:], **kwargs)
    return type(args[0])(
        Content(content.shape, rows._replace(ids=rows.ids.to(values.device), values=values), notes=content.notes)
    )


def alike(func: Any, args: Any, kwargs: Any) -> Any:
    """A new tensor of the shape, dtype and device of a gradient, whatever that holds."""
    if not isinstance(args[0], HeldByRows):
        return NotImplemented
    like = torch.empty(args[0].shape, dtype=args[0].dtype, device="meta")
    device = kwargs.get("device")
    return func(like, *args[1:], **{**kwargs, "device": args[0].device if device is None else device})


# ---------------------------------------------------------------- elementwise


def elementwise(func: Any, args: Any, kwargs: Any) -> Any:
    """A function of each element, and of numbers, that does the same to all rows that are not held."""
    gradients: list[HeldByRows] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, HeldByRows):
            gradients.append(value)
        elif isinstance(value, (list, tuple)) or (isinstance(value, Tensor) and value.dim()):
            return NotImplemented
    writes = effects(func).writes
    if not all(gradient.content.rows for gradient in gradients) or writes - {0} or (writes and gradients[0] is not args[0]):
        return NotImplemented
    first = gradients[0].content
    linear = func.overloadpacket in LINEAR and len(gradients) == 1 and gradients[0] is args[0] and not kwargs
    fill = _applied(func, args, kwargs, [_one_of_others(gradient.content) for gradient in gradients]).item()
    summands = first.summands()
    if linear and summands is not None and fill == 0:  # and not 0 * inf
        held = [summands]
    else:
        held = [gradient.content.distinct() for gradient in gradients]
        if not all(same(held[0].ids, other.ids) for other in held[1:]):
            return NotImplemented
    rows = held[0]
    if writes:
        if fill != rows.fill:
            return NotImplemented
        first.replace(rows)
    values = _applied(func, args, kwargs, [other.values for other in held])
    return (
        args[0]
        if writes
        else type(gradients[0])(Content(first.shape, Rows(rows.ids, values, fill, rows.distinct), notes=first.notes))
    )


def _applied(func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Tensor:
    """The function, with these tensors in place of the gradients."""
    left = iter(tensors)
    given = [next(left) if isinstance(value, HeldByRows) else value for value in args]
    named = {name: next(left) if isinstance(value, HeldByRows) else value for name, value in kwargs.items()}
    found: Tensor = func(*given, **named)
    return found


def _one_of_others(content: Content) -> Tensor:
    """One element of the rows that are not held, with two dimensions, by which PyTorch decides of dtypes."""
    rows = content.rows
    assert rows is not None
    return rows.values.new_full((1, 1), rows.fill)


def same(ids: Tensor, others: Tensor) -> bool:
    """Whether these are the same ids in the same order."""
    return ids is others or (ids.shape == others.shape and torch.equal(ids, others))


def multiplied(func: Any, args: Any, kwargs: Any) -> Any:
    """A product; with a dense factor, such as a mask of rows, the rows that are held stay the only ones."""
    found = elementwise(func, args, kwargs)
    if found is not NotImplemented or kwargs or len(args) != 2:
        return found
    first, second = args
    writes = bool(effects(func).writes)
    gradient, factor = (first, second) if isinstance(first, HeldByRows) else (second, first)
    content = gradient.content
    if (
        not isinstance(factor, Tensor)
        or isinstance(factor, HeldByRows)
        or (writes and gradient is not first)
        or content.summands() is None
    ):
        return NotImplemented
    if not broadcastable(factor, content.shape) or not bool(torch.isfinite(factor).all()):  # 0 * inf is no 0
        return NotImplemented
    rows = content.distinct()
    values = func(rows.values, of_rows(factor, rows.ids, content.shape))
    return changed(gradient, rows, values, writes)


def masked(func: Any, args: Any, kwargs: Any) -> Any:
    """Zeros where a mask says so."""
    gradient, mask, value = args
    if isinstance(mask, HeldByRows) or not isinstance(gradient, HeldByRows) or kwargs:
        return NotImplemented
    content = gradient.content
    zero = (value.dim() == 0 and value.item() == 0) if isinstance(value, Tensor) else value == 0
    if content.summands() is None or not zero or not broadcastable(mask, content.shape):
        return NotImplemented
    rows = content.distinct()
    values = func(rows.values, of_rows(mask, rows.ids, content.shape), value)
    return changed(gradient, rows, values, bool(effects(func).writes))


def changed(gradient: HeldByRows, rows: Rows, values: Tensor, writes: bool) -> HeldByRows:
    """The gradient with other values of its rows; the same one, if the operator writes it."""
    content = gradient.content
    if writes:
        content.replace(rows._replace(values=values))
        return gradient
    return type(gradient)(Content(content.shape, rows._replace(values=values), notes=content.notes))


def broadcastable(other: Tensor, shape: torch.Size) -> bool:
    """Whether a tensor can be expanded to the shape, without making that larger."""
    given = (1,) * (len(shape) - other.dim()) + tuple(other.shape)
    return len(given) == len(shape) and all(a in (1, b) for a, b in zip(given, shape, strict=True))


def of_rows(other: Tensor, ids: Tensor, shape: torch.Size) -> Tensor:
    """What a dense tensor, expanded to the shape, has in the rows `ids`."""
    return other.index_select(0, ids) if other.dim() == 2 and other.size(0) == shape[0] else other


# ---------------------------------------------------------------- sums of gradients, and assignments


def added(func: Any, args: Any, kwargs: Any) -> Any:
    """A sum or difference of gradients: all rows of both. Added to a dense tensor: the rows that are held."""
    if len(args) != 2 or kwargs.keys() - {"alpha"} or not isinstance(args[1], HeldByRows) or not isinstance(args[0], Tensor):
        return elementwise(func, args, kwargs)
    first, second = args
    alpha = kwargs.get("alpha", 1) * (-1 if str(func.overloadpacket).startswith("aten.sub") else 1)
    alike = first.shape == second.shape and first.dtype == second.dtype and first.device == second.device
    more = second.content.summands()
    if more is None or not alike or not math.isfinite(alpha):
        return elementwise(func, args, kwargs)
    writes = bool(effects(func).writes)
    held = first.content.summands() if isinstance(first, HeldByRows) else None
    if held is None:
        if isinstance(first, HeldByRows) and (first.content.rows is not None or not writes):
            return NotImplemented
        more = second.content.distinct()
        dense = first.content.write("a sum") if isinstance(first, HeldByRows) else first if writes else first.clone()
        dense.index_add_(0, more.ids, more.values, alpha=alpha)
        return first if writes else dense
    values = more.values if alpha == 1 else more.values * alpha
    both = Rows(torch.cat([held.ids, more.ids]), torch.cat([held.values, values]))
    if writes:
        first.content.replace(both)
        return first
    return type(first)(Content(first.content.shape, both, notes=first.content.notes))


def filled(func: Any, args: Any, kwargs: Any) -> Any:
    """Zeros, or another number, in all rows."""
    gradient = args[0]
    value = args[1] if len(args) > 1 else 0
    if isinstance(value, Tensor) or not isinstance(gradient, HeldByRows):
        return NotImplemented
    if gradient.content.rows is None:
        func(gradient.content.write("a fill"), *args[1:])
    else:
        values = torch.empty((0, *gradient.shape[1:]), dtype=gradient.dtype, device=gradient.device)
        gradient.content.replace(Rows(torch.empty(0, dtype=torch.int64, device=gradient.device), values, value, True))
    return gradient


def assigned(func: Any, args: Any, kwargs: Any) -> Any:
    """A copy into a gradient, or of one into a dense tensor."""
    target, source = args[:2]
    if not isinstance(source, HeldByRows) or source.content.rows is None or target.shape != source.shape:
        return NotImplemented
    if isinstance(target, HeldByRows) and target.content.rows is not None:
        rows = source.content.rows
        if target.content is not source.content:
            values = rows.values.to(target.device, target.dtype, copy=True)
            target.content.replace(rows._replace(ids=rows.ids.to(target.device), values=values))
        return target
    dense = target.content.write("a copy") if isinstance(target, HeldByRows) else target
    rows = source.content.distinct()
    dense.fill_(rows.fill)
    dense.index_copy_(0, rows.ids.to(target.device), rows.values.to(target.device, target.dtype))
    return target


# ---------------------------------------------------------------- lists of tensors


def one_by_one(func: Any, args: Any, kwargs: Any) -> Any:
    """An operator on lists of tensors, by the operator on tensors of the same name, for each place with a gradient."""
    name = str(func.overloadpacket).removeprefix("aten._foreach_")
    single = getattr(aten, {"norm": "linalg_vector_norm"}.get(name, name), None)
    if single is None or kwargs.keys() - {"alpha", "value", "dtype"}:
        return NotImplemented
    options = {key: value for key, value in kwargs.items() if value is not None}
    if name == "norm":
        options = {**options, "dim": None} | ({"dtype": args[2]} if len(args) > 2 and args[2] is not None else {})
        args = args[:2]
    count = len(args[0])
    lists = [isinstance(value, (list, tuple)) and len(value) == count for value in args]

    def of(i: int) -> list[Any]:
        return [value[i] if is_list else value for value, is_list in zip(args, lists, strict=True)]

    own = {i for i in range(count) if any(isinstance(value, HeldByRows) for value in of(i))}
    others = [i for i in range(count) if i not in own]

    results: dict[int, Any] = {}
    for i in own:
        given, named = of(i), options
        if name.rstrip("_") in ("addcmul", "addcdiv") and len(given) > 3:
            given, named = given[:3], {**options, "value": given[3]}
        results[i] = single(*given, **named)
    if others:
        rest = [[value[i] for i in others] if is_list else value for value, is_list in zip(args, lists, strict=True)]
        if name == "norm" and "dtype" in options:
            rest.append(options["dtype"])
        found = func(*rest, **kwargs)
        results.update(zip(others, found or [None] * len(others), strict=True))
    return None if effects(func).writes else [results[i] for i in range(count)]


def unscaled(func: Any, args: Any, kwargs: Any) -> Any:
    """What `GradScaler` does: look for numbers that are not finite, and multiply by the inverse of the scale, in place."""
    tensors = []
    for value in args[0]:
        if isinstance(value, HeldByRows) and value.content.summands() is not None:
            rows = value.content.distinct()
            value.content.replace(rows)  # without the dense tensor that may have been made of it
            tensors.append(rows.values)
        else:
            tensors.append(value.content.write("`unscale_`") if isinstance(value, HeldByRows) else value)
    result = func(tensors, *args[1:], **kwargs)
    found_inf = args[1]
    for shards in {shards_of(value.content): None for value in args[0] if isinstance(value, HeldByRows)}:
        if shards is not None:  # whether to step is for all processes to agree on
            found_inf.copy_(shards.largest(found_inf))
    return result


RULES: dict[Any, Rule] = {
    aten.detach: alias, aten.alias: alias, aten.clone: copied, aten._to_copy: copied,
    aten.mul: multiplied, aten.mul_: multiplied, aten.masked_fill: masked, aten.masked_fill_: masked,
    aten.add: added, aten.add_: added, aten.sub: added, aten.sub_: added,
    aten.zero_: filled, aten.fill_: filled, aten.copy_: assigned, aten.index_fill_: index_filled,
    aten._amp_foreach_non_finite_check_and_unscale_: unscaled,
    **{getattr(aten, name): over_all for name in REDUCTIONS},
}  # fmt: skip
