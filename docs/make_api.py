"""Writes docs/api.md from the docstrings of the public names; with --check, says whether it is up to date."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import unhot

MODULES = {
    "api.md": "unhot", "api-torch.md": "unhot.torch", "api-torch-distributed.md": "unhot.torch.distributed",
    "api-keras.md": "unhot.keras", "api-jax.md": "unhot.jax",
}  # fmt: skip
PAGES = {Path(__file__).with_name(page): module for page, module in MODULES.items()}
"""What each page documents."""

WITH_MEMBERS = (
    "Table", "MappedTable", "DenseView", "Vocabulary", "Embedding", "EmbeddingBag", "KeyedEmbedding", "TableState",
    "ShardedEmbedding", "ShardedEmbeddingBag", "ShardedKeyedEmbedding",
)  # fmt: skip
"""The classes that users work with: they come first, and their members are documented too."""

SHARED = ("Growing", "StatefulTable", "Sharded", "ShardedLayer")
"""Classes that some of these have in common, whose members are theirs."""

OF_FRAMEWORKS = (
    "forward", "extra_repr", "register_parameter", "reset_parameters",
    "build", "call", "compute_mask", "compute_output_shape", "compute_output_spec", "get_config", "variables",
    "save_own_variables", "load_own_variables",
)  # fmt: skip
"""Methods that every module of torch, or every layer of Keras, has."""

FOR_OTHER_MODULES = ("call_ids", "look_up_nothing", "pooled")
"""What only the package itself uses."""

os.environ["KERAS_BACKEND"] = "torch"  # Keras takes it when it is imported


def entry(name: str, thing: object, level: int = 2) -> str:
    """One name: its signature and its docstring, as it stands."""
    documentation = inspect.getdoc(thing) or ""
    if isinstance(thing, (property, ModuleType)) or not callable(thing):
        signature = name
    else:
        signature = f"{name}{inspect.signature(thing)}".replace(" -> 'None'", "").replace(" -> None", "")
        signature = re.sub(r"""(: |-> )(['"])(.*?)\2""", r"\1\3", signature)  # annotations, not values
        signature = re.sub(r"<function .*? at 0x[0-9a-f]+>", "...", signature)
    text = f"{'#' * level} `{name}`\n\n```text\n{signature}\n\n{documentation}\n```\n"
    if inspect.isclass(thing) and thing.__name__ in WITH_MEMBERS:
        shared = [base for base in thing.__mro__ if base is not thing and base.__name__ in SHARED]
        for member, value in {name: value for kind in (*shared, thing) for name, value in vars(kind).items()}.items():
            if not member.startswith("_") and member not in (*OF_FRAMEWORKS, *FOR_OTHER_MODULES):
                shown = value.__func__ if isinstance(value, classmethod) else value
                text += "\n" + entry(f"{name}.{member}", shown, level + 1)
    return text


def api(module: str) -> str:
    """The whole page of a module's public names."""
    head = f"# Public names of `{module}`\n\n"
    head += "Generated from the docstrings by `make docs`; every example in it is run by the tests.\n\n"
    page = head + _entries(module)
    return page + f"\n# What `unhot.compare` returns\n\n{_entries('unhot.comparison')}" if module == "unhot" else page


def _entries(module: str) -> str:
    """Those of a module's public names, but for what stands on the page already."""
    found = importlib.import_module(module)
    names = [name for name in found.__all__ if module == "unhot" or getattr(unhot, name, None) is not getattr(found, name)]
    names.sort(key=lambda name: (name not in WITH_MEMBERS, name))  # tables and layers first, then by name
    return "\n".join(entry(f"{module}.{name}", getattr(found, name)) for name in names)


if __name__ == "__main__":
    for page, module in PAGES.items():
        if "--check" not in sys.argv:
            page.write_text(api(module))
        elif page.read_text() != api(module):
            sys.exit(f"docs/{page.name} is not up to date: run `make docs`")
