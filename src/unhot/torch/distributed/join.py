"""Unequal numbers of steps: a process that has no batches left goes on to serve the rows that it has (`Join`)."""

from __future__ import annotations

import threading
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.join import Join, Joinable, JoinHook

from unhot.torch.distributed.collection import ShardedCollection
from unhot.torch.distributed.keyed import ShardedKeyedEmbedding
from unhot.torch.distributed.layer import ShardedLayer


class JoinTables(Joinable):
    """The sharded tables of a model, for `torch.distributed.algorithms.join.Join`. It is the first in its list.

    In a process that has no batches left, the tables go on to be looked up by others, and make their steps. So all tables make
    as many steps as the process with the most batches. A step is one call of the model, `backward`, and `optimizer.step()`.

    Args:
        model: the module that is called, such as a DistributedDataParallel.
        optimizer: what trains its tables.

    Raises: ValueError for a model without sharded tables.

    Example: with `torchrun --nproc-per-node=2`:

        with Join([unhot.torch.distributed.JoinTables(model, optimizer), model]):
            for ids, targets in batches:
                ...

    References: torch/distributed/algorithms/join.py.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__()
        inside: set[int] = set()
        self.layers: list[Any] = []
        for module in model.modules():
            if isinstance(module, (ShardedLayer, ShardedCollection, ShardedKeyedEmbedding)) and id(module) not in inside:
                self.layers.append(module)
                inside |= {id(inner) for inner in module.modules()}
        if not self.layers:
            raise ValueError("the model has no sharded tables. Call `unhot.torch.distributed.shard` first.")
        self.model, self.optimizer = model, optimizer
        self.peers = self.layers[0].peers
        self.called: list[Any] = []
        """The layers in the order of the last step's lookups."""
        self._begun = False
        self._hooks: list[Any] = []

    def _notify(self, module: nn.Module, given: Any) -> None:
        """Tell the processes that have no batches left of a step, in which they take part."""
        self._begun = True
        Join.notify_join_context(self)

    def _note(self, layer: nn.Module, given: Any) -> None:
        if self._begun:
            self.called, self._begun = [], False
        self.called.append(layer)

    def join_hook(self, **kwargs: Any) -> JoinHook:
        """What is done in a process without batches; asked for by `Join`."""
        self.leave()
        self._hooks = [self.model.register_forward_pre_hook(self._notify)]
        self._hooks += [layer.register_forward_pre_hook(self._note) for layer in self.layers]
        return _Serving(self)

    def leave(self) -> None:
        """Look at no more calls: those after `Join` are none of its steps."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @property
    def join_device(self) -> torch.device:
        """Where `Join` has what it sends."""
        found: torch.device = next(self.layers[0].parameters()).device
        return found

    @property
    def join_process_group(self) -> dist.ProcessGroup:
        """The group of the model, which need not be that of its tables."""
        found: Any = getattr(self.model, "process_group", None)
        group: dist.ProcessGroup = self.peers.given if found is None else found
        return group


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
        self._wait()
        self._thread = threading.Thread(target=self._step, name="unhot-join")
        self._thread.start()

    def post_hook(self, is_last_joiner: bool) -> None:
        """Wait for the last step."""
        self._wait()
        self.tables.leave()

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error

    def _step(self) -> None:
        try:
            tables = self.tables
            tables.optimizer.zero_grad(set_to_none=True)
            vectors: list[Tensor] = []
            for layer in list(tables.called) or tables.layers:
                vectors += layer.look_up_nothing()
            sum(part.sum() for part in vectors).backward()  # type: ignore[union-attr]
            for group in tables.optimizer.param_groups:
                for parameter in group["params"]:
                    if getattr(parameter, "other_shards", None) is None:
                        parameter.grad = None
            tables.optimizer.step()
            tables.optimizer.zero_grad(set_to_none=True)
        except BaseException as error:
            self._error = error
