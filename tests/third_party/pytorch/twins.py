"""The same training twice: with torch's layers and optimizers, and with unhot's."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import unhot.torch

ALLOWED = 1e-8
"""Relative to a weight, or to 1 if it is smaller. Rows of float64 agree to 1e-9; the few steps of these small models, at rates
of at most 0.05, do not make ten times as much of it."""

M = TypeVar("M", bound=nn.Module)
Trained = Callable[[ModuleType], nn.Module]
"""Given `torch.optim` or `unhot.torch`, makes a model and trains it."""


def prepared(model: M, optimizers: ModuleType) -> M:
    """The model, with unhot's layers if the optimizer will be unhot's; all of its tables."""
    if optimizers is unhot.torch:
        report = unhot.torch.convert(model)
        assert report.swapped
        assert not report.left, report
    return model


def trained_twice(train: Trained) -> list[nn.Module]:
    """What `train` returns for torch and for unhot, each from the same seeds."""
    models = []
    for optimizers in (torch.optim, unhot.torch):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(0)
        models.append(train(optimizers))
    return models


def assert_same(train: Trained) -> None:
    """Both end with the same weights, and the training has moved them."""
    theirs, ours = trained_twice(train)
    assert [name for name, _ in theirs.named_parameters()] == [name for name, _ in ours.named_parameters()]
    for (name, wanted), found in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        np.testing.assert_allclose(found.detach(), wanted.detach(), rtol=ALLOWED, atol=ALLOWED, err_msg=name)


ROWS, DIM, BATCH = 40, 4, 8


class Model(nn.Module):
    """A table, a bag of another, and a dense part."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(ROWS, DIM, padding_idx=0)
        self.bag = nn.EmbeddingBag(ROWS, DIM, mode="sum")
        self.dense = nn.Sequential(nn.Linear(2 * DIM, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.dense(torch.cat([self.table(ids[:, 0]), self.bag(ids)], dim=1))
        return out.squeeze(1)


def loss_of(model: nn.Module, ids: Tensor, wanted: Tensor) -> Tensor:
    out: Tensor = model(ids)
    return (out - wanted).square().mean()


def loader(steps: int = 12) -> DataLoader[tuple[Tensor, ...]]:
    """Ids of which most are small: the other rows rest for long, some for ever."""
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(np.minimum(rng.geometric(0.1, size=(steps * BATCH, 3)), ROWS - 1))
    return DataLoader(TensorDataset(ids, torch.sin(ids.double().sum(1))), batch_size=BATCH)
