"""Importing unhot is quick and loads no framework; each proof runs in a fresh interpreter."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any


def fresh(script: str) -> Any:
    """What the script prints as JSON, run by a new interpreter."""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


LOADED = """
import json, sys
import numpy, numpy.ma, numpy.polynomial, numpy.random
before = set(sys.modules)
import unhot
{use}
new = {{name.partition(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)
print(json.dumps(sorted(new)))
"""

USE = """
table = unhot.Table(9, 3, optimizer=unhot.Adam(0.1), seed=0, out_of_range="zero")
for _ in range(3):
    table.step([1, 2, 99], numpy.ones((3, 3)))
table.lookup([1, 2]), table.bag([[1]], weights=[[2.0]]), table.matmul(numpy.eye(9)), table.array
table.load_state_dict(table.state_dict())
repr(table), len(table), unhot.get_num_threads()
"""


def test_import_loads_nothing_but_numpy() -> None:
    """Beside NumPy and the standard library, unhot itself is all that is loaded: by the import, and by training too."""
    for use in ("", USE):
        loaded = fresh(LOADED.format(use=use))
        assert set(loaded) - {"numpy"} == {"unhot"}


def test_front_ends_and_commands_are_not_imported() -> None:
    """The core does not import the parts of unhot that stand above it."""
    loaded = fresh("import json, sys, unhot; print(json.dumps([name for name in sys.modules if name.startswith('unhot.')]))")
    above = {"torch", "keras", "jax", "vocab", "storage", "formats", "cli", "comparison"}
    assert not {name.split(".")[1] for name in loaded} & above


TIME = """
import json, time
import numpy
start = time.process_time()
import unhot
print(json.dumps(time.process_time() - start))
"""


def test_import_time() -> None:
    """Less than 150 ms beyond the import of NumPy, as the median of several interpreters.

    It is the time of the processor, so that other work on the machine does not count.
    """
    fresh(TIME)  # writes the byte code
    assert statistics.median(fresh(TIME) for _ in range(7)) < 0.150
