"""Clocks: the steps made so far with their hyperparameters, and what carries rows over the steps deferred.

A clock is shared by all tables that make the same steps. It has a law (`unhot.laws`), which says what a step does to a row, and
a history, from which it takes the law's coefficients. A clock asks its optimizer for numbers, and never for an array.
"""

from unhot.clock.base import Clock, Hyper

__all__ = ["Clock", "Hyper"]
