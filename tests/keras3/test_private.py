"""What Keras does not publish is used in one module, or by the classes that inherit it."""

from __future__ import annotations

import ast
from pathlib import Path

import keras

import unhot.keras


def test_private_names_are_in_one_module() -> None:
    """Those of variables, layers and optimizers; elsewhere, a subclass may use its own, and override methods."""
    variable, layer, optimizer = keras.Variable(1.0), keras.layers.Embedding(2, 2), keras.optimizers.Adam()
    layer.build()
    optimizer.build([variable])
    names = {name for one in (variable, layer, optimizer) for name in dir(one) if name.startswith("_") and name[1] != "_"}
    assert {"_value", "_iterations", "_get_variable_index"} <= names
    found = []
    for path in Path(unhot.keras.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in names and path.name != "_private.py":
                of = ast.unparse(node.value)
                inherited = of in ("self", "this", "cls", "super()", "ours") or of[0].isupper()
                if not inherited:
                    found.append(f"{path.name}:{node.lineno}: {of}.{node.attr}")
    assert not found
