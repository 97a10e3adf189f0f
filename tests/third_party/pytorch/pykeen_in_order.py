"""A program of test_pykeen.py's: trains TransE with torch's Adam and with unhot's, and compares them.

Its argument says what is imported first, "pykeen" or "unhot": pykeen gives every subclass of torch's Optimizer that exists by
then the name by which a pipeline may ask for it.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

if sys.argv[1] == "unhot":
    import unhot.torch
from pykeen.models import TransE
from pykeen.optimizers import optimizer_resolver
from pykeen.pipeline import pipeline
from pykeen.training import SLCWATrainingLoop
from pykeen.triples import TriplesFactory

import unhot.torch

ENTITIES, RELATIONS = 40, 3


def triples() -> TriplesFactory:
    rng = np.random.default_rng(0)
    heads, tails = (np.minimum(rng.geometric(0.1, size=60), ENTITIES) - 1 for _ in range(2))
    names = [(f"e{head}", f"r{i % RELATIONS}", f"e{tail}") for i, (head, tail) in enumerate(zip(heads, tails, strict=True))]
    every = [(f"e{i}", "r0", f"e{(i + 1) % ENTITIES}") for i in range(ENTITIES)]
    return TriplesFactory.from_labeled_triples(np.array(names + every))


def model(optimizer: type[torch.optim.Optimizer], factory: TriplesFactory) -> TransE:
    made = TransE(triples_factory=factory, embedding_dim=4, random_seed=0).double()
    if optimizer.__module__.startswith("unhot"):
        report = unhot.torch.convert(made)
        assert len(report.swapped) == 2, report
        assert not report.left, report
    return made


def by_pipeline(optimizer: type[torch.optim.Optimizer]) -> TransE:
    """As the library's users train."""
    factory = triples()
    result = pipeline(
        training=factory, testing=factory, model=model(optimizer, factory), optimizer=optimizer, optimizer_kwargs={"lr": 0.02},
        training_kwargs={"num_epochs": 3, "batch_size": 16, "use_tqdm": False}, random_seed=0, device="cpu", use_tqdm=False,
        evaluation_kwargs={"use_tqdm": False},
    )  # fmt: skip
    made: TransE = result.model
    return made


def by_loop(optimizer: type[torch.optim.Optimizer]) -> TransE:
    """By a training loop, which makes a new optimizer at each `train` that does not go on from the last one."""
    factory = triples()
    made = model(optimizer, factory)
    torch.manual_seed(0)
    loop = SLCWATrainingLoop(model=made, triples_factory=factory, optimizer=optimizer, optimizer_kwargs={"lr": 0.02})
    for epochs, goes_on in ((2, False), (4, False), (6, True)):
        loop.train(factory, num_epochs=epochs, batch_size=16, use_tqdm=False, continue_training=goes_on)
    return made


def main() -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    assert optimizer_resolver.lookup("adam") is torch.optim.Adam
    assert optimizer_resolver.lookup("AdamW") is torch.optim.AdamW
    assert optimizer_resolver.lookup(unhot.torch.Adam) is unhot.torch.Adam
    for train in (by_pipeline, by_loop):
        theirs, ours = train(torch.optim.Adam), train(unhot.torch.Adam)
        for (name, wanted), found in zip(theirs.named_parameters(), ours.parameters(), strict=True):
            np.testing.assert_allclose(found.detach(), wanted.detach(), rtol=1e-8, atol=1e-8, err_msg=name)
        print(f"{train.__name__}: the same")


if __name__ == "__main__":
    main()
