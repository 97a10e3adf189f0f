"""Checkpoints by torch.distributed.checkpoint, which other numbers of processes and other layouts load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

import unhot.torch
from pytorch.distributed import models
from pytorch.distributed.models import Recommender, batches, part, weights_of
from pytorch.distributed.programs import made, optimizer_of, share, steps, train, whole_training
from pytorch.distributed.ranks import beside_ddp
from unhot.torch.distributed import load_table, save_table, shard


def trained(group: Any, layout: str, kind: str, folder: str, first: int, stop: int, load: bool, save: bool) -> Any:
    """The weights after the batches [first, stop), from a checkpoint or from the start."""
    torch.manual_seed(5)
    model: Any = Recommender(0)
    if load:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
    shard(model, group, layout=layout)
    model = nn.parallel.DistributedDataParallel(model, process_group=group)
    optimizer = getattr(unhot.torch, kind)(model.parameters(), lr=0.01)
    if load:
        weights, state = get_state_dict(model, optimizer)
        dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder, process_group=group)
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
    for batch in batches(stop)[first:]:
        own = part(batch, group.rank(), group.size())
        optimizer.zero_grad()
        nn.functional.mse_loss(model(own), own["target"]).backward()
        optimizer.step()
    if save:
        weights, state = get_state_dict(model, optimizer)
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder, process_group=group)
    return weights_of(model, group)


@beside_ddp
@pytest.mark.parametrize("kind", ["Adam", "RowwiseAdagrad"])
@pytest.mark.parametrize("layout", ["mod", "range", "hash"])
def test_goes_on_bit_for_bit(pool: Any, tmp_path: Path, layout: str, kind: str) -> None:
    """At the same layout, as the run that saved does."""
    (expected, _) = pool.run(saves_and_goes_on, layout, kind, str(tmp_path / "a"), world=2)
    pool.run(trained, layout, kind, str(tmp_path / "b"), 0, 6, False, True, world=2)
    found, _ = pool.run(trained, layout, kind, str(tmp_path / "b"), 6, 14, True, False, world=2)
    for name, weight in found.items():
        assert torch.equal(weight, expected[name]), name


def saves_and_goes_on(group: Any, layout: str, kind: str, folder: str) -> Any:
    """The weights of a run that has saved in between."""
    model: Any = Recommender(0)
    shard(model, group, layout=layout)
    model = nn.parallel.DistributedDataParallel(model, process_group=group)
    optimizer = getattr(unhot.torch, kind)(model.parameters(), lr=0.01)
    for k, batch in enumerate(batches(14)):
        own = part(batch, group.rank(), group.size())
        optimizer.zero_grad()
        nn.functional.mse_loss(model(own), own["target"]).backward()
        optimizer.step()
        if k == 5:
            weights, state = get_state_dict(model, optimizer)
            dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder, process_group=group)
    return weights_of(model, group)


@beside_ddp
def test_other_numbers_of_processes(pool: Any, tmp_path: Path) -> None:
    """From two to three to one, each with another layout; the files are those of one process."""
    pool.run(trained, "mod", "Adam", str(tmp_path / "two"), 0, 4, False, True, world=2)
    files_in_one_process(tmp_path / "two", 4)
    pool.run(load_and_save, "hash", str(tmp_path / "two"), str(tmp_path / "three"), world=3)
    found = pool.run(trained, "range", "Adam", str(tmp_path / "three"), 4, 12, True, False, world=1)[0]
    expected = models.in_one_process(12)
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")


def load_and_save(group: Any, layout: str, source: str, target: str) -> None:
    """Nothing but that."""
    model: Any = Recommender(1)
    shard(model, group, layout=layout)
    optimizer = unhot.torch.Adam(model.parameters(), lr=0.01)
    weights, state = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=source, process_group=group)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=target, process_group=group)


def files_in_one_process(folder: Path, steps: int) -> None:
    """A model without shards takes the weights and the optimizer's state from the files."""
    dcp_to_torch_save(folder, folder / "whole.pt")
    saved = torch.load(folder / "whole.pt", weights_only=False)
    model = Recommender(1)
    model.load_state_dict(saved["model"])
    optimizer = unhot.torch.Adam(model.parameters(), lr=0.01)
    set_state_dict(model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"])
    for batch in batches(12)[steps:]:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(batch), batch["target"]).backward()
        optimizer.step()
    expected = models.in_one_process(12)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")


def full_states(group: Any) -> Any:
    """The state that torch gathers in the first process, and what comes of loading it there."""
    model: Any = Recommender(0)
    shard(model, group)
    optimizer = unhot.torch.Adam(model.parameters(), lr=0.01)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights, _ = get_state_dict(model, optimizer, options=options)
    stock: Any = {name: weight.clone() for name, weight in weights.items()} if group.rank() == 0 else {}
    other: Any = Recommender(3)
    shard(other, group, layout="hash")
    other.load_state_dict(models.Recommender(0).state_dict())  # as everybody may have it
    return stock, weights_of(other, group)


def test_states_of_one_process(pool: Any) -> None:
    """A sharded model gives and takes them."""
    expected = Recommender(0).state_dict()
    (stock, loaded), *_ = pool.run(full_states, world=3)
    for name, weight in expected.items():
        assert torch.equal(stock[name], weight), name
        assert torch.equal(loaded[name], weight), name


def with_file(group: Any, kind: str, folder: str) -> Any:
    """A layer's weights after training, saving to a file, and training on from it, in another layout."""
    options = ("NAdam", {"lr": 0.01}) if kind == "NAdam" else (kind, {"lr": 0.05})
    batches_here = [share(step, group.rank(), group.size(), False) for step in steps(30)]
    layer = made("", {}, group, layout="mod")
    optimizer = optimizer_of(layer, *options)
    train(layer, optimizer, batches_here[:15], "")
    save_table(layer, f"{folder}/table.safetensors", optimizer)
    other = made("", {}, group, layout="hash")
    with torch.no_grad():
        other.weight.zero_()
    again = optimizer_of(other, *options)
    load_table(other, f"{folder}/table.safetensors", again)
    train(other, again, batches_here[15:], "")
    return other.rows_here(), other.weight.detach().clone()


@pytest.mark.parametrize("kind", ["Adam", "NAdam", "SGD", "RowwiseAdagrad"])
def test_files_of_tables(pool: Any, tmp_path: Path, kind: str) -> None:
    """`unhot.load` reads what a sharded layer wrote, and trains on; so does a layer in another layout."""
    options = ("NAdam", {"lr": 0.01}) if kind == "NAdam" else (kind, {"lr": 0.05})
    _, expected, _, _ = whole_training("", {}, options, 30)
    for rows, weights in pool.run(with_file, kind, str(tmp_path), world=3):
        torch.testing.assert_close(weights, expected[rows], rtol=1e-5, atol=1e-6)
    table = unhot.load(tmp_path / "table.safetensors")
    for step in [share(step, 0, 1, False) for step in steps(30)][15:]:
        table.accumulate(step.ids.numpy(), step.gradients[: len(step.ids)].numpy())
        table.step()
    torch.testing.assert_close(torch.from_numpy(table.array), expected, rtol=1e-5, atol=1e-6)


def without_a_folder(group: Any, folder: str) -> str:
    """What a process says of a file that cannot be written."""
    try:
        save_table(made("", {}, group), f"{folder}/nowhere/table.safetensors")
    except (OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_files_that_cannot_be_written(pool: Any, tmp_path: Path) -> None:
    """An error in all processes at once."""
    first, second = pool.run(without_a_folder, str(tmp_path), world=2)
    assert first.startswith("FileNotFoundError")
    assert "another process has an error" in second
