"""What the Keras models share: one model trained with Keras's layer and optimizer and with unhot's, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from types import SimpleNamespace
from typing import Any

import keras

import unhot.keras

KERAS = SimpleNamespace(Embedding=keras.layers.Embedding, Adam=keras.optimizers.Adam)
"""The names that change."""


@dataclass
class Run:
    """The losses of the epochs, loss and metric on data that was held out, and the seconds of a step."""

    losses: list[float]
    held_out: list[float]
    seconds: float


class Steps(keras.callbacks.Callback):
    """Measures the seconds of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.begun = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self.begun)


def train(names: Any, make: Callable[[Any], keras.Model], data: Any, held_out: Any, epochs: int, **compile_options: Any) -> Run:
    """Train one model, with the layers and the optimizer that `names` holds."""
    keras.utils.set_random_seed(0)
    model, steps = make(names), Steps()
    model.compile(optimizer=names.Adam(3e-3), **compile_options)
    losses = model.fit(*data, batch_size=512, epochs=epochs, callbacks=[steps], verbose=0).history["loss"]
    return Run(losses, model.evaluate(*held_out, batch_size=512, verbose=0), median(steps.seconds))


def compare(
    make: Callable[[Any], keras.Model], data: Any, held_out: Any, epochs: int, loss: str, metric: str
) -> tuple[Run, Run]:
    """Train both ways and print losses, metric and times side by side; the runs of Keras and of unhot."""
    stock, rows = (train(names, make, data, held_out, epochs, loss=loss, metrics=[metric]) for names in (KERAS, unhot.keras))
    print(f"{'on ' + keras.backend.backend():>20} {'Keras':>12} {'unhot':>12} {'difference':>12}")
    lines = [(f"loss, epoch {i}", a, b) for i, (a, b) in enumerate(zip(stock.losses, rows.losses, strict=True), start=1)]
    for name, a, b in [*lines, (metric, stock.held_out[1], rows.held_out[1])]:
        print(f"{name:>20} {a:12.6f} {b:12.6f} {b - a:12.1e}")
    times = [1e3 * run.seconds for run in (stock, rows)]
    print(f"milliseconds of a step: Keras {times[0]:.2f}, unhot {times[1]:.2f}: {times[0] / times[1]:.1f} times faster")
    return stock, rows
