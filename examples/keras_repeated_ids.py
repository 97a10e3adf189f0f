"""Where Keras's Embedding is not one-hot x Dense: training on TensorFlow, when an id repeats in a batch.

The gradient of an Embedding there lists each occurrence of an id apart, and an optimizer that squares gradients squares them
apart: (1 + 2 + 9)^2 is not 1^2 + 2^2 + 9^2.  Choose the backend by KERAS_BACKEND: torch, jax or tensorflow.
"""

from __future__ import annotations

import argparse
from typing import Any

import keras
import numpy as np

import unhot.keras

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"learning_rate": 0.1, "momentum": 0.9}),
    ("Adagrad", {"learning_rate": 0.1}),
    ("RMSprop", {"learning_rate": 0.1}),
    ("RMSprop", {"learning_rate": 0.1, "momentum": 0.5}),
    ("Adadelta", {"learning_rate": 10.0}),
    ("Adam", {"learning_rate": 0.1}),
    ("Adam", {"learning_rate": 0.1, "amsgrad": True}),
    ("AdamW", {"learning_rate": 0.1, "weight_decay": 0.1}),
    ("Adamax", {"learning_rate": 0.1}),
    ("Nadam", {"learning_rate": 0.1}),
    ("Lion", {"learning_rate": 0.01}),
    ("Ftrl", {"learning_rate": 0.1}),
]
WAYS = ("one-hot x Dense", "Keras's Embedding", "unhot.keras")


def layers(way: str, rows: int, dim: int) -> list[Any]:
    """Ids to vectors, in one of the ways."""
    if way == "one-hot x Dense":
        return [keras.layers.CategoryEncoding(rows, output_mode="one_hot"), keras.layers.Dense(dim, use_bias=False)]
    return [(keras.layers if way == "Keras's Embedding" else unhot.keras).Embedding(rows, dim)]


def train(way: str, optimizer: str, options: dict[str, Any], start: Any, ids: Any, wanted: Any, **fit: Any) -> Any:
    """The weights after training from `start` on the squared error."""
    model = keras.Sequential([keras.Input((), dtype="int32"), *layers(way, *start.shape)])
    model.set_weights([start])
    names = unhot.keras if way == "unhot.keras" else keras.optimizers
    model.compile(getattr(names, optimizer)(**options), loss="mse", jit_compile=False)
    model.fit(ids, wanted, shuffle=False, verbose=0, **fit)
    return model.get_weights()[0]


def smallest_example() -> dict[str, Any]:
    """Three steps of Adam(0.1) on ids [0, 0, 0, 1] towards [1, 2, 9, 4], from zeros."""
    ids, wanted = np.array([0, 0, 0, 1]), np.array([[1.0], [2.0], [9.0], [4.0]])
    options = {"learning_rate": 0.1}
    return {way: train(way, "Adam", options, np.zeros((2, 1)), ids, wanted, batch_size=4, epochs=3)[:, 0] for way in WAYS}


def main(steps: int, rows: int, dim: int) -> Any:
    """One epoch on batches of 64 ids, in which some repeat, for each of the settings; the differences to one-hot x Dense."""
    print(f"{keras.backend.backend()}: three steps of Adam(0.1) on ids [0, 0, 0, 1] towards [1, 2, 9, 4], from zeros")
    smallest = smallest_example()
    for way, weights in smallest.items():
        print(f"  {way:<18} {weights[0]:.3f} {weights[1]:.3f}")

    random = np.random.default_rng(0)
    ids = np.minimum(random.zipf(1.3, 64 * steps) - 1, rows - 1).astype("int32")
    wanted = random.normal(size=(rows, dim))[ids] + random.normal(size=(64 * steps, dim))
    start = random.normal(0, 0.05, (rows, dim))
    print(f"one epoch of {steps} steps on {rows} rows of {dim}: the largest difference of a weight to that of one-hot x Dense")
    print(f"  {'':<62} {WAYS[1]:>18} {WAYS[2]:>12}")
    differences = {}
    for optimizer, options in SETTINGS:
        dense, stock, ours = (train(way, optimizer, options, start, ids, wanted, batch_size=64) for way in WAYS)
        name = f"{optimizer}({', '.join(f'{key}={value}' for key, value in options.items())})"
        differences[name] = np.abs(stock - dense).max(), np.abs(ours - dense).max()
        print(f"  {name:<62} {differences[name][0]:>18.1e} {differences[name][1]:>12.1e}")
    return smallest, differences


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=8)
    main(**vars(parser.parse_args()))
