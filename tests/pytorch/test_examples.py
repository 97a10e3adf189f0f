"""Whole models: the example learns, and both ways of training give the same loss curve within float32."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
BOTH_WAYS = ROOT / "tests" / "both_ways"


def test_csv_example(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    error, guess = importlib.import_module("pytorch_csv").main()
    assert error < 0.6 * guess
    assert f"{error:.3f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "options"), [("pytorch_recommender", {"steps": 40, "room": 1000}), ("pytorch_text", {"steps": 40, "rows": 5000})]
)
def test_both_ways(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.syspath_prepend(str(BOTH_WAYS))
    try:
        dense, rows = importlib.import_module(name).main(**options)
    finally:
        for module in (name, "both_ways"):
            sys.modules.pop(module, None)
    assert len(rows.losses) == 40
    np.testing.assert_allclose(rows.losses, dense.losses, rtol=2e-4)
    assert np.mean(rows.losses[-10:]) < np.mean(rows.losses[:10])
    assert "times faster" in capsys.readouterr().out
