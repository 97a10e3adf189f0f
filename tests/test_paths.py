"""Names of files, wherever the package takes one: str, bytes, os.PathLike, and an error that names the argument for others."""

from __future__ import annotations

import inspect
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selection import product

import unhot
from unhot.formats.vectors import convert
from unhot.storage.describe import describe


class Named:
    """An os.PathLike of another package."""

    def __init__(self, name: str | bytes) -> None:
        self.name = name

    def __fspath__(self) -> str | bytes:
        return self.name


def mapped(path: Any) -> unhot.MappedTable:
    """A table that is mapped from a file of its own."""
    unhot.Table(3, 2).save(path)
    return unhot.MappedTable(path)


CALLS: dict[str, tuple[str, str, Callable[[Any, Path], object]]] = {
    "load": ("path", "table", lambda path, folder: unhot.load(path)),
    "load, mapped": ("path", "table", lambda path, folder: unhot.load(path, mmap=True)),
    "MappedTable": ("path", "table", lambda path, folder: unhot.MappedTable(path)),
    "MappedTable.save": ("path", "", lambda path, folder: mapped(folder / "own").save(path)),
    "Table.save": ("path", "", lambda path, folder: unhot.Table(3, 2).save(path)),
    "Embedding.save": ("path", "", lambda path, folder: unhot.Embedding(unhot.Vocabulary(["a"]), 2).save(path)),
    "TableCollection.save": ("path", "", lambda path, folder: unhot.TableCollection({"a": (3, 2)}).save(path)),
    "TableCollection.load": ("path", "tables", lambda path, folder: unhot.TableCollection.load(path)),
    "read_vectors": ("path", "words.vec", lambda path, folder: unhot.read_vectors(path)),
    "read_vectors, of a format": ("path", "words.vec", lambda path, folder: unhot.read_vectors(path, "word2vec")),
    "write_vectors": ("path", "new.vec", lambda path, folder: unhot.write_vectors(path, ["a"], np.ones((1, 2)))),
    "write_vectors, two files": ("path", "new.tsv", lambda path, folder: unhot.write_vectors(path, ["a"], np.ones((1, 2)))),
    "convert from": ("source", "words.vec", lambda path, folder: convert(path, folder / "to.npz")),
    "convert to": ("target", "new.npz", lambda path, folder: convert(folder / "words.vec", path)),
    "describe": ("path", "words.vec", lambda path, folder: describe(path)),
}
"""What takes the name of a file: the argument, the file that it is called with here ("" for a new one), and the call."""

KINDS: dict[str, Callable[[Path], Any]] = {
    "str": str, "Path": lambda path: path, "bytes": os.fsencode, "PathLike": lambda path: Named(str(path)),
    "PathLike of bytes": lambda path: Named(os.fsencode(path)),
}  # fmt: skip

WRONG: dict[str, tuple[Any, str]] = {
    "None": (None, "Received: None (NoneType)."),
    "an integer": (3, "Received: 3 (int)."),
    "a list": (["words.vec"], "Received: ['words.vec'] (list)."),
    "an open file": (io.BytesIO(), "(BytesIO). unhot opens files itself: pass the file's name instead of an open file."),
    "an array": (np.zeros((90, 9)), "(ndarray)."),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    unhot.Table(3, 2).save(tmp_path / "table")
    unhot.TableCollection({"a": (3, 2)}).save(tmp_path / "tables")
    unhot.write_vectors(tmp_path / "words.vec", ["a"], np.ones((1, 2)))
    return tmp_path


@pytest.mark.parametrize(("call", "kind"), product(CALLS, KINDS))
def test_names_of_every_kind(call: str, kind: str, folder: Path) -> None:
    _, name, made = CALLS[call]
    path = folder / (name or "new")
    made(KINDS[kind](path), folder)
    assert path.exists()


@pytest.mark.parametrize(("call", "wrong"), product(CALLS, WRONG))
def test_what_is_no_name(call: str, wrong: str, folder: Path) -> None:
    argument, _, made = CALLS[call]
    given, message = WRONG[wrong]
    before = sorted(folder.iterdir())
    with pytest.raises(TypeError) as error:
        made(given, folder)
    text = str(error.value)
    assert text.startswith(f"`{argument}` must be the name of a file: a str, bytes, or an os.PathLike such as pathlib.Path.")
    assert text.endswith(message)
    assert len(text.splitlines()) == 1
    assert sorted(folder.iterdir()) in (before, sorted([*before, folder / "own"]))


def test_all_that_takes_a_name_is_tested() -> None:
    found = set()
    for name in unhot.__all__:
        public = getattr(unhot, name)
        methods = {f"{name}.{method}": getattr(public, method) for method in dir(public) if not method.startswith("_")}
        for called, function in {name: public, **(methods if inspect.isclass(public) else {})}.items():
            if callable(function) and called != "compare":
                try:
                    parameters = inspect.signature(function).parameters
                except ValueError:  # of a class that is written in C
                    continue
                if "path" in parameters:
                    found.add(called)
    assert "Table.save" in found
    assert found <= {name.partition(",")[0] for name in CALLS}
