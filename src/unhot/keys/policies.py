"""What a vocabulary does with unknown and missing keys, and which rows come before those of keys."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from unhot.keys.maps import AS_KEY, MOST_ROWS, Rows

Unknown: TypeAlias = Literal["raise", "hash", "grow"] | int
Missing: TypeAlias = Literal["raise", "key"] | int


class Policies(NamedTuple):
    """See `unhot.Vocabulary`, which has them as arguments."""

    unknown: Unknown
    missing: Missing
    buckets: int
    reserved: int

    @staticmethod
    def checked(unknown: Any, missing: Any, buckets: Any, reserved: Any) -> Policies:
        """The policies; TypeError or ValueError for what is none."""
        named = [row for row in (unknown, missing) if _is_int(row)]
        count = as_count("reserved", max([0, *(int(row) + 1 for row in named)]) if reserved is None else reserved)
        made = Policies("raise", "raise", as_count("buckets", buckets), count)
        if made.first > MOST_ROWS:
            received = f"Received: {reserved!r} and {buckets!r}."
            raise ValueError(f"`reserved` and `buckets` must be at most {MOST_ROWS:,} together. {received}")
        return made._replace(unknown=made.as_unknown(unknown), missing=made._as_row(missing, "missing", "key"))

    @property
    def first(self) -> int:
        """The number of rows that come before those of keys."""
        return self.reserved + self.buckets

    def as_unknown(self, unknown: Any) -> Unknown:
        """`unknown` if it is a policy for unknown keys here; else an error."""
        if isinstance(unknown, str) and unknown == "hash" and not self.buckets:
            raise ValueError("unknown='hash' needs rows for unknown keys: make the vocabulary with `buckets` of at least 1.")
        policy: Unknown = self._as_row(unknown, "unknown", "hash", "grow")
        return policy

    def _as_row(self, policy: Any, name: str, *words: str) -> Any:
        """A word or a reserved row: of the one type or the other, as `name` allows."""
        known = ("raise", *words)
        if isinstance(policy, str) and policy in known:
            return known[known.index(policy)]
        if _is_int(policy) and -1 <= policy < self.reserved:
            return int(policy)
        rows = (
            f"a row number in [0, {self.reserved}), which are the reserved rows"
            if self.reserved
            else "a reserved row, of which there are none here: make the vocabulary with reserved=1"
        )
        raise ValueError(f"`{name}` must be {', '.join(map(repr, known))}, -1 or {rows}. Received: {policy!r}.")

    def rows(self, unknown: Unknown) -> Rows:
        """The rows to write, under a policy for unknown keys; -1 where there are none to write."""
        missing = AS_KEY if self.missing == "key" else -1 if self.missing == "raise" else self.missing
        if unknown == "hash":
            return Rows(self.first, self.reserved, missing, self.buckets)
        return Rows(self.first, unknown if isinstance(unknown, int) else -1, missing)


def as_count(name: str, number: Any, least: int = 0) -> int:
    """`number` if it counts something, and is at least so much; else an error."""
    if not _is_int(number):
        raise TypeError(f"`{name}` must be an integer. Received: {number!r} (of type {type(number).__name__}).")
    if not least <= number <= MOST_ROWS:
        raise ValueError(f"`{name}` must lie in [{least}, {MOST_ROWS}]. Received: {number!r}.")
    return int(number)


def _is_int(number: object) -> bool:
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool)
