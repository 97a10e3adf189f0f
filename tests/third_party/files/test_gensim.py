"""gensim: its own files are read as it reads them, what we write it reads back, and text is read several times faster."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gensim.test
import numpy as np
import pytest
from gensim.models import KeyedVectors
from gensim.scripts.word2vec2tensor import word2vec2tensor

import unhot

DATA = Path(gensim.test.__file__).parent / "test_data"

FILES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "euclidean_vectors.bin": ({}, {"binary": True}),
    "poincare_vectors.bin": ({}, {"binary": True}),
    "lee_fasttext.vec": ({}, {}),
    "crime-and-punishment.vec": ({}, {}),
    "toy-model.vec": ({}, {}),
    "test_glove.txt": ({}, {"no_header": True}),
    "word2vec_pre_kv_c": ({"format": "word2vec"}, {}),
    "pang_lee_polarity_fasttext.vec": ({"errors": "replace"}, {"unicode_errors": "replace"}),
}
"""Files of vectors in gensim's wheel: how we read them, and how gensim does."""


@pytest.mark.parametrize("name", FILES)
def test_gensims_own_files(name: str) -> None:
    """The same keys, and the same bits."""
    ours, theirs = FILES[name]
    expected = KeyedVectors.load_word2vec_format(str(DATA / name), **theirs)
    keys, vectors = unhot.read_vectors(DATA / name, **{"duplicates": "first", **ours})
    assert keys == expected.index_to_key
    assert vectors.dtype == expected.vectors.dtype
    assert vectors.tobytes() == expected.vectors.tobytes()


@pytest.mark.parametrize(
    "name", ["pretrained.vec", "pang_lee_polarity_fasttext.vec", "lee_fasttext.bin", "lee_fasttext_new.bin"]
)
def test_files_that_are_not_whole_or_of_another_format(name: str) -> None:
    """A truncated file, keys that are not UTF-8, models of fastText: an error, and no vectors."""
    with pytest.raises(ValueError, match=name):
        unhot.read_vectors(DATA / name)


KEYS = ["king", "naïve", "日本", "a\u00a0b", "x\u2028y", "\u3000", "-0.5", "#", "1"]


def vectors(rows: int, dim: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    generator = np.random.default_rng(0)
    return (generator.normal(size=(rows, dim)) * 10.0 ** generator.integers(-9, 9, size=(rows, dim))).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.vec", {}), ("x.vec.gz", {}), ("x.bin", {"binary": True}), ("x.bin.gz", {"binary": True}),
        ("x.glove", {"no_header": True}),
    ],
)  # fmt: skip
def test_gensim_reads_what_we_write(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    given = vectors(len(KEYS), 7)
    unhot.write_vectors(tmp_path / name, KEYS, given)
    found = KeyedVectors.load_word2vec_format(str(tmp_path / name), **options)
    assert found.index_to_key == KEYS
    assert found.vectors.tobytes() == given.tobytes()


@pytest.mark.parametrize(
    ("name", "options"),
    [("x.vec", {}), ("x.bin", {"binary": True}), ("x.glove", {"write_header": False}), ("x.vec.gz", {})],
)
def test_we_read_what_gensim_writes(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    given = KeyedVectors(7)
    given.add_vectors(KEYS, vectors(len(KEYS), 7))
    given.save_word2vec_format(str(tmp_path / name), sort_attr="index", **options)
    keys, found = unhot.read_vectors(tmp_path / name)
    assert keys == KEYS
    assert found.tobytes() == given.vectors.tobytes()


def test_rows_that_were_left_out_on_the_way(tmp_path: Path) -> None:
    """The first line of a file is padded where the number of rows becomes known only at the end; gensim reads it."""
    from unhot.formats.vectors import convert

    (tmp_path / "a.glove").write_text("".join(f"key{i % 8} {i} 0.5\n" for i in range(11)))
    for name, options in (("b.vec", {}), ("b.bin", {"binary": True})):
        assert convert(tmp_path / "a.glove", tmp_path / name, duplicates="first") == 8
        found = KeyedVectors.load_word2vec_format(str(tmp_path / name), **options)
        assert found.index_to_key == [f"key{i}" for i in range(8)]


def test_files_for_tensorboard(tmp_path: Path) -> None:
    """gensim's script writes them as well: the same labels and numbers."""
    given = vectors(len(KEYS), 7)
    unhot.write_vectors(tmp_path / "x.vec", KEYS, given)
    word2vec2tensor(str(tmp_path / "x.vec"), str(tmp_path / "x"))
    keys, found = unhot.read_vectors(tmp_path / "x_tensor.tsv")
    assert keys == KEYS
    assert found.tobytes() == given.tobytes()


def test_text_is_read_five_times_faster(tmp_path: Path) -> None:
    """GloVe's text, by turns; benchmarks/vectors.py measures it with more care."""
    rows, dim = 5000, 100
    numbers = np.random.default_rng(0).normal(size=(rows, dim)) * 0.4
    path = tmp_path / "x.txt"
    path.write_text("".join(f"key{i} {' '.join(f'{x:.5g}' for x in line)}\n" for i, line in enumerate(numbers)))

    def seconds(read: Callable[[], object]) -> float:
        began = time.perf_counter()
        read()
        return time.perf_counter() - began

    ours, theirs = [], []
    for _ in range(5):
        ours.append(seconds(lambda: unhot.read_vectors(path)))
        theirs.append(seconds(lambda: KeyedVectors.load_word2vec_format(str(path), no_header=True)))
    assert min(theirs) > 5 * min(ours)
