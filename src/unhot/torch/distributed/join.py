"""Unequal numbers of steps: a process that has no batches left goes on to serve the rows that it has (`Join`).

What the others do between `backward` and the next call of the model is told by signals: a step with these hyperparameters, or
none. All processes of the tables' group take part in each signal, one operation of a few numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from enum import IntEnum
from math import inf
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.join import Join, Joinable, JoinHook

from unhot.torch.distributed.collection import ShardedCollection
from unhot.torch.distributed.keyed import ShardedKeyedEmbedding
from unhot.torch.distributed.layer import ShardedLayer
from unhot.torch.distributed.peers import Group, as_group
from unhot.torch.gradient import RowGradient


class Signal(IntEnum):
    """What the processes that have batches do next. The larger one counts, should they not agree."""

    GONE_ON = 1
    """They have called the model again, or come to the end; the gradients there are belong to no step."""
    ADDING = 2
    """The same, but the gradients there are remain, for those of the next call to be added."""
    STEP = 3


class JoinTables(Joinable):
    """The sharded tables of a model, for `torch.distributed.algorithms.join.Join`. It is the first in its list.

    In a process that has no batches left, the tables go on to be looked up by others, and make their steps, with the
    hyperparameters of those who have batches. So all tables make as many steps as the process with the most batches. In each
    step, gradients are set to zero, the model is called, and `backward` and `optimizer.step()` follow. Several calls of model
    and `backward` may come before a step.

    What asks for a gradient's shards in all processes, as clipping the norm and `GradScaler` do, is an error there, and so is
    `prefetch`. Give processes empty batches instead of `Join` then.

    Args:
        model: the module that is called, such as a DistributedDataParallel.
        optimizer: what trains its tables.
        group: the process group that `Join` uses, another than that of the tables. None for that of the model, if it is a
            DistributedDataParallel, or that of all processes.

    Raises: ValueError for a model without sharded tables, or whose process group is that of the tables. In the loop,
        RuntimeError for what needs all processes.

    Example: with `torchrun --nproc-per-node=2`:

        with Join([unhot.torch.distributed.JoinTables(model, optimizer), model]):
            for ids, targets in batches:
                ...

    References: torch/distributed/algorithms/join.py.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, group: Group = None) -> None:
        super().__init__()
        inside: set[int] = set()
        self.layers: list[Any] = []
        for module in model.modules():
            if isinstance(module, (ShardedLayer, ShardedCollection, ShardedKeyedEmbedding)) and id(module) not in inside:
                self.layers.append(module)
                inside |= {id(inner) for inner in module.modules()}
        if not self.layers:
            raise ValueError("the model has no sharded tables. Call `unhot.torch.distributed.shard` first.")
        self.model, self.optimizer, self.group = model, optimizer, group
        self.peers = self.layers[0].peers
        self.called: list[Any] = []
        """The layers in the order of the last step's lookups."""
        self._begun = False
        self._open = self._stepped = False
        """Whether all are to be told what follows a call of the model; whether a step has followed."""
        self._hooks: list[Any] = []

    def _notify(self, module: nn.Module, given: Any) -> None:
        """Tell the processes that have no batches left of a call of the model, in which they take part."""
        self._begun = True
        Join.notify_join_context(self)
        if self._open:
            kept = not self._stepped and any(holds_numbers(shard.grad) for shard in self.shards() if shard.grad is not None)
            self.signal(Signal.ADDING if kept else Signal.GONE_ON)
        self._open, self._stepped = True, False

    def _note(self, layer: nn.Module, given: Any) -> None:
        if self._begun:
            self.called, self._begun = [], False
        self.called.append(layer)

    def _tell_of_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.signal(Signal.STEP)
        self._stepped = True

    def join_hook(self, **kwargs: Any) -> JoinHook:
        """What is done in a process without batches; asked for by `Join`."""
        self.leave()
        self._open = self._stepped = False
        self._hooks = [self.model.register_forward_pre_hook(self._notify)]
        self._hooks += [layer.register_forward_pre_hook(self._note) for layer in self.layers]
        self._hooks.append(self.optimizer.register_step_pre_hook(self._tell_of_step))
        for layer in self.layers:
            layer.peers.may_end_apart = True
        return _Serving(self)

    def leave(self) -> None:
        """Look at no more calls: those after `Join` are none of its steps."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for layer in self.layers:
            layer.peers.may_end_apart = False

    # ------------------------------------------------------------------ signals

    def begin_to_serve(self) -> None:
        """Hear from the others what becomes of the gradients of the last batch here."""
        if self._open:
            used = self.signal(None) is Signal.GONE_ON or self._stepped
            self._open = False
            if used:
                self.optimizer.zero_grad(set_to_none=True)
        self.leave()

    def end(self) -> None:
        """Say that nothing follows the last call."""
        if self._open:
            self._open = False
            self.signal(Signal.GONE_ON)
        self.leave()

    def signal(self, own: Signal | None) -> Signal:
        """Send a signal, with the hyperparameters, or None to take over what the others send."""
        held = list(hyperparameters(self.optimizer))
        numbers = [-inf] * (1 + len(held)) if own is None else [own, *held]
        sent = torch.tensor(numbers, dtype=torch.float64, device=self.peers.device)
        found = self.peers.agreed(sent, dist.ReduceOp.MAX, "what follows a call of the model").tolist()
        if own is None:
            take_over(self.optimizer, iter(found[1:]))
        return Signal(int(found[0]))

    def shards(self) -> Iterator[Any]:
        """The parameters that are shards of tables."""
        for group in self.optimizer.param_groups:
            yield from (parameter for parameter in group["params"] if getattr(parameter, "other_shards", None) is not None)

    # ------------------------------------------------------------------ what `Join` asks for

    @property
    def join_device(self) -> torch.device:
        """Where `Join` has what it sends."""
        found: torch.device = next(self.layers[0].parameters()).device
        return found

    @property
    def join_process_group(self) -> dist.ProcessGroup:
        """The group given, that of the model, or all processes: not that of the tables, which are served while `Join` waits."""
        found: Any = getattr(self.model, "process_group", None) if self.group is None else as_group(self.group)
        if found is None and dist.get_world_size() == self.peers.size:
            found = dist.group.WORLD
        if found is None or found is self.peers.group:
            raise ValueError(
                "`Join` needs another process group than the tables, with the same processes. Make one, and write"
                " JoinTables(model, optimizer, group), or wrap the model in DistributedDataParallel with it."
            )
        group: dist.ProcessGroup = found
        return group


def holds_numbers(gradient: Tensor) -> bool:
    """Whether a gradient of a shard may hold something, since it was not set to zero; that of no rows may."""
    values: Tensor | None = gradient
    if gradient.is_sparse:
        values = gradient._values()
    elif isinstance(gradient, RowGradient):
        values = gradient.values
    return values is None or not len(values) or bool((values != 0).any())


def hyperparameters(optimizer: torch.optim.Optimizer) -> Iterator[float]:
    """The numbers in the groups of an optimizer, in an order that is the same everywhere."""
    for _, _, value in places(optimizer):
        yield float(value)


def take_over(optimizer: torch.optim.Optimizer, numbers: Iterator[float]) -> None:
    """Set the numbers in the groups of an optimizer to these."""
    for group, key, value in list(places(optimizer)):
        number = next(numbers)
        if isinstance(key, tuple):
            name, place = key
            held = list(group[name])
            held[place] = type(value)(number)
            group[name] = tuple(held)
        elif isinstance(value, Tensor):
            value.fill_(number)
        else:
            group[key] = type(value)(number)


def places(optimizer: torch.optim.Optimizer) -> Iterator[tuple[dict[str, Any], Any, Any]]:
    """Where the numbers are: a group, a name, or a name and a place in a tuple; and what is there."""
    for group in optimizer.param_groups:
        for name in sorted(group):
            value = group[name]
            if isinstance(value, tuple):
                yield from ((group, (name, place), part) for place, part in enumerate(value) if is_number(part))
            elif is_number(value):
                yield group, name, value


def is_number(value: Any) -> bool:
    """Whether it is what a schedule may change."""
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class _Serving(JoinHook):
    """Steps without ids of one's own.

    They are made in a thread: the others look up while they compute, and go on to exchange dense gradients, which the next hook
    takes part in.
    """

    def __init__(self, tables: JoinTables) -> None:
        self.tables = tables
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def main_hook(self) -> None:
        """Take part in one step of the others."""
        if self._thread is None:
            self.tables.begin_to_serve()
        self._wait()
        self._thread = threading.Thread(target=self._serve, name="unhot-join")
        self._thread.start()

    def post_hook(self, is_last_joiner: bool) -> None:
        """Wait for the last step."""
        self.tables.end()
        self._wait()

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error

    def _serve(self) -> None:
        """Take part in a call of the model, and in the step that follows it, if one does."""
        try:
            tables = self.tables
            vectors: list[Tensor] = []
            for layer in list(tables.called) or tables.layers:
                vectors += layer.look_up_nothing()
            sum(part.sum() for part in vectors).backward()  # type: ignore[union-attr]
            shards = {id(parameter) for parameter in tables.shards()}
            for group in tables.optimizer.param_groups:
                for parameter in group["params"]:
                    if id(parameter) not in shards:
                        parameter.grad = None
            while (signal := tables.signal(None)) is Signal.STEP:
                tables.optimizer.step()
                tables.optimizer.zero_grad(set_to_none=True)
            if signal is Signal.GONE_ON:
                tables.optimizer.zero_grad(set_to_none=True)
        except BaseException as error:
            self._error = error
