"""FBGEMM's SplitTableBatchedEmbeddingBags on the CPU: one table, one id in each bag; the backward pass makes the update."""

from __future__ import annotations

from typing import Any

import measure
import replay
from cases import Case

from rivals.torch_loss import loss


class Trained:
    def __init__(self, case: Case) -> None:
        import torch
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            SplitTableBatchedEmbeddingBagsCodegen,
        )

        torch.set_num_threads(case.threads)
        torch.manual_seed(0)
        self.torch = torch
        rule = case.variant if case.variant in replay.RATES else "sgd"
        # Bags of one id, summed: measured faster than PoolingMode.NONE, which gives the same.
        self.bags = SplitTableBatchedEmbeddingBagsCodegen(
            [(case.rows, case.dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            optimizer={
                "sgd": EmbOptimType.EXACT_SGD,
                "adagrad": EmbOptimType.EXACT_ADAGRAD,
                "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            }[rule],
            learning_rate=replay.RATES[rule],
            eps=replay.EPSILON.get(rule, 0.0),
            pooling_mode=PoolingMode.SUM,
        )
        self.bags.init_embedding_weights_uniform(-0.05, 0.05)
        self.table = self.bags.split_embedding_weights()[0].detach()
        self.offsets = torch.arange(case.ids + 1)
        if case.task == "lookup":
            torch.set_grad_enabled(False)

    def preload(self) -> None:
        for states in self.bags.split_optimizer_states():
            for state in states:
                state.detach().add_(0)

    def tensor(self, array: Any) -> Any:
        return self.torch.from_numpy(array)

    def step(self, ids: Any, gradients: Any) -> None:
        self.bags(ids, self.offsets).backward(gradients)

    def loop(self, ids: Any, gradients: Any) -> None:
        loss(self.bags(ids, self.offsets), gradients).backward()

    def lookup(self, ids: Any) -> Any:
        return self.bags(ids, self.offsets)

    def weights(self, rows: Any) -> Any:
        return self.table.numpy()[rows]


def versions() -> dict[str, str]:
    from importlib.metadata import version

    import torch

    return {"torch": torch.__version__, "fbgemm": version("fbgemm-gpu-cpu")}


if __name__ == "__main__":
    measure.main(Trained, versions)
