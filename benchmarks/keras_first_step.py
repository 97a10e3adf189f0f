"""The first step of a Keras model with many tables, which compiles it, beside Keras's own layer and optimizer.

    env -u OPENBLAS_CORETYPE python benchmarks/keras_first_step.py [--rounds 5] [--tables 26]

CPU seconds of the first step on JAX and TensorFlow, each in its own process, by turns. All tables differ in their numbers of
rows, as in a recommender. Exits with 1 if a model of unhot's takes more than `MOST` times as long as Keras's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import product
from statistics import median
from typing import Any

ROWS, DIM, BATCH = 20_000, 16, 512
"""Rows of the smallest table, and samples of a step, which have one id for each table."""

BACKENDS = ("jax", "tensorflow")
MOST = {"jax": 3.5, "tensorflow": 6.0}
"""A step by rows is more to compile than a dense one."""


def first_step(library: str, tables: int) -> float:
    """CPU seconds of the first step, on the backend of this process."""
    import keras
    import numpy as np

    import unhot.keras

    layers: Any = unhot.keras if library == "unhot" else keras.layers
    optimizers: Any = unhot.keras if library == "unhot" else keras.optimizers
    ids = keras.Input((tables,), dtype="int32")
    found = [layers.Embedding(ROWS + number, DIM)(ids[:, number]) for number in range(tables)]
    model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Concatenate()(found) if tables > 1 else found[0]))
    model.compile(optimizers.Adam(1e-3), "mse")
    x = np.random.default_rng(0).integers(0, ROWS, (BATCH, tables)).astype("int32")
    started = time.process_time()
    model.train_on_batch(x, np.ones((BATCH, 1), np.float32))
    return time.process_time() - started


def apart(backend: str, library: str, tables: int) -> float:
    """`first_step` in a process of its own, in which nothing is compiled yet."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, __file__, "--first-step", library, "--tables", str(tables)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tables", type=int, default=26)
    parser.add_argument("--first-step", choices=("unhot", "stock"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first_step:
        print(json.dumps(first_step(options.first_step, options.tables)))
        return 0
    cases = list(product(BACKENDS, ("unhot", "stock")))
    rounds = [{case: apart(*case, options.tables) for case in cases} for _ in range(options.rounds)]
    print(f"{'CPU s of a first step':22}{'unhot':>8}{'stock':>8}{'ratio':>8}")
    reached = True
    for backend in BACKENDS:
        ours, stock = (median(turn[backend, library] for turn in rounds) for library in ("unhot", "stock"))
        ratio = median(turn[backend, "unhot"] / turn[backend, "stock"] for turn in rounds)
        print(f"{backend:22}{ours:8.1f}{stock:8.1f}{ratio:8.2f}")
        reached = reached and ratio <= MOST[backend]
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
