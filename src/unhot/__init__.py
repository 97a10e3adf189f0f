"""unhot: an embedding table that trains exactly like one-hot x Dense, at the cost of the rows touched."""

from typing import TYPE_CHECKING, Any

from unhot import kernels, optimizers
from unhot.dense_view import DenseView
from unhot.kernels import get_num_threads, set_num_threads
from unhot.optimizers import *  # noqa: F403  (every optimizer)
from unhot.optimizers import zero_based
from unhot.table import Table
from unhot.table_collection import TableCollection
from unhot.training import DenseFallbackWarning
from unhot.version import __version__ as __version__

if TYPE_CHECKING:
    from unhot.comparison import compare

__all__ = [
    "DenseFallbackWarning", "DenseView", "Table", "TableCollection", "compare", "get_num_threads", "kernels", "set_num_threads",
    "zero_based",
]  # fmt: skip
__all__ += optimizers.__all__


if not TYPE_CHECKING:  # or a checker would let any name pass

    def __getattr__(name: str) -> Any:
        # Importing unhot must not load what only the comparison needs.
        if name == "compare":
            from unhot.comparison import compare

            return compare
        raise AttributeError(f"module 'unhot' has no attribute {name!r}")


def __dir__() -> list[str]:
    front_ends = {"torch", "keras", "jax"}  # once they are imported
    shown = (name for name in globals() if name in front_ends or name.startswith("__"))
    return sorted({*__all__, *shown})
