"""Ways to train many tables with `unhot.keras` on PyTorch: entries for `many_tables.py`."""

from __future__ import annotations

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import replay
import torch
import turns
from turns import Problem, Vectors
from workloads import Ids

import unhot.keras
from rivals import unhot_keras


class Collection:
    """`unhot.keras.EmbeddingCollection`, of which bags are combined by the layer."""

    exact, rule = True, "adam_keras"

    def __init__(self, problem: Problem, start: Vectors) -> None:
        self.problem = problem
        self.gradient = torch.from_numpy(problem.gradient())
        self.names = [f"t{table}" for table in range(problem.tables)]
        self.layers = self.make()
        self.variables = [variable for layer in self.layers for variable in layer.trainable_variables]
        for variable, table in zip(self.variables, start, strict=True):
            variable.assign(table)
        self.optimizer = unhot.keras.Adam(replay.ADAM_RATE)
        self.optimizer.build(self.variables)

    def make(self) -> list[Any]:
        """The layers, in the order of the tables."""
        one = self.problem
        tables = dict.fromkeys(self.names, (one.rows, one.dim))
        layer = unhot.keras.EmbeddingCollection(tables, combiner="sum" if one.length > 1 else None)
        layer.build()
        return [layer]

    def prepared(self, ids: Ids) -> Any:
        shape = (-1,) if self.problem.length == 1 else (-1, self.problem.length)
        return {name: torch.from_numpy(one.reshape(shape)) for name, one in zip(self.names, ids, strict=True)}

    def forward(self, given: Any) -> Any:
        """(batch, tables * dim)."""
        return self.layers[0](given)

    def train(self, given: Any) -> None:
        self.forward(given).backward(self.gradient)
        self.optimizer.apply([variable.value.grad for variable in self.variables], self.variables)
        for variable in self.variables:
            variable.value.grad = None

    def vectors(self, given: Any) -> Vectors:
        with torch.no_grad():
            found: Vectors = self.forward(given).numpy()
        return found

    def weights(self) -> Vectors:
        return np.stack([keras.ops.convert_to_numpy(variable) for variable in self.variables])


class Layers(Collection):
    """A layer for each table; the vectors of a bag are summed, and those of all tables concatenated, by Keras's operations."""

    def make(self) -> list[Any]:
        layers = [unhot.keras.Embedding(self.problem.rows, self.problem.dim) for _ in self.names]
        for layer in layers:
            layer.build()
        return layers

    def forward(self, given: Any) -> Any:
        found = [layer(given[name]) for name, layer in zip(self.names, self.layers, strict=True)]
        if self.problem.length > 1:
            found = [keras.ops.sum(vectors, axis=1) for vectors in found]
        return keras.ops.concatenate(found, axis=-1)


MAKERS: dict[str, turns.Make] = {"keras_collection": Collection, "keras_layers": Layers}

if __name__ == "__main__":
    torch.set_num_threads(1)
    unhot.set_num_threads(1)
    turns.serve(MAKERS, unhot_keras.versions)
