"""What a lookup sends: ids to the processes that have their rows, the rows back, and the gradients of these the first way.

Each of the three is one collective operation. The first one carries counts, ids and errors together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unhot.ids import no_row
from unhot.kernels import active as kernels
from unhot.layouts import Layout
from unhot.torch.distributed.messages import Mail
from unhot.torch.distributed.peers import PeerError, Peers

FINE, OUT_OF_RANGE, OTHER = range(3)
"""What a header says first."""

ERROR = 3
"""The numbers of a header before those of each feature: what it says, and for an id out of range its feature and itself."""


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


class Lines:
    """Lines of numbers that go where something was asked for, and others that come back: rows and their gradients."""

    what: str
    """What was asked for."""

    sent: Counts
    """How many lines were asked of each process, of each feature."""

    got: Counts
    """How many lines each process asks for."""

    orders: list[Tensor]
    """Which of a feature's ids the rows are for, in the order in which they come."""

    def __init__(self, peers: Peers) -> None:
        self.peers = peers

    def send_rows(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Send rows to those who have asked for them; returns those that were asked for here, in the order of the ids.

        `rows` holds (ids, dim) of each feature, those for the first process first.
        """
        dims = [part.size(1) for part in rows]
        found = self._exchanged(rows, dims, self.got, self.sent, f"the vectors of {self.what}")
        return [torch.empty_like(part).index_copy_(0, order, part) for part, order in zip(found, self.orders, strict=True)]

    def send_gradients(self, gradients: Sequence[Tensor], *, of_bags: bool = False) -> list[Tensor]:
        """Send gradients to where the rows are; returns those of the rows here, those of the first process first.

        `gradients` holds (ids, dim) of each feature, in the order of the ids; or (bags, dim) of pooled ids.
        """
        which, sent, got = self._of_bags() if of_bags else (self.orders, self.sent, self.got)
        ordered = [part.index_select(0, order) for part, order in zip(gradients, which, strict=True)]
        dims = [part.size(1) for part in gradients]
        return self._exchanged(ordered, dims, sent, got, f"the gradients of {self.what}")

    def _of_bags(self) -> tuple[list[Tensor], Counts, Counts]:
        raise NotImplementedError

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
        self.peers.exchange(out, flat, counts, what)
        if alone:
            return [out.view(-1, dims[0])]
        pieces = out.split_with_sizes([n * dim for line in got for n, dim in zip(line, dims, strict=True)])
        return [torch.cat(pieces[k :: len(dims)]).view(-1, dim) for k, dim in enumerate(dims)]


class Router:
    """What sends the lookups of some features, always the same ones. All processes look them up together."""

    def __init__(self, peers: Peers, layouts: Sequence[Layout], names: Sequence[str], *, pooled: bool = False) -> None:
        self.peers, self.layouts, self.names, self.pooled = peers, list(layouts), list(names), pooled
        self.words = 3 if pooled else 1
        """The numbers of an id: its row, and where they are pooled its bag and its factor."""
        self.mail = Mail(peers, ERROR + (2 if pooled else 1) * len(self.names))

    def start(self, asked: Sequence[Asked], bad: BadId | None = None, failed: bool = False) -> Route:
        """Begin to send ids. In place of them, one may say that an id is out of range, or that there is another error."""
        return Route(self, asked, bad, failed)


class Route(Lines):
    """One lookup of the features of a router."""

    def __init__(self, router: Router, asked: Sequence[Asked], bad: BadId | None, failed: bool) -> None:
        super().__init__(router.peers)
        self.router, self.bad, self.failed = router, bad, failed
        self.what = ", ".join(map(repr, router.names))
        size, features, device = self.peers.size, len(router.names), asked[0].ids.device
        placed = [layout.split(feature.ids) for layout, feature in zip(router.layouts, asked, strict=True)]
        keys = torch.cat([shards * features + k for k, (shards, _) in enumerate(placed)]) if features > 1 else placed[0][0]
        order = in_order(keys, size * features)
        counts = torch.bincount(keys, minlength=size * features).view(size, features)
        self.sent = counts.tolist()
        records = torch.cat([local for _, local in placed]).unsqueeze(1)[order]
        self.gradients_sent = self.sent
        """How many lines of gradients go to each process: one for each id, or for each bag."""
        if router.pooled:
            records = self._with_bags(records, asked, keys, order)
        begins = [0, *accumulate(len(feature.ids) for feature in asked)]
        pieces = order.split_with_sizes([n for line in self.sent for n in line])
        self.orders = [torch.cat(pieces[k::features]) - begins[k] for k in range(features)] if features > 1 else [order]
        error = (FINE, 0, 0) if bad is None else (OUT_OF_RANGE, bad.feature, bad.id)
        error = (OTHER, 0, 0) if failed else error
        lines = [[*error, *own] for own in self.sent]
        if router.pooled:
            lines = [[*line, *own] for line, own in zip(lines, self.gradients_sent, strict=True)]
        words = [sum(line) * router.words for line in self.sent]
        headers = torch.tensor(lines, device=device)
        self._letters = router.mail.send(headers, records.reshape(-1), words, f"the ids of {self.what}")

    def _with_bags(self, records: Tensor, asked: Sequence[Asked], keys: Tensor, order: Tensor) -> Tensor:
        """The records with the place of each id's bag among those that its process is told of, and its factor."""
        bags = torch.cat([feature.bags for feature in asked if feature.bags is not None])[order]
        factors = torch.cat([factors_of(feature) for feature in asked])[order]
        keys = keys[order]
        begins = torch.ones(len(bags), dtype=torch.bool, device=bags.device)
        begins[1:] = (bags[1:] != bags[:-1]) | (keys[1:] != keys[:-1])
        which = begins.cumsum(0) - 1
        size, features = self.peers.size, len(self.router.names)
        told = torch.bincount(keys[begins], minlength=size * features)
        self.gradients_sent = told.view(size, features).tolist()
        first = told.cumsum(0) - told
        pieces = bags[begins].split_with_sizes([n for line in self.gradients_sent for n in line])
        self.bags_told = [torch.cat(pieces[k::features]) for k in range(features)]
        """The bags whose gradients are sent, of each feature."""
        return torch.stack([records[:, 0], which - first[keys], factors.view(torch.int64)], 1)

    def _of_bags(self) -> tuple[list[Tensor], Counts, Counts]:
        return self.bags_told, self.gradients_sent, self.gradients_got

    def finish(self) -> None:
        """Wait for the ids that the other processes ask for.

        Raises: IndexError if an id of any process is out of range; PeerError if another process has an error of its own.
        """
        router, features = self.router, len(self.router.names)
        headers, pieces = self._letters.received()
        self._require_fine(headers)
        self.got = [line[ERROR : ERROR + features] for line in headers]
        self.gradients_got = [line[ERROR + features :] for line in headers] if router.pooled else self.got
        """How many lines of gradients come from each process."""
        records = torch.cat(pieces).view(-1, router.words)
        if features > 1:
            parts = records.split_with_sizes([n for line in self.got for n in line])
            by_feature = [torch.cat(parts[k::features]) for k in range(features)]
        else:
            by_feature = [records]
        self.asked = [self._as_asked(k, part) for k, part in enumerate(by_feature)]
        """The ids whose rows are here, by the shard's own numbers; those of the first process first."""
        del self._letters

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

    def _require_fine(self, headers: Sequence[Sequence[int]]) -> None:
        """Raise the error of the first process that has one."""
        names, own = self.router.names, self.peers.rank
        for rank, (code, feature, number, *_) in enumerate(headers):
            if code == OUT_OF_RANGE:
                mine = self.bad is not None and rank == own
                place = [self.bad.place] if self.bad is not None and mine else []
                where = "" if mine else f" It is one of process {rank}; this is process {own}."
                rows = self.router.layouts[feature].rows
                raise no_row(number, place, rows, f"Use a larger table.{where}", whose=names[feature])
        for rank, (code, *_) in enumerate(headers):
            if code == OTHER and not self.failed:
                raise PeerError(
                    f"process {rank} has an error in its lookup of {self.what}, so nothing was looked up. See what it says."
                )


def in_order(keys: Tensor, count: int) -> Tensor:
    """The places of keys below `count` in the order of the keys, and where these are the same, in their own."""
    if keys.is_cpu and count <= 1 << 16:
        return torch.from_numpy(np.argsort(keys.numpy().astype(np.uint16), kind="stable"))  # by digits: in linear time
    return torch.argsort(keys, stable=True)


def factors_of(feature: Asked) -> Tensor:
    """The factor of each id."""
    if feature.factors is not None:
        return feature.factors
    return torch.ones(len(feature.ids), dtype=torch.float64, device=feature.ids.device)


def first_outside(ids: Tensor, rows: int) -> BadId | None:
    """The first of the ids that is no row's."""
    if ids.is_cpu:
        place = kernels.outside(np.ascontiguousarray(ids.numpy()), rows)
    else:
        outside = (ids < 0) | (ids >= rows)
        place = int(outside.to(torch.uint8).argmax()) if bool(outside.any()) else -1
    if place < 0:
        return None
    return BadId(0, int(ids[place]), place)
