"""Accelerate: a loop of one's own, prepared by an Accelerator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from .twins import Model, assert_same, loader, loss_of, prepared

Prepared = tuple[nn.Module, Any, Any, Any]
"""Model, optimizer, batches and schedule."""


def prepared_by(accelerator: Accelerator, optimizers: ModuleType) -> Prepared:
    model = prepared(Model(), optimizers)
    optimizer = optimizers.AdamW(model.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    made: Prepared = accelerator.prepare(model, optimizer, loader(), schedule)
    return made


def run(accelerator: Accelerator, made: Prepared, clip: Callable[[nn.Module], Any] | None = None) -> None:
    model, optimizer, batches, schedule = made
    for batch in batches:
        with accelerator.accumulate(model):
            accelerator.backward(loss_of(model, *batch))
            if clip and accelerator.sync_gradients:
                clip(model)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


CLIPS = {
    "norm": lambda accelerator, model: accelerator.clip_grad_norm_(model.parameters(), 0.3),
    "infinity norm": lambda accelerator, model: accelerator.clip_grad_norm_(model.parameters(), 0.1, norm_type=float("inf")),
    "value": lambda accelerator, model: accelerator.clip_grad_value_(model.parameters(), 0.05),
}


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("clip", [None, *CLIPS])
def test_accumulation_and_clipping(clip: str | None, every: int) -> None:
    norms: list[list[Any]] = []

    def train(optimizers: ModuleType) -> nn.Module:
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=every)
        made = prepared_by(accelerator, optimizers)
        norms.append([])
        run(accelerator, made, (lambda model: norms[-1].append(CLIPS[clip](accelerator, model))) if clip else None)
        return made[0]

    assert_same(train)
    if clip and clip != "value":
        assert len(norms[0]) == 12 // every
        torch.testing.assert_close(norms[1], norms[0], rtol=1e-7, atol=0)
        assert max(norms[0]) > (0.3 if clip == "norm" else 0.1)  # it has clipped something


def test_state_saved_and_loaded(tmp_path: Path) -> None:
    """`save_state` in the middle and `load_state` into a new model, or back into the same one."""

    def train(optimizers: ModuleType) -> nn.Module:
        folder = tmp_path / optimizers.__name__
        accelerator = Accelerator(cpu=True)
        made = prepared_by(accelerator, optimizers)
        run(accelerator, made)
        accelerator.save_state(str(folder))
        run(accelerator, made)
        accelerator.load_state(str(folder))  # as if the last run had not been
        run(accelerator, made)
        again = prepared_by(accelerator := Accelerator(cpu=True), optimizers)
        accelerator.load_state(str(folder))
        run(accelerator, again)
        for one, other in zip(made[0].parameters(), again[0].parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
        return made[0]

    assert_same(train)


def test_prepared_twice() -> None:
    """A second optimizer for the same model, as in a notebook cell that runs again."""

    def train(optimizers: ModuleType) -> nn.Module:
        accelerator = Accelerator(cpu=True)
        model = prepared(Model(), optimizers)
        for rate in (0.02, 0.01):
            optimizer = optimizers.Adam(model.parameters(), lr=rate)
            made = accelerator.prepare(model, optimizer, loader(), torch.optim.lr_scheduler.ConstantLR(optimizer))
            run(accelerator, made)
        return model

    assert_same(train)
