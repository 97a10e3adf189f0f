"""Tables that are trained densely: the warning. (`unhot.reports` has the report on all tables of a model.)"""

from __future__ import annotations

import warnings


class DenseFallbackWarning(UserWarning):
    """A table is trained densely: exactly, but at the cost of all its rows. The message says why, and what to do about it.

    It comes once for each table. To make it an error, use `warnings.filterwarnings("error", category=...)`.

    Args:
        message: table, reason and remedy.

    Raises: nothing.

    Example:
        >>> import warnings, unhot
        >>> warnings.filterwarnings("ignore", category=unhot.DenseFallbackWarning)
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)


def warn_of_dense_training(table: object, name: str, reason: str, remedy: str, stacklevel: int = 2) -> None:
    """Warn, once for each table, that it is trained densely.

    `table` is the table, or what stands for it: it carries the mark that it was warned of. `name` is what users call it,
    `reason` a clause ("its gradient was written in place"), `remedy` a sentence.
    """
    message = f"{name} is trained densely, at the cost of all its rows: {reason}. {remedy}"
    warn_once(table, message, stacklevel + 1)


def warn_once(table: object, message: str, stacklevel: int = 2) -> None:
    """Warn that something costs all rows of the table, if it was not warned of this table before."""
    if getattr(table, "warned_of_dense_training", False):
        return
    table.warned_of_dense_training = True  # type: ignore[attr-defined]
    warnings.warn(message, DenseFallbackWarning, stacklevel=stacklevel + 1)
