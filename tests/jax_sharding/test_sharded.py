"""Tables of `unhot.jax` whose rows are spread over devices, in processes of their own: see programs.py for what is tested."""

from __future__ import annotations

from itertools import product

import pytest
from selection import label, slow, some

from jax_sharding import programs
from jax_sharding.processes import Run
from jax_sharding.programs import BATCHES, MESHES, OPTIMIZERS

CASES = [(optimizer, mesh, batch) for optimizer in OPTIMIZERS for mesh in MESHES for batch in BATCHES]
FAST = [("SGD", "line", "sharded"), ("SGD", "explicit square", "replicated")]
"""Of one optimizer, since it is compiling that takes the time."""


@pytest.mark.parametrize(("optimizer", "mesh", "batch"), some(CASES, [*FAST, ("Adam", "line", "replicated")]), ids=label)
def test_trains_as_unspread(optimizer: str, mesh: str, batch: str, four_devices: Run) -> None:
    four_devices(programs.trains_as_unspread, optimizer, mesh, batch)


@pytest.mark.parametrize(("mesh", "batch"), some(product(MESHES, ["replicated", "sharded"]), [("line", "sharded")]))
def test_trains_within_shard_map(mesh: str, batch: str, four_devices: Run) -> None:
    four_devices(programs.trains_within_shard_map, mesh, batch)


@pytest.mark.parametrize(("optimizer", "mesh", "batch"), some(CASES, FAST), ids=label)
def test_makes_no_array_of_the_tables_size(optimizer: str, mesh: str, batch: str, four_devices: Run) -> None:
    four_devices(programs.makes_no_array_of_the_tables_size, optimizer, mesh, batch)


@pytest.mark.parametrize("spread", [False, True])
def test_does_the_work_of_lookup_and_step_once(spread: bool, four_devices: Run) -> None:
    four_devices(programs.does_the_work_of_lookup_and_step_once, spread)


@slow  # it compiles for each number of rows
@pytest.mark.parametrize("mesh", ["line", "explicit square"])
def test_grows_as_unspread(mesh: str, four_devices: Run) -> None:
    four_devices(programs.grows_as_unspread, mesh)


@slow  # each operation is compiled by itself
@pytest.mark.parametrize("mesh", ["explicit line", "square"])
def test_works_outside_of_compiled_functions(mesh: str, four_devices: Run) -> None:
    four_devices(programs.works_outside_of_compiled_functions, mesh)


@pytest.mark.parametrize("policy", some(["raise", "zero", 7], ["raise"]))
def test_knows_ids_outside(policy: str | int, four_devices: Run) -> None:
    four_devices(programs.knows_ids_outside, policy)


def test_begins_with_an_array_that_is_spread(four_devices: Run) -> None:
    four_devices(programs.begins_with_an_array_that_is_spread)


def test_says_what_is_wrong(four_devices: Run) -> None:
    four_devices(programs.says_what_is_wrong)


def test_trains_in_two_processes(two_processes: Run) -> None:
    two_processes(programs.trains_in_two_processes)
