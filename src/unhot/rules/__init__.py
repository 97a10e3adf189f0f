"""The rules: each optimizer's hyperparameters, slots and recurrence."""

from unhot.rules.base import Hyper, Optimizer, Recurrence
from unhot.rules.closed_form import Ftrl
from unhot.rules.descent import SGD, Adadelta, Adagrad, RMSprop
from unhot.rules.moments import Adam, Adamax, AdamW, NAdam
from unhot.rules.schedules import zero_based
from unhot.rules.sign import Lion

OPTIMIZERS: dict[str, type[Optimizer]] = {
    rule.__name__.lower(): rule for rule in (SGD, Adagrad, RMSprop, Adadelta, Adam, AdamW, Adamax, NAdam, Lion, Ftrl)
}
"""Every rule by its name in lower case."""

__all__ = [
    "OPTIMIZERS", "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Hyper", "Lion", "NAdam", "Optimizer",
    "RMSprop", "Recurrence", "zero_based",
]  # fmt: skip
