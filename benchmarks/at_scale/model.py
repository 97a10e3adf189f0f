"""One training step of a sharded table at any number of ranks: what it sends is counted, how long it takes is modelled.

The ids are drawn and routed as they are in training, for all ranks at once and in one process. A phase takes as long as it
takes the slowest rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log2
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unhot.clock.history import BLOCK, BYTES_PER_ROW, ring_capacity
from unhot.layouts import Hash, layout_of

Ids = npt.NDArray[np.int64]
Order = Literal["frequency", "scattered", "multiples"]
ORDERS: dict[Order, str] = {
    "frequency": "the most frequent id is 0, the next one 1, and so on",
    "scattered": "frequent ids lie anywhere",
    "multiples": "all ids are multiples of 64",
}

HEADER = 6
"""The numbers at the head of a message of ids, of a layer with one table."""

WORD, FLOAT = 8, 4
"""Bytes of a number in a message of ids, and of an element of a vector."""


@dataclass(frozen=True)
class Work:
    """What the ranks look up in a step."""

    rows: int = 10**9
    ids: int = 4096
    """Of each rank."""
    exponent: float = 1.05
    """Of the Zipf law of the ids, which is cut off at the number of rows; 0 for uniform ids."""
    order: Order = "frequency"
    seed: int = 0

    def drawn(self, ranks: int) -> Ids:
        """The ids of each rank: (ranks, ids)."""
        generator = np.random.default_rng([self.seed, self.rows, self.ids, ranks])
        rows = self.rows // 64 if self.order == "multiples" else self.rows
        found = zipf(generator, rows, self.exponent, ranks * self.ids)
        if self.order == "multiples":
            found *= 64
        elif self.order == "scattered":
            found = Hash(rows, 1).split(found)[1]
        return found.reshape(ranks, self.ids)


def zipf(generator: np.random.Generator, rows: int, exponent: float, count: int) -> Ids:
    """So many numbers below `rows`; 0 is the most frequent one."""
    if not exponent:
        return generator.integers(0, rows, count)
    found = np.empty(0, np.int64)
    while len(found) < count:
        drawn = generator.zipf(exponent, 2 * (count - len(found)) + 16)
        found = np.concatenate([found, drawn[(drawn <= rows) & (drawn > 0)] - 1])
    return found[:count]


@dataclass(frozen=True)
class Load:
    """What the busiest ranks do in a step: the counts on which the times depend."""

    ranks: int
    ids: int
    """Of each rank."""
    once: int
    """The most ids that a rank routes: its distinct ones, if each is sent once."""
    width: int
    """The numbers in a message of ids. There is one to each rank, and all are of the same size."""
    lines: int
    """The most vectors that a rank sends to others, or gets from them."""
    asked: int
    """The most ids that a rank is asked for."""
    distinct: int
    """The most distinct rows among them."""
    all_asked: int
    all_distinct: int
    """Of all ranks together."""

    @property
    def skew(self) -> float:
        """The most ids that a rank is asked for, over the mean if every rank were asked for as many as it has."""
        return self.asked / self.ids

    def id_bytes(self) -> int:
        """What each rank sends to others to ask for rows."""
        return (self.ranks - 1) * self.width * WORD

    def vector_bytes(self, dim: int) -> int:
        """The most that a rank sends or gets as vectors; as much goes back as gradients."""
        return self.lines * dim * FLOAT


@lru_cache(maxsize=1)
def _drawn(work: Work, ranks: int) -> tuple[Ids, Ids, tuple[Ids, Ids], tuple[Ids, Ids]]:
    """A step's ids, its distinct ids, and which rank sends which: each id as often as it occurs, and each once."""
    ids = work.drawn(ranks)
    return ids, np.unique(ids), sent(ids, work.rows, False), sent(ids, work.rows, True)


def load(work: Work, layout: str, ranks: int, dedup: bool) -> Load:
    """Route a step's ids."""
    _, touched, all_sent, sent_once = _drawn(work, ranks)
    placed = layout_of(layout, work.rows, ranks)
    sources, flat = sent_once if dedup else all_sent
    pairs = np.bincount(sources * ranks + placed.split(flat)[0], minlength=ranks * ranks).reshape(ranks, ranks)
    own = np.diagonal(pairs)
    return Load(
        ranks,
        work.ids,
        int(pairs.sum(1).max()),
        HEADER + room(int(pairs.max())),
        int(max((pairs.sum(0) - own).max(), (pairs.sum(1) - own).max())),
        int(pairs.sum(0).max()),
        int(np.bincount(placed.split(touched)[0], minlength=ranks).max()),
        len(flat),
        len(touched),
    )


def sent(ids: Ids, rows: int, dedup: bool) -> tuple[Ids, Ids]:
    """The rank that sends each id, and the id."""
    sources, flat = np.repeat(np.arange(len(ids)), ids.shape[1]), ids.reshape(-1)
    if dedup:
        sources, flat = np.divmod(np.unique(sources * rows + flat), rows)
    return sources, flat


def room(most: int) -> int:
    """How many ids a message has room for, once lookups have had at most so many for one rank (`messages.rounded`)."""
    step = max(1, 1 << max(most.bit_length() - 3, 0))
    return max(16, -(-most // step) * step)


Latency = Literal["pairwise", "log2"]


@dataclass(frozen=True)
class Network:
    """What an exchange among the ranks takes."""

    name: str
    latency_us: float
    """Of a message from one rank to another, with what its software takes."""
    bandwidth_gbs: float
    """Gigabits per second of each rank, in each direction."""
    latency: Latency = "pairwise"
    """`pairwise`: a rank sends a message to each other one, and they wait for each other. `log2`: in ceil(log2(ranks)) rounds
    of one message, in which the bytes of others are passed on.
    """

    def exchange_us(self, ranks: int, sent: float, fixed_us: float) -> float:
        """Microseconds until all ranks have what is sent to them; the busiest one sends or gets so many bytes."""
        if ranks == 1:
            return 0.0
        messages = ranks - 1
        if self.latency == "log2":
            messages = ceil(log2(ranks))
            sent *= max(1.0, messages / 2)
        return fixed_us + messages * self.latency_us + sent * 8e-3 / self.bandwidth_gbs


FAST = Network("100 Gb/s", 5.0, 100.0)
SLOW = Network("10 Gb/s", 30.0, 10.0)
"""Assumptions, not measurements: a network of the class of InfiniBand or 100 Gb/s Ethernet, and one of 10 Gb/s Ethernet."""


def times(
    load: Load, dim: int, dedup: bool, costs: Mapping[str, Any], network: Network, processors: int | None = None
) -> dict[str, float]:
    """Milliseconds of each phase of a step. Each rank has a processor of its own, unless all share so many."""
    r, o, fixed = costs["route_dedup" if dedup else "route"], costs["own"], costs["exchange"]["fixed_us"]
    route = r["fixed_us"] + r["id_us"] * load.ids + r["rank_us"] * load.ranks + r["word_us"] * load.ranks * load.width
    if dedup:
        route += r["distinct_us"] * load.once
    rows = o["fixed_us"] + o["id_us"] * load.asked + o["row_us"] * load.distinct
    if processors is not None:
        route *= max(1.0, load.ranks / processors)
        together = load.ranks * o["fixed_us"] + o["id_us"] * load.all_asked + o["row_us"] * load.all_distinct
        rows = max(rows, together / processors)
    vectors = network.exchange_us(load.ranks, load.vector_bytes(dim), fixed)
    found = {
        "route": route,
        "ids": network.exchange_us(load.ranks, load.id_bytes(), fixed),
        "vectors": vectors,
        "gradients": vectors,
        "rows": rows,
    }
    return {phase: us * 1e-3 for phase, us in found.items()}


# ---------------------------------------------------------------------- memory

ENTRY = {"adam": 72, "sgd": 40}
"""Bytes of the history for each step made: of Adam as it is by default, in float32, and of SGD with momentum."""


def ring_bytes(rows: int, steps: int | None = None, entry: int = ENTRY["adam"]) -> int:
    """Memory that the history of a table with so many rows takes after so many steps; None for all that it may take."""
    capacity = ring_capacity(rows * BYTES_PER_ROW // entry, 4 * BLOCK)
    return entry * (capacity if steps is None else min(steps, capacity))


def memory(rows: int, ranks: int, dim: int) -> dict[str, int]:
    """Bytes on the fullest rank, with Adam in float32."""
    here = layout_of("mod", rows, ranks).count(0)
    return {
        "weights": here * dim * FLOAT,
        "slots": 2 * here * dim * FLOAT,
        "last touches": 4 * here,
        "history after 10^6 steps": ring_bytes(rows, 10**6),
        "history when full": ring_bytes(rows),
    }
