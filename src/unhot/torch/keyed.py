"""`KeyedEmbedding`: an embedding of keys such as strings or 64-bit integers, which come and go while it trains."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unhot.arraylike import RealsLike
from unhot.creation import as_size
from unhot.keyed_rows import UNKNOWN, KeyedRows
from unhot.keys.aligned import admit_each, give_up
from unhot.keys.column import Column
from unhot.keys.reading import KeysLike, read
from unhot.torch._private import version_of, was_written
from unhot.torch.backend import hide_from_compiler
from unhot.torch.growing import Growing
from unhot.torch.growth import reserve
from unhot.torch.layer import Embedding
from unhot.torch.on_table import Activation
from unhot.torch.parameter import TableParameter
from unhot.vocabulary import Vocabulary

Ids = npt.NDArray[np.int64]

STEPPED = "stepped"
"""Whether a step was made that the next lookup will count; so it is called in a state."""


class _Rows:
    """The layer's rows, as `KeyedRows` asks for them."""

    fixed = False

    def __init__(self, layer: KeyedEmbedding) -> None:
        self.layer = layer

    @property
    def rows(self) -> int:
        return self.layer.num_embeddings

    @property
    def removed(self) -> Ids:
        table: TableParameter = self.layer._table()
        return table.removed_rows

    @property
    def marks(self) -> object:
        table = self.layer._parameters.get("weight")
        return table.__dict__.get("_removed_rows") if isinstance(table, TableParameter) else UNKNOWN

    def require_removable(self) -> None:
        self.layer._table()

    def grow(self, rows: int) -> object:
        with torch.inference_mode(False):  # whose tensors could not be trained
            return Growing.grow(self.layer, rows, self.layer.init)

    def remove(self, rows: Ids) -> None:
        with torch.inference_mode(False):
            Growing.remove(self.layer, rows)


class KeyedEmbedding(Embedding):
    """An `Embedding` of keys: int64 tensors, or lists and arrays of strings, which an `unhot.Vocabulary` maps to rows.

    With a vocabulary that grows (unknown="grow"), a new key gets a row in the first lookup in training (`layer.train()`), and
    the layer grows with it; the weight stays the same parameter. In evaluation, an unknown key has the vocabulary's first
    reserved row, or a zero vector if there is none. The layer's state holds the vocabulary, too.

    Args:
        vocabulary: an `unhot.Vocabulary`, which several layers may have; see `unhot.Embedding`.
        embedding_dim: the length of a vector.
        max_norm, norm_type, scale_grad_by_freq, sparse, device, dtype, bias, activation: as for `Embedding`.
        init: what new rows begin with: None for a standard normal distribution, or a function that fills a tensor in
            place, such as `torch.nn.init.zeros_`.
        capacity: the number of rows to have room for. Only rows that are there take memory.
        min_count, max_rows, max_idle: which keys have rows, as for `unhot.Embedding`. No key is forgotten that was looked up
            since the last step of the optimizer.
        frozen: keys of the vocabulary whose vectors the optimizers of `unhot.torch` leave as they are; None for none.
            `layer.frozen` and `layer.only_train` take the rows that `encode` gives.

    Raises: TypeError or ValueError for unusable arguments; KeyError for an unknown key in `frozen`.

    Example:
        >>> import torch, unhot, unhot.torch
        >>> layer = unhot.torch.KeyedEmbedding(unhot.Vocabulary(unknown="grow"), 4)
        >>> optimizer = unhot.torch.Adam(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([9_000_000_000, -3, -3])).sum().backward()
        >>> optimizer.step()
        >>> list(layer.vocabulary)
        [9000000000, -3]

    References: torch/nn/modules/sparse.py.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        embedding_dim: int,
        *,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool | None = None,
        device: Any = None,
        dtype: Any = None,
        bias: bool = False,
        activation: Activation | None = None,
        init: Callable[[Tensor], object] | None = None,
        capacity: int | None = None,
        min_count: int = 1,
        max_rows: int | None = None,
        max_idle: int | None = None,
        frozen: KeysLike | Tensor | None = None,
    ) -> None:
        require_filler(init)
        hide_from_compiler(KeyedEmbedding, "_rows_of")
        keyed = KeyedRows(vocabulary, min_count, max_rows, max_idle)
        still = None if frozen is None else keyed.existing(on_host(frozen), "frozen")
        super().__init__(
            max(vocabulary.rows, 1), embedding_dim, None, max_norm, norm_type, scale_grad_by_freq, sparse, device=device,
            dtype=dtype, bias=bias, activation=activation, out_of_range="zero",
        )  # fmt: skip
        self.keyed, self.init = keyed, init
        self._seen = version_of(self.weight)
        if init is not None:
            with torch.no_grad():
                init(self.weight.detach())
        if capacity is not None:
            reserve(self._table(), as_size("capacity", capacity))
        if not vocabulary.rows:  # a table has a row at least; the first key gets it
            Growing.remove(self, [0])
        if still is not None:
            self.frozen = still

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> NoReturn:
        """An error: rows alone say nothing of their keys. `from_vectors` takes both.

        Args: args, options: of any kind.

        Raises: TypeError, which names `from_vectors`.

        Example:
            >>> import torch, unhot.torch
            >>> unhot.torch.KeyedEmbedding.from_pretrained(torch.ones(2, 3))
            Traceback (most recent call last):
            TypeError: a KeyedEmbedding is made of keys and vectors: use KeyedEmbedding.from_vectors(keys, vectors).
        """
        raise TypeError("a KeyedEmbedding is made of keys and vectors: use KeyedEmbedding.from_vectors(keys, vectors).")

    @classmethod
    def from_vectors(
        cls, keys: KeysLike | Tensor, vectors: Tensor | RealsLike, vocabulary: Vocabulary | None = None, **options: Any
    ) -> Self:
        """A layer that starts from the given vectors of keys, such as pretrained ones.

        Args:
            keys: the keys of the vectors, each once.
            vectors: a tensor or an array of shape (keys, embedding_dim).
            vocabulary: which keys get rows, as for `unhot.Embedding.from_vectors`; None for a vocabulary of all keys.
            options: further arguments of `KeyedEmbedding`. By default, the dtype is that of the vectors, or torch's default if
                they are no floats.

        Raises: as for `KeyedEmbedding`; ValueError for shapes that do not fit, and for a key that comes twice. The vocabulary
            is then as it was.

        Example:
            >>> import unhot.torch
            >>> layer = unhot.torch.KeyedEmbedding.from_vectors(["cat", "owl"], [[1.0, 2.0], [3.0, 4.0]])
            >>> layer(["owl"]).detach()
            tensor([[3., 4.]])
        """
        given = torch.as_tensor(vectors)
        column = read(on_host(keys), "keys")
        count = math.prod(column.shape)
        if given.dim() != 2 or given.is_complex() or len(given) != count:
            raise ValueError(
                f"`vectors` must be real numbers of shape (keys, embedding_dim), one vector for each of {count} keys. Received:"
                f" {tuple(given.shape)}, {given.dtype}."
            )
        vocabulary = Vocabulary(column) if vocabulary is None else vocabulary
        options = {"dtype": given.dtype if given.is_floating_point() else None} | options
        before = vocabulary.rows
        numbers, new = admit_each(vocabulary, column)
        try:
            made = cls(vocabulary, given.size(1), **options)
            known = np.flatnonzero(numbers >= 0)
            with torch.no_grad():
                rows = torch.from_numpy(numbers[known]).to(made.weight.device)
                made.weight[rows] = given.detach()[torch.from_numpy(known).to(given.device)].to(made.weight)
        except BaseException:
            give_up(vocabulary, new, before)
            raise
        return made

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary."""
        return self.keyed.vocabulary

    def encode(self, keys: KeysLike | Tensor) -> Tensor:
        """The rows of keys, int64 of the shape of the keys; -1 for a key without a row. No key is admitted.

        Args:
            keys: an int64 tensor, or what `unhot.Vocabulary.encode` takes.

        Raises: as `unhot.Vocabulary.encode`.

        Example:
            >>> import unhot, unhot.torch
            >>> unhot.torch.KeyedEmbedding(unhot.Vocabulary(["cat", "owl"]), 2).encode(["owl"])
            tensor([1])
        """
        return torch.from_numpy(np.asarray(self.keyed.known(on_host(keys))))

    def forward(self, input: KeysLike | Tensor) -> Tensor:
        """The vectors of keys: shape keys.shape + (embedding_dim,)."""
        ids, all_have_rows = self._rows_of(input)
        return self._with_dense_parts(self._looked_up(ids)) if all_have_rows else super().forward(ids)

    def _rows_of(self, keys: KeysLike | Tensor) -> tuple[Tensor, bool]:
        """The rows of keys, on the weight's device, and whether all have one; those of new ones, too, in training."""
        column = read(on_host(keys), "keys")
        if self.training:
            ids = self._admitted(column)
        else:
            ids = self.keyed.known(column)
            self._follow()
        return torch.from_numpy(ids).to(self.weight.device), not ids.size or int(ids.min()) >= 0

    def _admitted(self, keys: Column) -> Ids:
        def admitted() -> Ids:
            rows = _Rows(self)
            if was_written(self.weight, self._seen):  # since the last lookup, by the step of an optimizer
                self._seen = version_of(self.weight)
                self.keyed.stepped(rows)
            return self.keyed.admitted(keys, rows)

        return self.keyed.lock.holding(admitted)

    def _follow(self) -> None:
        """Have the rows of the keys that there are now, if others have changed the vocabulary."""
        if not self.keyed.is_followed(_Rows(self)):
            self.keyed.lock.holding(lambda: self.keyed.follow(_Rows(self)))

    def remove(self, keys: KeysLike | Tensor) -> None:
        """Forget keys. Their rows are free, and given to new keys.

        Args:
            keys: as for `encode`.

        Raises: KeyError for the first unknown key; no key is removed then.

        Example:
            >>> import unhot, unhot.torch
            >>> layer = unhot.torch.KeyedEmbedding(unhot.Vocabulary(["cat", "owl"]), 2)
            >>> layer.remove(["cat"])
            >>> list(layer.vocabulary)
            ['owl']
        """
        self.keyed.lock.holding(partial(self.keyed.remove, on_host(keys), _Rows(self)))

    # ------------------------------------------------------------------ states

    def extra_repr(self) -> str:
        """The vocabulary, and what was given besides."""
        text = super().extra_repr().split(", ", 1)[1].replace(", out_of_range='zero'", "")
        return f"{self.vocabulary!r}, {text}"

    def get_extra_state(self) -> Tensor:
        """The vocabulary, and what keys come and go by, as bytes for the layer's `state_dict`: so all of that is tensors."""
        held, words = io.BytesIO(), self.vocabulary.state_dict() | self.keyed.counts(_Rows(self))
        if self.keyed.counts_uses:
            words[STEPPED] = np.array(was_written(self.weight, self._seen))
        np.savez(held, allow_pickle=False, **words)
        return torch.frombuffer(bytearray(held.getbuffer()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the vocabulary of a loaded state, and what it says of how keys come and go."""
        with np.load(io.BytesIO(state.cpu().numpy().tobytes()), allow_pickle=False) as held:
            words = dict(held)
        self.vocabulary.load_state_dict(words)
        self._has_keys_of_a_state()
        self.keyed.take_counts(words)
        now = version_of(self.weight)
        self._seen = now - 1 if words.get(STEPPED, True) else now  # an older version: the weight was written since

    def _take_keys(self, vocabulary: Vocabulary) -> None:
        """Have the keys and policies of a vocabulary, which is given up, and rows that are to be filled."""
        self._resize(max(vocabulary.rows, 1))
        self.vocabulary._take_over(vocabulary, [])
        self._has_keys_of_a_state()

    def _has_keys_of_a_state(self) -> None:
        self.keyed.count_anew()
        self.keyed.has_all_keys()
        first, free = np.arange(0 if self.vocabulary.rows else 1), self.vocabulary.free
        self._table().__dict__["_removed_rows"] = np.union1d(free[free < self.num_embeddings], first)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """As torch's, with a row for each key."""
        self._follow()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """As torch's, with a weight of any number of rows, whose optimizer's state is to be loaded, too."""
        given = state_dict.get(f"{prefix}weight")
        if isinstance(given, Tensor) and given.dim() == 2 and len(given) != self.num_embeddings:
            self._resize(len(given))
        super()._load_from_state_dict(state_dict, prefix, *args)


def require_filler(init: object) -> None:
    """Raise TypeError for what fills no tensor."""
    if init is not None and not callable(init):
        raise TypeError(
            f"`init` must be None or a function that fills a tensor in place, such as torch.nn.init.zeros_. Received: {init!r}."
        )


def on_host(keys: KeysLike | Tensor) -> Any:
    """Keys as a vocabulary reads them."""
    return keys.detach().cpu().numpy() if isinstance(keys, Tensor) else keys
