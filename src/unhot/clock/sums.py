"""Running sums held as two numbers, the sum and what its roundings have left out; for arrays of any namespace."""

from __future__ import annotations

from typing import Any


def added(high: Any, low: Any, more: Any) -> tuple[Any, Any]:
    """The sum (high, low) and `more`, of whatever size."""
    total = high + more
    part = total - high
    error = (high - (total - part)) + (more - part)
    return total, low + error


def difference(high: Any, low: Any, other_high: Any, other_low: Any) -> Any:
    """The sum (high, low) less another one."""
    return (high - other_high) + (low - other_low)
