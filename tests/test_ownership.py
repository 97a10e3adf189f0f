"""Who trains a table: states and transitions, driven on every kind of table there is, against dense training."""

from __future__ import annotations

import gc
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from unhot.training import Backend, Ownership, State, ownership_of

ROWS, MOMENTUM = 6, 0.5
TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
"""What some 20 steps may lose of numbers up to 10."""


class Kind(ABC):
    """A framework: how its tables and owners are made and used here."""

    @abstractmethod
    def table(self) -> Any:
        """A table that is nobody's, with the same weights each time."""

    @abstractmethod
    def owner(self, table: Any) -> Any:
        """An optimizer that owns the table: SGD with a rate of 1 and a momentum of 0.5."""

    @abstractmethod
    def step(self, table: Any, owner: Any, row: int) -> None:
        """One step, in which one row has a gradient of 1."""

    @abstractmethod
    def weights(self, table: Any) -> np.ndarray[Any, Any]:
        """The weights of all rows, as a user reads them."""

    @abstractmethod
    def slots(self, table: Any, owner: Any) -> np.ndarray[Any, Any]:
        """The momenta of all rows, as a user reads them from the owner."""

    @abstractmethod
    def tie(self, table: Any, owner: Any) -> Ownership[Any]:
        """The owner's tie to the table."""

    def ownable(self, table: Any) -> Any:
        """What knows whose the table is."""
        return table

    takes_back = True
    """Whether an owner that steps again takes the table back; otherwise it trains it densely."""

    def holder(self, table: Any) -> Any:
        """Who the table belongs to."""
        tie = ownership_of(self.ownable(table))
        return None if tie is None else tie.owner


class FakeMemory:
    """What the framework keeps of an optimizer."""

    def __init__(self) -> None:
        self.count = 0
        self.slots = np.zeros(ROWS)


class FakeBackend(Backend):
    """Momentum on a list of numbers: a resting row moves on by its momentum, which halves."""

    def __init__(self, table: FakeTable, memory: FakeMemory) -> None:
        self.table, self.memory = weakref.proxy(table), memory
        self.last = np.zeros(ROWS, int)
        self.clock = 0

    def has_deferred_steps(self) -> bool:
        return bool((self.last < self.clock).any())

    def settle(self) -> None:
        for row in range(ROWS):
            self.catch_up(row)

    def resume(self) -> None:
        self.clock = self.memory.count
        self.last[:] = self.clock

    def catch_up(self, row: int) -> None:
        for _ in range(self.clock - self.last[row]):
            self.move(row, 0.0)
        self.last[row] = self.clock

    def step(self, row: int) -> None:
        self.catch_up(row)
        self.clock += 1
        self.memory.count = self.clock
        self.move(row, 1.0)
        self.last[row] = self.clock

    def move(self, row: int, gradient: float) -> None:
        self.memory.slots[row] = MOMENTUM * self.memory.slots[row] + gradient
        self.table.held[row] -= self.memory.slots[row]


class FakeTable:
    ownership: Ownership[FakeBackend] | None = None

    def __init__(self) -> None:
        self.held = np.zeros(ROWS)

    @property
    def read(self) -> np.ndarray[Any, Any]:
        tie = ownership_of(self)
        if tie is not None:
            tie.settle()
        return self.held


class FakeOwner:
    def __init__(self, table: FakeTable) -> None:
        self.memory = FakeMemory()
        self.tie = Ownership(table, self, FakeBackend(table, self.memory))
        self.tie.regain()

    def step(self, row: int) -> None:
        self.tie.regain()
        self.tie.backend.step(row)


class Fake(Kind):
    def table(self) -> FakeTable:
        return FakeTable()

    def owner(self, table: FakeTable) -> FakeOwner:
        return FakeOwner(table)

    def step(self, table: FakeTable, owner: FakeOwner, row: int) -> None:
        owner.step(row)

    def weights(self, table: FakeTable) -> np.ndarray[Any, Any]:
        return table.read.copy()

    def slots(self, table: FakeTable, owner: FakeOwner) -> np.ndarray[Any, Any]:
        owner.tie.settle()
        return owner.memory.slots.copy()

    def tie(self, table: FakeTable, owner: FakeOwner) -> Ownership[FakeBackend]:
        return owner.tie


class Dense:
    """Dense training of a table by any number of optimizers: each has its momenta, and a step of one moves all rows."""

    def __init__(self, start: np.ndarray[Any, Any]) -> None:
        self.weights = start.astype(np.float64)

    def optimizer(self) -> np.ndarray[Any, Any]:
        return np.zeros_like(self.weights)

    def step(self, slots: np.ndarray[Any, Any], row: int) -> None:
        slots *= MOMENTUM
        slots[row] += 1.0
        self.weights -= slots


class Torch(Kind):
    """Parameters of `unhot.torch`."""

    def table(self) -> Any:
        import torch

        import unhot.torch

        layer = unhot.torch.Embedding.from_pretrained(torch.zeros(ROWS, 1, dtype=torch.float64), freeze=False)
        layer.weight.layer = layer  # type: ignore[attr-defined]
        return layer.weight

    def owner(self, table: Any) -> Any:
        import unhot.torch

        return unhot.torch.SGD([table], lr=1.0, momentum=MOMENTUM)

    def step(self, table: Any, owner: Any, row: int) -> None:
        import torch

        owner.zero_grad()
        table.layer(torch.tensor([row])).sum().backward()
        owner.step()

    def weights(self, table: Any) -> np.ndarray[Any, Any]:
        found: np.ndarray[Any, Any] = table.detach().numpy()[:, 0].copy()
        return found

    def slots(self, table: Any, owner: Any) -> np.ndarray[Any, Any]:
        held = owner.state[table].get("momentum_buffer")
        return np.zeros(ROWS) if held is None else held.numpy()[:, 0].copy()

    def tie(self, table: Any, owner: Any) -> Ownership[Any]:
        found: Ownership[Any] = owner._ties[id(table)]
        return found


class Keras(Kind):
    """Variables of `unhot.keras` on one backend, trained by `train_on_batch`, each owner by a model of its own."""

    def __init__(self) -> None:
        import keras

        # A compiled step of JAX is handed the arrays, and gives new ones: whose the table is stays as it was.
        self.takes_back = keras.backend.backend() != "jax"

    def table(self) -> Any:
        import unhot.keras

        layer = unhot.keras.Embedding(ROWS, 1, embeddings_initializer="zeros")
        layer.build()
        layer._embeddings.layer = layer
        return layer._embeddings

    def owner(self, table: Any) -> Any:
        import keras

        import unhot.keras

        owner = unhot.keras.SGD(1.0, momentum=MOMENTUM)
        jit = keras.backend.backend() == "jax"
        owner.model = keras.Sequential([keras.Input((), dtype="int32"), table.layer])
        owner.model.compile(optimizer=owner, loss=lambda wanted, found: keras.ops.sum(found, -1), jit_compile=jit)
        owner.build([table])
        return owner

    def step(self, table: Any, owner: Any, row: int) -> None:
        owner.model.train_on_batch(np.array([row], np.int32), np.zeros((1, 1)))

    def weights(self, table: Any) -> np.ndarray[Any, Any]:
        return self._first_column(table)

    def slots(self, table: Any, owner: Any) -> np.ndarray[Any, Any]:
        return -self._first_column(owner.momentums[0])

    def _first_column(self, variable: Any) -> np.ndarray[Any, Any]:
        import keras

        found: np.ndarray[Any, Any] = keras.ops.convert_to_numpy(variable.value)[:, 0].copy()
        return found

    def tie(self, table: Any, owner: Any) -> Ownership[Any]:
        found: Ownership[Any] = owner._tables[owner._var_key(table)]
        return found

    def ownable(self, table: Any) -> Any:
        from unhot.keras.backends import backend

        return backend.ownable(table)


KINDS: dict[str, Callable[[], Kind]] = {"fake": Fake, "torch": Torch, "keras": Keras}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kind:
    """A kind of tables. Those of Keras are of the backend KERAS_BACKEND: `make test-keras` sets it to each."""
    if request.param == "keras":
        if "KERAS_BACKEND" not in os.environ:
            pytest.skip("KERAS_BACKEND is not set")
        from unhot.keras.backends import backend

        monkeypatch.setattr(backend, "FEWEST_ROWS", 0)
    return KINDS[request.param]()


def close(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> None:
    allowed = TOLERANCE[found.dtype.name]
    np.testing.assert_allclose(found, wanted, rtol=allowed, atol=allowed)


def test_the_states_of_one_owner(kind: Kind) -> None:
    table = kind.table()
    owner = kind.owner(table)
    tie = kind.tie(table, owner)
    assert tie.table is kind.ownable(table)
    assert tie.owner is owner
    assert tie.state is State.SETTLED
    kind.step(table, owner, 1)
    kind.step(table, owner, 2)
    assert tie.state is State.DEFERRED
    tie.settle()
    assert tie.state is State.SETTLED
    kind.step(table, owner, 3)
    tie.release()
    assert tie.state is State.FREE
    assert kind.holder(table) is None
    tie.release()
    tie.settle()
    assert tie.state is State.FREE


def test_a_new_owner_takes_over_and_the_old_one_takes_back(kind: Kind) -> None:
    """By turns, in stretches; each goes on with its own momenta, as two dense optimizers of one parameter do."""
    table = kind.table()
    dense = Dense(kind.weights(table))
    first = kind.owner(table)
    second, slots = None, [dense.optimizer(), dense.optimizer()]
    for stretch in range(5):
        if stretch == 1:
            second = kind.owner(table)
            assert kind.tie(table, first).state is State.LOST
            assert kind.tie(table, second).state is State.SETTLED
        owners = (first, second)
        for row in range(4):
            kind.step(table, owners[stretch % 2], (row + stretch) % ROWS)
            dense.step(slots[stretch % 2], (row + stretch) % ROWS)
        holder = owners[stretch % 2] if kind.takes_back or second is None else second
        assert kind.holder(table) is holder
        if holder is owners[stretch % 2]:
            assert kind.tie(table, holder).state is State.DEFERRED
        if second is not None:
            lost = first if holder is second else second
            assert kind.tie(table, lost).state is State.LOST
            close(kind.slots(table, lost), slots[owners.index(lost)])
    close(kind.weights(table), dense.weights)
    for owner, wanted in zip((first, second), slots, strict=True):
        close(kind.slots(table, owner), wanted)


def test_a_lost_owner_neither_settles_nor_releases(kind: Kind) -> None:
    table = kind.table()
    dense = Dense(kind.weights(table))
    first, mine = kind.owner(table), dense.optimizer()
    kind.step(table, first, 0)
    dense.step(mine, 0)
    second, other = kind.owner(table), dense.optimizer()
    for row in (1, 2, 3):
        kind.step(table, second, row)
        dense.step(other, row)
    kind.tie(table, first).settle()
    kind.tie(table, first).release()
    assert kind.tie(table, first).state is State.LOST
    assert kind.tie(table, second).state is State.DEFERRED
    close(kind.weights(table), dense.weights)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "gone"])
def test_owners_under_one_name(kind: Kind, kept: bool) -> None:
    """`optimizer = ...` again and again, as in a notebook: the old one lives until the new one is made, or longer."""
    table = kind.table()
    dense = Dense(kind.weights(table))
    owner, held = None, []
    for _ in range(3):
        owner = kind.owner(table)
        held += [owner] * kept
        slots = dense.optimizer()
        for row in (1, 0, 3):
            kind.step(table, owner, row)
            dense.step(slots, row)
    close(kind.weights(table), dense.weights)


def test_an_owner_that_is_gone_has_released(kind: Kind) -> None:
    table = kind.table()
    dense = Dense(kind.weights(table))
    owner, slots = kind.owner(table), dense.optimizer()
    for row in (1, 0, 3):
        kind.step(table, owner, row)
        dense.step(slots, row)
    del owner
    gc.collect()
    assert kind.holder(table) is None
    close(kind.weights(table), dense.weights)


def test_a_released_table_is_owned_again_by_the_next_step(kind: Kind) -> None:
    table = kind.table()
    dense = Dense(kind.weights(table))
    owner, slots = kind.owner(table), dense.optimizer()
    for released in (False, True):
        for row in (1, 0, 3):
            kind.step(table, owner, row)
            dense.step(slots, row)
        close(kind.weights(table), dense.weights)
        assert kind.holder(table) is (owner if kind.takes_back or not released else None)
        kind.tie(table, owner).release()
        assert kind.holder(table) is None
    close(kind.slots(table, owner), slots)


class Failing(FakeBackend):
    """A backend that is interrupted in the midst of a transition."""

    def __init__(self, table: FakeTable, memory: FakeMemory, at: str) -> None:
        super().__init__(table, memory)
        self.at = at

    def hand_over(self) -> None:
        super().hand_over()
        if self.at == "hand_over":
            raise KeyboardInterrupt

    def resume(self) -> None:
        if self.at == "resume":
            raise KeyboardInterrupt
        super().resume()


@pytest.mark.parametrize(("transition", "at"), [("regain", "hand_over"), ("regain", "resume"), ("release", "hand_over")])
def test_an_interrupted_transition_leaves_the_table_with_its_owner(transition: str, at: str) -> None:
    table = FakeTable()
    dense = Dense(table.held)
    owner, slots = FakeOwner(table), dense.optimizer()
    owner.tie.backend = Failing(table, owner.memory, "hand_over" * (at == "hand_over"))
    for row in (1, 0, 3):
        owner.step(row)
        dense.step(slots, row)
    other = FakeMemory()
    taker = Ownership(table, other, Failing(table, other, at))
    with pytest.raises(KeyboardInterrupt):
        taker.regain() if transition == "regain" else owner.tie.release()
    assert table.ownership is owner.tie
    owner.step(2)
    dense.step(slots, 2)
    close(table.read, dense.weights)
