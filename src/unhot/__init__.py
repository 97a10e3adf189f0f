"""unhot: an embedding table that trains exactly like one-hot x Dense, at the cost of the rows touched."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from unhot import kernels, optimizers
from unhot.kernels import get_num_threads, set_num_threads
from unhot.optimizers import *  # noqa: F403  (every optimizer)
from unhot.optimizers import zero_based
from unhot.table import Table
from unhot.table_collection import TableCollection
from unhot.training import DenseFallbackWarning
from unhot.version import __version__ as __version__

if TYPE_CHECKING:
    from unhot.comparison import compare
    from unhot.dense_view import DenseView
    from unhot.embedding import Embedding
    from unhot.formats.vectors import Vectors, read_vectors, write_vectors
    from unhot.storage.load import load
    from unhot.storage.mapped import MappedTable
    from unhot.vocabulary import Vocabulary

__all__ = [
    "DenseFallbackWarning", "DenseView", "Embedding", "MappedTable", "Table", "TableCollection", "Vectors", "Vocabulary",
    "compare", "get_num_threads", "kernels", "load", "read_vectors", "set_num_threads", "write_vectors", "zero_based",
]  # fmt: skip
__all__ += optimizers.__all__


if not TYPE_CHECKING:  # or a checker would let any name pass
    LATER = {
        "DenseView": "unhot.dense_view", "Embedding": "unhot.embedding", "MappedTable": "unhot.storage.mapped",
        "Vectors": "unhot.formats.vectors", "Vocabulary": "unhot.vocabulary", "compare": "unhot.comparison",
        "load": "unhot.storage.load", "read_vectors": "unhot.formats.vectors", "write_vectors": "unhot.formats.vectors",
    }  # fmt: skip
    """Names whose modules are imported when they are asked for: a table alone needs none of them."""

    def __getattr__(name: str) -> Any:
        if name in LATER:
            return getattr(import_module(LATER[name]), name)
        raise AttributeError(f"module 'unhot' has no attribute {name!r}")


def __dir__() -> list[str]:
    front_ends = {"torch", "keras", "jax"}  # once they are imported
    shown = (name for name in globals() if name in front_ends or name.startswith("__"))
    return sorted({*__all__, *shown})
