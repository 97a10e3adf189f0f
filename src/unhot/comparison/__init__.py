"""The comparison of one-hot x Dense with the table, as Python objects. `unhot.cli` shows them."""

from unhot.comparison.results import (
    Agreement,
    Column,
    Comparison,
    Cost,
    Costs,
    Difference,
    Example,
    Growth,
    Settings,
)
from unhot.comparison.run import compare

__all__ = [
    "Agreement", "Column", "Comparison", "Cost", "Costs", "Difference", "Example", "Growth", "Settings", "compare",
]  # fmt: skip
