"""The optimizers, a file for each: hyperparameters, defaults by convention, names in the frameworks, law and formulas."""

from unhot.optimizers.adadelta import Adadelta
from unhot.optimizers.adagrad import Adagrad
from unhot.optimizers.adam import Adam, AdamW
from unhot.optimizers.adamax import Adamax
from unhot.optimizers.base import Optimizer as Optimizer
from unhot.optimizers.ftrl import Ftrl
from unhot.optimizers.lazy_adam import LazyAdam
from unhot.optimizers.lion import Lion
from unhot.optimizers.nadam import NAdam
from unhot.optimizers.radam import RAdam
from unhot.optimizers.rmsprop import RMSprop
from unhot.optimizers.rowwise_adagrad import RowwiseAdagrad
from unhot.optimizers.schedules import zero_based as zero_based
from unhot.optimizers.sgd import SGD

__all__ = [
    "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "LazyAdam", "Lion", "NAdam", "RAdam", "RMSprop",
    "RowwiseAdagrad",
]  # fmt: skip

OPTIMIZERS: dict[str, type[Optimizer]] = {name.lower(): globals()[name] for name in __all__}
"""Every optimizer by its name in lower case."""
