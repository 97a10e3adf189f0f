"""Rows that are added to a table parameter, given back or frozen, with what the optimizer that owns it keeps of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import setitem
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unhot.atomic import Call, together
from unhot.engine import Engine
from unhot.settling import clock_of
from unhot.store import Store
from unhot.torch._private import unseen, version_of, without_torch_functions
from unhot.torch.backend import TorchBackend
from unhot.torch.gradient import RowGradient
from unhot.torch.gradient_content import Content, OtherShards
from unhot.torch.held_state import slots_in, steps_made
from unhot.torch.parameter import TableParameter
from unhot.torch.placement import Host
from unhot.torch.rooms import dtype_of, first_rows
from unhot.training import ownership_of

Rows = npt.NDArray[np.int64]


def add_rows(
    table: TableParameter,
    again: Rows,
    weights: Tensor,
    removed: Rows,
    *,
    from_the_start: bool,
    others: OtherShards | None = None,
) -> None:
    """Give a table rows with these weights: the first of them take the places of the rows `again`, the others come at the end.

    Rows that are there from the start of training have had no gradient in the steps made so far; others begin now. None of
    them is frozen. With the rows, it is noted which ones are `removed` then, and for a shard, what the `others` are.
    """
    if len(weights) > len(again) and table.is_cpu and table.is_shared():  # type: ignore[no-untyped-call]
        raise RuntimeError(
            "the weight lies in memory that other processes share, which would not see its new rows. Add rows before"
            " `share_memory()`."
        )
    numbers: dict[str, object] = {"_removed_rows": removed, "_frozen_rows": np.setdiff1d(table.frozen_rows, again)}
    noted: list[Call] = [partial(table.__dict__.update, numbers)]
    if others is not None:
        numbers["_other_shards"] = others
        noted.append(partial(setattr, table.notes, "other_shards", others))
    without_torch_functions(_of_owner, table, partial(_add, table, again, weights.detach(), from_the_start, noted))


def freeze(table: TableParameter, rows: Rows) -> None:
    """Leave these rows of a table as they are from now on, and train all others; the numbers rise."""
    without_torch_functions(_of_owner, table, partial(_freeze, table, rows))


def reserve(table: TableParameter, capacity: int) -> None:
    """Have room for so many rows, which take memory once they are there."""
    rooms = table.notes.rooms
    rooms.capacity = capacity
    if capacity > len(table):
        weights = table.detach()
        without_torch_functions(setattr, table, "data", first_rows(rooms.reaching("", weights, capacity), len(weights)))


def resize(table: TableParameter, rows: int) -> None:
    """Let a table have so many rows of zeros. Its optimizer keeps a state of the old size, until another is loaded."""
    without_torch_functions(_of_owner, table, partial(_resize, table, rows))


def _resize(table: TableParameter, rows: int, backend: TorchBackend | None) -> None:
    if backend is not None:
        backend.hand_over()
        backend.kept, backend.steps, backend._pointer = {}, None, -1
    table.grad = None
    table.notes.rooms.clear()
    together(_in_place(table, None, {"": table.detach().new_zeros((rows, table.size(1)))}))


def _of_owner(table: TableParameter, work: Callable[[TorchBackend | None], None]) -> None:
    """`work` with what trains the table, if something does, whose lock is held."""
    tie = ownership_of(table)
    if tie is None:
        work(None)
    else:
        tie.backend.lock.holding(partial(work, tie.backend))


def _freeze(table: TableParameter, rows: Rows, backend: TorchBackend | None) -> None:
    noted = partial(table.__dict__.update, _frozen_rows=rows)
    engine = None if backend is None else backend.engine
    if backend is None or engine is None:
        noted()
        return
    backend.memory.alone(partial(engine.freeze, _frozen_with(backend, engine, rows), [noted]))


def _frozen_with(backend: TorchBackend, engine: Engine, rows: Rows) -> Any:
    """The frozen rows of an engine's stores, of which those of one table are these."""
    frozen = [engine.frozen_in(place) + store.first for place, store in enumerate(engine.stores)]
    frozen[backend.place] = backend.memory.of_host(rows + engine.stores[backend.place].first)
    return engine.kernels.joined(frozen)


def _add(
    table: TableParameter, again: Rows, weights: Tensor, from_the_start: bool, noted: list[Call], backend: TorchBackend | None
) -> None:
    engine = None if backend is None else backend._current()
    in_the_engine = table.shard is None  # the turns of a shard's rows go by the number of all rows: it gets another engine
    if in_the_engine and backend is not None and engine is not None and isinstance(backend.memory, Host):
        engine.change_rows(lambda: [*_added_to_engine(table, backend, engine, again, weights, from_the_start), *noted])
        engine.replan()
        return
    if backend is not None:
        backend.hand_over()
        backend._pointer = -1
    slots = {} if backend is None else slots_of(table, backend)
    state = _state_of(table, backend, slots, weights, from_the_start)
    stop = len(table) + len(weights) - len(again)
    calls: list[Call] = []
    grown: dict[str, Tensor] = {}
    for (name, tensor), part in zip({"": table.detach(), **slots}.items(), state, strict=True):
        grown[name] = first_rows(table.notes.rooms.reaching(name, tensor, stop), stop) if stop > len(tensor) else tensor
        places = torch.from_numpy(again).to(tensor.device)
        calls += [
            partial(setitem, grown[name].data, places, part[: len(again)].to(tensor)),
            partial(setitem, grown[name].data, slice(len(tensor), stop), part[len(again) :].to(tensor)),
        ]
    with unseen():
        together([*calls, *_in_place(table, backend, grown), *noted])


def _added_to_engine(
    table: TableParameter, backend: TorchBackend, engine: Engine, again: Rows, weights: Tensor, from_the_start: bool
) -> list[Call]:
    """What adds rows to the store of an engine, and to the parameter and the optimizer's state, whose memory that is."""
    assert engine.clock is not None
    given = weights.to(table.dtype).cpu().contiguous().numpy()
    owner: Any = backend.owner
    held = owner.held_state[table]
    slots = {owner.slots[name]: held[owner.slots[name]] for name in engine.clock.slots}
    if from_the_start and backend.steps is not None:
        made = backend.steps.again(owner, held, slots, torch.from_numpy(given), engine.now)
        state = [tensor.numpy() for tensor in made]
    else:
        state = engine.untouched(given) if from_the_start else engine.new(given)
    tensors = {"": table.detach(), **slots}
    rooms = table.notes.rooms

    def larger(_: Store, rows: int) -> list[Any]:
        found = [rooms.reaching(name, tensor, rows) for name, tensor in tensors.items()]
        shared = min(map(len, found))  # those that were made before the optimizer's have another size
        return [room[:shared].numpy() for room in found]

    calls = engine.adding(backend.place, again, state, larger)
    if len(left := np.setdiff1d(table.frozen_rows, again)) < len(table.frozen_rows):
        calls = [*engine.freezing(_frozen_with(backend, engine, left)), *calls]
    stop = len(table) + len(given) - len(again)
    if stop == len(table):
        return calls
    grown = {name: first_rows(rooms[name], stop) for name in tensors}
    return [*calls, *_in_place(table, backend, grown)]


def slots_of(table: TableParameter, backend: TorchBackend) -> dict[str, Tensor]:
    """What the optimizer keeps of each row of the table, by torch's names."""
    owner: Any = backend.owner
    state = owner.held_state.get(table, {})
    return slots_in({name: state.get(name) for name in owner.slots.values()}, table)


def _state_of(
    table: TableParameter, backend: TorchBackend | None, slots: dict[str, Tensor], weights: Tensor, from_the_start: bool
) -> Sequence[Tensor]:
    """Weights and slots of new rows, where there is no engine."""
    owner: Any = None if backend is None else backend.owner
    if backend is not None and backend.steps is not None and from_the_start:
        held = owner.held_state.get(table, {})
        now = steps_made(held.get("step", 0), "the 'step' in `optimizer.state` of a table")
        return backend.steps.again(owner, held, slots, weights.to(table), now)
    if backend is None or not slots:
        kept = backend.kept.get("kept_of_weight", 1.0) if backend is not None and from_the_start else 1.0
        return [weights * kept]
    group = next(group for group in owner.param_groups if any(table is given for given in group["params"]))
    try:
        _, clock = clock_of(owner.core(**owner.hyperparameters(group)), dtype_of(table), len(table), ())
    except (TypeError, ValueError):  # trained densely, since the core has no such optimizer
        start = float(group.get("initial_accumulator_value", 0.0))
        return [weights, *(slot.new_full((len(weights), slot.size(1)), start) for slot in slots.values())]
    clock.load_state({"largest_beta": 0.0, "momentum_product": 1.0, **backend.kept})
    given = weights.double().cpu().numpy()
    state = clock.untouched(given) if from_the_start else (given, *clock.new_slots(given))
    by_name = dict(zip((owner.slots[name] for name in clock.slots), state[1:], strict=True))
    zeros = [np.zeros((len(weights), slot.size(1))) for slot in slots.values()]
    return [torch.from_numpy(state[0]), *(torch.from_numpy(by_name.get(n, z)) for n, z in zip(slots, zeros, strict=True))]


def _in_place(table: TableParameter, backend: TorchBackend | None, grown: dict[str, Tensor]) -> list[Call]:
    """What puts larger tensors in the place of the parameter's memory and of the optimizer's state."""
    weights = grown.pop("")
    calls = in_larger_memory(table, weights)
    if backend is None:
        return calls
    owner: Any = backend.owner
    if grown:
        calls.append(partial(owner.held_state[table].update, grown))
    if backend.engine is not None:
        kept = backend._kept | {name: (tensor, version_of(tensor)) for name, tensor in grown.items()}
        calls.append(partial(backend.__dict__.update, _pointer=weights.data_ptr(), _weights=weights, _kept=kept))
    return calls


def in_larger_memory(parameter: Tensor, weights: Tensor) -> list[Call]:
    """What gives a parameter this memory, and its gradient zeros for the rows that it has not had."""
    enlarge_on_arrival(parameter)
    # The node of autograd that collects the gradient goes on wanting the old shape, unless the dtype changes.
    other = torch.empty(0, dtype=torch.float64 if weights.dtype != torch.float64 else torch.float32, device=weights.device)
    calls: list[Call] = [partial(setattr, parameter, "data", other), partial(setattr, parameter, "data", weights)]
    if parameter.grad is not None:
        calls.append(partial(setattr, parameter, "grad", larger_gradient(parameter.grad, weights.shape)))
    return calls


def enlarge_on_arrival(parameter: Tensor) -> None:
    """Have the gradients of lookups made so far, whose `backward` is yet to come, become larger if the parameter has."""

    def enlarge(gradients: tuple[Tensor | None]) -> tuple[None] | None:
        (gradient,) = gradients
        if gradient is None or gradient.shape == parameter.shape:
            return None
        larger = larger_gradient(gradient, parameter.shape)
        torch.autograd.backward([parameter], [larger], create_graph=torch.is_grad_enabled())
        return (None,)

    if parameter.requires_grad:
        torch.autograd.graph.get_gradient_edge(parameter).node.register_prehook(enlarge)


def larger_gradient(gradient: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of a parameter that has had rows or columns added, whose gradient is 0."""
    if isinstance(gradient, RowGradient) and gradient.content.rows is not None:
        return RowGradient(Content(shape, gradient.content.rows, None, gradient.content.notes))
    if gradient.is_sparse:
        return torch.sparse_coo_tensor(gradient._indices(), gradient._values(), shape, device=gradient.device)
    dense = gradient.content.dense if isinstance(gradient, RowGradient) else gradient
    assert dense is not None
    added = [(0, size - before) for size, before in zip(shape, dense.shape, strict=True)]
    return torch.nn.functional.pad(dense, [number for pair in reversed(added) for number in pair])
