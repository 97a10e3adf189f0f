"""The examples of the core and of plain JAX learn from their file; the others are tested beside their front ends."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conformance.compiled import assert_no_copies
from selection import slow

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("name", ["numpy_csv", "jax_csv"])
def test_csv_examples(name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    try:
        error, guess = importlib.import_module(name).main()
    finally:
        sys.modules.pop(name, None)
    assert error < 0.6 * guess
    assert f"{error:.3f}" in capsys.readouterr().out


@pytest.mark.parametrize("lines", [30, 431])
@pytest.mark.parametrize("name", ["numpy_csv", "jax_csv"])
def test_csv_examples_take_files_of_any_length(name: str, lines: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also shorter ones than a batch, and those that do not divide into whole batches."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    file = tmp_path / "ratings.csv"
    file.write_text("".join((EXAMPLES / "data" / "ratings.csv").read_text().splitlines(keepends=True)[: lines + 1]))
    try:
        error, _ = importlib.import_module(name).main(file, epochs=1)
    finally:
        sys.modules.pop(name, None)
    assert 0 < error < 5


@pytest.fixture(params=["flax_nnx_csv", "flax_linen_csv"])
def flax_example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module(request.param)
    sys.modules.pop(request.param, None)


@slow
def test_flax_examples(flax_example: ModuleType, capsys: Any) -> None:
    """They learn, and from the checkpoint on bit for bit what they learn without one: -1 is none of the epochs."""
    error, guess = flax_example.main()
    assert error < 0.6 * guess
    assert f"{error:.3f}" in capsys.readouterr().out
    assert flax_example.main(ends=-1) == (error, guess)


@slow
def test_flax_examples_take_files_of_any_length(flax_example: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "ratings.csv"
    file.write_text("".join((EXAMPLES / "data" / "ratings.csv").read_text().splitlines(keepends=True)[:31]))
    error, _ = flax_example.main(file, epochs=2, ends=1)
    assert 0 < error < 5


@slow
def test_flax_examples_copy_no_table(flax_example: ModuleType) -> None:
    """A step of theirs updates donated tables in place, also those that a module of NNX holds."""
    rows, ids = 50_000, np.arange(16, dtype=np.int32)
    made = flax_example.new(rows, rows)
    parts = made if isinstance(made, tuple) else (made,)
    text = flax_example.step.lower(*parts, ids, ids, np.ones(16, np.float32)).compile().as_text()
    assert_no_copies(text, rows, 4)


def test_sharded_example() -> None:
    """It learns on four devices, which a process of its own makes of the CPU, and each has a fourth of the rows.

    Also where XLA has flags already.
    """
    script = EXAMPLES / "sharded_recommender_jax.py"
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    printed = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, env=environment).stdout
    losses = [float(loss) for loss in re.findall(r"steps: ([\d.]+)", printed)]
    assert losses[-1] < 0.6 * losses[0], printed
    assert re.findall(r"(\w+ \d+ to \d+) are on", printed) == [
        *(f"users {first} to {first + 1023}" for first in range(0, 4096, 1024)),
        *(f"items {first} to {first + 255}" for first in range(0, 1024, 256)),
    ]


def test_unknown_names_have_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example numbers names from 1, so that row 0 is free for those that are not in the file."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    assert importlib.import_module("numpy_csv").rows_of(["b", "a", "b"]) == {"a": 1, "b": 2}
    sources = [path.read_text() for path in sorted(EXAMPLES.glob("*_csv.py"))]
    shared = [source[source.index("def rows_of") :].split("\n\n")[0] for source in sources]
    assert len(shared) == 6
    assert len(set(shared)) == 1
