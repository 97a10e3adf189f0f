"""Hyperparameters that change what an optimizer keeps, those it refuses, and what is left when it has refused."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import unhot
import unhot.torch
from unhot.torch._private import ON

from .twins import DIM, LR, ROWS, _double, by_rows, close, deferred, pair, train  # noqa: F401


@pytest.mark.parametrize("between", [0, 10])
@pytest.mark.parametrize("given", [{}, {"dampening": 0.3}, {"weight_decay": 0.1}], ids=str)
def test_momentum_begun_late(given: dict[str, Any], between: int) -> None:
    """A schedule that warms momentum up from 0, to which it may come back: torch's buffer then waits."""
    twins = pair("SGD", given)
    for layer, optimizer in twins:
        train(layer, optimizer)
        for momentum in (0.9, 0.0, 0.5):
            optimizer.param_groups[0]["momentum"] = momentum
            train(layer, optimizer, seed=1, steps=20 if momentum else between)
    assert deferred(twins[1][0])
    close(twins[1][0].weight, twins[0][0].weight)
    close(*(optimizer.state_dict()["state"][0]["momentum_buffer"] for _, optimizer in reversed(twins)))


def test_amsgrad_for_a_while() -> None:
    """The largest second moment waits where it is."""
    twins = pair("Adam", {"amsgrad": True})
    for layer, optimizer in twins:
        for amsgrad in (True, False, True):
            optimizer.param_groups[0]["amsgrad"] = amsgrad
            train(layer, optimizer, seed=int(amsgrad))
    assert deferred(twins[1][0])
    close(twins[1][0].weight, twins[0][0].weight)


FLAGS = [("SGD", "nesterov", {"momentum": 0.9}), ("Adam", "amsgrad", {}), ("AdamW", "amsgrad", {}), ("RMSprop", "centered", {})]


@pytest.mark.parametrize("value", [1, 0, 0.5, "no", ""], ids=repr)
@pytest.mark.parametrize(("name", "flag", "given"), FLAGS, ids=[name for name, _, _ in FLAGS])
def test_what_torch_takes_for_true_or_false(name: str, flag: str, given: dict[str, Any], value: Any) -> None:
    """Whatever it is, it is here what it is there."""
    twins = pair(name, {**given, flag: value})
    for layer, optimizer in twins:
        train(layer, optimizer)
    assert deferred(twins[1][0])
    close(twins[1][0].weight, twins[0][0].weight)


def test_a_table_trained_densely_beside_one_by_rows() -> None:
    """Two groups, of which one has hyperparameters outside of ours for a while."""
    made = []
    for module, optimizers in ((nn, torch.optim), (unhot.torch, unhot.torch)):
        torch.manual_seed(0)
        first, second = (module.Embedding(ROWS, DIM) for _ in range(2))
        optimizer = optimizers.SGD([{"params": layer.parameters()} for layer in (first, second)], lr=LR, momentum=0.9)
        for rate in (LR, -1e-3, LR):
            optimizer.param_groups[1]["lr"] = rate
            train(lambda ids, first=first, second=second: first(ids) * second(ids), optimizer, steps=9)
            assert module is nn or (deferred(first), deferred(second)) == (True, rate > 0)
        made.append((first, second, optimizer))
    for theirs, ours in zip(made[0][:2], made[1][:2], strict=True):
        close(ours.weight, theirs.weight)
        close(made[1][2].state[ours.weight]["momentum_buffer"], made[0][2].state[theirs.weight]["momentum_buffer"])


BEYOND: list[tuple[str, dict[str, Any]]] = [
    *(("SGD", what) for what in ({"lr": -1e-3}, {"momentum": -0.5}, {"momentum": 1.0}, {"lr": float("nan")}, {"lr": 1e31})),
    *((name, {"weight_decay": 0.1}) for name in ("Adam", "NAdam", "RAdam", "Adamax", "Adagrad", "RMSprop", "Adadelta")),
    ("Adam", {"betas": (0.99999, 0.999)}), ("Adam", {"betas": (0.0, 0.999)}), ("Adam", {"betas": (0.9, 0.0)}),
    ("AdamW", {"eps": 0.0}), ("AdamW", {"eps": 1e-320}), ("RMSprop", {"alpha": 0.0}),
    ("Adadelta", {"rho": 1.0}), ("Adagrad", {"eps": 0.0}), ("Adamax", {"eps": 0.0}), ("NAdam", {"momentum_decay": 0.0}),
    ("Adam", {"betas": (0.9, 1.0)}), ("RAdam", {"betas": (0.9, 0.6)}), ("RAdam", {"eps": 1e-300}), ("SGD", {"dampening": -1.0}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "what"), BEYOND, ids=str)
def test_hyperparameters_that_rows_cannot_be_trained_by(name: str, what: dict[str, Any]) -> None:
    """For a while: the table is trained densely, by torch's own code, and by rows before and afterwards."""
    twins = pair(name, {"momentum": 0.9} if name == "SGD" else {})
    usual = {key: twins[0][1].param_groups[0][key] for key in what}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", unhot.DenseFallbackWarning)
        for layer, optimizer in twins:
            for seed, now in enumerate((usual, what, usual)):
                optimizer.param_groups[0].update(now)
                train(layer, optimizer, seed=seed, steps=12)
    assert deferred(twins[1][0]) or name == "Adagrad"
    close(twins[1][0].weight, twins[0][0].weight)
    if told:
        (warning,) = told
        assert warning.filename.endswith("twins.py") or not ON  # whose frames are others
        said = str(warning.message)
        assert re.match(r"A table of shape \(30, 3\) is trained densely, at the cost of all its rows: .*\. ", said)
        assert next(iter(what)) in said, "it is called as in PyTorch"
        assert not re.search(r"epsilon|beta_|learning_rate|convention", said)
        assert not said.rpartition(". ")[2].startswith("Received"), "what to do comes last"
    else:
        assert name in ("Adam", "Adadelta", "NAdam", "RMSprop", "SGD")


@pytest.mark.parametrize("name", ["Adam", "NAdam", "RAdam", "Adamax", "Adagrad", "RMSprop", "Adadelta"])
def test_a_coupled_decay_from_the_start(name: str) -> None:
    """The default of several recommender libraries; also for layers with sparse=True, which torch's own refuse."""
    for sparse in (None, True, False):
        (theirs, reference), (ours, optimizer) = pair(name, {"weight_decay": 0.1})
        ours.sparse = sparse
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for layer, own in ((theirs, reference), (ours, optimizer)):
                train(layer, own)
        assert len(told) == (sparse is not False)
        assert all("weight_decay" in str(one.message) and "decoupled" in str(one.message) for one in told)
        assert not deferred(ours)
        close(ours.weight, theirs.weight)
        if sparse is None:
            assert "weight_decay" in unhot.torch.report(ours, optimizer).densely["weight"]


@pytest.mark.parametrize(("name", "given"), [("SGD", {"weight_decay": 0.1}), ("AdamW", {"weight_decay": 0.1})])
def test_decay_that_is_exact_is_taken(name: str, given: dict[str, Any]) -> None:
    twins = pair(name, given)
    for layer, optimizer in twins:
        train(layer, optimizer)
    assert deferred(twins[1][0])
    close(twins[1][0].weight, twins[0][0].weight)


def test_a_sparse_gradient_of_single_numbers_is_torchs() -> None:
    """Somebody may set one, whose indices are not rows alone."""
    twins = pair("SGD")
    for layer, optimizer in twins:
        train(layer, optimizer)
        layer.weight.grad = torch.sparse_coo_tensor([[1, 1, 4], [0, 2, 1]], [1.0, 2.0, 3.0], (ROWS, DIM))
        optimizer.step()
        train(layer, optimizer, seed=1)
    close(twins[1][0].weight, twins[0][0].weight)
