"""The optimizers: each one's hyperparameters, defaults by convention, law and formulas."""

from unhot.optimizers.adadelta import Adadelta
from unhot.optimizers.adagrad import Adagrad
from unhot.optimizers.adam import Adam, AdamW
from unhot.optimizers.adamax import Adamax
from unhot.optimizers.base import Optimizer
from unhot.optimizers.ftrl import Ftrl
from unhot.optimizers.lion import Lion
from unhot.optimizers.nadam import NAdam
from unhot.optimizers.rmsprop import RMSprop
from unhot.optimizers.schedules import zero_based
from unhot.optimizers.sgd import SGD

OPTIMIZERS: dict[str, type[Optimizer]] = {
    kind.__name__.lower(): kind for kind in (SGD, Adagrad, RMSprop, Adadelta, Adam, AdamW, Adamax, NAdam, Lion, Ftrl)
}
"""Every optimizer by its name in lower case."""

__all__ = [
    "OPTIMIZERS", "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lion", "NAdam", "Optimizer", "RMSprop",
    "zero_based",
]  # fmt: skip
