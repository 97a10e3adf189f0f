"""Rows that arrive and go, and rows that do not train: what layers on a table offer for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from unhot.creation import as_size
from unhot.row_numbers import existing, named
from unhot.torch.growth import add_rows, freeze, resize
from unhot.torch.parameter import ROW_NUMBERS, TableParameter

NewRows = Literal["mean"] | Tensor | Callable[[Tensor], object]
"""What new rows hold."""


class Growing(nn.Module):
    """A layer whose rows arrive and go between steps. Its weight stays the parameter that others hold."""

    weight: Tensor

    def grow(self, rows: int, init: NewRows | None = None) -> Tensor:
        """Add rows, and return their numbers: those of removed rows first, then those after the last row.

        The weight stays the same parameter, in all layers that share it. The optimizer of `unhot.torch` that owns it has its
        state enlarged. Training goes on as if the new rows had been there from the start without a gradient; weight decay has
        acted on them since the optimizer was made or its state was loaded. Rows that are given as a tensor hold what is given.

        It costs the new rows, if there is room for them. If not, all rows are copied into memory of twice the size. Where
        coupled weight decay trains the table densely (`unhot.torch.Adam(..., weight_decay=0.1)`), all steps since the first
        such one are made again for the new rows, 0.05 to 0.2 milliseconds each. So add many rows at a time there, or decouple
        the decay, as AdamW does.

        Args:
            rows: how many.
            init: what the new rows hold: None for numbers from a standard normal distribution, as the layer begins with; a
                function that fills a tensor in place, such as `torch.nn.init.zeros_`; "mean" for the mean of all rows; or a
                tensor or an array of shape (rows, embedding_dim).

        A loss may hold lookups from before the growth; `backward` gives their rows the gradient. `torch.autograd.grad` sees
        the lookups since the last growth only.

        Raises: TypeError or ValueError for unusable arguments, or for a weight that is no table (a parametrization);
            RuntimeError for a weight in memory that other processes share, which would not see more rows.

        Example:
            >>> import torch, unhot.torch
            >>> layer = unhot.torch.Embedding(1000, 4)
            >>> optimizer = unhot.torch.Adam(layer.parameters())
            >>> layer.grow(2, torch.nn.init.zeros_)
            tensor([1000, 1001])
            >>> layer(torch.tensor([1001]))
            tensor([[0., 0., 0., 0.]], grad_fn=<RowLookupBackward>)
        """
        table, count = self._table(), as_size("rows", rows)
        again = table.removed_rows[:count]
        with torch.no_grad():
            given = self._new_rows(table, count, init)
        add_rows(table, again, given, table.removed_rows[count:], from_the_start=not isinstance(init, (str, Tensor)))
        added = np.arange(len(table) - count + len(again), len(table))
        return _beside(table, np.concatenate([again, added]))

    def _new_rows(self, table: TableParameter, count: int, init: NewRows | None) -> Tensor:
        init = new_rows(init, (count, table.size(1)))
        if isinstance(init, Tensor):
            return init.to(table)
        if isinstance(init, str):
            there = np.setdiff1d(np.arange(len(table)), table.removed_rows)
            return table.detach()[torch.from_numpy(there)].double().mean(0).to(table).expand(count, -1)
        made = table.new_empty((count, table.size(1)))
        init(made)
        return made

    def remove(self, rows: Any) -> None:
        """Give rows back. They hold zeros until `grow` uses their numbers again; all other ids stay valid.

        The optimizer's state of the rows begins anew, too. Do not look removed rows up: they would train again.

        Args:
            rows: integers of any shape, each of them once or several times.

        Raises: IndexError for an id that is out of range or removed already; TypeError for ids that are not integers;
            ValueError for the row of padding, or for the one that stands for ids out of range.

        Example:
            >>> import unhot.torch
            >>> layer = unhot.torch.Embedding(4, 2)
            >>> layer.remove([1])
            >>> layer.grow(2)
            tensor([1, 4])
        """
        table = self._table()
        given = np.unique(existing(_on_host(rows), len(table), table.removed_rows))
        for name in ("padding_idx", "out_of_range"):
            row = getattr(self, name, None)
            if isinstance(row, int) and row % len(table) in given:
                raise ValueError(f"row {row} cannot be removed: it is the layer's `{name}`.")
        zeros = torch.zeros((len(given), table.size(1)), device=table.device)
        add_rows(table, given, zeros, np.union1d(table.removed_rows, given), from_the_start=False)

    @property
    def frozen(self) -> Tensor:
        """The numbers of the rows that do not train, in rising order.

        No step of an optimizer of `unhot.torch` changes a bit of them, nor does weight decay or `max_norm`. Between steps, you
        may assign row numbers, a boolean mask of shape (num_embeddings,), or None for no rows.

        Example:
            >>> import torch, unhot.torch
            >>> layer = unhot.torch.Embedding(4, 2)
            >>> layer.frozen = torch.tensor([True, False, False, True])
            >>> layer.frozen
            tensor([0, 3])
        """
        return _beside(self._table(), self._table().frozen_rows.copy())

    @frozen.setter
    def frozen(self, rows: Any) -> None:
        table = self._table()
        freeze(table, named(_on_host(rows), len(table), table.removed_rows, "frozen"))

    def only_train(self, rows: Any) -> None:
        """Freeze all rows but these, such as newly added ones.

        Args:
            rows: row numbers, or a boolean mask of shape (num_embeddings,).

        Raises: IndexError for an id that is out of range or removed, ValueError for a mask of another shape, TypeError for
            anything else.

        Example:
            >>> import unhot.torch
            >>> layer = unhot.torch.Embedding(4, 2)
            >>> layer.only_train(layer.grow(2))
            >>> layer.frozen
            tensor([0, 1, 2, 3])
        """
        table = self._table()
        freeze(table, np.setdiff1d(np.arange(len(table)), named(_on_host(rows), len(table), table.removed_rows)))

    # ------------------------------------------------------------------ states

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """As torch's; with the numbers of frozen and of removed rows, if there are any."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        table = self._parameters.get("weight")
        if isinstance(table, TableParameter):
            for name in ROW_NUMBERS:
                if len(rows := getattr(table, name.removeprefix("_"))):
                    destination[prefix + name.removeprefix("_")] = torch.from_numpy(rows.copy())

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """As torch's; with frozen and removed rows, if the state has such."""
        names = {prefix + name.removeprefix("_"): name for name in ROW_NUMBERS}
        found = {names[key]: state_dict[key] for key in names if key in state_dict}
        rows, none = len(cast("Tensor", self._parameters.get("weight", ()))), np.empty(0, np.int64)
        given = {name: existing(_on_host(numbers), rows, none, name) for name, numbers in found.items()}
        super()._load_from_state_dict({key: value for key, value in state_dict.items() if key not in names}, prefix, *args)
        table = self._parameters.get("weight")
        if given and isinstance(table, TableParameter):
            table.__dict__.update({"_removed_rows": np.unique(given.get("_removed_rows", table.removed_rows))})
            freeze(table, np.unique(given.get("_frozen_rows", table.frozen_rows)))

    def _resize(self, rows: int) -> None:
        """Have so many rows, whatever they hold, for a state that is going to be loaded."""
        table = self._table()
        resize(table, rows)
        table.__dict__["_removed_rows"] = np.empty(0, np.int64)

    def _table(self) -> TableParameter:
        weight = self.weight
        if not isinstance(weight, TableParameter):
            raise TypeError(
                "only a table that is the layer's own parameter has rows that come, go or freeze. Received: a weight of type"
                f" {type(weight).__name__}."
            )
        return weight


def _beside(table: TableParameter, rows: npt.NDArray[np.int64]) -> Tensor:
    """Row numbers on the table's device, where lookups take them; in host memory if that is "meta", since they are read."""
    found = torch.from_numpy(rows)
    return found if table.is_meta else found.to(table.device)


def _on_host(rows: Any) -> Any:
    """Row numbers, or a mask, as the core takes them."""
    return rows.detach().cpu().numpy() if isinstance(rows, Tensor) else rows


def new_rows(init: NewRows | None, shape: tuple[int, int]) -> NewRows:
    """What new rows are to hold, checked; of arrays a tensor, of nothing what layers begin with.

    Raises: TypeError or ValueError for what they cannot hold.
    """
    if init is None:
        return nn.init.normal_
    if isinstance(init, (list, tuple, np.ndarray)):
        init = torch.as_tensor(np.asarray(init), device="cpu")
    if isinstance(init, Tensor):
        if init.shape != shape or init.is_complex():
            raise ValueError(f"`init` must have shape (rows, dim) = {shape}. Received: {tuple(init.shape)}, {init.dtype}.")
    elif not callable(init) and init != "mean":
        raise TypeError(
            f"`init` must be 'mean', a tensor, or a function that fills one, such as torch.nn.init.zeros_. Received: {init!r}."
        )
    return init
