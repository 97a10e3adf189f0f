"""What `convert` and `report` tell, in the same words in every front end."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

M = TypeVar("M")


@dataclass(repr=False)
class Conversion(Generic[M]):
    """What `convert` did to a model.

    Layers go by name. The name of a layer inside another begins with the name of that one.

    Args:
        model: the converted model. Go on with this one. In PyTorch it is the model that was given; in Keras, a copy.
        replaced: the layers that were replaced, and what they were before.
        left: the layers that were left alone, and why.
        in_place: whether the given model itself was changed.
        compiled: whether the given model was compiled. A copy is not.

    Raises: nothing.

    Example:
        >>> import torch, unhot.torch
        >>> conversion = unhot.torch.convert(torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 1)))
        >>> conversion
        replaced: 0 (Embedding)
        >>> conversion.replaced, conversion.left
        ({'0': 'Embedding'}, {})
    """

    model: M
    replaced: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    in_place: bool = False
    compiled: bool = False

    def __repr__(self) -> str:
        lines = [f"replaced: {', '.join(f'{name} ({was})' for name, was in self.replaced.items()) or 'nothing'}"]
        lines += [f"left alone: {name}: {why}" for name, why in self.left.items()]
        return "\n".join(lines + ["compile it: the given model was compiled"] * self.compiled)

    def __iter__(self) -> Iterator[M | Conversion[M]]:
        """The model and the report, which `unhot.keras.convert` returned up to 0.1."""
        _deprecated("unpacking what `convert` returns", "conversion = convert(model), then conversion.model")
        return iter((self.model, self))

    @property
    def swapped(self) -> list[str] | dict[str, str]:
        """The name of `replaced` up to 0.1, where `unhot.torch` had the names of the layers only."""
        _deprecated("`swapped`", "`replaced`")
        return list(self.replaced) if self.in_place else self.replaced


@dataclass(frozen=True, repr=False)
class TableReport:
    """How one table is trained.

    Args:
        name: the name of its parameter in the model, or the path of its variable.
        rows: how many rows it has.
        dim: how many numbers a row has.
        by_rows: whether a step costs only the rows in the batch.
        reason: why not, and what to do about it; empty if it is trained by rows.

    Raises: nothing.

    Example:
        >>> from unhot.reports import TableReport
        >>> TableReport("words.weight", 1000, 16, True)
        words.weight (1,000 x 16): by rows
    """

    name: str
    rows: int
    dim: int
    by_rows: bool
    reason: str = ""

    def __repr__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"{self.name} ({self.rows:,} x {self.dim:,}): {'by rows' if self.by_rows else 'densely'}{why}"


@dataclass(frozen=True, repr=False)
class TrainingReport:
    """How the tables of a model are trained: what `report` returns.

    Args:
        tables: one entry for each table, in the model's order.

    Raises: nothing.

    Example:
        >>> from unhot.reports import TableReport, TrainingReport
        >>> words = TableReport("words.weight", 1000, 16, True)
        >>> tags = TableReport("tags.weight", 500, 8, False, "no optimizer of unhot.torch has it")
        >>> report = TrainingReport((words, tags))
        >>> report
        words.weight (1,000 x 16): by rows
        tags.weight (500 x 8): densely: no optimizer of unhot.torch has it
        >>> report.by_rows, report.densely
        (['words.weight'], {'tags.weight': 'no optimizer of unhot.torch has it'})
    """

    tables: tuple[TableReport, ...] = ()

    @property
    def by_rows(self) -> list[str]:
        """The names of the tables of which a step costs only the rows in the batch."""
        return [table.name for table in self.tables if table.by_rows]

    @property
    def densely(self) -> dict[str, str]:
        """The names of the other tables, and the reasons."""
        return {table.name: table.reason for table in self.tables if not table.by_rows}

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.tables)) or "no tables"


def _deprecated(what: str, instead: str) -> None:
    warnings.warn(f"{what} is deprecated, and goes with 1.0. Use {instead}.", DeprecationWarning, stacklevel=3)
