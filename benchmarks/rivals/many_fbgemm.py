"""FBGEMM's layer of many tables on the CPU, whose backward pass makes the update: the entry for `many_tables.py`."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from typing import Any

import numpy as np
import replay
import torch
import turns
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
from turns import Problem, Vectors
from workloads import Ids

from rivals import fbgemm_


class Fbgemm:
    """All tables in one layer, with exact Adagrad."""

    exact, rule = False, "adagrad"

    def __init__(self, problem: Problem, start: Vectors) -> None:
        self.bags = SplitTableBatchedEmbeddingBagsCodegen(
            [(problem.rows, problem.dim, EmbeddingLocation.HOST, ComputeDevice.CPU)] * problem.tables,
            optimizer=EmbOptimType.EXACT_ADAGRAD,
            learning_rate=replay.RATES["adagrad"],
            eps=replay.EPSILON["adagrad"],
            pooling_mode=PoolingMode.SUM,
        )
        self.tables = [table.detach() for table in self.bags.split_embedding_weights()]
        for table, rows in zip(self.tables, start, strict=True):
            table.copy_(torch.from_numpy(rows))
        self.offsets = torch.arange(0, problem.tables * problem.ids + 1, problem.length)
        self.gradient = torch.from_numpy(problem.gradient())

    def prepared(self, ids: Ids) -> Any:
        return torch.from_numpy(ids.reshape(-1))

    def train(self, given: Any) -> None:
        self.bags(given, self.offsets).backward(self.gradient)

    def vectors(self, given: Any) -> Vectors:
        with torch.no_grad():
            found: Vectors = self.bags(given, self.offsets).numpy()
        return found

    def weights(self) -> Vectors:
        return np.stack([table.numpy() for table in self.tables])


if __name__ == "__main__":
    torch.set_num_threads(1)
    turns.serve({"fbgemm": Fbgemm}, fbgemm_.versions)
