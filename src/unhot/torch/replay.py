"""Steps of a table of which no formula says what they do to rows without a gradient: noted, and made again for new rows.

So it is where torch's own code trains the table with what the core has not, as Adam with coupled decay. What such a step does
to a row depends on the row's weights, so it cannot be kept as numbers that all rows share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from unhot.training import warn_once

MANY = 30_000
"""Steps made again, some seconds of them, from which on the user is told."""


class NotedSteps:
    """The hyperparameters of the steps of a table, from the first one of which there is no formula.

    They rarely change, so their changes are kept, each with the number of steps that were made before it.
    """

    def __init__(self, begun: int, counted: bool, product: float, held: Collection[str], kept: Mapping[str, float]) -> None:
        self.begun = self.stop = begun
        self.counted = counted
        """Whether torch's state counts the steps. If so, a step that failed is not taken for one that was made."""
        self.product = product
        """NAdam's product of momentums at the beginning."""
        self.held = frozenset(held)
        """The slots that the table had then, by torch's names."""
        self.kept = dict(kept)
        """What was known then of rows without a gradient."""
        self.changes: dict[str, list[tuple[int, Any]]] = {}
        self.made_again = 0
        """How many steps were made again so far, for all rows that were added."""

    warned_of_dense_training = False
    """Whether the user was told what that costs."""

    def note(self, now: int, group: Mapping[str, Any], names: Collection[str]) -> None:
        """The step after `now` others is going to be made with these hyperparameters of a group."""
        now = now if self.counted else self.stop
        for name in names:
            value, changes = plain(group.get(name)), self.changes.setdefault(name, [])
            while changes and changes[-1][0] >= now:  # of a step that was not made
                changes.pop()
            if not changes or changes[-1][1] != value:
                changes.append((now, value))
        self.stop = now + 1

    def again(
        self, owner: Any, state: Mapping[str, Any], slots: Mapping[str, Tensor], weights: Tensor, now: int
    ) -> list[Tensor]:
        """Weights and slots, in the order of `slots`, of rows that began with these weights and had no gradient until `now`.

        Torch's own code makes the steps once more, of these rows alone. `state` is what torch keeps of the table.
        """
        rows = nn.Parameter(weights.detach() * self.kept.get("kept_of_weight", 1.0))
        rows.grad = torch.zeros_like(rows)
        held: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        if self.begun or self.held:  # else torch makes them in the first step
            starts = {"step": float(self.begun), "mu_product": self.product}
            held[rows] = {name: torch.full_like(state[name], starts[name]) for name in owner.counters if name in state}
            momentum = weights.detach() * self.kept.get("momentum_of_weight", 0.0)
            for name in self.held:
                start = momentum if name == "momentum_buffer" else owner.defaults.get("initial_accumulator_value", 0.0)
                held[rows][name] = slots[name].new_zeros((len(rows), slots[name].size(1))) + start
        if not self.counted:
            now = self.stop
        self.made_again += now - self.begun
        if self.made_again > MANY:
            warn_once(
                self,
                f"{self.made_again:,} steps were made again for rows that were added: where coupled weight decay trains a table"
                " densely, each growth costs all steps so far. Add many rows at a time, or decouple the decay, as AdamW does.",
                stacklevel=6,
            )
        marks = sorted({start for changes in self.changes.values() for start, _ in changes if start < now} | {now})
        for start, stop in pairwise(marks):
            found = {name: next(v for n, v in reversed(changes) if n <= start) for name, changes in self.changes.items()}
            partner = owner.partner([{**found, "differentiable": False, "params": [rows]}], held)
            partner.defaults = {**owner.defaults, "differentiable": False}
            for _ in range(start, stop):
                partner.torch_step()
        zeros = {name: slot.new_zeros((len(rows), slot.size(1))) for name, slot in slots.items()}
        return [rows.detach(), *(held[rows].get(name, zero) for name, zero in zeros.items())]


def plain(value: Any) -> Any:
    """A hyperparameter as it is now: a rate that is a tensor may be written in place."""
    if isinstance(value, (tuple, list)):
        return tuple(map(plain, value))
    return value.item() if isinstance(value, Tensor) else value
