"""Hugging Face's Trainer with a tiny GPT-2 that is made from its configuration."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import unhot.torch

from .twins import assert_same, prepared, trained_twice

TOKENS, LENGTH, TEXTS = 60, 6, 32
LIBRARIES = (torch.optim, unhot.torch)
"""Whose optimizer says whether a model is made with unhot's layers."""

SIZES = {"vocab_size": TOKENS, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}


class Texts(Dataset[dict[str, Tensor]]):
    """Of tokens that rarely repeat: most rows of the table rest."""

    def __init__(self, tokens: int = TOKENS) -> None:
        self.ids = torch.randint(tokens, (TEXTS, LENGTH), generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return TEXTS

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[i], "labels": self.ids[i]}


def gpt2(optimizers: ModuleType, tied: bool = True) -> GPT2LMHeadModel:
    model = GPT2LMHeadModel(GPT2Config(**SIZES, tie_word_embeddings=tied)).double()
    assert (model.lm_head.weight is model.transformer.wte.weight) == tied
    return prepared(model, optimizers)


def trainer(model: nn.Module, optimizers: ModuleType, folder: Path, *, tokens: int = TOKENS, **given: Any) -> Trainer:
    """Of eight steps: an epoch of the texts in fours."""
    chosen = {"save_strategy": "no", "report_to": "none", "logging_steps": 1, "per_device_train_batch_size": 4, "max_steps": 8}
    return Trainer(
        model,
        TrainingArguments(str(folder / optimizers.__name__), use_cpu=True, disable_tqdm=True, **{**chosen, **given}),
        train_dataset=Texts(tokens),
        optimizers=(optimizers.AdamW(model.parameters(), lr=0.01), None),
    )


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("given", [{}, {"max_grad_norm": 0}, {"gradient_accumulation_steps": 2}], ids=str)
def test_trainer(tied: bool, given: dict[str, Any], tmp_path: Path) -> None:
    """It takes the norm of all gradients at every step, also where it clips nothing; the log has it."""
    logs: list[list[Any]] = []

    def train(optimizers: ModuleType) -> nn.Module:
        model = gpt2(optimizers, tied)
        run = trainer(model, optimizers, tmp_path, **given)
        run.train()
        logs.append([line["grad_norm"] for line in run.state.log_history if "grad_norm" in line])
        return model

    assert_same(train)
    assert len(logs[0]) == 8
    assert logs[1] == pytest.approx(logs[0], rel=1e-7)  # a tenth of a weight's error per weight at most, summed over squares


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_resume(tied: bool, tmp_path: Path) -> None:
    """From the checkpoint in the middle, as if there had been no interruption."""

    def train(optimizers: ModuleType) -> nn.Module:
        trainer(gpt2(optimizers, tied), optimizers, tmp_path, save_strategy="steps", save_steps=4).train()
        checkpoint = tmp_path / optimizers.__name__ / "checkpoint-4"
        again = gpt2(optimizers, tied)
        trainer(again, optimizers, tmp_path).train(resume_from_checkpoint=str(checkpoint))
        return again

    assert_same(train)


def test_a_checkpoint_goes_on_with_the_other(tmp_path: Path) -> None:
    """One of unhot's, resumed with torch's layers and optimizer, and one of torch's, resumed with unhot's."""
    import unhot.torch

    def train(optimizers: ModuleType) -> nn.Module:
        trainer(gpt2(optimizers), optimizers, tmp_path, save_strategy="steps", save_steps=4).train()
        return gpt2(optimizers)

    trained_twice(train)

    def resumed(optimizers: ModuleType) -> nn.Module:
        other = unhot.torch if optimizers is torch.optim else torch.optim
        model = gpt2(optimizers)
        checkpoint = tmp_path / other.__name__ / "checkpoint-4"
        trainer(model, optimizers, tmp_path).train(resume_from_checkpoint=str(checkpoint))
        return model

    assert_same(resumed)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_resize(tied: bool, tmp_path: Path) -> None:
    """New tokens after some training; then it goes on with another Trainer and another optimizer."""

    def train(optimizers: ModuleType) -> nn.Module:
        model = gpt2(optimizers, tied)
        trainer(model, optimizers, tmp_path, max_steps=4).train()
        model.resize_token_embeddings(TOKENS + 5)
        trainer(model, optimizers, tmp_path, tokens=TOKENS + 5, max_steps=4).train()
        return model

    assert_same(train)


def test_resized_layers_are_tables(tmp_path: Path) -> None:
    """Converted again after resizing, what is new is trained by rows, too."""

    def train(optimizers: ModuleType) -> nn.Module:
        model = gpt2(optimizers, tied=False)
        trainer(model, optimizers, tmp_path, max_steps=4).train()
        model.resize_token_embeddings(TOKENS + 5)
        if optimizers is not torch.optim:
            optimizers.convert(model)
            assert isinstance(model.get_input_embeddings(), optimizers.Embedding)
        trainer(model, optimizers, tmp_path, tokens=TOKENS + 5, max_steps=4).train()
        return model

    assert_same(train)


def test_two_trainers(tmp_path: Path) -> None:
    """One after the other on the same model, each with its own optimizer; the first is still there."""

    def train(optimizers: ModuleType) -> nn.Module:
        model = gpt2(optimizers, tied=False)
        runs = [trainer(model, optimizers, tmp_path, max_steps=4) for _ in range(2)]
        for run in runs:
            run.train()
        return model

    assert_same(train)


def test_optimizer_made_by_the_trainer(tmp_path: Path) -> None:
    """From a class and its arguments; without decay for biases and norms, as the Trainer groups parameters."""

    def train(optimizers: ModuleType) -> nn.Module:
        model = gpt2(optimizers, tied=False)
        arguments = TrainingArguments(
            str(tmp_path), use_cpu=True, disable_tqdm=True, report_to="none", save_strategy="no", max_steps=8, weight_decay=0.1
        )
        run = Trainer(
            model, arguments, train_dataset=Texts(), optimizer_cls_and_kwargs=(optimizers.AdamW, {"lr": 0.01, "eps": 1e-6})
        )
        run.train()
        return model

    assert_same(train)


@pytest.mark.parametrize("library", LIBRARIES, ids=["resized first", "converted first"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_only_new_tokens_train(tied: bool, library: ModuleType, tmp_path: Path) -> None:
    """After a resize, the rows of the old tokens stay as they are to the last bit, with weight decay and with a tied head."""
    model = gpt2(library, tied)
    # These three lines are those of docs/ids.md, which no other test runs. Keep them the same.
    model.resize_token_embeddings(TOKENS + 5)
    unhot.torch.convert(model)
    model.get_input_embeddings().only_train(range(TOKENS, TOKENS + 5))
    layer = model.get_input_embeddings()
    before = layer.weight.detach().clone()
    trainer(model, unhot.torch, tmp_path, tokens=TOKENS + 5, weight_decay=0.1).train()
    after = model.get_input_embeddings().weight.detach()
    assert torch.equal(after[:TOKENS], before[:TOKENS])
    assert (after[TOKENS:] != before[TOKENS:]).any(1).all()
