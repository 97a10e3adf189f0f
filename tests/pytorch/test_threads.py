"""Threads that read a table while one trains it, and processes forked meanwhile.  Every wait has a limit."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from threaded import LIMIT, together
from torch import Tensor, nn

import unhot.torch
from unhot.torch.placement import KERNELS

ROWS, DIM = 600, 4


def made() -> tuple[unhot.torch.Embedding, torch.optim.Optimizer]:
    torch.manual_seed(0)
    layer = unhot.torch.Embedding(ROWS, DIM)
    return layer, unhot.torch.AdamW(layer.parameters(), lr=0.05)


def train(layer: unhot.torch.Embedding, optimizer: torch.optim.Optimizer, after: Callable[[], Any], steps: int) -> None:
    """Each step moves every row, most of them deferred."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        ids = torch.randint(ROWS, (40,), generator=generator)
        optimizer.zero_grad()
        (layer(ids) - 1).pow(2).sum().backward()
        optimizer.step()
        after()


def looked_up(layer: unhot.torch.Embedding) -> Tensor:
    with torch.no_grad():
        return layer(torch.arange(ROWS))


def pooled(layer: unhot.torch.Embedding) -> Tensor:
    bag = unhot.torch.EmbeddingBag(ROWS, DIM, mode="max", _weight=torch.empty(ROWS, DIM))
    bag.weight = layer.weight
    return bag(torch.arange(ROWS)[:, None])


READS: dict[str, Callable[[unhot.torch.Embedding], Tensor]] = {
    "lookups": looked_up,
    "with a gradient": lambda layer: layer(torch.arange(ROWS)),
    "bags": pooled,
}


@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize("read", READS)
def test_lookups_while_another_thread_trains(read: str, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shows all rows after one and the same step, and what is trained is what would be without them."""
    monkeypatch.setenv(KERNELS, kernels)
    steps = 150 if kernels == "native" else 60
    layer, optimizer = made()
    states = {READS[read](layer).detach().numpy().tobytes()}
    train(layer, optimizer, lambda: states.add(READS[read](layer).detach().numpy().tobytes()), steps)
    wanted = layer.weight.detach().clone()

    layer, optimizer = made()
    done = threading.Event()
    seen: list[bytes] = []

    def training() -> None:
        try:
            train(layer, optimizer, lambda: None, steps)
        finally:
            done.set()

    def reading() -> None:
        while not done.is_set():
            seen.append(READS[read](layer).detach().numpy().tobytes())

    together(training, reading, reading)
    assert len(set(seen)) > 1
    assert set(seen) <= states
    assert torch.equal(layer.weight, wanted)


@pytest.mark.parametrize("read", READS)
def test_first_lookups_while_another_thread_trains(read: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks a table up first, the steps of its rows go on: they are not settled in between."""
    monkeypatch.setenv(KERNELS, "torch")
    layer, optimizer = made()
    train(layer, optimizer, lambda: None, 3)
    wanted = layer.weight.detach().clone()
    for _ in range(40):
        layer, optimizer = made()
        together(partial(train, layer, optimizer, lambda: None, 3), *[partial(READS[read], layer)] * 3)
        assert torch.equal(layer.weight, wanted)


def test_settling_while_another_thread_trains() -> None:
    """Rows that are settled are not stepped at the same time: at the end all is as dense training has it."""
    layer, optimizer = made()
    torch.manual_seed(0)
    dense = nn.Embedding(ROWS, DIM)
    train(dense, torch.optim.AdamW(dense.parameters(), lr=0.05), lambda: None, 150)  # type: ignore[arg-type]
    done = threading.Event()

    def training() -> None:
        try:
            train(layer, optimizer, lambda: None, 150)
        finally:
            done.set()

    def settling() -> None:
        while not done.is_set():
            layer.weight.detach()
            optimizer.state_dict()

    together(training, settling)
    torch.testing.assert_close(layer.weight.detach(), dense.weight.detach(), rtol=1e-4, atol=1e-5)


def test_two_optimizers_in_two_threads() -> None:
    """Each with a table of its own, both looked up by both: nobody waits for ever."""
    torch.manual_seed(0)
    tables = [unhot.torch.Embedding(ROWS, DIM) for _ in range(2)]
    optimizers = [unhot.torch.Adam(table.parameters()) for table in tables]

    def training(own: int) -> None:
        for i in range(100):
            ids = torch.arange(i, i + 20)
            (tables[own](ids) * tables[1 - own](ids).detach()).sum().backward()
            optimizers[own].step()
            optimizers[own].zero_grad()
            assert torch.isfinite(torch.cat([table.weight for table in tables])).all()

    together(lambda: training(0), lambda: training(1))


@pytest.mark.parametrize("kind", [unhot.torch.EmbeddingCollection, unhot.torch.EmbeddingBagCollection])
def test_a_collection_is_read_while_tables_leave_and_come_back(kind: Any) -> None:
    """Tables skip steps, and so leave the clock that they share; the state is read, and all begin anew."""
    names = [f"table_{k}" for k in range(4)]
    collection = kind({name: (ROWS + k, DIM) for k, name in enumerate(names)}, output="dict")
    optimizer = unhot.torch.SGD(collection.parameters(), lr=1.0, momentum=0.9)
    for parameter in collection.parameters():
        nn.init.zeros_(parameter)
    done = threading.Event()
    failed: list[str] = []

    def training() -> None:
        try:
            for step in range(300):
                optimizer.zero_grad()
                ids = torch.arange(ROWS + len(names) if step % 50 == 0 else 0)  # all rows of a table are always alike
                total = torch.zeros(())
                for k, name in enumerate(names):
                    if step % 50 == 0 or step % len(names) != k:
                        own = ids[: ROWS + k]
                        total = (
                            total
                            + collection.layers[name](own if kind is unhot.torch.EmbeddingCollection else own[:, None]).sum()
                        )
                total.backward()
                optimizer.step()
                if step % 17 == 0:
                    optimizer.state_dict()
        finally:
            done.set()

    def reading() -> None:
        while not done.is_set():
            with torch.no_grad():
                found = collection({name: torch.randint(ROWS, (100,)) for name in names})
            failed.extend(name for name, vectors in found.items() if float(vectors.max() - vectors.min()) > 1e-3)

    together(training, reading, reading)
    assert not failed


FORKED = """
import os, signal, sys, threading, torch, warnings
import unhot.torch

warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forking with threads
layer = unhot.torch.Embedding(50, 3)
optimizer = unhot.torch.AdamW(layer.parameters())

def step(ids):
    optimizer.zero_grad()
    layer(torch.tensor(ids)).sum().backward()
    optimizer.step()

step([1, 2])
step([3])
before = layer(torch.arange(50)).detach().clone()
taken, finish = threading.Event(), threading.Event()

def hold():
    optimizer.lock.holding(lambda: (taken.set(), finish.wait()))

threading.Thread(target=hold, daemon=True).start()
taken.wait()
child = os.fork()
if child == 0:
    signal.alarm(30)
    right = torch.equal(layer(torch.arange(50)), before)
    step([1])
    os._exit(0 if right and torch.isfinite(layer.weight).all() else 3)
finish.set()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_a_child_forked_while_another_thread_holds_the_lock() -> None:
    """It reads and steps; the thread that holds the lock does not exist there."""
    subprocess.run([sys.executable, "-c", textwrap.dedent(FORKED)], check=True, timeout=LIMIT)
