"""Rows that arrive and go, and rows that do not train: what Keras layers on a table offer for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from unhot.atomic import Call
from unhot.creation import as_size
from unhot.ids import OutOfRange, as_plain
from unhot.keras.growth import Given, freeze, put_rows
from unhot.keras.kinds import Option, Tensor, Variable
from unhot.row_numbers import existing, named

Rows = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
NewRows = Literal["mean"] | str | Callable[..., Tensor] | npt.ArrayLike
"""What new rows hold: the name of an initializer may be a string."""


class Growing(keras.layers.Layer):  # type: ignore[misc]  # Keras comes without types
    """A layer whose rows arrive and go between steps. Its variables stay the objects that others hold."""

    input_dim: int
    output_dim: int
    out_of_range: OutOfRange
    mask_zero: bool
    embeddings_initializer: Any  # an initializer of Keras
    _embeddings: Variable
    lora_enabled: bool
    lora_embeddings_a: Variable

    _removed_rows: Rows = np.empty(0, np.int64)
    _frozen_at_first: Rows = np.empty(0, np.int64)
    """Those that the layer was constructed with, until it is built."""

    def grow(self, rows: int, init: NewRows | None = None) -> Rows:
        """Add rows, and return their numbers: those of removed rows first, then those after the last row.

        The variables stay the same objects, and `input_dim` follows. The optimizers of `unhot.keras` that were built with the
        layer have their state enlarged; an optimizer of Keras's own cannot follow, so compile the model with a new one.
        Training goes on as if the new rows had been there from the start without a gradient. Weight decay has acted on them at
        every step since the optimizer was built, or its state was loaded, with the rates of these steps. Rows that are given as
        an array hold what is given.

        Rows are added between steps. Within `fit`, that is in a callback: on PyTorch and TensorFlow in any; on JAX in
        `on_epoch_begin` or `on_epoch_end`, or after `model.jax_state_sync()`. The functions that a model has compiled are made
        anew by themselves. A `tf.function` of your own that was made before raises an error when it runs. It costs as much as a
        copy of all rows, and what is compiled anew, so add many rows at a time.

        Args:
            rows: how many.
            init: what the new rows hold: None for what `embeddings_initializer` gives a table of the new size in these rows; an
                initializer of Keras or its name, for the shape (rows, output_dim); "mean" for the mean of all rows; or an array
                of shape (rows, output_dim). With LoRA, it is of the vectors that the layer gives.

        Raises: TypeError or ValueError for unusable arguments, or for a quantized layer; RuntimeError within a step, or if a
            `tf.function` is there that would not notice. The layer is then unchanged.

        Example:
            >>> import unhot.keras
            >>> layer = unhot.keras.Embedding(1000, 4)
            >>> layer.grow(2, "zeros")
            array([1000, 1001])
            >>> layer.input_dim
            1002
        """
        count = as_size("rows", rows)
        self._require_rows()
        again = np.setdiff1d(self._removed_rows, list(self._meanings()))[:count]
        numbers = np.concatenate([again, np.arange(self.input_dim, self.input_dim + count - len(again))])
        total = int(self.input_dim + count - len(again))
        from_the_start, drawn = self._new_rows(numbers, total, init)
        given = [Given(self._embeddings, drawn, from_the_start)]
        if self.lora_enabled:  # zeros, so that the vectors are those that were asked for
            given.append(Given(self.lora_embeddings_a, np.zeros((count, self.lora_embeddings_a.shape[1])), False))
        reverse = self._reverse()
        if reverse is not None:
            columns = as_values(self.embeddings_initializer((self.output_dim, total), dtype=reverse.dtype))[:, numbers]
            given.append(Given(reverse, columns, True, axis=1))
        left = np.setdiff1d(self._removed_rows, again)
        put_rows(again, given, lambda: self._sized(total, left))
        return numbers

    def _sized(self, rows: int, removed: Rows) -> list[Call]:
        """What notes how many rows there are, and which have been removed."""
        return [partial(self.__dict__.update, input_dim=rows, _removed_rows=removed)]

    def _new_rows(self, numbers: Rows, total: int, init: NewRows | None) -> tuple[bool, Values]:
        """Whether they are from the start of training, and the weights that new rows begin with."""
        shape, dtype = (len(numbers), self.output_dim), self._embeddings.dtype
        if init is None:
            # All rows, since the size of weights may depend on how many there are, and an initializer begins anew each time.
            return True, as_values(self.embeddings_initializer((total, self.output_dim), dtype=dtype))[numbers]
        if isinstance(init, str) and init == "mean":
            there = np.setdiff1d(np.arange(self.input_dim), self._removed_rows)
            return False, np.broadcast_to(as_values(self.embeddings)[there].mean(axis=0), shape)
        if isinstance(init, (str, dict)) or (callable(init) and not ops.is_tensor(init)):
            drawn = as_values(keras.initializers.get(init)(shape, dtype=dtype))
            if drawn.shape != shape:
                raise ValueError(f"`init` must give numbers of shape {shape}. Received: shape {drawn.shape}.")
            return True, drawn
        given = as_plain(ops.convert_to_numpy(init) if ops.is_tensor(init) else init, "init")
        if given.dtype.kind not in "fiuV":  # V: bfloat16
            raise TypeError(f"`init` must hold real numbers. Received: dtype {given.dtype}.")
        if given.shape != shape:
            raise ValueError(f"`init` must have shape (rows, output_dim) = {shape}. Received: shape {given.shape}.")
        return False, given.astype(np.float64)

    def remove(self, rows: Any) -> None:
        """Give rows back. They hold zeros until `grow` uses their numbers again; all other ids stay valid.

        The optimizers' state of the rows begins anew, too. Do not look removed rows up: they would train again.

        Args:
            rows: integers of any shape, each of them once or several times.

        Raises: IndexError for an id that is out of range or removed already; TypeError for ids that are not integers;
            ValueError for the row that stands for ids out of range, or, with `mask_zero`, for what is masked; what `grow`
            raises.

        Example:
            >>> import unhot.keras
            >>> layer = unhot.keras.Embedding(4, 2)
            >>> layer.remove([1])
            >>> layer.grow(2)
            array([1, 4])
        """
        self._require_rows()
        gone = np.unique(existing(_on_host(rows), self.input_dim, self._removed_rows))
        for row, meaning in self._meanings().items():
            if row in gone:
                raise ValueError(f"row {row} stands for {meaning}")
        tables = self._row_tables()
        given = [Given(table, np.zeros((len(gone), table.shape[1])), False) for table in tables]
        reverse = self._reverse()
        if reverse is not None:
            given.append(Given(reverse, np.zeros((reverse.shape[0], len(gone))), False, axis=1))
        frozen = np.setdiff1d(self._embeddings.frozen_rows, gone)
        thawed: list[Call] = [partial(table.__dict__.update, frozen_rows=frozen) for table in tables]
        removed = np.union1d(self._removed_rows, gone)
        put_rows(gone, given, lambda: [*thawed, *self._sized(self.input_dim, removed)])

    # ------------------------------------------------------------------ rows that do not train

    @property
    def frozen(self) -> Rows:
        """The numbers of the rows that do not train, in rising order.

        No step of an optimizer of `unhot.keras` changes a bit of them, nor does weight decay; one of Keras's own cannot know.
        Between steps (see `grow`), you may assign row numbers, a boolean mask of shape (input_dim,), or None for no rows. With
        LoRA, the rows of `lora_embeddings_a` stand still, and `lora_embeddings_b` trains.

        Example:
            >>> import numpy as np, unhot.keras
            >>> layer = unhot.keras.Embedding(4, 2)
            >>> layer.frozen = np.array([True, False, False, True])
            >>> layer.frozen
            array([0, 3])
        """
        table: Variable | None = getattr(self, "_embeddings", None)
        return np.array(self._frozen_at_first if table is None else table.frozen_rows)

    @frozen.setter
    def frozen(self, rows: Any) -> None:
        self._freeze(named(_on_host(rows), self.input_dim, self._removed_rows, "frozen"))

    def only_train(self, rows: Any) -> None:
        """Freeze all rows but these, such as newly added ones.

        Args:
            rows: row numbers, or a boolean mask of shape (input_dim,).

        Raises: IndexError for an id that is out of range or removed, ValueError for a mask of another shape, TypeError for
            anything else; RuntimeError as `grow`.

        Example:
            >>> import unhot.keras
            >>> layer = unhot.keras.Embedding(4, 2)
            >>> layer.only_train(layer.grow(2))
            >>> layer.frozen
            array([0, 1, 2, 3])
        """
        trained = named(_on_host(rows), self.input_dim, self._removed_rows)
        self._freeze(np.setdiff1d(np.arange(self.input_dim), trained))

    def _freeze(self, rows: Rows) -> None:
        if not self.built:
            self.__dict__["_frozen_at_first"] = rows  # no state of the layer, which Keras would track
            return
        self._require_rows()
        freeze(self._row_tables(), rows)

    # ------------------------------------------------------------------ checks

    def _meanings(self) -> dict[int, str]:
        """The rows that can neither be removed nor be new ones, and for what they stand."""
        masked = {0: "ids that are masked (mask_zero=True)."} if self.mask_zero else {}
        if isinstance(self.out_of_range, str):
            return masked
        return masked | {self.out_of_range: "ids out of range. Assign another `out_of_range` first."}

    def _row_tables(self) -> list[Variable]:
        """The variables with a row for each id."""
        return [self._embeddings, self.lora_embeddings_a] if self.lora_enabled else [self._embeddings]

    def _reverse(self) -> Variable | None:
        """The variable with a column for each id, if the layer has one."""
        found: Variable | None = getattr(self, "reverse_embeddings", None)
        return found

    def _require_rows(self) -> None:
        """Build the layer; raise ValueError if it has been quantized."""
        if not self.built:
            self.build()
        if self.quantization_mode is not None:
            raise ValueError(
                f"the rows of layer '{self.name}' cannot change, since it is quantized ({self.quantization_mode}). Change them"
                " before `quantize`."
            )

    # ------------------------------------------------------------------ saving

    def get_build_config(self) -> dict[str, Option]:
        """Keras's `get_build_config`, and which rows have been removed."""
        config: dict[str, Option] = super().get_build_config() or {}
        return {**config, "removed": self._removed_rows.tolist()} if len(self._removed_rows) else config

    def build_from_config(self, config: dict[str, Option]) -> None:
        """Keras's `build_from_config`, and which rows have been removed."""
        super().build_from_config({name: value for name, value in config.items() if name != "removed"})
        if "removed" in config:
            self.__dict__["_removed_rows"] = np.array(config["removed"], np.int64)


def _on_host(rows: Any) -> Any:
    """Row numbers, or a mask, as the core takes them."""
    return ops.convert_to_numpy(rows) if ops.is_tensor(rows) else rows


def as_values(given: Tensor) -> Values:
    """Numbers of Keras as float64."""
    return np.asarray(ops.convert_to_numpy(given), np.float64)
