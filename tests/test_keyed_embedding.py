"""Vectors of keys: `Embedding`. Which keys have rows, and that the rows of those that live are exact."""

from __future__ import annotations

import copy
import pickle
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance.dense import RULES as DENSE
from interrupts import everywhere
from selection import product

import unhot
from unhot.usage import split

DIM = 3


def grows(**options: Any) -> unhot.Embedding:
    vocabulary = unhot.Vocabulary(unknown="grow", reserved=options.pop("reserved", None))
    return unhot.Embedding(vocabulary, DIM, **{"seed": 0, **options})


def batches(count: int, keys: int = 12, seed: int = 0) -> list[tuple[list[str], np.ndarray]]:
    """Keys that come one after the other, and gradients."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        names = [f"key {k}" for k in np.minimum(rng.integers(0, 2 + number, 4), keys - 1)]
        found.append((names, rng.normal(size=(4, DIM))))
    return found


class Towers:
    """Embeddings of one vocabulary beside dense training, in which each life of a key has a row of its own from the start."""

    def __init__(self, unknown: Any, count: int = 2, lives: int = 400, **options: Any) -> None:
        self.words = unhot.Vocabulary(["a", "b", "c"], unknown=unknown, reserved=1)
        make = {"optimizer": unhot.Adam(0.1), "init": "zeros", "dtype": "float64", **options}
        self.embeddings = [unhot.Embedding(self.words, DIM, **make) for _ in range(count)]
        self.dense = [Dense(np.zeros((lives, DIM)), ("Adam", "keras"), learning_rate=0.1) for _ in range(count)]
        self.lives = {"a": 1, "b": 2, "c": 3}
        self.next = 4
        self.waiting: list[list[tuple[str, int, np.ndarray]]] = [[] for _ in range(count)]

    def came(self, keys: list[str]) -> None:
        for key in keys:
            if key not in self.lives:
                self.lives[key], self.next = self.next, self.next + 1

    def went(self, keys: list[str]) -> None:
        for key in keys:
            del self.lives[key]

    def gradients(self, which: int, keys: list[str], given: np.ndarray) -> None:
        self.came(keys)
        self.waiting[which] += [(key, self.lives[key], line) for key, line in zip(keys, given, strict=True)]

    def stepped(self, which: int) -> None:
        alive = [(life, line) for key, life, line in self.waiting[which] if self.lives.get(key) == life]
        self.dense[which].step([life for life, _ in alive], np.array([line for _, line in alive]).reshape(-1, DIM))
        self.waiting[which] = []

    def check(self, which: int) -> None:
        keys = sorted(self.lives)
        expected = self.dense[which].dense.w[[self.lives[key] for key in keys]]
        np.testing.assert_allclose(self.embeddings[which].lookup(keys), expected, rtol=1e-9, atol=1e-12)


class Dense:
    """Dense float64 training with a row for each key from the start."""

    def __init__(self, weights: np.ndarray, rule: tuple[str, str], **hyper: Any) -> None:
        self.dense = DENSE[rule](weights, **hyper)

    def step(self, rows: list[int], gradients: np.ndarray) -> None:
        whole = np.zeros(self.dense.w.shape)
        np.add.at(whole, rows, gradients)
        self.dense.step(whole)


@pytest.mark.parametrize("reserved", [0, 2])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_keys_that_arrive_are_exact(reserved: int, decay: float) -> None:
    """Each new key trains as if its row had been there from the start, in the order of their first lookups."""
    embedding = grows(optimizer=unhot.Adam(0.01, weight_decay=decay), dtype="float64", reserved=reserved)
    start = unhot.Table(30, DIM, dtype="float64", seed=0).array
    if not reserved:  # the row that an empty table begins with is drawn before the first key's
        start = start[1:]
    dense = Dense(start.copy(), ("Adam", "keras"), learning_rate=0.01, weight_decay=decay)
    order: list[str] = []
    for keys, gradients in batches(60):
        order += [key for key in dict.fromkeys(keys) if key not in order]
        rows = [reserved + order.index(key) for key in keys]
        np.testing.assert_allclose(embedding.lookup(keys), dense.dense.w[rows], rtol=1e-9, atol=1e-12)
        embedding.step(keys, gradients)
        dense.step(rows, gradients)
    assert list(embedding.vocabulary) == order
    assert embedding.encode(order).tolist() == list(range(reserved, reserved + len(order)))
    np.testing.assert_allclose(embedding[order], dense.dense.w[reserved:][: len(order)], rtol=1e-9, atol=1e-12)


def test_a_fixed_vocabulary() -> None:
    """A lookup changes nothing; unknown keys go by the vocabulary's policy."""
    words = unhot.Vocabulary(["cat", "owl"], unknown=0, missing=-1)
    embedding = unhot.Embedding(words, DIM, optimizer=unhot.SGD(1.0), init="zeros")
    embedding.step(["dog", None, "owl"], np.ones((3, DIM)))
    assert embedding.lookup(["cat", "owl", "dog", None])[:, 0].tolist() == [0.0, -1.0, -1.0, 0.0]
    assert "dog" not in embedding
    assert len(embedding) == 2
    assert embedding.table.rows == 3
    words.unknown = "raise"
    with pytest.raises(KeyError, match="dog"):
        embedding["dog"]
    words.extend(["dog"])
    assert embedding["dog"].tolist() == [0.0] * DIM
    assert embedding.table.rows == 4


@pytest.mark.parametrize("keys", [[5, 2**63, 5], np.array([[5, 7], [7, 9]]), [b"a", b"b"], "a key"])
def test_kinds_and_shapes_of_keys(keys: Any) -> None:
    """Vectors have the shape of the keys; bags are pooled."""
    embedding = grows(optimizer=unhot.SGD(1.0), init="zeros")
    shape = np.shape(keys)
    assert embedding[keys].shape == (*shape, DIM)
    embedding.accumulate(keys, np.ones((*shape, DIM)))
    embedding.step(keys, np.ones((*shape, DIM)))
    assert (embedding[keys] <= -2).all()
    if len(shape) == 2:
        np.testing.assert_array_equal(embedding.bag(keys, mode="mean"), embedding[keys].mean(axis=1))


def test_keys_are_admitted_once_they_are_frequent() -> None:
    """Before, they have the first reserved row, whose gradients are theirs, or none; the counts are exact."""
    embedding = grows(optimizer=unhot.SGD(1.0), init="zeros", min_count=3, reserved=1)
    seen: Counter[str] = Counter()
    for keys, gradients in batches(40):
        before = {key for key in seen if seen[key] >= 3}
        seen.update(keys)
        embedding.lookup(keys)
        assert set(embedding.vocabulary) == {key for key in seen if seen[key] >= 3}
        assert before <= set(embedding.vocabulary)
        embedding.step(keys, gradients)
    without = grows(optimizer=unhot.SGD(1.0), init="zeros", min_count=2)
    without.lookup(["a", "b"])
    without.step(["a", "b"], np.ones((2, DIM)))
    assert without.table.rows == 1
    assert not without["c"].any()
    without.lookup(["a"])
    assert list(without.vocabulary) == ["a"]
    assert not without["a"].any()


def test_keys_that_are_not_used_are_forgotten() -> None:
    """After `max_idle` steps, and at most an eighth more; their rows go to new keys, and others are exact."""
    idle, order = 16, []
    embedding = grows(optimizer=unhot.SGD(1.0), init="zeros", max_idle=idle)
    last: dict[str, int] = {}
    expected: dict[str, np.ndarray] = {}
    for number in range(200):
        keys = ["always", f"key {number // 3}"]
        for key in keys:
            if key not in embedding:
                expected[key] = np.zeros(DIM, np.float32)
        embedding.lookup(keys)
        embedding.step(keys, np.ones((2, DIM)))
        for key in keys:
            last[key] = number
            expected[key] -= 1
        for key in list(embedding.vocabulary):
            assert last[key] > number - idle - idle // 8 - 2
            assert embedding.table[embedding.encode(key)].tolist() == expected[key].tolist()
        for key, step in last.items():
            assert key in embedding or step <= number - idle
        order.append(embedding.table.rows)
    assert order[-1] == order[100] < 12


def test_the_least_used_keys_make_room() -> None:
    """There are at most `max_rows`, the keys of the present batch among them."""
    embedding = grows(optimizer=unhot.Adam(0.1), max_rows=64)
    rng = np.random.default_rng(0)
    for number in range(300):
        embedding.lookup(["a", "b", "c"])
        keys = [f"key {k}" for k in rng.integers(0, 10 * (1 + number), 5)]
        vectors = embedding.lookup(keys)
        assert len(embedding) <= 64
        assert vectors.any(axis=1).all()
        embedding.step(keys, np.ones((5, DIM)))
    assert {"a", "b", "c"} <= set(embedding.vocabulary)
    assert embedding.table.rows < 64 + 16
    few = grows(max_rows=3, optimizer=unhot.SGD(1.0))
    for _ in range(5):
        few.lookup(["a", "b", "c"])
    assert few.lookup(["x", "y"]).any(axis=1).all()  # which were used least often, but now
    few.lookup(["z"])  # before the step of the others
    assert {"x", "y", "z"} <= set(few.vocabulary)
    few.step(["x", "y", "z"], np.ones((3, DIM)))
    few.lookup(["z", "w"])
    assert len(few) == 3


def test_which_keys_make_room() -> None:
    """Those used least often; of these, those used longest ago; of these, the first."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = rng.integers(0, 4, (2, 30))
        count = int(rng.integers(0, 32))
        fewest, ties = split(values[0], count)
        oldest, last_ties = split(values[1][ties], count - len(fewest))
        chosen = [*fewest, *ties[oldest], *ties[last_ties][: count - len(fewest) - len(oldest)]]
        assert sorted(chosen) == sorted(np.lexsort((np.arange(30), values[1], values[0]))[:count])


def test_keys_that_are_removed() -> None:
    """By the embedding, or by the vocabulary itself."""
    embedding = grows(optimizer=unhot.Adam(0.1))
    keys = ["a", "b", "c", "d"]
    embedding.step(keys, np.ones((4, DIM)))
    before = embedding[keys]
    embedding.remove(["b"])
    assert embedding.table.removed.tolist() == [1]
    with pytest.raises(KeyError, match="b"):
        embedding.remove(["a", "b"])
    embedding.vocabulary.remove(["d"])
    assert embedding.table.removed.tolist() == [1, 3]
    np.testing.assert_array_equal(embedding[["a", "c"]], before[[0, 2]])
    assert embedding.lookup(["e", "f", "g"]).shape == (3, DIM)
    assert embedding.encode(["e", "f", "g"]).tolist() == [1, 3, 4]
    assert not embedding.table.removed.size


def test_vectors_that_are_given() -> None:
    """Aligned by key, in any order; the rest is initialized, and the reserved rows are nobody's."""
    vectors = np.arange(9.0).reshape(3, DIM)
    words = unhot.Vocabulary(["dog", "owl", "cat"], unknown=0)
    embedding = unhot.Embedding.from_vectors(["cat", "elk", "dog"], vectors, words, init="zeros")
    assert embedding[["dog", "cat", "owl"]].tolist() == [vectors[2].tolist(), vectors[0].tolist(), [0.0] * DIM]
    whole = unhot.Embedding.from_vectors(["cat"], [[1, 2]], dtype="float64")
    assert (whole["cat"].tolist(), whole.dtype) == ([1, 2], np.float64)
    growing = unhot.Embedding.from_vectors(["cat", "elk"], vectors[:2], unhot.Vocabulary(["elk"], unknown="grow"))
    assert growing[["elk", "cat"]].tolist() == vectors[[1, 0]].tolist()
    assert unhot.Embedding.from_vectors([3, 1], vectors[:2].astype("float32"))[1].tolist() == vectors[1].tolist()
    kept = unhot.Vocabulary(["elk"], unknown="grow")
    with pytest.raises(ValueError, match="must be as many"):
        unhot.Embedding.from_vectors(["cat", "owl"], vectors, kept)
    assert list(kept) == ["elk"]
    for keys, given, message in (
        (["a"], vectors, "`keys` and `vectors` must be as many. Received: 1 keys, 3 vectors."),
        (["a"], vectors[0], "`vectors` must have two dimensions, (keys, dim). Received: shape (3,)."),
        (["a", "a", "b"], vectors, "a"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            unhot.Embedding.from_vectors(keys, given)
    assert unhot.Embedding.from_vectors(iter(["a", "b", "c"]), vectors)["c"].tolist() == vectors[2].tolist()


@pytest.mark.parametrize("unknown", ["grow", 0])
def test_vectors_that_are_refused(unknown: Any) -> None:
    """An error names the key that comes twice, and leaves the vocabulary as it was."""
    words = unhot.Vocabulary(["owl", "elk", "cat"], unknown=unknown, reserved=1)
    words.remove(["elk"])
    before = words.state_dict()
    for keys, message in (
        (["new", "owl", "other", "owl"], "`keys` holds the key 'owl' at position 3 a second time."),
        (["new", "owl", "other", "new"], "`keys` holds the key 'new' at position 3 a second time." if unknown else ""),
    ):
        if unknown == "grow" or "owl'" in message:
            with pytest.raises(ValueError, match=re.escape(message)):
                unhot.Embedding.from_vectors(keys, np.ones((4, DIM)), words)
    with pytest.raises(ValueError, match="init"):
        unhot.Embedding.from_vectors(["new", "owl"], np.ones((2, DIM)), words, init="wrong")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="wrong"):
        unhot.Embedding.from_vectors(["new", "owl"], np.ones((2, DIM)), words, wrong=1)
    assert {name: value.tolist() for name, value in words.state_dict().items()} == {n: v.tolist() for n, v in before.items()}


@pytest.mark.parametrize("unknown", ["grow", 0, "raise"])
@pytest.mark.parametrize("seed", range(6))
def test_whoever_changes_the_vocabulary(unknown: Any, seed: int) -> None:
    """Keys come and go by two embeddings, or by their vocabulary itself: each key that comes begins anew, in each of them."""
    rng, towers = np.random.default_rng(seed), Towers(unknown)
    for _ in range(120):
        which = int(rng.integers(2))
        one = towers.embeddings[which]
        keys = [f"key {k}" for k in rng.integers(0, 9, 3)]
        known = sorted(towers.lives)
        action = int(rng.integers(8))
        if action <= 1 and len(known) > 2:
            gone = [str(key) for key in rng.choice(known, 2, replace=False)]
            if action == 0:
                towers.words.remove(gone)
                towers.went(gone)
            elif towers.waiting[which]:
                with pytest.raises(RuntimeError, match="call `step"):
                    one.remove(gone)
            else:
                one.remove(gone)
                towers.went(gone)
        elif action == 2:
            towers.words.extend(keys)
            towers.came(keys)
        elif action == 3 and unknown == "grow":
            one.lookup(keys)
            towers.came(keys)
        elif action >= 4:
            keys = keys if unknown == "grow" else [str(key) for key in rng.choice(known, 3)]
            given = rng.normal(size=(3, DIM))
            towers.gradients(which, keys, given)
            if action == 4:
                one.accumulate(keys, given)
            else:
                one.step(keys, given)
                towers.stepped(which)
        if rng.integers(3) == 0:
            towers.check(int(rng.integers(2)))
    for which in range(2):
        towers.check(which)
        table = towers.embeddings[which].table
        free = towers.words.free
        assert table.removed.tolist() == free[free < table.rows].tolist()


def test_a_refused_removal_leaves_the_key(tmp_path: Path) -> None:
    """While gradients wait, or where rows are those of a file: the key stays, and no other gets its trained row."""
    path, one = tmp_path / "keys.safetensors", np.ones((1, DIM))
    made = grows(optimizer=unhot.SGD(1.0), init="zeros")
    made.step(["a", "b"], np.ones((2, DIM)))
    made.accumulate(["a"], one)
    with pytest.raises(RuntimeError, match=re.escape("call `step()` before `remove`")):
        made.remove(["b"])
    assert "b" in made
    made.step()
    assert made[["new", "b", "a"]][:, 0].tolist() == [0, -1, -2]
    made.save(path)
    for mode in ("r", "r+"):
        mapped = unhot.load(path, mmap=True, mode=mode)  # type: ignore[call-overload]
        with pytest.raises(RuntimeError, match="those of the file"):
            mapped.remove(["b"])
        assert mapped[["b", "a"]][:, 0].tolist() == [-1, -2]
        mapped.vocabulary.remove(["b"])  # for which no row has to change
        assert mapped["a"][0] == -2
        mapped.vocabulary.extend(["other"])  # which would have the row
        if mode == "r":  # where a key without a row has a vector of zeros
            assert mapped[["other", "new", "a"]][:, 0].tolist() == [0, 0, -2]
        else:
            with pytest.raises(RuntimeError, match="those of the file"):
                mapped.lookup("other")
        mapped.table.close()


def test_keys_make_room_while_gradients_wait() -> None:
    """A lookup forgets others than those that have gradients; what is new begins anew."""
    made = grows(optimizer=unhot.SGD(1.0), init="zeros", max_rows=2)
    for _ in range(3):
        made.step(["p", "q"], np.ones((2, DIM)))
    for count, key in enumerate("xyz"):
        assert not made.lookup([key]).any()
        made.accumulate([key], np.full((1, DIM), 1.0 + count))
        assert not {"p", "q"} <= set(made.vocabulary)
    made.step()
    assert made[["x", "y", "z"]][:, 0].tolist() == [-1, -2, -3]


def test_files_keep_their_keys(tmp_path: Path) -> None:
    """Nothing is forgotten in a mapped file, whose rows cannot be given back; it can be flushed."""
    path = tmp_path / "keys.safetensors"
    made = grows(optimizer=unhot.SGD(1.0), init="zeros", max_idle=3, max_rows=2)
    made.step(["a", "b", "c"], np.ones((3, DIM)))
    made.save(path)
    mapped = unhot.load(path, mmap=True, mode="r+")
    for _ in range(20):
        mapped.step(["a"], np.ones((1, DIM)))
    mapped.table.flush()
    mapped.table.close()
    assert unhot.load(path)[["a", "b", "c"]][:, 0].tolist() == [-21, -1, -1]


def test_a_step_is_a_use() -> None:
    """A key that is trained, though never looked up, is not forgotten."""
    made = grows(optimizer=unhot.SGD(1.0), init="zeros", max_idle=4)
    for number in range(40):
        made.accumulate(["a"], np.ones((1, DIM)))
        made.step(["b", "c"][: 1 + (number == 0)], np.ones((1 + (number == 0), DIM)))
    assert list(made.vocabulary) == ["a", "b"]
    assert made[["a", "b"]][:, 0].tolist() == [-40, -40]


@pytest.mark.parametrize("limits", [{"max_rows": 3}, {"max_idle": 3}, {"max_rows": 3, "max_idle": 5, "min_count": 2}])
def test_towers_that_forget(limits: dict[str, Any]) -> None:
    """What one embedding forgets, the other forgets, too; all keys that live are exact, and new ones begin anew."""
    words = unhot.Vocabulary(unknown="grow")
    towers = [unhot.Embedding(words, DIM, optimizer=unhot.SGD(1.0), init="zeros", **given) for given in (limits, {}, limits)]
    expected: list[dict[str, float]] = [{} for _ in towers]
    rng = np.random.default_rng(0)
    for number in range(300):
        for tower, values in zip(towers, expected, strict=True):
            keys = [f"key {k}" for k in number // 5 + rng.integers(0, 6, 2)]
            before = set(words)
            found = tower.lookup(keys)
            for each in expected:
                for key in set(each) - (before & set(words)):
                    del each[key]
            assert found[:, 0].tolist() == [values.get(key, 0.0) for key in keys]
            known = [key for key in keys if key in words]
            tower.step(known, np.ones((len(known), DIM)))
            for key in known:
                values[key] = values.get(key, 0.0) - 1.0
            for each in expected:
                for key in set(each) - set(words):
                    del each[key]
            for other, held in zip(towers, expected, strict=True):
                keys = list(words)
                assert other.table[other.encode(keys)][:, 0].tolist() == [held.get(key, 0.0) for key in keys]
    assert words.rows < 40


@pytest.mark.parametrize("least", [1, 2])
def test_keys_of_all_kinds_are_counted(least: int) -> None:
    """What can be looked up at all can be counted before it gets a row; an iterator is read once."""
    import polars as pl
    import pyarrow as pa

    large = 2**62 + 1
    for given in (
        lambda: pl.Series([1, None, large]),
        lambda: pa.array([1, None, large]),
        lambda: pa.chunked_array([[1, None], [large]]),
        lambda: pa.array([1, None, large]).dictionary_encode(),
        lambda: iter([1, None, large]),
        lambda: {1: 0, None: 0, large: 0}.keys(),
        lambda: np.ma.masked_array([1, 7, large], [False, True, False]),
        lambda: np.array([1, None, large], object),
    ):
        vocabulary = unhot.Vocabulary(unknown="grow", missing=0)
        made = unhot.Embedding(vocabulary, DIM, optimizer=unhot.SGD(1.0), init="zeros", min_count=least)
        for _ in range(least):
            assert made[given()].shape == (3, DIM)  # type: ignore[index]
        assert list(vocabulary) == [1, large]
        made.step(given(), np.ones((3, DIM)))  # type: ignore[arg-type]
        made.accumulate(given(), np.ones((3, DIM)))  # type: ignore[arg-type]
        made.step()
        assert made[[1, None, large]][:, 0].tolist() == [-2, -2, -2]


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_of_what_has_not_followed_yet(copied: Any) -> None:
    """A copy knows which rows have other keys since the table was last used."""
    words = unhot.Vocabulary(unknown="grow")
    made = unhot.Embedding(words, DIM, optimizer=unhot.SGD(1.0), init="zeros")
    made.step(["a", "b", "c"], np.ones((3, DIM)))
    words.remove(["a", "c"])
    words.extend(["x"])
    for one in (copied(made), made):
        assert one[["x", "b", "y"]][:, 0].tolist() == [0, -1, 0]
        one.step(["x"], np.ones((1, DIM)))
        one.vocabulary.remove(["b"])
        one.vocabulary.extend(["z", "b"])
        assert one[["x", "b", "y", "z"]][:, 0].tolist() == [-1, 0, 0, 0]


def test_a_state_is_loaded_into_towers() -> None:
    """Embeddings of one vocabulary take a state each, one after the other."""
    towers, others = Towers("grow"), Towers("grow")
    for which, one in enumerate(towers.embeddings):
        one.step(["a", "new"], np.ones((2, DIM)) * (1 + which))
    towers.words.remove(["b"])
    states = [one.state_dict() for one in towers.embeddings]
    others.embeddings[0].step(["b", "c", "x", "y"], np.ones((4, DIM)))
    for one, state in zip(others.embeddings, states, strict=True):
        one.load_state_dict(state)
    keys = ["a", "c", "new", "next", "last"]
    for one, other in zip(towers.embeddings, others.embeddings, strict=True):
        np.testing.assert_array_equal(one[keys], other[keys])
    third = unhot.Embedding(others.words, DIM, optimizer=unhot.Adam(0.1), init="zeros", dtype="float64")
    third.step(keys, np.ones((5, DIM)))
    others.embeddings[0].load_state_dict(states[0])  # whose keys are fewer, and the next ones other than `third` has had
    assert third[["a", "c", "new"]].all()
    assert not third[["one", "two", "three"]].any()


@pytest.mark.parametrize("options", [{}, {"reserved": 2}, {"min_count": 2, "max_rows": 40, "max_idle": 20}])
def test_copies_and_states(options: dict[str, Any]) -> None:
    """A copy, a pickled embedding and a loaded state go on bit for bit."""
    embedding = grows(optimizer=unhot.AdamW(0.1), **options)
    for keys, gradients in batches(30):
        embedding.lookup(keys)
        embedding.step(keys, gradients)
    embedding.remove(["key 1"])
    loaded = grows(optimizer=unhot.AdamW(0.1), **options)
    loaded.load_state_dict(embedding.state_dict())
    copies = [copy.deepcopy(embedding), pickle.loads(pickle.dumps(embedding)), loaded]
    for keys, gradients in batches(15, seed=1):
        for each in (embedding, *copies):
            each.lookup(keys)
            each.step(keys, gradients)
    for each in copies:
        assert list(each.vocabulary) == list(embedding.vocabulary)
        keys = list(embedding.vocabulary)
        assert each.lookup(keys).tobytes() == embedding.lookup(keys).tobytes()


LIMITS = [{"min_count": 3}, {"max_rows": 8}, {"max_idle": 9}, {"min_count": 2, "max_rows": 12, "max_idle": 30, "reserved": 1}]


@pytest.mark.parametrize(("options", "way"), product(LIMITS, ["save", "state", "numpy", "safetensors"], by=1), ids=str)
def test_limits_go_on(options: dict[str, Any], way: str, tmp_path: Path) -> None:
    """An embedding that is saved and loaded every few steps admits and forgets the same keys as one that is not."""
    from safetensors.numpy import save_file

    once, daily = (grows(optimizer=unhot.Adam(0.1), **options) for _ in range(2))
    rng = np.random.default_rng(0)
    counts = set()
    for number in range(120):
        keys = [f"key {k}" for k in number // 8 + np.minimum(rng.geometric(0.15, 3), 20)]
        for each in (once, daily):
            each.lookup(keys)
            if number % 3:
                each.step(keys[:2], np.full((2, DIM), 1.0 + number))
        counts.add(len(once))
        if number % 7:
            continue
        once.state_dict()  # which settles all rows, too
        path = tmp_path / "daily"
        if way == "save":
            daily.save(path)
            daily = unhot.load(path)
        elif way == "safetensors":  # which holds the limits, too
            save_file(daily.state_dict(), path)
            daily = unhot.load(path)
        else:
            state: Any = daily.state_dict()
            if way == "numpy":
                np.savez(path, **state)
                state = np.load(f"{path}.npz")
            daily = grows(optimizer=unhot.Adam(0.1), **options)
            daily.load_state_dict(state)
    assert len(counts) > 3
    assert list(daily.vocabulary) == list(once.vocabulary)
    assert daily.encode(list(once.vocabulary)).tolist() == once.encode(list(once.vocabulary)).tolist()
    assert daily.lookup(list(once.vocabulary)).tobytes() == once.lookup(list(once.vocabulary)).tobytes()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("seen.kind", np.zeros(0)), ("seen.counts", np.arange(2.0)), ("seen.counts", np.arange(9)),
        ("seen.reserved", np.array(2)), ("used_often", np.zeros(1, np.int64)), ("used_often", None),
        ("used_last", np.full(3, -1)), ("used_until", np.arange(2)), ("used_until", np.array([0, 2, 1])),
        ("used_until", np.array([0, 2, 99])),
    ],
)  # fmt: skip
def test_damaged_counts(name: str, wrong: np.ndarray | None) -> None:
    """A ValueError, and the embedding is as it was."""
    made = grows(min_count=2, max_idle=4)
    for _ in range(2):
        made.lookup(["a", "b"])
    made.lookup(["c"])
    state = made.state_dict()
    assert f"vocabulary.{name}" in state
    if wrong is None:
        del state[f"vocabulary.{name}"]
    else:
        state[f"vocabulary.{name}"] = wrong
    other = grows(min_count=2, max_idle=4)
    for _ in range(2):
        other.lookup(["x"])
    with pytest.raises(ValueError, match="the state's"):
        other.load_state_dict(state)
    assert list(other.vocabulary) == ["x"]


def test_frozen_keys() -> None:
    """They keep every bit while all others train; a key that has gone and comes again trains."""
    words = unhot.Vocabulary(["cat", "owl", "emu"], unknown="grow", reserved=2)
    given = np.random.default_rng(0).normal(size=(3, 2))
    embedding = unhot.Embedding.from_vectors(
        ["emu", "cat", "fox"], given, words, optimizer=unhot.AdamW(0.1, weight_decay=0.1), frozen=["fox", "cat"]
    )
    assert embedding.table.frozen.tolist() == sorted(embedding.encode(["fox", "cat"]))
    keys = ["cat", "owl", "emu", "fox", "a new key"]
    for _ in range(3):
        embedding.step(keys, np.ones((5, 2)))
    assert embedding.lookup(["cat", "fox"]).tobytes() == given[1:].tobytes()
    assert (embedding["emu"] != given[0]).all()
    embedding.remove(["fox"])
    before = embedding.lookup(["fox"])
    embedding.step(["fox"], np.ones((1, 2)))
    assert (embedding["fox"] != before).all()
    with pytest.raises(KeyError, match=r"'bee'.*position 1"):
        unhot.Embedding(words, 2, frozen=["cat", "bee"])


@pytest.mark.parametrize("options", [{}, {"reserved": 2, "max_idle": 30}])
def test_files(options: dict[str, Any], tmp_path: Path) -> None:
    """One file holds all: training goes on bit for bit, and a mapped embedding reads the same."""
    path = tmp_path / "keys.safetensors"
    embedding = grows(optimizer=unhot.AdamW(0.1), **options)
    for keys, gradients in batches(20):
        embedding.step(keys, gradients)
    embedding.remove(["key 1"])
    embedding.table.frozen = embedding.encode(["key 2"])
    embedding.save(path)
    loaded, mapped = unhot.load(path), unhot.load(path, mmap=True)
    assert isinstance(loaded, unhot.Embedding)
    keys = list(embedding.vocabulary)
    assert mapped.lookup(keys).tobytes() == embedding.lookup(keys).tobytes()
    for keys, gradients in batches(10, seed=1):
        for each in (embedding, loaded):
            each.step(keys, gradients)
    assert list(loaded.vocabulary) == list(embedding.vocabulary)
    keys = list(embedding.vocabulary)
    assert loaded.lookup(keys).tobytes() == embedding.lookup(keys).tobytes()
    assert loaded.table.frozen.tolist() == embedding.table.frozen.tolist()
    assert not mapped.lookup(["a new key"]).any() or options["reserved"]
    assert "a new key" not in mapped
    del mapped
    with unhot.load(path, mmap=True, mode="r+").table as table:
        assert table.rows == embedding.table.rows


def test_refused_rows_leave_no_keys(tmp_path: Path) -> None:
    """A table that cannot have a new row keeps the vocabulary as it is: known keys are there, and the next key can come."""
    path, fails = tmp_path / "keys.safetensors", [False]

    def init(shape: tuple[int, int]) -> np.ndarray[Any, Any]:
        if fails[0]:
            raise MemoryError
        return np.ones(shape)

    made = unhot.Embedding(unhot.Vocabulary(["a"], unknown="grow"), 2, optimizer=unhot.SGD(1.0), init=init, min_count=1)
    made.remove(["a"])
    assert made["b"].tolist() == [1, 1]
    fails[0] = True
    for call in (lambda: made.lookup(["c", "b", "d"]), lambda: made.step(["c"], np.ones((1, 2)))):
        with pytest.raises(MemoryError):
            call()
    fails[0] = False
    assert list(made.vocabulary) == ["b"]
    assert made.encode(["b", "c"]).tolist() == [0, -1]
    made.lookup(["d", "b"])
    assert made.encode(["b", "c", "d"]).tolist() == [0, -1, 1]
    made.save(path)
    mapped = unhot.load(path, mmap=True, mode="r+")
    mapped.step(["d"], np.ones((1, 2)))
    with pytest.raises(RuntimeError, match="the rows of a table that is mapped from a file are those of the file"):
        mapped.lookup(["c"])
    mapped.step(["d"], np.ones((1, 2)))
    mapped.table.close()
    assert unhot.load(path).lookup("d").tolist() == [-1, -1]
    with pytest.raises(RuntimeError, match="Pass it again"):
        unhot.load(path).lookup("new")
    assert unhot.load(path, init="zeros").lookup("new").tolist() == [0, 0]
    with pytest.raises(ValueError, match="leave it out"):
        unhot.load(path, mmap=True, init="zeros")  # type: ignore[call-overload]


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    """A vocabulary of other rows, or of damaged arrays, is an error that names the file."""
    path = tmp_path / "keys.safetensors"
    table, words = unhot.Table(3, 2), unhot.Vocabulary(["a", "b"], reserved=1)
    for changed, message in (
        (unhot.Vocabulary(list("abcd")).state_dict(), "the vocabulary has 4 rows, and the table 3."),
        ({**words.state_dict(), "offsets": np.array([0, 2, 1])}, "'offsets' must rise from 0 to 2"),
        ({**words.state_dict(), "max_rows": np.array(-1)}, "'vocabulary.max_rows' must be a whole number"),
    ):
        table._save(path, changed)
        for mmap in (False, True):
            with pytest.raises(ValueError, match=f"keys.safetensors.*{message}"):
                unhot.load(path, mmap=mmap)  # type: ignore[call-overload]
    for fits in (words, unhot.Vocabulary(["a"])):
        table.save(path, vocabulary=fits)
        assert isinstance(unhot.load(path), unhot.Embedding)
    with pytest.raises(ValueError, match=re.escape("the vocabulary has 4 rows, and the table 3. Let it `grow` first.")):
        table.save(path, vocabulary=unhot.Vocabulary(list("abcd")))
    for wrong in ({"a": 0}, ["a"]):
        with pytest.raises(TypeError, match="`vocabulary` must be an unhot"):
            table.save(path, vocabulary=wrong)  # type: ignore[arg-type]
    assert isinstance(unhot.load(path), unhot.Embedding)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: unhot.Embedding(["a"], 2), TypeError, "`vocabulary` must be an unhot.Vocabulary. Received: ['a']."),  # type: ignore[arg-type]
        (lambda: unhot.Embedding(unhot.Vocabulary(), 2, min_count=2), ValueError, "Make the vocabulary with unknown='grow'."),
        (lambda: grows(max_rows=0), ValueError, "`max_rows` must be a positive integer. Received: 0."),
        (lambda: grows(max_idle=1.5), TypeError, "`max_idle` must be a positive integer."),
        (lambda: grows(dim=2), TypeError, "dim"),
        (lambda: grows().step(["a"], np.ones((1, DIM))), RuntimeError, "this table has no optimizer"),
        (lambda: grows(optimizer=unhot.SGD(1.0)).step(["a"], np.ones((2, DIM))), ValueError, "`grads` must have shape"),
    ],
)
def test_errors(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        call()


def test_interrupted_growth() -> None:
    """An exception at any bytecode of a lookup of new keys: the next lookup finds vocabulary and table together."""
    start = grows(optimizer=unhot.Adam(0.1), capacity=50)
    start.step(["a", "b", "c"], np.ones((3, DIM)))
    start.remove(["b"])
    expected = copy.deepcopy(start)
    expected.lookup(["x", "y"])
    keys = ["a", "c", "x", "y"]
    for embedding in everywhere(lambda: copy.deepcopy(start), lambda subject: subject.lookup(["x", "y"]), stride=7):
        embedding.lookup(["x", "y"])
        assert embedding.lookup(keys).tobytes() == expected.lookup(keys).tobytes()
        embedding.step(keys, np.ones((4, DIM)))


def test_an_interrupted_removal() -> None:
    """An exception at any bytecode of a removal: the key is there with its vector, or gone, and the next one begins anew."""

    def begin() -> tuple[unhot.Embedding, unhot.Embedding]:
        words = unhot.Vocabulary(unknown="grow")
        pair = [unhot.Embedding(words, DIM, optimizer=unhot.SGD(1.0), init="zeros", capacity=9) for _ in range(2)]
        for one in pair:
            one.step(["a", "b", "c"], np.ones((3, DIM)))
        return pair[0], pair[1]

    def work(pair: tuple[unhot.Embedding, unhot.Embedding]) -> None:
        pair[0].remove(["b"])
        pair[1].step(["x"], np.ones((1, DIM)))

    for one, other in everywhere(begin, work, stride=19):
        for each in (one, other):
            there = [key for key in ("a", "b", "c") if key in each]
            assert (each[there] == -1).all()
            assert set(np.unique(each[["new", "x"]])) <= {0.0, -1.0}
            assert not each["new"].any()


@pytest.mark.parametrize(("come", "idle"), [(1, 1), (1, 8), (1, 100), (3, 50), (20, 50)])
def test_idle_keys_go_while_others_come(come: int, idle: int) -> None:
    """Each key is used once, and forgotten after `max_idle` steps, or an eighth more, though each step brings others."""
    made, oldest = grows(optimizer=unhot.SGD(1.0), max_idle=idle), 0
    for step in range(4 * idle):
        made.step([f"{step} {k}" for k in range(come)], np.ones((come, DIM)))
        oldest = max(oldest, step - min(int(key.split()[0]) for key in made.vocabulary))  # type: ignore[union-attr,arg-type]
    assert len(made) <= come * (idle + idle // 8 + 2)
    assert idle - 1 <= oldest <= idle + -(-idle // 8) + 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda two: pickle.loads(pickle.dumps(two))])
def test_embeddings_that_are_copied_together_share_their_vocabulary(copied: Any) -> None:
    words = unhot.Vocabulary(["a"], unknown="grow")
    towers = [unhot.Embedding(words, dim, optimizer=unhot.SGD(1.0), init="zeros") for dim in (1, 2)]
    for one, other in (copied(towers), towers):
        assert one.vocabulary is other.vocabulary
        one.step(["b"], np.ones((1, 1)))
        assert list(other.vocabulary) == ["a", "b"]
        assert other[["b", "a"]].shape == (2, 2)
    alone = copy.copy(towers[0])
    assert alone.vocabulary is not words


def test_a_loaded_state_goes_into_the_table_that_others_hold() -> None:
    """A view of the table, a bias, and the callable that new rows begin with go on."""

    def half(shape: tuple[int, int]) -> np.ndarray:
        return np.full(shape, 0.5)

    made, other = (
        unhot.Embedding(unhot.Vocabulary(["a"], unknown="grow"), 2, optimizer=unhot.SGD(1.0), init=half) for _ in range(2)
    )
    views = [unhot.DenseView(one.table) for one in (made, other)]
    views[0].step(made.encode(["a"]), np.ones((1, 2)))
    made.step(["b"], np.ones((1, 2)))
    table = other.table
    other.load_state_dict(made.state_dict())
    assert other.table is table
    assert other[["a", "b", "c"]][:, 0].tolist() == [-0.5, -0.5, 0.5]
    assert views[1].lookup(other.encode(["a"])).tolist() == [[-1.5, -1.5]]
    views[1].step(other.encode(["c"]), np.ones((1, 2)))
    assert other["c"].tolist() == [-0.5, -0.5]
    assert views[1].bias.tolist() == [-2, -2]
    plain = unhot.Embedding(unhot.Vocabulary(["a"]), 2, optimizer=unhot.SGD(1.0))
    with pytest.raises(ValueError, match=re.escape("make an `unhot.DenseView`")):
        plain.load_state_dict(made.state_dict())


def test_a_state_is_not_loaded_into_a_mapped_file(tmp_path: Path) -> None:
    made = unhot.Embedding(unhot.Vocabulary(["a"]), 2, optimizer=unhot.SGD(1.0))
    made.save(tmp_path / "x.safetensors")
    mapped = unhot.load(tmp_path / "x.safetensors", mmap=True, mode="r+")
    with pytest.raises(RuntimeError, match="not loaded into a file that is mapped"):
        mapped.load_state_dict(made.state_dict())
    mapped.table.close()


def test_what_fails_admits_no_key() -> None:
    made, untrained = grows(optimizer=unhot.SGD(1.0)), grows()
    calls = {
        "must have shape keys.shape": lambda: made.step(["a"], np.ones((3, DIM))),
        "must have shape": lambda: made.accumulate(["a"], np.ones((1, DIM + 1))),
        "must be real": lambda: made.step(["a"], np.ones((1, DIM), int)),
        "both ids and grads": lambda: made.step(["a"]),
        "no optimizer": lambda: untrained.step(["a"], np.ones((1, DIM))),
    }
    for message, call in calls.items():
        with pytest.raises((ValueError, TypeError, RuntimeError), match=re.escape(message)):
            call()
    assert not len(made)
    assert not len(untrained)
