"""A training step of Keras on JAX under `keras.distribution`, with a table and without one, over the step on one device.

    env -u OPENBLAS_CORETYPE python benchmarks/keras_distribution.py [--rounds 5] [--rows 300000]

Trains a small model with `fit` on one device and on two, which share this machine's processors: with DataParallel, and with
ModelParallel, where each device has half of the rows. The model without a table shows what distribution costs Keras and JAX
themselves. CPU milliseconds, each configuration in its own process, by turns. Exits with 1 if a step takes more than twice the
time of one device, and more than the model without a table, too.
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

DIM, BATCH, STEPS, TURNS = 32, 256, 200, 5
"""Ids of a step, steps of a turn, and turns of a process."""

WAYS = {"one device": 1, "DataParallel": 2, "ModelParallel": 2}
"""How many devices there are."""

MOST = 2.0
"""What a step may take, over one on one device, if a model without a table does not take more."""


def distribution(way: str) -> Any:
    """What Keras spreads the model by, or None."""
    import keras

    if way == "DataParallel":
        return keras.distribution.DataParallel()
    if way == "ModelParallel":
        mesh = keras.distribution.DeviceMesh((1, WAYS[way]), ("batch", "model"), keras.distribution.list_devices())
        layouts = keras.distribution.LayoutMap(mesh)
        layouts[".*embeddings.*"] = ("model", None)
        return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    return None


def step(way: str, rows: int) -> float:
    """CPU milliseconds of a step of a model with a table of so many rows, or without one if there are none."""
    import keras
    import numpy as np

    import unhot.keras

    keras.distribution.set_distribution(distribution(way))
    ids = keras.Input((1,), dtype="int32")
    if rows:
        vectors = keras.layers.Flatten()(unhot.keras.Embedding(rows, DIM)(ids))
    else:
        vectors = keras.layers.Dense(DIM)(keras.ops.cast(ids, "float32"))
    model = keras.Model(ids, keras.layers.Dense(1)(vectors))
    model.compile(unhot.keras.Adam(1e-3), "mse", jit_compile=True)
    x = np.random.default_rng(0).integers(0, rows or 1, (BATCH * STEPS, 1))
    y = np.ones((len(x), 1), np.float32)
    taken = []
    for _ in range(1 + TURNS):
        started = time.process_time()
        model.fit(x, y, batch_size=BATCH, verbose=0, shuffle=False)
        taken.append(1e3 * (time.process_time() - started) / STEPS)
    return median(taken[1:])  # without the one that compiles


def apart(way: str, rows: int) -> float:
    """`step` in a process of its own, which has as many devices as that takes."""
    flags = f"--xla_force_host_platform_device_count={WAYS[way]}"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, __file__, "--step", way, "--rows", str(rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--step", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(step(options.step, options.rows)))
        return 0
    cases = list(product(WAYS, (options.rows, 0)))
    rounds = [{case: apart(*case) for case in cases} for _ in range(options.rounds)]
    found = {case: median(turn[case] for turn in rounds) for case in cases}
    print(f"{'CPU ms of a step':18}{'with a table':>14}{'without':>10}")
    reached = True
    for way in WAYS:
        print(f"{way:18}{found[way, options.rows]:14.2f}{found[way, 0]:10.2f}")
        if WAYS[way] == 1:
            continue
        whole, rest = (found[way, rows] / found["one device", rows] for rows in (options.rows, 0))
        print(f"{'over one device':18}{whole:14.2f}{rest:10.2f}")
        reached = reached and whole <= max(MOST, rest)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
