"""Tables of `unhot.jax` whose rows are spread over devices, in processes of their own: see programs.py for what is tested."""

from __future__ import annotations

import pytest
from selection import label, product, slow, some

from jax_sharding import programs
from jax_sharding.processes import Run
from jax_sharding.programs import BATCHES, MESHES, OPTIMIZERS

CASES = [(optimizer, mesh, batch) for optimizer in OPTIMIZERS for mesh in MESHES for batch in BATCHES]
FAST = [
    ("SGD", "line", "sharded"), ("SGD", "explicit square", "sharded"), ("SGD", "square", "host"),
    ("SGD", "explicit line", "replicated"),
]  # fmt: skip
"""Of one optimizer, since it is compiling that takes the time; but each kind of mesh and batch."""


@pytest.mark.parametrize(("optimizer", "mesh", "batch"), some(CASES, [*FAST, ("Adam", "line", "replicated")]), ids=label)
def test_trains_as_unspread(optimizer: str, mesh: str, batch: str, four_devices: Run) -> None:
    four_devices(programs.trains_as_unspread, optimizer, mesh, batch)


@pytest.mark.parametrize(("mesh", "batch"), product(MESHES, ["replicated", "sharded"], by=1))
def test_trains_within_shard_map(mesh: str, batch: str, four_devices: Run) -> None:
    four_devices(programs.trains_within_shard_map, mesh, batch)


@pytest.mark.parametrize(("optimizer", "mesh", "batch"), some(CASES, FAST), ids=label)
def test_makes_no_array_of_the_tables_size(optimizer: str, mesh: str, batch: str, four_devices: Run) -> None:
    four_devices(programs.makes_no_array_of_the_tables_size, optimizer, mesh, batch)


@pytest.mark.parametrize("spread", [False, True])
def test_does_the_work_of_lookup_and_step_once(spread: bool, four_devices: Run) -> None:
    four_devices(programs.does_the_work_of_lookup_and_step_once, spread)


@pytest.mark.parametrize("mesh", ["line", pytest.param("explicit square", marks=slow)])
def test_grows_as_unspread(mesh: str, four_devices: Run) -> None:
    four_devices(programs.grows_as_unspread, mesh)


@pytest.mark.parametrize("mesh", ["explicit line", pytest.param("square", marks=slow)])
def test_works_outside_of_compiled_functions(mesh: str, four_devices: Run) -> None:
    four_devices(programs.works_outside_of_compiled_functions, mesh)


@pytest.mark.parametrize("policy", ["raise", "zero", 7])
def test_knows_ids_outside(policy: str | int, four_devices: Run) -> None:
    four_devices(programs.knows_ids_outside, policy)


def test_begins_with_an_array_that_is_spread(four_devices: Run) -> None:
    four_devices(programs.begins_with_an_array_that_is_spread)


def test_says_what_is_wrong(four_devices: Run) -> None:
    four_devices(programs.says_what_is_wrong)


def test_trains_in_two_processes(two_processes: Run) -> None:
    two_processes(programs.trains_in_two_processes)
