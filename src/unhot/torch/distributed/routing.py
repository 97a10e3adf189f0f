"""What a lookup sends: ids to the processes that have their rows, the rows back, and the gradients of these the first way.

Each of the three is one collective operation. The first one carries counts, ids and errors together, in messages of the same
size for all processes. If one process has more ids than a message holds, another operation brings the rest, and messages are
larger from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from unhot.ids import no_row
from unhot.layouts import Layout
from unhot.torch.distributed.peers import PeerError, Peers

FINE, OUT_OF_RANGE, OTHER = range(3)
"""What the first number of a message says."""

HEADER = 4
"""The numbers of a message before those of each feature: what it says, two more of an error, the most ids for one process."""

FEWEST, FEWER = 16, 16
"""Ids that a message has room for in any case; lookups of few ids after which messages become smaller."""


class Asked(NamedTuple):
    """The ids of one feature, flat and int64, and for pooled ones the bag of each, in rising order, and its factor."""

    ids: Tensor
    bags: Tensor | None = None
    factors: Tensor | None = None


class BadId(NamedTuple):
    """The first id out of range, of which feature, and where it stands."""

    feature: int
    id: int
    place: int


Counts = list[list[int]]
"""Of each process, and of each feature."""


class Router:
    """What sends the lookups of some features, always the same ones. All processes look them up together."""

    def __init__(self, peers: Peers, layouts: Sequence[Layout], names: Sequence[str], *, pooled: bool = False) -> None:
        self.peers, self.layouts, self.names, self.pooled = peers, list(layouts), list(names), pooled
        self.words = 3 if pooled else 1
        """The numbers of an id: its row, and where they are pooled its bag and its factor."""
        self.header = HEADER + (2 if pooled else 1) * len(self.names)
        self.room = FEWEST
        """How many ids a message has room for."""
        self._most_of_few, self._few = 0, 0

    def start(self, asked: Sequence[Asked], bad: BadId | None = None, failed: bool = False) -> Route:
        """Begin to send ids. In place of them, one may say that an id is out of range, or that there is another error."""
        return Route(self, asked, bad, failed)

    def learn(self, most: int) -> None:
        """Have room for as many ids as the last lookup sent, or for fewer if the last lookups sent few."""
        if most > self.room:
            self.room, self._few = rounded(most), 0
        elif 4 * most > self.room or self.room == FEWEST:
            self._few = 0
        else:
            self._most_of_few = max(most, self._most_of_few) if self._few else most
            self._few += 1
            if self._few == FEWER:
                self.room, self._few = rounded(self._most_of_few), 0


def rounded(count: int) -> int:
    """At least `count`, of which there are four in each octave."""
    step = max(1, 1 << max(count.bit_length() - 3, 0))
    return max(FEWEST, -(-count // step) * step)


class Route:
    """One lookup of the features of a router."""

    def __init__(self, router: Router, asked: Sequence[Asked], bad: BadId | None, failed: bool) -> None:
        self.router, self.bad, self.failed = router, bad, failed
        self.what = ", ".join(map(repr, router.names))
        peers, features, device = router.peers, len(router.names), asked[0].ids.device
        placed = [layout.split(feature.ids) for layout, feature in zip(router.layouts, asked, strict=True)]
        keys = torch.cat([shards * features + k for k, (shards, _) in enumerate(placed)]) if features > 1 else placed[0][0]
        order = torch.argsort(keys, stable=True)
        counts = torch.bincount(keys, minlength=peers.size * features).view(peers.size, features)
        self.sent: Counts = counts.tolist()
        """How many ids go to each process, of each feature."""
        records = torch.cat([local for _, local in placed]).unsqueeze(1)[order]
        self.gradients_sent = self.sent
        """How many lines of gradients go there: one for each id, or for each bag."""
        if router.pooled:
            records = self._with_bags(records, asked, keys, order)
        begins = [0, *accumulate(len(feature.ids) for feature in asked)]
        pieces = order.split_with_sizes([n for line in self.sent for n in line])
        self.orders = [torch.cat(pieces[k::features]) - begins[k] for k in range(features)] if features > 1 else [order]
        """Which of a feature's ids the rows are for, in the order in which they come."""
        self._records = records
        self._totals = [sum(line) for line in self.sent]
        most, room, width = max(self._totals), router.room, router.header + router.room * router.words
        message = torch.zeros((peers.size, width), dtype=torch.int64)
        error = (FINE, 0, 0) if bad is None else (OUT_OF_RANGE, bad.feature, bad.id)
        header = torch.tensor([*(OTHER if failed else error[0], *error[1:]), most])
        message[:, :HEADER] = header
        message = message.to(device)
        message[:, HEADER : HEADER + features] = counts
        if router.pooled:
            message[:, HEADER + features : router.header] = torch.tensor(self.gradients_sent, device=device)
        starts = [0, *accumulate(self._totals)]
        for k, n in enumerate(self._totals):
            own = records[starts[k] : starts[k] + min(n, room)].reshape(-1)
            message[k, router.header : router.header + len(own)] = own
        self._starts = starts
        self._message = torch.empty_like(message)
        self._exchange = peers.begin(self._message.view(-1), message.view(-1), None, f"the ids of {self.what}")

    def _with_bags(self, records: Tensor, asked: Sequence[Asked], keys: Tensor, order: Tensor) -> Tensor:
        """The records with the place of each id's bag among those that its process is told of, and its factor."""
        bags = torch.cat([feature.bags for feature in asked if feature.bags is not None])[order]
        factors = [
            torch.ones(len(f.ids), dtype=torch.float64, device=f.ids.device) if f.factors is None else f.factors for f in asked
        ]
        keys = keys[order]
        begins = torch.ones(len(bags), dtype=torch.bool, device=bags.device)
        begins[1:] = (bags[1:] != bags[:-1]) | (keys[1:] != keys[:-1])
        which = begins.cumsum(0) - 1
        peers, features = self.router.peers.size, len(self.router.names)
        told = torch.bincount(keys[begins], minlength=peers * features)
        self.gradients_sent = told.view(peers, features).tolist()
        first = told.cumsum(0) - told
        pieces = bags[begins].split_with_sizes([n for line in self.gradients_sent for n in line])
        self.bags_told = [torch.cat(pieces[k::features]) for k in range(features)]
        """The bags whose gradients are sent, of each feature."""
        exact = torch.cat(factors)[order].view(torch.int64)
        return torch.stack([records[:, 0], which - first[keys], exact], 1)

    def finish(self) -> None:
        """Wait for the ids that the other processes ask for.

        Raises: IndexError if an id of any process is out of range; PeerError if another process has an error of its own.
        """
        router = self.router
        self._exchange.wait()
        features = len(router.names)
        headers = self._message[:, : router.header].tolist()
        self._require_fine(headers)
        self.got: Counts = [line[HEADER : HEADER + features] for line in headers]
        """How many ids have come from each process, of each feature."""
        self.gradients_got = [line[HEADER + features :] for line in headers] if router.pooled else self.got
        most = max(line[3] for line in headers)
        room, words, head = router.room, router.words, router.header
        totals = [sum(line) for line in self.got]
        pieces = [self._message[k, head : head + min(n, room) * words] for k, n in enumerate(totals)]
        if most > room:
            rest = self._rest([max(n - room, 0) for n in totals], room)
            pieces = [torch.cat(both) for both in zip(pieces, rest, strict=True)]
        router.learn(most)
        records = torch.cat(pieces).view(-1, words)
        if features > 1:
            parts = records.split_with_sizes([n for line in self.got for n in line])
            by_feature = [torch.cat(parts[k::features]) for k in range(features)]
        else:
            by_feature = [records]
        self.asked = [self._as_asked(k, part) for k, part in enumerate(by_feature)]
        """The ids whose rows are here, by the shard's own numbers; first those of the first process."""
        del self._message, self._records

    def finish_failed(self) -> None:
        """Wait for the others, who wait for the ids of this process, which has an error of its own to raise."""
        try:
            self.finish()
        except (IndexError, PeerError):
            return

    def _as_asked(self, feature: int, records: Tensor) -> Asked:
        if not self.router.pooled:
            return Asked(records[:, 0])
        before = [0, *accumulate(line[feature] for line in self.gradients_got)]
        counts = torch.tensor([line[feature] for line in self.got], device=records.device)
        first = torch.tensor(before[:-1], device=records.device).repeat_interleave(counts)
        return Asked(records[:, 0].contiguous(), records[:, 1] + first, records[:, 2].contiguous().view(torch.float64))

    def _rest(self, missing: Sequence[int], room: int) -> Sequence[Tensor]:
        """The ids that had no room in the messages."""
        words = self.router.words
        parts = [self._records[self._starts[k] + min(n, room) : self._starts[k + 1]] for k, n in enumerate(self._totals)]
        sent = torch.cat(parts).reshape(-1)
        out = sent.new_empty(sum(missing) * words)
        counts = [n * words for n in missing], [part.numel() for part in parts]
        self.router.peers.exchange(out, sent, counts, f"more ids of {self.what}")
        return out.split_with_sizes(counts[0])

    def _require_fine(self, headers: Sequence[Sequence[int]]) -> None:
        """Raise the error of the first process that has one; this one's own first."""
        names, peers = self.router.names, self.router.peers
        for rank, (code, feature, number, *_) in enumerate(headers):
            if code == OUT_OF_RANGE:
                mine = self.bad is not None and rank == peers.rank
                place = [self.bad.place] if self.bad is not None and mine else []
                rows = self.router.layouts[feature].rows
                where = "" if mine else f" It is one of process {rank}; this is process {peers.rank}."
                raise no_row(number, place, rows, f"Use a larger table.{where}", whose=names[feature])
        for rank, (code, *_) in enumerate(headers):
            if code == OTHER and not self.failed:
                raise PeerError(
                    f"process {rank} has an error in its lookup of {self.what}, so nothing was looked up. See what it says."
                )

    # ------------------------------------------------------------------ rows and gradients

    def send_rows(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Send rows to those who have asked for them; returns those that were asked for here, in the order of the ids.

        `rows` holds (ids, dim) of each feature, in the order of `asked`.
        """
        dims = [part.size(1) for part in rows]
        found = self._exchanged(rows, dims, self.got, self.sent, f"the vectors of {self.what}")
        return [torch.empty_like(part).index_copy_(0, order, part) for part, order in zip(found, self.orders, strict=True)]

    def send_gradients(self, gradients: Sequence[Tensor], *, of_bags: bool = False) -> list[Tensor]:
        """Send gradients to where the rows are; returns those of the rows here, in the order of `asked`, or of their bags.

        `gradients` holds (ids, dim) of each feature, in the order of the ids, or (bags, dim).
        """
        which = self.bags_told if of_bags else self.orders
        sent, got = (self.gradients_sent, self.gradients_got) if of_bags else (self.sent, self.got)
        ordered = [part.index_select(0, order) for part, order in zip(gradients, which, strict=True)]
        dims = [part.size(1) for part in gradients]
        return self._exchanged(ordered, dims, sent, got, f"the gradients of {self.what}")

    def _exchanged(self, parts: Sequence[Tensor], dims: Sequence[int], sent: Counts, got: Counts, what: str) -> list[Tensor]:
        """Send lines of each feature, first those for the first process, and receive such."""
        alone = len(parts) == 1
        sizes = [[n * dim for n, dim in zip(line, dims, strict=True)] for line in sent]
        counts = [sum(n * dim for n, dim in zip(line, dims, strict=True)) for line in got], list(map(sum, sizes))
        if alone:
            flat = parts[0].reshape(-1)
        else:
            by_feature = [part.reshape(-1).split_with_sizes([line[k] for line in sizes]) for k, part in enumerate(parts)]
            flat = torch.cat([of_one[rank] for rank in range(len(sent)) for of_one in by_feature])
        out = flat.new_empty(sum(counts[0]))
        self.router.peers.exchange(out, flat, counts, what)
        if alone:
            return [out.view(-1, dims[0])]
        pieces = out.split_with_sizes([n * dim for line in got for n, dim in zip(line, dims, strict=True)])
        return [torch.cat(pieces[k :: len(dims)]).view(-1, dim) for k, dim in enumerate(dims)]
