"""Without the names that PyTorch does not publish; `make test-private` runs all tests of the front end so."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import unhot.torch

SCRIPT = """
import torch, unhot.torch
from unhot.torch import _private
assert not _private.ON
found = []
for module, optimizers in ((torch.nn, torch.optim), (unhot.torch, unhot.torch)):
    torch.manual_seed(0)
    layer = module.Embedding(30, 3, dtype=torch.float64)
    for kind in ("AdamW", "SGD"):
        optimizer = getattr(optimizers, kind)(layer.parameters(), lr=0.01)
        for step in range(40):
            optimizer.zero_grad()
            layer(torch.tensor([step % 3, 5, 5])).pow(2).sum().backward()
            torch.nn.utils.clip_grad_norm_(layer.parameters(), 0.5)
            if step == 30:
                layer.weight.grad[:2] = 0.0
            optimizer.step()
    found.append(layer.weight.detach())
torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)
assert isinstance(layer.weight.grad, unhot.torch.RowGradient) and layer.weight.grad.ids is not None
"""


def test_training_on_the_fallbacks() -> None:
    environment = {**os.environ, "UNHOT_PRIVATE": "off"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_private_names_are_in_one_module() -> None:
    """Those of `torch._C`, of private modules, and looks into stack frames."""
    for path in Path(unhot.torch.__file__).parent.glob("*.py"):
        if path.name == "_private.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert not any(re.match(r"torch(\.\w+)*\._", name) for name in names), path.name
            if isinstance(node, ast.Attribute):
                of_torch = isinstance(node.value, ast.Name) and node.value.id == "torch" and node.attr != "__file__"
                assert not (of_torch and node.attr.startswith("_")), (path.name, node.attr)
                assert node.attr not in ("_getframe", "_version", "_make_wrapper_subclass"), (path.name, node.attr)
