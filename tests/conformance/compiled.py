"""What XLA has made of a compiled step."""

from __future__ import annotations


def assert_no_copies(text: str, rows: int, dim: int) -> None:
    """The step, as XLA writes it down, works on (rows, dim) tables and copies no array with as many lines."""
    assert f"[{rows},{dim}]" in text
    assert not [line for line in text.splitlines() if " copy(" in line and f"[{rows}" in line.split(" copy(")[0]]
