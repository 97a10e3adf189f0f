"""How the rows of a table are spread over shards: which shard has a row, and which of the shard's own rows it is.

The functions take arrays of integers of NumPy or PyTorch, and return such. They check nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

LayoutName = Literal["mod", "range", "hash"]


@dataclass(frozen=True)
class Layout(ABC):
    """Rows spread over shards."""

    rows: int
    """The number of rows of the whole table."""

    shards: int

    name: ClassVar[LayoutName]

    @abstractmethod
    def split(self, rows: Any) -> tuple[Any, Any]:
        """The shard that has each row, and the row's number among those of its shard."""

    @abstractmethod
    def number_of(self, shard: int, local: Any) -> Any:
        """The numbers in the whole table of a shard's own rows."""

    @abstractmethod
    def count(self, shard: int) -> int:
        """How many rows a shard has."""


class Mod(Layout):
    """Row r is that of shard r % shards: rows that follow each other, such as frequent ids, are spread evenly."""

    name = "mod"

    def split(self, rows: Any) -> tuple[Any, Any]:
        if self.shards & (self.shards - 1) == 0:  # divisions take ten times as long
            return rows & (self.shards - 1), rows >> (self.shards.bit_length() - 1)
        return rows % self.shards, rows // self.shards

    def number_of(self, shard: int, local: Any) -> Any:
        return local * self.shards + shard

    def count(self, shard: int) -> int:
        return (self.rows - shard + self.shards - 1) // self.shards


class Range(Layout):
    """Each shard has rows that follow each other, as many as the others; the last ones may have fewer (as `torch.chunk`)."""

    name = "range"

    @property
    def length(self) -> int:
        """How many rows a full shard has."""
        return -(-self.rows // self.shards)

    def split(self, rows: Any) -> tuple[Any, Any]:
        return rows // self.length, rows % self.length

    def number_of(self, shard: int, local: Any) -> Any:
        return local + shard * self.length

    def count(self, shard: int) -> int:
        return min(max(self.rows - shard * self.length, 0), self.length)


class Hash(Layout):
    """Rows are mixed, and then spread as by `Mod`: also those are spread evenly whose numbers follow a pattern.

    The mixing is a permutation of the rows, so that a shard's rows need no list. It is one of the smallest power of two of
    numbers that holds them all, applied again to what lies outside.

    References: Black and Rogaway, Ciphers with arbitrary finite domains, 2002 (cycle walking).
    """

    name = "hash"

    MULTIPLIERS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
    """Odd numbers whose bits are spread well."""

    @property
    def bits(self) -> int:
        """Of the numbers that are permuted."""
        return max((self.rows - 1).bit_length(), 1)

    def split(self, rows: Any) -> tuple[Any, Any]:
        places = self._walked(rows, self._mixed)
        return places % self.shards, places // self.shards

    def number_of(self, shard: int, local: Any) -> Any:
        return self._walked(local * self.shards + shard, self._unmixed)

    def count(self, shard: int) -> int:
        return (self.rows - shard + self.shards - 1) // self.shards

    def _walked(self, rows: Any, mixed: Any) -> Any:
        """The rows permuted, again and again those that are no rows."""
        found = mixed(rows)
        while True:
            outside = found >= self.rows
            if not bool(outside.any()):
                return found
            found[outside] = mixed(found[outside])

    def _mixed(self, numbers: Any) -> Any:
        mask, shift = (1 << self.bits) - 1, (self.bits + 1) // 2
        for multiplier in self.MULTIPLIERS:
            numbers = (numbers * (multiplier & mask)) & mask  # wraps around, which leaves the low bits as they are
            numbers = numbers ^ (numbers >> shift)
        return numbers

    def _unmixed(self, numbers: Any) -> Any:
        mask, shift = (1 << self.bits) - 1, (self.bits + 1) // 2
        for multiplier in reversed(self.MULTIPLIERS):
            numbers = numbers ^ (numbers >> shift)  # its own inverse, as it moves half of the bits
            numbers = (numbers * pow(multiplier, -1, 1 << self.bits)) & mask
        return numbers


LAYOUTS: dict[str, type[Layout]] = {kind.name: kind for kind in (Mod, Range, Hash)}


def layout_of(name: object, rows: int, shards: int) -> Layout:
    """The layout of that name.

    Raises: ValueError for a name that there is not.
    """
    if not isinstance(name, str) or name not in LAYOUTS:
        raise ValueError(f"`layout` must be one of {', '.join(map(repr, LAYOUTS))}. Received: {name!r}.")
    return LAYOUTS[name](rows, shards)


class Shard(NamedTuple):
    """One shard of a table."""

    layout: Layout
    rank: int

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.layout.count(self.rank)

    def numbers(self, local: Any) -> Any:
        """The numbers in the whole table of its own rows."""
        return self.layout.number_of(self.rank, local)

    def own(self, rows: Any) -> Any:
        """Those of the whole table's rows that this shard has, by its own numbers."""
        shards, local = self.layout.split(rows)
        return local[shards == self.rank]
