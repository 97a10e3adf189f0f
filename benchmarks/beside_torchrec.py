"""A sharded table beside TorchRec's: CPU time of each process for a training step with row-wise Adagrad, by turns.

    make bench-torchrec
    python benchmarks/beside_torchrec.py --torchrec-python PYTHON [--ranks 2] [--rounds 7] [--json FILE]

`make` sets up the environment that PYTHON is of. Both train 10^6 rows of 64, spread over processes, by 4,096 Zipf ids in all in
each step: ours a `ShardedEmbedding`, TorchRec's an `EmbeddingCollection` under `DistributedModelParallel`, row-wise. The CPU
time is that of all threads of a process, exchanges included. The weights are compared at the end. Exits with 1 if ours takes
more than half.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
from sharded import DIM, IDS, ROWS, batches, first_weights

HERE = Path(__file__).resolve()
RATE = 0.01
WARM, TURN = 200, 50
"""Steps before the timed ones, and steps of a turn."""

LIMIT = 0.5
"""What ours is to take of TorchRec's, at most."""

APART = 1e-4
"""How far weights may be from each other, of how far they have moved; that of TorchRec are rounded elsewhere."""


class Trained(Protocol):
    """A sharded table and its optimizer."""

    def start(self, weights_of: Callable[[Any], Any]) -> None:
        """Let the rows that are here begin with these weights."""

    def step(self, ids: Any, gradient: Any) -> None:
        """Look up, go backward with the gradient, and make the step."""

    def vectors(self, ids: Any) -> Any:
        """What is looked up."""


class Unhot:
    """unhot's layer."""

    def __init__(self) -> None:
        import unhot.torch
        from unhot.torch.distributed import ShardedEmbedding

        self.layer = ShardedEmbedding(ROWS, DIM)
        self.optimizer = unhot.torch.RowwiseAdagrad(self.layer.parameters(), lr=RATE)

    def start(self, weights_of: Callable[[Any], Any]) -> None:
        import torch

        with torch.no_grad():
            self.layer.weight.copy_(weights_of(self.layer.rows_here()))

    def step(self, ids: Any, gradient: Any) -> None:
        self.optimizer.zero_grad()
        (self.layer(ids) * gradient).sum().backward()
        self.optimizer.step()

    def vectors(self, ids: Any) -> Any:
        return self.layer(ids)


class TorchRec:
    """TorchRec's collection of one table, whose backward pass makes the step."""

    def __init__(self) -> None:
        import torch
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from torchrec import EmbeddingCollection, EmbeddingConfig
        from torchrec.distributed.embedding import EmbeddingCollectionSharder
        from torchrec.distributed.model_parallel import DistributedModelParallel
        from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
        from torchrec.distributed.types import ShardingPlan

        config = EmbeddingConfig(num_embeddings=ROWS, embedding_dim=DIM, name="table", feature_names=["ids"])
        collection: Any = EmbeddingCollection(tables=[config], device=torch.device("meta"))
        sharder: Any = EmbeddingCollectionSharder(
            fused_params={"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": RATE, "eps": 1e-8}
        )
        ranks = torch.distributed.get_world_size()
        plan = construct_module_sharding_plan(
            collection, {"table": row_wise(compute_kernel="fused")}, sharder, ranks, ranks, "cpu"
        )
        self.model = DistributedModelParallel(
            torch.nn.Sequential(collection), device=torch.device("cpu"), plan=ShardingPlan({"0": plan}), sharders=[sharder]
        )

    def start(self, weights_of: Callable[[Any], Any]) -> None:
        import torch

        for tensor in self.model.state_dict().values():
            for shard in tensor.local_shards():
                first, count = shard.metadata.shard_offsets[0], shard.metadata.shard_sizes[0]
                shard.tensor.copy_(weights_of(torch.arange(first, first + count)).expand(-1, DIM))

    def step(self, ids: Any, gradient: Any) -> None:
        (self.vectors(ids) * gradient).sum().backward()

    def vectors(self, ids: Any) -> Any:
        import torch
        from torchrec import KeyedJaggedTensor

        given = KeyedJaggedTensor(["ids"], ids, lengths=torch.ones(len(ids), dtype=torch.int64))
        return self.model(given)["ids"].values()


KINDS: dict[str, Callable[[], Trained]] = {"unhot": Unhot, "torchrec": TorchRec}


def serve(kind: str, rank: int, ranks: int, folder: str) -> None:
    """One process: makes turns, as the lines of the standard input say."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/{kind}", rank=rank, world_size=ranks)
    trained = KINDS[kind]()
    with torch.no_grad():
        trained.start(first_weights)
    gradient = torch.full((IDS // ranks, DIM), 0.01)
    stream = batches(1)
    for line in sys.stdin:
        count = json.loads(line)
        if not count:
            found = trained.vectors(torch.arange(0, ROWS, 997)).detach()[:, 0].tolist()
        else:
            own = [torch.from_numpy(next(stream)[rank::ranks].copy()) for _ in range(count)]
            dist.barrier()
            cpu, wall = time.process_time(), time.perf_counter()
            for ids in own:
                trained.step(ids, gradient)
            found = [(time.process_time() - cpu) / count, (time.perf_counter() - wall) / count]
        print(json.dumps(found), file=answers, flush=True)


class Ranks:
    """The processes of one kind."""

    def __init__(self, kind: str, python: str, ranks: int, folder: str) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_CORETYPE"}
        self._processes = [
            subprocess.Popen(
                [python, str(HERE), "--serve", kind, str(rank), str(ranks), folder],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            )
            for rank in range(ranks)
        ]  # fmt: skip

    def ask(self, count: int) -> list[Any]:
        """What each process answers to a turn of so many steps; to none, what the rows hold."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{count}\n")
            process.stdin.flush()
        found = []
        for process in self._processes:
            assert process.stdout is not None
            found.append(json.loads(process.stdout.readline()))
        return found

    def end(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torchrec-python", required=True, metavar="PYTHON")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pythons = {"unhot": sys.executable, "torchrec": options.torchrec_python}
    with tempfile.TemporaryDirectory() as folder:
        ranks = {kind: Ranks(kind, python, options.ranks, folder) for kind, python in pythons.items()}
        try:
            for kind in ranks:
                ranks[kind].ask(WARM)
            rounds = [{kind: ranks[kind].ask(TURN) for kind in ranks} for _ in range(options.rounds)]
            weights = {kind: np.array(ranks[kind].ask(0)[0]) for kind in ranks}
        finally:
            for one in ranks.values():
                one.end()
    start = np.arange(0, ROWS, 997) % 97 / 100
    moved = np.abs(weights["torchrec"] - start).max()
    apart = float(np.abs(weights["unhot"] - weights["torchrec"]).max() / moved)
    assert apart <= APART, f"weights are {apart:.1e} of their way from each other"

    def of(kind: str, which: int) -> list[float]:
        return [max(found[which] for found in turn[kind]) for turn in rounds]

    ratios = [ours / theirs for ours, theirs in zip(of("unhot", 0), of("torchrec", 0), strict=True)]
    result = {
        "a rank, CPU ms": {kind: 1e3 * median(of(kind, 0)) for kind in ranks},
        "a step, wall ms": {kind: 1e3 * median(of(kind, 1)) for kind in ranks},
        "CPU time over TorchRec's": median(ratios),
        "weights apart, of their way": apart,
        "reached": median(ratios) <= LIMIT,
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps({"rounds": rounds, **result}, indent=1) + "\n")
    return 0 if result["reached"] else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        sys.exit(main())
