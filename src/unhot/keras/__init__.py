"""Keras 3: `Embedding` and the optimizers, on the backends torch, JAX and TensorFlow; importing this imports Keras."""

from unhot import extras
from unhot.reports import Conversion, TableReport, TrainingReport

try:
    import keras as _keras  # noqa: F401
except ModuleNotFoundError as error:
    raise extras.missing("unhot.keras", "keras", error) from error

from unhot.keras.collection import EmbeddingCollection
from unhot.keras.conversion import convert
from unhot.keras.embedding import Embedding
from unhot.keras.optimizers import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Ftrl, Lion, Nadam, RMSprop
from unhot.keras.release import release
from unhot.keras.report import report
from unhot.keras.reversible_embedding import ReversibleEmbedding

__all__ = [
    "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Conversion", "Embedding", "EmbeddingCollection", "Ftrl", "Lion",
    "Nadam", "RMSprop", "ReversibleEmbedding", "TableReport", "TrainingReport", "convert",
    "release", "report",
]  # fmt: skip
