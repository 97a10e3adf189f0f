"""The kernels on torch's operations, for tensors on any device; with the signatures of `unhot.kernels.reference`.

The histories stay on the host: a step hands the device the coefficients of the distinct steps in its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import setitem
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unhot.atomic import Call
from unhot.clock import Clock


class Plan(NamedTuple):
    """As `unhot.kernels.plan.Plan`, with which of `rows` each id is in place of where the rows' ids begin."""

    rows: Tensor
    inverse: Tensor


class Namespace:
    """What the rules call, for tensors and numbers."""

    sqrt, abs, sign, where = torch.sqrt, torch.abs, torch.sign, torch.where
    reshape, sum = torch.reshape, torch.sum

    @staticmethod
    def maximum(a: Tensor, b: Any) -> Tensor:
        return torch.maximum(a, b if isinstance(b, Tensor) else a.new_tensor(b))


class TorchKernels:
    """Kernels for the tables of one device."""

    name = "torch"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def clocks(self, rows: int, now: int) -> Tensor:
        return torch.full((rows,), now, dtype=torch.int32, device=self.device)

    def span(self, start: int, stop: int) -> Tensor:
        return torch.arange(start, stop, device=self.device)

    def copied(self, ids: Tensor) -> Tensor:
        return ids.clone()

    def same(self, ids: Tensor, others: Tensor) -> bool:
        return torch.equal(ids, others)

    def outside(self, ids: Tensor, rows: int) -> int:
        bad = (ids < 0) | (ids >= rows)
        return int(bad.to(torch.uint8).argmax()) if bool(bad.any()) else -1

    def group(self, ids: Tensor, last: Tensor | None = None) -> Plan:
        return Plan(*torch.unique(ids, return_inverse=True))

    def last_steps(self, last: Tensor, rows: Tensor, now: int) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Tensor]:
        """The distinct steps, on the host, and for each row which of them it is, or -1 if it is `now`, on the device."""
        steps, which = torch.unique(last[rows], return_inverse=True)
        if len(steps) and int(steps[-1]) == now:  # the largest there is
            steps, which = steps[:-1], torch.where(which == len(steps) - 1, -1, which)
        return steps.cpu().numpy().astype(np.int64), which

    def gather(self, weights: Tensor, ids: Tensor, out: Tensor) -> None:
        torch.index_select(weights, 0, ids, out=out)

    def gather_settled(
        self, rule: Clock, state: Sequence[Tensor], plan: Plan, which: Tensor, coefficients: Any, out: Tensor
    ) -> None:
        weights = self._settled(rule, state, plan.rows, which, coefficients)[0]
        torch.index_select(weights, 0, plan.inverse, out=out)

    def settle(
        self,
        rule: Clock,
        state: Sequence[Tensor],
        last: Tensor,
        rows: Tensor,
        which: Tensor,
        coefficients: Any,
        now: int,
    ) -> list[Call]:
        return self._written(state, last, rows, self._settled(rule, state, rows, which, coefficients), now)

    def step(
        self,
        rule: Clock,
        state: Sequence[Tensor],
        last: Tensor | None,
        plan: Plan,
        which: Tensor | None,
        coefficients: Any,
        scalars: Any,
        gradients: Tensor,
        now: int,
    ) -> list[Call]:
        if which is None:
            rows = [array[plan.rows] for array in state]
        else:
            rows = self._settled(rule, state, plan.rows, which, coefficients)
        new = rule.update(Namespace, tuple(rows), self._sum_by_row(plan, gradients), self._given(scalars))
        return self._written(state, last, plan.rows, new, now)

    @staticmethod
    def _sum_by_row(plan: Plan, gradients: Tensor) -> Tensor:
        """The sum of each distinct row's gradients, in float64 where the device has it, rounded once."""
        wide = gradients.dtype if gradients.device.type == "mps" else torch.float64
        total = torch.zeros((len(plan.rows), gradients.size(1)), dtype=wide, device=gradients.device)
        return total.index_add_(0, plan.inverse, gradients.to(wide)).to(gradients.dtype)

    @staticmethod
    def _written(state: Sequence[Tensor], last: Tensor | None, rows: Tensor, new: Sequence[Tensor], now: int) -> list[Call]:
        calls: list[Call] = [partial(setitem, array, rows, part) for array, part in zip(state, new, strict=True)]
        return calls if last is None else [*calls, partial(setitem, last, rows, now)]

    def _settled(self, rule: Clock, state: Sequence[Tensor], rows: Tensor, which: Tensor, coefficients: Any) -> list[Tensor]:
        now = [array[rows] for array in state]
        late = (which >= 0).nonzero()[:, 0]
        if len(late):
            lines = self._given(coefficients)[which[late]]
            new = rule.settle(Namespace, tuple(array[late] for array in now), lines)
            for array, part in zip(now, new, strict=True):
                array[late] = part
        return now

    def _given(self, numbers: Any) -> Tensor:
        """Coefficients from the host, in one copy."""
        single = self.device.type == "mps"  # which has no float64
        return torch.from_numpy(numbers.astype(np.float32) if single else numbers).to(self.device)
