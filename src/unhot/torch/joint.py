"""The gradients of tables that were looked up together: all of them at once for a step, and each table's for whoever asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unhot.kernels.structs import Segment
from unhot.torch.gradient import RowGradient
from unhot.torch.gradient_content import Bagged, Rows


class Joint(NamedTuple):
    """The gradients of some features whose tables share an engine. It lies in host memory."""

    stores: Any
    """Those of the engine at the lookup; None if there was no engine yet."""
    numbers: Any
    """The ids of one feature after the other, as numbers of the engine's rows."""
    segments: Sequence[Segment]
    """The gradients of each feature's ids."""
    like: Tensor
    """A tensor of their dtype."""
    tables: int
    """How many tables the features have."""


class JointPart(NamedTuple):
    """The gradient of one table, as part of a joint one."""

    joint: Joint
    features: range
    """Those of the table, among those of the joint gradient."""
    ids: slice
    """Its ids among the numbers."""
    first: int
    """The number of the table's first row."""

    @property
    def like(self) -> Tensor:
        """A tensor of the dtype, and on the device, of the gradient."""
        return self.joint.like

    def bagged(self) -> Bagged | None:
        """The same as the gradient of pooled ids, if it is that of one feature."""
        if len(self.features) > 1:
            return None
        _, vectors, bags, factors = self.joint.segments[self.features.start]
        if bags is None:
            return None
        ids = torch.from_numpy(self.joint.numbers[self.ids] - self.first)
        weights = None if factors is None else torch.from_numpy(factors)
        return Bagged(ids, torch.from_numpy(vectors), torch.from_numpy(bags), weights)

    def expanded(self) -> Rows:
        """The same with a gradient for each id."""
        ids = torch.from_numpy(self.joint.numbers[self.ids] - self.first)
        values, begin = [], 0
        for k in self.features:
            _, vectors, bags, factors = self.joint.segments[k]
            own = torch.from_numpy(vectors)
            if bags is not None:
                weights = None if factors is None else torch.from_numpy(factors)
                own = Bagged(ids[begin : begin + len(bags)], own, torch.from_numpy(bags), weights).expanded().values
            values.append(own)
            begin += len(own)
        return Rows(ids, values[0] if len(values) == 1 else torch.cat(values))


def joint_of(gradient: Tensor) -> Joint | None:
    """The joint gradient of which this is an unchanged part, if it is one."""
    source = gradient.content.source if isinstance(gradient, RowGradient) else None
    return source.joint if isinstance(source, JointPart) else None
