"""Writes docs/api.md from the docstrings of the public names; with --check, says whether it is up to date."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import unhot

TARGET = Path(__file__).with_name("api.md")


def entry(name: str, thing: object, level: int = 2) -> str:
    """One name: its signature and its docstring, as it stands."""
    documentation = inspect.getdoc(thing) or ""
    if isinstance(thing, (property, ModuleType)) or not callable(thing):
        signature = name
    else:
        signature = f"{name}{inspect.signature(thing)}".replace(" -> None", "").replace("'", "")
        signature = re.sub(r"<function .*? at 0x[0-9a-f]+>", "...", signature)
    text = f"{'#' * level} `{name}`\n\n```text\n{signature}\n\n{documentation}\n```\n"
    if inspect.isclass(thing) and thing is unhot.Table:
        for member, value in vars(thing).items():
            if not member.startswith("_"):
                shown = value.__func__ if isinstance(value, classmethod) else value
                text += "\n" + entry(f"{name}.{member}", shown, level + 1)
    return text


def api() -> str:
    """The whole page."""
    head = "# Public names\n\nGenerated from the docstrings by `make docs`; every example in it is run by the tests.\n\n"
    return head + "\n".join(entry(f"unhot.{name}", getattr(unhot, name)) for name in unhot.__all__)


if __name__ == "__main__":
    if "--check" in sys.argv:
        if TARGET.read_text() != api():
            sys.exit("docs/api.md is not up to date: run `make docs`")
    else:
        TARGET.write_text(api())
