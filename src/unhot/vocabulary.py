"""The vocabulary that users make of their keys. It reads columns and holds policies; the maps of `unhot.keys` do the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Self, overload

import numpy as np
import numpy.typing as npt

from unhot.arraylike import IdsLike
from unhot.atomic import Call, Lock, Version
from unhot.ids import as_ids, widened
from unhot.keys import active, errors, state
from unhot.keys.column import Column, as_column, decoded, position
from unhot.keys.counting import frequent
from unhot.keys.maps import AS_KEY, KeyMap, RefusedError, Rows
from unhot.keys.packing import Ids, Key, Kind
from unhot.keys.policies import Missing, Policies, Unknown, as_count
from unhot.keys.reading import KeysLike, read
from unhot.sharing import CopiedByState

Array = npt.NDArray[Any]

BLOCK = 1024
"""Keys that an iteration takes at a time."""


class Held(NamedTuple):
    """What a vocabulary holds, of which there is always one that fits together."""

    keys: KeyMap
    policies: Policies


class Vocabulary(CopiedByState):
    """Numbers keys (str, bytes, or integers of 64 bits) for the rows of a table, and names the keys of rows.

    Reserved rows come first, then hash buckets, then one row for each key, in the order in which the keys first appeared. The
    row of a key never changes, and depends on nothing but the keys and their order. A vocabulary has keys of one kind: 1 and
    "1" are different keys, and it holds either integers or texts.

    Texts are compared by their characters, as Python compares them, without normalization. Strings with surrogates are refused,
    since UTF-8 cannot hold them. NumPy's arrays of fixed width ("U" and "S") hold no zeros at the end of a text, and so neither
    do keys read from them. Integers lie in [-2**63, 2**64), whatever dtype they come in. Booleans and floats are refused.

    Any number of threads may encode and decode while another changes the vocabulary. A forked child has a copy; if another
    thread was in the midst of a change at that moment, using the copy is a RuntimeError.

    Args:
        keys: the known keys in the order of their rows, each of them once; see `encode` for what they may be.
        unknown: what happens to a key that is not known: "raise" (a KeyError), a reserved row, "hash" (one of `buckets` rows,
            by the key's hash), "grow" (it becomes known and gets a new row), or -1 (no row: the id -1, for tables with
            out_of_range="zero").
        missing: what happens to missing values, which are None, NaN, pandas.NA, nulls of Arrow and masked entries: "raise" (a
            ValueError), a reserved row, "key" (they are a key like others), or -1.
        buckets: the number of rows for unknown="hash". The bucket of a key is the same on every machine and in every version.
        reserved: the number of reserved rows, which come first; by default, as many as `unknown` and `missing` name.

    Raises: TypeError or ValueError for unusable arguments, keys that come twice, and keys of different kinds.

    Example:
        >>> import unhot
        >>> words = unhot.Vocabulary(["the", "cat"], unknown=0)
        >>> words.encode(["the", "dog", "cat"])
        array([1, 0, 2])
        >>> words.rows, len(words)
        (3, 2)
        >>> users = unhot.Vocabulary(unknown="grow")
        >>> users.encode([[9007199254740993, -5], [-5, 18446744073709551615]])
        array([[0, 1],
               [1, 2]])
    """

    def __init__(
        self,
        keys: KeysLike = None,
        *,
        unknown: Unknown = "raise",
        missing: Missing = "raise",
        buckets: int = 0,
        reserved: int | None = None,
    ) -> None:
        policies = Policies.checked(unknown, missing, buckets, reserved)
        self._start(Held(active.KeyMap(), policies))
        if keys is not None:
            self._add(read(keys, "keys"), "keys", unique=True)

    def _start(self, held: Held) -> None:
        self._held, self._version, self._lock = held, Version(), Lock()

    # ------------------------------------------------------------------ what it holds

    def __len__(self) -> int:
        """The number of keys."""
        return len(self._held.keys)

    @property
    def rows(self) -> int:
        """The number of rows that a table needs: reserved rows, buckets, and those of keys, also of removed ones."""
        held = self._held
        return held.policies.first + held.keys.rows

    @property
    def free(self) -> Ids:
        """The rows of removed keys that no new key has, in rising order.

        Example:
            >>> import unhot
            >>> words = unhot.Vocabulary(["the", "cat"], reserved=1)
            >>> rows = words.remove(["the"])
            >>> words.free
            array([1])
        """
        held = self._held
        return held.policies.first + held.keys.export().free

    @property
    def kind(self) -> Kind | None:
        """What the keys are: "int", "str" or "bytes". None before there is one."""
        return self._held.keys.kind

    @property
    def unknown(self) -> Unknown:
        """What happens to unknown keys. You may assign another policy for which there are rows."""
        return self._held.policies.unknown

    @unknown.setter
    def unknown(self, policy: Unknown) -> None:
        self._replace(lambda held: held._replace(policies=held.policies._replace(unknown=held.policies.as_unknown(policy))))

    @property
    def missing(self) -> Missing:
        """What happens to missing values: "raise", "key", a reserved row or -1."""
        return self._held.policies.missing

    @property
    def reserved(self) -> int:
        """The number of reserved rows, which come first."""
        return self._held.policies.reserved

    @property
    def buckets(self) -> int:
        """The number of rows for unknown="hash", which come after the reserved rows."""
        return self._held.policies.buckets

    def __contains__(self, key: object) -> bool:
        """Whether a key is known. Of another kind, or what no vocabulary can hold, it is not."""
        try:
            column = read(key, "key")
        except (TypeError, ValueError):
            return False
        held = self._held
        if column.shape or not self._fits(held, column):
            return False
        return held.keys.find(column.keys, Rows(0, -1, AS_KEY), np.empty(1, np.int64)) < 0

    def __iter__(self) -> Iterator[Key | None]:
        """The keys in the order of their rows; None for the missing key."""
        keys = self._held.keys
        rows, count = keys.rows, len(keys)
        for start in range(0, rows, BLOCK):
            if self._held.keys is not keys or (keys.rows, len(keys)) != (rows, count):
                raise RuntimeError("the vocabulary changed while it was iterated over: iterate over a copy, or over list(...).")
            taken, absent = keys.take(np.arange(start, min(start + BLOCK, rows)))
            gone = () if absent is None else set(np.flatnonzero(absent).tolist())
            yield from (key for place, key in enumerate(taken.objects) if place not in gone)

    # ------------------------------------------------------------------ keys to rows and back

    @overload
    def encode(self, keys: Key, *, unknown: Unknown | None = None) -> int: ...  # type: ignore[overload-overlap]  # a str is iterable
    @overload
    def encode(self, keys: KeysLike, *, unknown: Unknown | None = None) -> Ids: ...
    def encode(self, keys: KeysLike, *, unknown: Unknown | None = None) -> Ids | int:
        """The row of each key, as int64 in the shape of the keys; an int for a key alone.

        Of a categorical or dictionary-encoded column, only the categories in use are looked up.

        Args:
            keys: a key, an array of NumPy (integers, "U", "S", StringDType or object), a list, also of lists of equal lengths,
                or a column of pandas, Polars or Arrow (which take `pip install "unhot[tables]"`).
            unknown: as for `Vocabulary`, for this call alone; None for the vocabulary's own.

        Raises: KeyError for the first unknown key, which it names, with its position (with unknown="raise"); ValueError for a
            missing value (with missing="raise"), a surrogate, an integer outside of [-2**63, 2**64); TypeError for what is no
            key, and for keys of different kinds. With unknown="grow", the vocabulary is then as it was.

        Example:
            >>> import unhot
            >>> cities = unhot.Vocabulary(["Rome", "Oslo"], unknown="hash", buckets=2, missing=0)
            >>> cities.encode(["Oslo", None, "Rome"])
            array([4, 0, 3])
            >>> bool(cities.encode("Lima") in (1, 2))
            True
            >>> cities.encode("Lima", unknown="grow")
            5
        """
        column = read(keys, "keys")
        held = self._held
        policy = held.policies.unknown if unknown is None else held.policies.as_unknown(unknown)
        self._check(held, column)
        out = np.empty(len(column.keys), np.int64)
        first = held.keys.find(column.keys, held.policies.rows(policy), out)
        if first >= 0 and policy == "raise":
            raise errors.unknown(column, first)
        if first >= 0 and policy == "grow":
            self._add_to(held, column, "keys", out)
        return column.spread(out) if column.shape else int(out[0])

    def decode(self, rows: IdsLike, *, default: object = ...) -> Array | Key | None:
        """The key of each row, in the shape of the rows; a key alone for a row number alone.

        Integers come as int64, or as uint64 if the vocabulary has had one of 2**63 or more. All else comes as an array of
        Python's objects: str, bytes, None for the missing key, and integers where the vocabulary has had both negative ones and
        such of 2**63 or more.

        Args:
            rows: row numbers of any integer dtype and any shape.
            default: what is given for a row without a key: a reserved one, a bucket, a free row, a number past the last row. By
                default, it is an error.

        Raises: IndexError for the first row without a key; TypeError for rows that are not integers.

        Example:
            >>> import unhot
            >>> words = unhot.Vocabulary(["the", "cat"], unknown=0)
            >>> words.decode([2, 1])
            array(['cat', 'the'], dtype=object)
            >>> words.decode([[0, 1]], default="[unknown]")
            array([['[unknown]', 'the']], dtype=object)
        """
        array = as_ids(rows, "rows")
        numbers = widened(array.reshape(-1))
        held = self._held
        first = held.policies.first
        # A number far below 0 must not wrap around.
        keys, absent = held.keys.take(np.where(numbers >= first, numbers - first, -1))
        if absent is not None and default is ...:
            place = int(np.flatnonzero(absent)[0])
            raise errors.without_key(held.keys, held.policies, int(array.reshape(-1)[place]), position(place, array.shape))
        made = decoded(keys, absent, default, held.keys.signs)
        return made.reshape(array.shape) if array.shape else made.tolist()[0]

    # ------------------------------------------------------------------ changes

    def fit(self, values: KeysLike, *, min_count: int = 1, max_size: int | None = None) -> Self:
        """Make the keys of a new vocabulary from data, in which they may be repeated; returns the vocabulary.

        The keys get their rows in the order of their first occurrence.

        Args:
            values: as `keys` for `encode`. Missing values are counted as a key with missing="key"; they are an error with
                missing="raise", and left out otherwise.
            min_count: how often a key must occur.
            max_size: how many keys there are at most: the most frequent, and of equally frequent ones the first.

        Raises: RuntimeError for a vocabulary that has keys already, whose rows would change their meaning; otherwise as for
            `extend`.

        Example:
            >>> import unhot
            >>> words = unhot.Vocabulary(unknown=0).fit("the cat and the dog and the owl".split(), min_count=2)
            >>> list(words)
            ['the', 'and']
        """
        least = as_count("min_count", min_count, 1)
        most = None if max_size is None else as_count("max_size", max_size)
        column = read(values, "values")
        if len(self):
            raise errors.filled()
        held = self._held
        if least > 1 or most is not None:
            self._check(held, column, "values")
            try:
                column = as_column(frequent(column, held.policies.rows("grow").missing, least, most))
            except RefusedError as refused:
                raise errors.refused(refused, held.keys, column, "values") from refused
        self._add(column, "values", empty=True)
        return self

    def extend(self, values: KeysLike) -> None:
        """Add the keys that are not known yet, in the order of their first occurrence; whatever `unknown` says.

        Rows of removed keys are given away again first, the lowest first.

        Args:
            values: as `keys` for `encode`. Missing values become a key with missing="key"; they are an error with
                missing="raise", and left out otherwise.

        Raises: as for `encode`; ValueError for a key of 16 MiB or more, and for more than 2**31 - 1 rows. The vocabulary is
            then as it was.

        Example:
            >>> import unhot
            >>> words = unhot.Vocabulary(["the"])
            >>> words.extend(["cat", "the", "owl"])
            >>> words.encode("owl")
            2
        """
        self._add(read(values, "values"), "values")

    def remove(self, keys: KeysLike) -> Ids:
        """Forget keys, and return what were their rows, in the shape of the keys.

        These rows are free, and given to new keys, the lowest first. All other rows stay as they are.

        Args:
            keys: as for `encode`; None for the missing key.

        Raises: KeyError for the first unknown key. No key is removed then.

        Example:
            >>> import unhot
            >>> words = unhot.Vocabulary(["the", "cat", "owl"])
            >>> words.remove(["cat"])
            array([1])
            >>> words.extend(["dog"])
            >>> list(words)
            ['the', 'dog', 'owl']
        """
        column = read(keys, "keys")

        held = self._held
        out = np.empty(len(column.keys), np.int64)
        first = held.keys.remove(column.keys, Rows(held.policies.first, -1, AS_KEY), out) if self._fits(held, column) else 0
        if first >= 0:
            raise errors.not_there(column, first)
        return column.spread(out)

    def _add(self, column: Column, name: str, **how: bool) -> None:
        held = self._held
        self._check(held, column, name)
        self._add_to(held, column, name, np.full(len(column.keys), -1, np.int64), **how)

    def _add_to(self, held: Held, column: Column, name: str, out: Ids, **how: bool) -> None:
        try:
            held.keys.add(column.keys, held.policies.rows("grow"), out, **how)
        except RefusedError as refused:
            raise errors.refused(refused, held.keys, column, name) from refused

    def _take_over(self, other: Vocabulary, also: Sequence[Call]) -> None:
        """Hold what another one holds, which is given up; `also` is made together with that."""
        self._replace(lambda _: other._held, also)

    def _cut(self, rows: int) -> None:
        """Have no free rows from the number `rows` on, after those of all keys."""
        state_dict = self.state_dict()
        free, total = state_dict["free"], self._held.keys.rows
        last = np.setdiff1d(np.arange(total), free)[-1:]
        state_dict["free"] = free[free < max(rows - self._held.policies.first, *(last + 1), 0)]
        held = Held(*state.import_state(state_dict))
        self._replace(lambda _: held)

    def _replace(self, made: Callable[[Held], Held], also: Sequence[Call] = ()) -> None:
        """Hold what is made of what is held; it is made again if a signal's handler has replaced that meanwhile."""

        def replace() -> None:
            done = False
            while not done:
                since = self._version.number
                done = self._version.change(since, [partial(setattr, self, "_held", made(self._held)), *also])

        self._lock.holding(replace)

    # ------------------------------------------------------------------ checks

    def _fits(self, held: Held, column: Column) -> bool:
        kind = held.keys.kind  # read once: another thread may be adding the first keys
        return kind is None or column.keys.kind in (None, kind)

    def _check(self, held: Held, column: Column, name: str = "keys") -> None:
        """Raise an error for missing values, if they are to be one, and for keys of another kind."""
        missing = column.keys.missing if held.policies.missing == "raise" else None
        if missing is not None:
            raise errors.missing(column, name)
        if not self._fits(held, column):
            raise errors.other_kind(held.keys, column, name)

    # ------------------------------------------------------------------ states and copies

    def state_dict(self) -> dict[str, Array]:
        """Everything that the vocabulary holds, as a flat dict of NumPy arrays.

        Numbers and strings are arrays as in `Table.state_dict`, so `numpy.savez` and `safetensors.numpy.save_file` take it.
        Nothing in it is pickled.

        Example:
            >>> import unhot
            >>> unhot.Vocabulary(["the", "cat"]).state_dict()["offsets"]
            array([0, 3, 6])
        """
        return state.export_state(*self._held)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned: its keys and policies replace the vocabulary's own.

        Args:
            state_dict: the state of a vocabulary, also as read back by `numpy.load`.

        Raises: ValueError or TypeError for a state that no vocabulary can have. The vocabulary is then as it was.

        Example:
            >>> import unhot
            >>> words = unhot.Vocabulary(["the", "cat"], unknown=0)
            >>> other = unhot.Vocabulary()
            >>> other.load_state_dict(words.state_dict())
            >>> other.encode(["cat", "owl"])
            array([2, 0])
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"`state_dict` must be what `state_dict()` returned. Received: {state_dict!r}.")
        held = Held(*state.import_state(state_dict))
        self._replace(lambda _: held)

    def __getstate__(self) -> dict[str, Any]:
        return self.state_dict()

    def __setstate__(self, held: Mapping[str, Any]) -> None:
        self._start(Held(*state.import_state(held)))

    def __repr__(self) -> str:
        held = self._held
        kind = f" {held.keys.kind}" if held.keys.kind else ""
        rows = held.policies.first + held.keys.rows
        return f"Vocabulary({len(held.keys)}{kind} keys, rows={rows}, unknown={self.unknown!r}, missing={self.missing!r})"
