"""Which tables of an optimizer make their steps together, and these steps: one call for all tables of a clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from unhot.atomic import Call, together
from unhot.clock import Clock, Hyper
from unhot.engine import Batch, Engine
from unhot.kernels.structs import Segment
from unhot.optimizers import Optimizer
from unhot.settling import clock_of, planned_for
from unhot.store import numbered
from unhot.torch.backend import OF_NEW_ROWS, TorchBackend, why_dense
from unhot.torch.held_state import Owner, Start, StateError
from unhot.torch.joint import Joint, joint_of
from unhot.torch.parameter import TableParameter
from unhot.torch.placement import Host
from unhot.torch.replay import NotedSteps


class Ready(NamedTuple):
    """A table whose rows are to be stepped, with its gradient."""

    parameter: TableParameter
    backend: TorchBackend
    gradient: Tensor
    state: dict[str, Any]
    """What torch keeps of the parameter."""


class Step(NamedTuple):
    """The step of the tables of one clock, which cannot fail any more; or why they have to be stepped densely."""

    tables: Sequence[Ready]
    hyper: Hyper | None
    reason: str = ""

    def make(self, maximize: bool) -> None:
        """Make it."""
        first = self.tables[0].backend
        assert first.engine is not None
        assert self.hyper is not None
        ids, segments = self._gradients(first.engine, maximize)
        make_step(first, ids, segments, self.hyper)
        for table in self.tables:
            table.backend.tell_written()

    def _gradients(self, engine: Engine, maximize: bool) -> tuple[list[Any], list[Segment]]:
        """The ids, as numbers of the engine's rows, and their gradients; those of one lookup of several tables in one piece."""
        ids: list[Any] = []
        segments: list[Segment] = []
        alone: list[Ready] = []
        joints: dict[int, tuple[Joint, list[Ready]]] = {}
        for table in self.tables:
            joint = joint_of(table.gradient)
            if joint is None or joint.stores is not engine.stores or maximize:
                alone.append(table)
            else:
                joints.setdefault(id(joint), (joint, []))[1].append(table)
        for joint, members in joints.values():
            if len(members) < joint.tables:  # of some the gradient was changed
                alone += members
                continue
            ids.append(joint.numbers)
            segments += joint.segments
        for _, backend, gradient, _ in alone:
            named, segment = backend.gradients(gradient, maximize)
            ids.append(named)
            segments.append(segment)
        return ids, segments


def make_step(backend: TorchBackend, ids: list[Any], gradients: list[Segment], hyper: Hyper) -> None:
    """A step of the engine of a table, and of all that share it."""
    engine = backend.engine
    assert engine is not None
    batch = Batch(engine.kernels.joined(ids), gradients)
    backend.memory.alone(partial(engine.step, lambda: batch, lambda: hyper))


def steps(
    owner: Owner,
    core: Optimizer,
    group: Mapping[str, Any],
    tables: Sequence[Ready],
    all_backends: Sequence[TorchBackend],
) -> Iterator[Step]:
    """The steps of tables of one parameter group, a clock at a time; `core` has the hyperparameters of the group.

    Tables that go on from the same point share a clock. A table that skips a step leaves it, with a copy of its history.
    """
    new = [table for table in tables if table.backend.engine is None]
    for alike in grouped(owner, new):
        try:
            bind(owner, core, group, alike)
        except StateError:
            raise
        except ValueError as error:
            yield Step(alike, None, why_dense(error, owner.core))
    tables = [table for table in tables if table.backend.engine is not None]
    by_engine: dict[int, list[Ready]] = {}
    for table in tables:
        by_engine.setdefault(id(table.backend.engine), []).append(table)
    all_of: dict[int, list[TorchBackend]] = {key: [] for key in by_engine}
    for backend in all_backends:
        all_of.get(id(backend.engine), []).append(backend)
    for key, members in by_engine.items():
        engine = members[0].backend.engine
        assert engine is not None
        present = {member.backend.place for member in members}
        absent = [backend for backend in all_of[key] if backend.place not in present]
        if absent:
            separate(engine, absent)
        try:
            yield Step(members, engine.begin_step(core))
        except StateError:
            raise
        except ValueError as error:
            yield Step(members, None, why_dense(error, owner.core))


def separate(engine: Engine, leaving: Sequence[TorchBackend]) -> None:
    """Give tables an engine of their own, which goes on from the same point."""
    places = [backend.place for backend in leaving]
    made = engine.apart(places)
    moved = [partial(backend.__dict__.update, engine=made, place=place) for place, backend in enumerate(leaving)]
    together([*engine.leave(places), *moved])


def grouped(owner: Owner, tables: Sequence[Ready]) -> list[list[Ready]]:
    """The tables, by the point from which they go on."""
    groups: dict[tuple[Any, ...], list[Ready]] = {}
    for table in tables:
        alone = () if isinstance(table.backend.memory, Host) else (id(table),)  # its kernels take one table at a time
        groups.setdefault((*table.backend.start(table.state, owner), *alone), []).append(table)
    return list(groups.values())


def go_on(clock: Clock, start: Start) -> None:
    """Let a new clock go on from here."""
    numbers = {"momentum_begun": start.momentum_begun, "momentum_product": start.momentum_product, "largest_beta": 0.0}
    clock.load_state({**numbers, **dict(start.kept)})


def after_dense_step(core: Optimizer, start: Start) -> dict[str, float]:
    """What is known of rows without a gradient after a step that torch's code is going to make."""
    _, clock = clock_of(core, start.dtype, 1, start.held)
    go_on(clock, start)
    together(clock.advance(start.now + 1, core.read(start.now + 1)))
    return {name: number for name, number in clock.state().items() if name in OF_NEW_ROWS}


def note_dense_step(
    owner: Owner, core: Optimizer | str, group: Mapping[str, Any], backend: TorchBackend, state: Mapping[str, Any]
) -> None:
    """Note, for rows that are added later, a step of a table that torch's code is going to make; `state` is its state there."""
    try:
        start = Start.of(state, owner, backend.kept, np.dtype(np.float64), None)
    except StateError:  # which torch takes and we do not: new rows then hold what they are given
        backend.kept, backend.steps = {}, None
        return
    kept = {}
    if isinstance(core, Optimizer):
        with suppress(TypeError, ValueError):
            kept = after_dense_step(core, start)
    if not kept and backend.steps is None:
        held = {owner.slots[name] for name in start.held}
        backend.steps = NotedSteps(start.now, "step" in owner.counters, start.momentum_product, held, backend.kept)
    backend.kept = kept
    note_step(owner, group, backend, start.now)


def note_step(owner: Owner, group: Mapping[str, Any], backend: TorchBackend, now: int) -> None:
    """Note a step after `now` others, if it may have to be made again."""
    if backend.steps is not None:
        backend.steps.note(now, group, owner.defaults)


def planned_rows(table: Ready) -> int:
    """For how many rows the history is made: all of a table's, also where some of them are here."""
    shard, rows = table.parameter.shard, len(table.parameter)
    return planned_for(rows, max(rows, table.parameter.notes.rooms.capacity)) if shard is None else shard.layout.rows


def bind(owner: Owner, core: Optimizer, group: Mapping[str, Any], tables: Sequence[Ready]) -> None:
    """Make an engine on torch's memory, which goes on from what torch's state holds; it is given the slots that it lacks."""
    start = tables[0].backend.start(tables[0].state, owner)
    weights = [table.backend.weights_array() for table in tables]
    shards = [table.parameter.shard for table in tables]
    planned = sum(map(planned_rows, tables))
    snapshot, clock = clock_of(core, start.dtype, planned, start.held)
    go_on(clock, start)
    slots = [table.backend.slots_for(clock, owner, group, table.state, start.held) for table in tables]
    states = [(array, arrays) for array, (_, arrays) in zip(weights, slots, strict=True)]
    engine = Engine(numbered(states, shards), snapshot, clock, start.now, start.kernels, planned)
    calls: list[Call] = []
    for place, (table, (tensors, _)) in enumerate(zip(tables, slots, strict=True)):
        calls += table.backend.bound(engine, place, table.state, tensors)
    if any(len(table.parameter.frozen_rows) for table in tables):
        firsts = [store.first for store in engine.stores]
        rows = [table.parameter.frozen_rows + first for table, first in zip(tables, firsts, strict=True)]
        engine.freeze(tables[0].backend.memory.of_host(np.concatenate(rows)))
    together(calls)
