"""The compiled training step of a small table on JAX, with `unhot.keras` and with Keras's own layer, by turns.

    python benchmarks/compare_jax_steps.py [--rows 10000 --turns 4000]

Small tables are trained by Keras's own step there, so what a whole `fit` shows of a difference is Python or noise; this shows
the step.  The stock layer is there twice: the second tells how far two of the same are apart.  Processes differ by more than
the error within one, so take several.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import numpy as np
from cases import Case
from measure import hold_to, median_and_error
from workloads import Workload

KINDS = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")
UNCOUNTED = 50


class Step:
    """A model's compiled step, with the state that it is given back."""

    def __init__(self, layer: Any, optimizer: Any, given: Any, targets: Any) -> None:
        import jax
        import keras

        ids = keras.Input((), dtype="int32")
        self.model = keras.Model(ids, layer(ids))
        self.model.compile(optimizer, loss="mse")
        self.model.train_on_batch(given, targets)
        state = self.model._get_jax_state(**dict.fromkeys(KINDS, True))
        self.state = jax.tree.map(lambda array: jax.numpy.array(array, copy=True), state)  # Keras keeps its own
        self.step = jax.jit(self.model.train_step, donate_argnums=0)

    def seconds(self, given: Any, targets: Any) -> float:
        import jax

        begun = time.perf_counter()
        _, self.state = self.step(self.state, (given, targets))
        jax.block_until_ready(self.state)
        return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=4_000)
    arguments = parser.parse_args()
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    import unhot.keras

    case = Case("unhot_keras", "jax", rows=arguments.rows)
    hold_to(case.threads)
    workload = Workload(case, 0)
    batches = [workload.timed().astype(np.int32) for _ in range(50)]
    targets = workload.gradients()[0]
    rows, dim = case.rows, case.dim
    steps = {
        "stock": Step(keras.layers.Embedding(rows, dim), keras.optimizers.Adam(), batches[0], targets),
        "stock again": Step(keras.layers.Embedding(rows, dim), keras.optimizers.Adam(), batches[0], targets),
        "unhot.keras": Step(unhot.keras.Embedding(rows, dim), unhot.keras.Adam(), batches[0], targets),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    generator = np.random.default_rng(0)
    for turn in range(arguments.turns):
        for name in generator.permutation(list(steps)):  # any fixed order leaves one of them warmer caches
            times[name].append(steps[name].seconds(batches[turn % len(batches)], targets))
    stock = np.array(times["stock"][UNCOUNTED:])
    for name, found in times.items():
        middle, error = median_and_error(stock / np.array(found[UNCOUNTED:]))
        print(f"{name:12} {1e6 * np.median(found):6.0f} us; stock over this: {middle:.3f} (+- {error:.3f})")


if __name__ == "__main__":
    main()
