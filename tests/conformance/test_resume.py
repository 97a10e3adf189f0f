"""A state that is saved at some step and loaded in a new process trains on bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from selection import some

import unhot

from .registry import EVERY, Rule, named
from .streams import make

AT = 90
"""The step after which the state is saved."""


def trained(table: unhot.Table, rule: Rule, stream: str, first: int, last: int) -> None:
    """Make the steps first+1 ... last of the stream, a closed loop."""
    given = make(stream, "wandering", rule.rate)
    for step in given.steps[first:last]:
        assert table.optimizer is not None
        table.optimizer.learning_rate = step.hyper["learning_rate"]
        pull = table.lookup(step.ids) - given.targets[step.ids]
        table.step(step.ids, (step.noise + step.pull * pull).astype(table.dtype))


def new_table(rule: Rule, dtype: str) -> unhot.Table:
    weights = make("closed", "wandering", rule.rate).weights
    return unhot.Table.from_array(weights.astype(dtype), optimizer=rule.optimizer())


GO_ON = """
import sys
import numpy as np
from conformance.registry import named
from conformance.test_resume import AT, new_table, trained

for path in sys.argv[1:]:
    with np.load(path) as file:
        state = dict(file)
    rule, = named(str(state.pop("test.rule")))
    table = new_table(rule, str(state.pop("test.dtype")))
    table.load_state_dict(state)
    trained(table, rule, "closed", AT, 160)
    np.savez(path, **table.state_dict())
"""


@pytest.mark.parametrize("dtype", some(["float32", "float64"], ["float32"]))
def test_a_new_process_goes_on_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    """Every rule, with every pair of betas; all of them in one new process."""
    expected = {}
    for number, rule in enumerate(EVERY):
        table = new_table(rule, dtype)
        trained(table, rule, "closed", 0, AT)
        path = tmp_path / f"{number}.npz"
        np.savez(path, **table.state_dict(), **{"test.rule": rule.id, "test.dtype": dtype})
        trained(table, rule, "closed", AT, 160)
        expected[path] = rule.id, table.state_dict()
    tests = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", GO_ON, *map(str, expected)], check=True, cwd=tests)
    for path, (name, state) in expected.items():
        with np.load(path) as file:
            assert set(file) == set(state), name
            for key, value in state.items():
                assert np.asarray(value).tobytes() == file[key].tobytes(), (name, key)


def test_registry_names_are_distinct() -> None:
    """The new process finds each rule by its name."""
    assert [named(rule.id)[0] for rule in EVERY] == EVERY
