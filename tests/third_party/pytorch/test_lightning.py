"""Lightning's Trainer and Tuner."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging
from lightning.pytorch.tuner.tuning import Tuner
from torch import Tensor

from .twins import Model, assert_same, loader, loss_of, prepared

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),  # of few workers, of a logger that is missing
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
]


class Module(lightning.LightningModule):
    """As its users write one: the optimizer is made anew by each `fit`."""

    def __init__(self, optimizers: ModuleType) -> None:
        super().__init__()
        self.model = prepared(Model(), optimizers)
        self.optimizer, self.lr = optimizers.AdamW, 0.02

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return loss_of(self.model, *batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = self.optimizer(self.model.parameters(), lr=self.lr)
        return made


def trainer(folder: Path, **given: Any) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return lightning.Trainer(accelerator="cpu", default_root_dir=folder, **{"max_epochs": 1, **quiet, **given})


CLIPS: list[dict[str, Any]] = [
    {"gradient_clip_val": 0.3}, {"gradient_clip_val": 0.3, "gradient_clip_algorithm": "norm", "accumulate_grad_batches": 2},
    {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"},
]  # fmt: skip


@pytest.mark.parametrize("given", [{"accumulate_grad_batches": 3}, *CLIPS], ids=str)
def test_clipping_and_accumulation(given: dict[str, Any], tmp_path: Path) -> None:
    def train(optimizers: ModuleType) -> Module:
        module = Module(optimizers)
        trainer(tmp_path, **given).fit(module, loader())
        return module

    assert_same(train)


@pytest.mark.parametrize("same_trainer", [True, False])
def test_fit_twice(same_trainer: bool, tmp_path: Path) -> None:
    """The same module; with another Trainer, or with the same one for more epochs."""

    def train(optimizers: ModuleType) -> Module:
        module = Module(optimizers)
        first = trainer(tmp_path)
        first.fit(module, loader())
        module.lr = 0.01
        if same_trainer:
            assert first.fit_loop.max_epochs == 1
            first.fit_loop.max_epochs = 2
        (first if same_trainer else trainer(tmp_path)).fit(module, loader())
        return module

    assert_same(train)


def test_lr_find_then_fit(tmp_path: Path) -> None:
    """Which tries rates from small to large on the model itself and then puts weights and optimizer back."""
    tried: list[Any] = []

    def train(optimizers: ModuleType) -> Module:
        module = Module(optimizers)
        run = trainer(tmp_path)
        before = [parameter.detach().clone() for parameter in module.parameters()]
        found = Tuner(run).lr_find(module, loader(), num_training=11, min_lr=1e-4, max_lr=0.05, update_attr=True)
        assert found is not None
        tried.append(found)
        for parameter, then in zip(module.parameters(), before, strict=True):
            assert torch.equal(parameter, then)
        run.fit(module, loader())
        return module

    assert_same(train)
    theirs, ours = tried
    np.testing.assert_allclose(ours.results["loss"], theirs.results["loss"], rtol=1e-8)
    assert ours.suggestion() == theirs.suggestion()


def test_resumed_from_a_checkpoint(tmp_path: Path) -> None:
    """In the middle of training; `fit` makes the optimizer and loads its state."""

    def train(optimizers: ModuleType) -> Module:
        first = trainer(tmp_path, max_epochs=1)
        first.fit(Module(optimizers), loader())
        file = tmp_path / f"{optimizers.__name__}.ckpt"
        first.save_checkpoint(file)
        again = Module(optimizers)
        trainer(tmp_path, max_epochs=2).fit(again, loader(), ckpt_path=file, weights_only=False)
        return again

    assert_same(train)


def test_weight_averaging(tmp_path: Path) -> None:
    """The mean of the weights after each epoch, put into the model at the end."""

    def train(optimizers: ModuleType) -> Module:
        module = Module(optimizers)
        averaging = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1, device="cpu")
        trainer(tmp_path, max_epochs=4, callbacks=[averaging]).fit(module, loader())
        return module

    assert_same(train)


class NormOfGradients(Callback):
    """As in Lightning's documentation: logs `grad_norm` before each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, _: Any, module: lightning.LightningModule, __: Any) -> None:
        from lightning.pytorch.utilities import grad_norm

        self.seen.append(float(grad_norm(module, norm_type=2)["grad_2.0_norm_total"]))


def test_logged_norm_of_gradients(tmp_path: Path) -> None:
    norms: list[list[float]] = []

    def train(optimizers: ModuleType) -> Module:
        module = Module(optimizers)
        callback = NormOfGradients()
        trainer(tmp_path, callbacks=[callback]).fit(module, loader())
        norms.append(callback.seen)
        return module

    assert_same(train)
    assert len(norms[0]) == 12
    assert norms[1] == pytest.approx(norms[0], rel=1e-7)


class TwoHeads(lightning.LightningModule):
    """Manual optimization: two optimizers take turns on the same tables."""

    def __init__(self, optimizers: ModuleType) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = prepared(Model(), optimizers)
        self.adam, self.sgd = optimizers.Adam, optimizers.SGD

    def training_step(self, batch: tuple[Tensor, Tensor], i: int) -> None:
        optimizer: Any = self.optimizers()[i % 2]  # type: ignore[index]
        optimizer.zero_grad()
        self.manual_backward(loss_of(self.model, *batch))
        self.clip_gradients(optimizer, gradient_clip_val=0.3, gradient_clip_algorithm="norm")
        optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.adam(self.model.parameters(), lr=0.02), self.sgd(self.model.parameters(), lr=0.05, momentum=0.9)]


def test_two_optimizers_in_turns(tmp_path: Path) -> None:
    def train(optimizers: ModuleType) -> TwoHeads:
        module = TwoHeads(optimizers)
        trainer(tmp_path).fit(module, loader())
        return module

    assert_same(train)
