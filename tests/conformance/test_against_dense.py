"""Every rule x convention x betas x stream x schedule, in both dtypes, against dense training in plain NumPy.

The streams, among them closed loops in which a stale read enters the training, are those of streams.py; what is compared,
and where the tolerances come from, stands in training.py.
"""

from __future__ import annotations

import pytest

from . import signs
from .registry import EVERY, Rule
from .streams import SCHEDULES, STREAMS, make
from .training import agree_in_both, dense_copy, train, unhot_copy, versions


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("rule", EVERY, ids=lambda rule: rule.id)
def test_as_dense_training(rule: Rule, stream: str, schedule: str) -> None:
    """Trained and looked at in any order, the table holds what dense training would hold: four times on the way."""
    given = make(stream, schedule, rule.rate)
    reference = dense_copy(rule, versions(given.weights), "float64")
    copies = [
        dense_copy(rule, given.weights, "float32"),
        unhot_copy(rule, given.weights, "float32"),
        unhot_copy(rule, given.weights, "float64"),
    ]
    train(given, reference, copies, agree_in_both, guard=signs.guard(rule, given))
