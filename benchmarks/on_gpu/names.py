"""What is compared and what is counted, for the parts and the tables."""

from __future__ import annotations

from typing import NamedTuple


class Rival(NamedTuple):
    """A layer with an optimizer.

    `rule` names the replay that its result is checked against, `tables` how many arrays of the table's size it holds at its
    peak, and `dense` whether its steps pass over the whole table.
    """

    label: str
    rule: str
    tables: int
    dense: bool


RIVALS = {
    "dense": Rival("dense Adam, fused", "adam_torch", 4, True),
    "sparse": Rival("SparseAdam", "adam_masked", 3, False),
    "unhot": Rival("unhot Adam", "adam_torch", 3, False),
}

PARTS = ("lookup", "backward", "step")
"""Of a step."""

KINDS = {
    "waits": "host waits", "launches": "kernels launched",
    "operators": "operators called", "waiting operators": "of these wait for a result",
}  # fmt: skip
"""What is counted in a step, and how a table calls it."""

OF_CUDA = ("waits", "launches")
"""The kinds that only CUDA's runtime knows."""
