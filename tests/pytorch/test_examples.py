"""The examples run, and both ways give the same loss curve within float32."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "options"), [("pytorch_recommender", {"steps": 40, "room": 1000}), ("pytorch_text", {"steps": 40, "rows": 5000})]
)
def test_examples(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    try:
        dense, rows = importlib.import_module(name).main(**options)
    finally:
        for module in (name, "both_ways"):
            sys.modules.pop(module, None)
    assert len(rows.losses) == 40
    np.testing.assert_allclose(rows.losses, dense.losses, rtol=2e-4)
    assert np.mean(rows.losses[-10:]) < np.mean(rows.losses[:10])
    assert "times faster" in capsys.readouterr().out
