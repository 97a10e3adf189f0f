"""The kernels on torch's operations, for tensors on any device; with the signatures of `unhot.kernels.reference`.

The histories stay on the host: a step hands the device the coefficients of the distinct steps in its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import setitem
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unhot.atomic import Call
from unhot.kernels.structs import Formula, PendingRows, Plan, Segment, StepNumbers


class Namespace:
    """What the laws call, for tensors and numbers."""

    sqrt, exp, abs, sign, where = torch.sqrt, torch.exp, torch.abs, torch.sign, torch.where
    reshape, sum = torch.reshape, torch.sum

    @staticmethod
    def maximum(a: Tensor, b: Any) -> Tensor:
        return torch.maximum(a, b if isinstance(b, Tensor) else a.new_tensor(b))

    @staticmethod
    def minimum(a: Tensor, b: Any) -> Tensor:
        return torch.minimum(a, b if isinstance(b, Tensor) else a.new_tensor(b))

    @staticmethod
    def power(x: Tensor, exponent: float) -> Tensor:
        return torch.pow(x.to(widest(x)), exponent)

    @staticmethod
    def narrowed(x: Tensor, like: Tensor) -> Tensor:
        return x.to(like.dtype)

    @staticmethod
    def mean_square(g: Tensor) -> Tensor:
        """In float64 where the device has it, and in an order of torch's own: one by one, as the CPU's, would take long."""
        norm: Tensor = torch.linalg.vector_norm(g, dim=1, keepdim=True, dtype=widest(g))  # without a table of squares
        return (norm * norm / max(g.size(1), 1)).to(g.dtype)


def widest(tensor: Tensor) -> torch.dtype:
    """The dtype in which sums are formed: float64 where the device has it."""
    return tensor.dtype if tensor.device.type == "mps" else torch.float64


class TorchKernels:
    """Kernels for the tables of one device."""

    name = "torch"
    frozen = -1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def stores(self, states: Sequence[Sequence[Tensor]], firsts: Sequence[int], last: Tensor | None) -> TorchStores:
        (state,) = states
        return TorchStores(state, last, self.device)

    def steps_of(self, rows: int) -> Tensor:
        return torch.zeros(rows, dtype=torch.int32, device=self.device)

    def span(self, start: int, stop: int) -> Tensor:
        return torch.arange(start, stop, device=self.device)

    def spread(self, start: int, stop: int, length: int, stride: int) -> Tensor:
        first = torch.arange(start, stop, stride, device=self.device)
        rows = (first[:, None] + torch.arange(length, device=self.device)).reshape(-1)
        return rows[(rows >= 0) & (rows < stop)]

    def copied(self, ids: Tensor) -> Tensor:
        return ids.clone()

    def same(self, ids: Tensor, others: Tensor) -> bool:
        return torch.equal(ids, others)

    def joined(self, ids: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(ids))

    def outside(self, ids: Tensor, rows: int) -> int:
        bad = (ids < 0) | (ids >= rows)
        return int(bad.to(torch.uint8).argmax()) if bool(bad.any()) else -1

    def number_rows(self, ids: Tensor, counts: Sequence[int], rows: Sequence[int], firsts: Sequence[int]) -> int:
        begin = 0
        for count, most, first in zip(counts, rows, firsts, strict=True):
            own = ids[begin : begin + count]
            bad = self.outside(own, most)
            if bad >= 0:
                return begin + bad
            own += first
            begin += count
        return -1

    def group(self, ids: Tensor) -> Plan:
        """The distinct rows; `order` is which of them each id is, and `starts` is nothing."""
        rows, inverse = torch.unique(ids, return_inverse=True)
        return Plan(rows, inverse, None)


class TorchStores:
    """The tensors of one table on one device."""

    def __init__(self, state: Sequence[Tensor], last: Tensor | None, device: torch.device) -> None:
        self.state, self.last, self.device = state, last, device

    def pending(self, ids: Tensor, now: int) -> tuple[Plan, Tensor, np.ndarray[Any, np.dtype[np.int64]]]:
        rows, inverse = torch.unique(ids, return_inverse=True)
        return (Plan(rows, inverse, None), *self.last_steps(rows, now))

    def last_steps(self, rows: Tensor, now: int) -> tuple[Tensor, np.ndarray[Any, np.dtype[np.int64]]]:
        """For each row which of the distinct steps it is, or -1 if it is `now`, on the device; the steps, on the host."""
        assert self.last is not None
        found, line = torch.unique(self.last[rows], return_inverse=True)
        steps = found.cpu().numpy().astype(np.int64)  # in rising order; for these alone the host waits
        if len(steps) and steps[-1] == now:
            steps, line = steps[:-1], torch.where(line == len(steps) - 1, -1, line)
        if len(steps) and steps[0] == TorchKernels.frozen:
            steps, line = steps[1:], torch.where(line >= 0, line - 1, line)
        return line, steps

    def gather(self, ids: Tensor, segments: Sequence[Segment]) -> None:
        (segment,) = segments
        torch.index_select(self.state[0], 0, ids, out=segment.vectors)

    def gather_settled(self, formula: Formula, rows: PendingRows, segments: Sequence[Segment]) -> None:
        (segment,) = segments
        weights = self._settled(formula, rows)[0]
        torch.index_select(weights, 0, rows.plan.order, out=segment.vectors)

    def settle(self, formula: Formula, rows: PendingRows, now: int) -> list[Call]:
        return self._written(rows.plan.rows, self._settled(formula, rows), now)

    def step(
        self, formula: Formula, plan: Plan, pending: PendingRows | None, step: StepNumbers, gradients: Sequence[Segment]
    ) -> list[Call]:
        (segment,) = gradients
        rows = [array[plan.rows] for array in self.state] if pending is None else self._settled(formula, pending)
        law = formula.law
        scalars = law.Scalars(*self._given(step.scalars))
        new = law.update(Namespace, tuple(rows), self._sum_by_row(plan, segment.vectors), scalars, formula.shared)
        return self._written(plan.rows, new, step.now)

    @staticmethod
    def _sum_by_row(plan: Plan, gradients: Tensor) -> Tensor:
        """The sum of each distinct row's gradients, in float64 where the device has it, rounded once."""
        wide = widest(gradients)
        total = torch.zeros((len(plan.rows), gradients.size(1)), dtype=wide, device=gradients.device)
        return total.index_add_(0, plan.order, gradients.to(wide)).to(gradients.dtype)

    def _written(self, rows: Tensor, new: Sequence[Tensor], now: int) -> list[Call]:
        if self.last is not None and bool((self.last[rows] == TorchKernels.frozen).any()):
            moving = self.last[rows] != TorchKernels.frozen
            rows, new = rows[moving], [array[moving] for array in new]
        calls: list[Call] = [partial(setitem, array, rows, part) for array, part in zip(self.state, new, strict=True)]
        return calls if self.last is None else [*calls, partial(setitem, self.last, rows, now)]

    def _settled(self, formula: Formula, rows: PendingRows) -> list[Tensor]:
        state = [array[rows.plan.rows] for array in self.state]
        deferred = (rows.line_of_row >= 0).nonzero()[:, 0]
        if len(deferred):
            lines = self._given(rows.coefficients)[rows.line_of_row[deferred]]
            law, given = formula.law, tuple(array[deferred] for array in state)
            new = law.settle(Namespace, given, law.columns(lines), formula.shared)
            for array, part in zip(state, new, strict=True):
                array[deferred] = part
        return state

    def _given(self, numbers: Any) -> Tensor:
        """Coefficients from the host, in one copy."""
        single = self.device.type == "mps"  # which has no float64
        return torch.from_numpy(numbers.astype(np.float32) if single else numbers).to(self.device)
