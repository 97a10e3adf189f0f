"""Every public name is documented in one form, and every example in the documentation of the package runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import unhot
import unhot.jax
import unhot.keras
import unhot.torch
from unhot.optimizers import Optimizer

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(unhot.__path__, "unhot.")
    if not module.name.endswith("__main__") and module.name != "unhot._native"
)


def members() -> Iterator[tuple[str, Any]]:
    """The public names and those of tables, vocabularies and layers, with what they name."""
    for name in unhot.__all__:
        yield name, getattr(unhot, name)
    for name in unhot.torch.__all__:
        yield f"torch.{name}", getattr(unhot.torch, name)
    for name in unhot.jax.__all__:
        yield f"jax.{name}", getattr(unhot.jax, name)
    for name in unhot.keras.__all__:
        yield f"keras.{name}", getattr(unhot.keras, name)
    for owner in (unhot.Table, unhot.DenseView, unhot.Vocabulary, unhot.Embedding):
        yield from members_of(owner, owner.__name__)
    for owner in (unhot.torch.Embedding, unhot.torch.EmbeddingBag, unhot.torch.KeyedEmbedding):
        yield from members_of(owner, f"torch.{owner.__name__}")


def members_of(owner: type[Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class, and those that it shares with others."""
    shared = [base for base in owner.__mro__ if base is not owner and base.__name__ in ("Growing", "StatefulTable")]
    for kind in (*reversed(shared), owner):
        for name, member in vars(kind).items():
            if name in ("forward", "extra_repr", "get_extra_state", "set_extra_state"):  # as every module of torch has them
                continue
            if not name.startswith("_") and (callable(member) or isinstance(member, (classmethod, property))):
                yield f"{prefix}.{name}", member.__func__ if isinstance(member, classmethod) else member


PUBLIC = dict(members())


def section(documentation: str, name: str) -> str | None:
    """What follows `name:` at the beginning of a line."""
    lines = documentation.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith(f"{name}:")]
    return "\n".join(lines[starts[0] :]) if starts else None


def test_public_names() -> None:
    """Each exists, once, and `dir` and the star import give them; anything else is an AttributeError."""
    assert len(set(unhot.__all__)) == len(unhot.__all__)
    namespace: dict[str, Any] = {}
    exec("from unhot import *", namespace)
    assert set(unhot.__all__) <= set(namespace)
    assert unhot.__version__.count(".") == 2
    with pytest.raises(AttributeError, match=r"module 'unhot' has no attribute 'Adm'"):
        unhot.Adm  # noqa: B018


@pytest.mark.parametrize("name", PUBLIC)
def test_documentation(name: str) -> None:
    """A first line of its own; then Args that name every parameter, Raises, and an Example, wherever they apply."""
    thing = PUBLIC[name]
    documentation = inspect.getdoc(thing) or ""
    assert documentation.splitlines()[0].endswith((".", ":")), "the first line is a sentence"
    if isinstance(thing, ModuleType):
        return
    if isinstance(thing, property):
        return
    assert callable(thing)
    example = section(documentation, "Example")
    assert example is not None
    assert ">>> " in example
    parameters = [p for p in inspect.signature(thing).parameters if p not in ("self", "cls")]
    if not parameters:
        return
    assert section(documentation, "Raises") is not None
    arguments = section(documentation, "Args")
    assert arguments is not None
    if "as for" not in arguments and "those of" not in arguments:
        for parameter in parameters:
            assert parameter in arguments, parameter


@pytest.mark.parametrize(
    "name", [name for name in unhot.__all__ if name[0].isupper() and issubclass(getattr(unhot, name), Optimizer)]
)
def test_optimizers_name_their_sources(name: str) -> None:
    """Beside that, an optimizer says where its definition stands."""
    assert section(inspect.getdoc(PUBLIC[name]) or "", "References") is not None


@pytest.mark.parametrize("name", ["unhot", *MODULES])
def test_modules_are_documented_and_their_examples_run(name: str) -> None:
    """Every module says what it is; the examples in it print what they show."""
    threads = unhot.get_num_threads()
    module = importlib.import_module(name)
    assert module.__doc__, "the module has no docstring"
    try:
        failed, _ = doctest.testmod(module)
    finally:
        unhot.set_num_threads(threads)
    assert failed == 0


def test_there_are_examples_to_run() -> None:
    """The finder does find the examples: at least one for each optimizer and each method of Table and Vocabulary."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = {test.name for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples}
    for name, thing in PUBLIC.items():
        if not isinstance(thing, (ModuleType, property)):
            assert f"{thing.__module__}.{thing.__qualname__}" in found, name
