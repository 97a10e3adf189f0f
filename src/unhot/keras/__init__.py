"""Keras 3: `Embedding` and the optimizers, on the backends torch, JAX and TensorFlow; importing this imports Keras."""

from unhot import extras
from unhot.reports import Conversion, TableReport, TrainingReport

try:
    import keras as _keras  # noqa: F401
except ModuleNotFoundError as error:
    raise extras.missing("unhot.keras", "keras", error) from error

from unhot.keras import optimizers
from unhot.keras.collection import EmbeddingCollection
from unhot.keras.conversion import convert
from unhot.keras.embedding import Embedding
from unhot.keras.optimizers import *  # noqa: F403  (every optimizer)
from unhot.keras.release import release
from unhot.keras.report import report
from unhot.keras.reversible_embedding import ReversibleEmbedding
from unhot.keras.stateless import stateless_values

__all__ = [
    "Conversion", "Embedding", "EmbeddingCollection", "ReversibleEmbedding", "TableReport", "TrainingReport", "convert",
    "release", "report", "stateless_values",
]  # fmt: skip
__all__ += optimizers.__all__
