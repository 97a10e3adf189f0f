"""Files of tables and embeddings as vectors: their own keys, and what `unhot.load` makes of keys and vectors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from selection import product
from snapshots import assert_bits
from test_formats import ENDINGS, GROWTH, vectors

import unhot
from unhot.formats import base
from unhot.formats.vectors import convert
from unhot.storage import undo

# ------------------------------------------------------------------ an embedding's keys


def embedding(vocabulary: unhot.Vocabulary, gone: Any = None, dtype: str = "float32") -> unhot.Embedding:
    """An embedding that was trained; some of its rows are behind the others."""
    made = unhot.Embedding(vocabulary, 3, optimizer=unhot.Adam(0.1), seed=0, dtype=dtype)
    keys = [key for key in vocabulary if key is not None]
    for start in range(len(keys)):
        made.step(keys[start:], np.ones((len(keys) - start, 3)))
    if gone is not None:
        made.remove(gone)
    return made


WORDS = ["king", "queen", "naïve", "日本", "x", "", "two words"]
EMBEDDINGS: dict[str, Callable[[], unhot.Embedding]] = {
    "texts": lambda: embedding(unhot.Vocabulary(WORDS[:4])),
    "any texts": lambda: embedding(unhot.Vocabulary(WORDS)),
    "float64": lambda: embedding(unhot.Vocabulary(WORDS), dtype="float64"),
    "integers": lambda: embedding(unhot.Vocabulary([7, -3, 2**62, 0])),
    "large integers": lambda: embedding(unhot.Vocabulary([7, 2**64 - 1, 2**62, 0, 2**63])),
    "bytes": lambda: embedding(unhot.Vocabulary([word.encode() for word in WORDS])),
    "reserved rows": lambda: embedding(unhot.Vocabulary(WORDS, unknown=1, reserved=2)),
    "buckets": lambda: embedding(unhot.Vocabulary([5, 1, 3], unknown="hash", buckets=4, reserved=1)),
    "a missing key": lambda: embedding(unhot.Vocabulary([None, *WORDS], missing="key")),
    "one that grows": lambda: embedding(unhot.Vocabulary(WORDS, unknown="grow"), ["x", "king"]),
    "removed at the ends": lambda: embedding(unhot.Vocabulary([4, 5, 6, 7], reserved=1), [4, 7]),
    "removed by the vocabulary": lambda: removed_by_the_vocabulary(),
    "given to new keys": lambda: given_to_new_keys(),
    "all removed": lambda: embedding(unhot.Vocabulary(["a", "b"]), ["a", "b"]),
    "no keys": lambda: unhot.Embedding(unhot.Vocabulary(unknown="grow"), 3),
    "no keys, but a reserved row": lambda: unhot.Embedding(unhot.Vocabulary(unknown=0), 3),
    "keys that are row numbers": lambda: embedding(unhot.Vocabulary([0, 1, 2])),
    "keys that are other rows' numbers": lambda: embedding(unhot.Vocabulary([0, 1, 2], reserved=1)),
}  # fmt: skip


def removed_by_the_vocabulary() -> unhot.Embedding:
    made = embedding(unhot.Vocabulary(WORDS, unknown="grow"))
    made.vocabulary.remove(["x"])
    return made


def given_to_new_keys() -> unhot.Embedding:
    made = embedding(unhot.Vocabulary(WORDS, unknown="grow"), ["king", "x"])
    made.lookup(["new"])
    return made


def of_a_mapped_table(made: unhot.Embedding, path: Path) -> None:
    made.save(path.with_name("mapped"))
    unhot.load(path.with_name("mapped"), mmap=True).save(path)  # type: ignore[call-overload]


WRITTEN: dict[str, tuple[str, Callable[[unhot.Embedding, Path], object]]] = {
    "save": (".safetensors", lambda made, path: made.save(path)),
    "of a mapped table": (".safetensors", of_a_mapped_table),
    "Table.save": (".safetensors", lambda made, path: made.table.save(path, vocabulary=made.vocabulary)),
    "safetensors": (".safetensors", lambda made, path: safetensors.numpy.save_file(made.state_dict(), path)),
    "savez": (".npz", lambda made, path: np.savez(path, **made.state_dict())),  # type: ignore[arg-type]
    "savez_compressed": (".npz", lambda made, path: np.savez_compressed(path, **made.state_dict())),  # type: ignore[arg-type]
}
"""The ways in which an embedding comes into a file."""


@pytest.fixture(params=[1, 1 << 22], ids=["rows one by one", "rows at once"])
def _pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "CHUNK_BYTES", request.param)


@pytest.mark.usefixtures("_pieces")
@pytest.mark.parametrize(("name", "how"), product(EMBEDDINGS, WRITTEN))
def test_keys_of_an_embedding(name: str, how: str, tmp_path: Path) -> None:
    """They are read in the order of their rows, with the vectors that a lookup gives, and nothing else is."""
    made = EMBEDDINGS[name]()
    ending, write = WRITTEN[how]
    write(made, tmp_path / f"x{ending}")
    keys: list[Any] = [key for key in made.vocabulary if key is not None]
    expected = made.lookup(keys) if keys else np.empty((0, 3), made.dtype)
    found = unhot.read_vectors(tmp_path / f"x{ending}")
    assert list(found.keys) == [key.decode() if isinstance(key, bytes) else key for key in keys]
    assert_bits(found.vectors, expected)
    if ending == ".safetensors" and keys:
        loaded: Any = unhot.load(tmp_path / "x.safetensors")
        assert_bits(found.vectors, loaded.lookup(keys))
    if isinstance(found.keys, np.ndarray):
        assert found.keys.dtype == (np.uint64 if name == "large integers" else np.int64)


@pytest.mark.parametrize(("name", "target"), product([name for name in EMBEDDINGS if "no keys" not in name], ENDINGS))
def test_keys_of_an_embedding_in_every_format(name: str, target: str, tmp_path: Path) -> None:
    """Or an error that names a key which the format cannot hold."""
    made = EMBEDDINGS[name]()
    made.save(tmp_path / "x.safetensors")
    keys: list[Any] = [key for key in made.vocabulary if key is not None]
    texts = [key.decode() if isinstance(key, bytes) else str(key) for key in keys]
    path = tmp_path / f"y{ENDINGS[target]}"
    try:
        assert convert(tmp_path / "x.safetensors", path) == len(keys)
    except ValueError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert re.search(
            r"the key .* of row \d|the key .* ends with|float64 numbers that would be rounded|at least one row", message
        )
        assert not path.exists()
    elif keys:
        found = unhot.read_vectors(path, dtype=made.dtype)
        assert list(map(str, found.keys)) == texts
        assert_bits(found.vectors, made.lookup(keys))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of memory cannot be measured")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """From an embedding of 100 MB, of which every other row is removed, a few pieces are in memory at a time."""
    made = unhot.Embedding(unhot.Vocabulary(np.arange(12500) * 3), 2000)
    made.remove(np.arange(0, 12500, 2) * 3)
    made.save(tmp_path / "a.safetensors")
    command = [sys.executable, "-c", GROWTH, tmp_path / "a.safetensors", tmp_path / "b.bin"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60e6
    assert len(unhot.read_vectors(tmp_path / "b.bin").keys) == 6250


def test_keys_that_vectors_cannot_have(tmp_path: Path) -> None:
    """An error that names the key: below 0 beside one of 2**63 and more, or bytes that are not UTF-8."""
    path = tmp_path / "x.safetensors"
    embedding(unhot.Vocabulary([1, 2**63 + 1, -7])).save(path)
    with pytest.raises(ValueError, match=r"below 0, such as -7, and .* such as 9223372036854775809.* unhot\.load reads them"):
        unhot.read_vectors(path)
    embedding(unhot.Vocabulary([b"a", b"\xff"])).save(path)
    with pytest.raises(ValueError, match=r"the key b'\\xff', number 1, is not UTF-8\. Pass errors='replace'"):
        unhot.read_vectors(path)
    assert unhot.read_vectors(path, errors="replace").keys == ["a", "\ufffd"]
    made = embedding(unhot.Vocabulary([1, 2**63 + 1, -7]), [2**63 + 1])
    made.save(path)
    assert list(unhot.read_vectors(path).keys) == [1, -7], "it is gone"


def test_rows_that_have_no_keys_yet(tmp_path: Path) -> None:
    """Of a table that grew by itself: they are left out, as `unhot.load` lets later keys have them."""
    path = tmp_path / "x.safetensors"
    made = embedding(unhot.Vocabulary(["a", "b"], unknown="grow"))
    made.table.grow(2)
    made.save(path)
    assert unhot.read_vectors(path).keys == ["a", "b"]
    loaded = unhot.load(path)
    assert isinstance(loaded, unhot.Embedding)
    loaded.lookup(["c", "d"])
    assert (loaded.encode(["c", "d"]).tolist(), loaded.table.rows) == ([2, 3], 4)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "fewer rows": ({"weights": np.ones((3, 3), np.float32)}, "the vocabulary has 4 rows, and the table 3"),
    "a free row that is none": ({"vocabulary.free": np.array([9])}, "'free' must rise"),
    "other offsets": ({"vocabulary.offsets": np.array([0, 9, 3, 1])}, "'offsets' must rise"),
    "a removed row that is none": ({"removed": np.array([4])}, "'removed' must be row numbers of a table of 4 rows"),
    "negative": ({"removed": np.array([-1])}, "'removed' must be row numbers"),
    "no numbers": ({"removed": np.array([0.5])}, "'removed' must be row numbers"),
    "a key twice": ({"vocabulary.keys": np.frombuffer(b"aaa", np.uint8)}, "a second time"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
def test_states_that_no_embedding_has(name: str, ending: str, tmp_path: Path) -> None:
    changed, message = BAD[name]
    state = embedding(unhot.Vocabulary(["a", "b", "c"], reserved=1)).state_dict() | changed
    path = tmp_path / f"x{ending}"
    np.savez(path, **state) if ending == ".npz" else safetensors.numpy.save_file(state, path)  # type: ignore[arg-type,func-returns-value]
    with pytest.raises(ValueError, match=message) as error:
        unhot.read_vectors(path)
    assert str(error.value).startswith(repr(str(path)))


# ------------------------------------------------------------------ a table's rows


@pytest.mark.usefixtures("_pieces")
@pytest.mark.parametrize("gone", [[], [0], [1, 3], [4], [0, 1, 2, 3]])
@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
def test_rows_of_a_table(gone: list[int], ending: str, tmp_path: Path) -> None:
    """Their numbers are the keys, and removed ones are left out; what is no vocabulary does not matter."""
    table = unhot.Table.from_array(vectors(5, 3), optimizer=unhot.Adam(0.1))
    table.step([1, 2], np.ones((2, 3)))
    if gone:
        table.remove(gone)
    path = tmp_path / f"x{ending}"
    table._save(path, {"keys": np.arange(9)}) if ending == ".safetensors" else np.savez(path, **table.state_dict())
    rows = np.setdiff1d(np.arange(5), gone)
    found = unhot.read_vectors(path)
    assert_bits(found.keys, rows)  # type: ignore[arg-type]
    assert_bits(found.vectors, table.lookup(rows))


def test_a_collection_is_refused(tmp_path: Path) -> None:
    unhot.TableCollection({"a": (5, 2)}).save(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="a collection of tables"):
        unhot.read_vectors(tmp_path / "x.safetensors")


KILLED = """
import os, signal, sys
import numpy as np
import unhot
users = unhot.load(sys.argv[1], mmap=True, mode="r+")
users.step(["a"], np.ones((1, 3)))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(undo.boot() is None, reason="files are not brought back here")
def test_a_file_whose_training_was_killed(tmp_path: Path) -> None:
    """It is brought back to its last flush, as by `unhot.load`."""
    path = tmp_path / "x.safetensors"
    made = embedding(unhot.Vocabulary(["a", "b"]))
    made.save(path)
    subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    assert len(list(tmp_path.iterdir())) == 2, "the notes are there"
    found = unhot.read_vectors(path)
    assert found.keys == ["a", "b"]
    assert_bits(found.vectors, made[["a", "b"]])


# ------------------------------------------------------------------ keys and vectors as an embedding

KEYS: dict[str, Any] = {
    "texts": [*WORDS, "a key with spaces\nand lines"],
    "integers": np.array([5, -7, 2**62, 0, 9, 8, 1, 3]),
    "shuffled row numbers": np.array([0, 1, 2, 3, 4, 6, 5, 7]),
    "row numbers from 1 on": np.arange(1, 9),
}


@pytest.mark.usefixtures("_pieces")
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 7, 8])
@pytest.mark.parametrize("kind", KEYS)
def test_keys_and_vectors_are_loaded_as_an_embedding(kind: str, rows: int, dim: int, mapped: bool, tmp_path: Path) -> None:
    """With every key's vector, also where the arrays after the vectors would begin at an odd place."""
    path, keys = tmp_path / "x.safetensors", KEYS[kind][-rows:]
    given = vectors(rows, dim)
    unhot.write_vectors(path, keys, given)
    loaded: Any = unhot.load(path, mmap=True) if mapped else unhot.load(path)
    assert isinstance(loaded, unhot.Embedding)
    assert isinstance(loaded.table, unhot.MappedTable) == mapped
    assert list(loaded.vocabulary) == list(keys)
    assert_bits(loaded.lookup(keys), given)
    with pytest.raises(KeyError):
        loaded.lookup(["unknown"] if kind == "texts" else [1234])
    assert_bits(safetensors.numpy.load_file(path)["weights"], given)
    found = unhot.read_vectors(path)
    assert list(found.keys) == list(keys)
    assert_bits(found.vectors, given)


@pytest.mark.usefixtures("_pieces")
def test_row_numbers_and_vectors_are_loaded_as_a_table(tmp_path: Path) -> None:
    path, given = tmp_path / "x.safetensors", vectors(5, 3)
    unhot.write_vectors(path, np.arange(5), given)
    loaded: Any = unhot.load(path)
    assert isinstance(loaded, unhot.Table)
    assert_bits(loaded.array, given)
    assert_bits(unhot.read_vectors(path).keys, np.arange(5))  # type: ignore[arg-type]


@pytest.mark.usefixtures("_pieces")
@pytest.mark.parametrize("keys", ["aba", [3, 4, 3], [0, 1, 0]], ids=str)
def test_an_embedding_has_a_key_once(keys: Any, tmp_path: Path) -> None:
    given = vectors(3, 2)
    (tmp_path / "x.vec").write_text("3 1\n" + "".join(f"{key} {row}\n" for row, key in enumerate(keys)))
    source = tmp_path / "x.vec"
    if keys != "aba":
        source = tmp_path / "x.npz"
        np.savez(source, keys=np.array(keys), vectors=given)
    with pytest.raises(ValueError, match=r"the key .* of row 2 occurs again.* Use 'npz', 'parquet' or 'arrow'"):
        convert(source, tmp_path / "y.safetensors", duplicates="keep")
    assert not (tmp_path / "y.safetensors").exists()


def test_an_optimizer_for_one_that_has_none(tmp_path: Path) -> None:
    """The error says how to train it, which works."""
    path = tmp_path / "x.safetensors"
    unhot.write_vectors(path, ["a", "b"], vectors(2, 3))
    with pytest.raises(ValueError, match=r"Embedding\.from_vectors\(\*unhot\.read_vectors\(path\), optimizer=\.\.\.\)"):
        unhot.load(path, optimizer=unhot.SGD(0.1))
    trained = unhot.Embedding.from_vectors(*unhot.read_vectors(path), optimizer=unhot.SGD(1.0))
    trained.step(["b"], np.ones((1, 3)))
    assert_bits(trained["b"], vectors(2, 3)[1] - 1)
