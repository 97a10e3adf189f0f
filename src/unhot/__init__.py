"""unhot: an embedding table that trains exactly like one-hot x Dense, at the cost of the rows touched."""

from unhot import kernels
from unhot.rules import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Ftrl, Lion, NAdam, RMSprop
from unhot.table import Table

__version__ = "0.1.0"

__all__ = [
    "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lion", "NAdam", "RMSprop", "Table", "kernels",
]  # fmt: skip
