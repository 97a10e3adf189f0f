"""What a lookup sends: ids to the processes that have their rows, the rows back, and the gradients of these the first way.

Each of the three is one collective operation. The first one carries counts, ids and errors together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unhot.ids import no_row
from unhot.kernels import active as kernels
from unhot.layouts import Layout, Shard
from unhot.torch.distributed.messages import Mail, Words, ranges, starts_of
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


class Lines:
    """Lines of numbers that go where something was asked for, and others that come back: rows and their gradients.

    Runs of lines follow each other: those of the first process, the features in their order, then those of the next one.
    """

    what: str
    """What was asked for."""

    places: Words
    """Which of its feature's ids each line is for, run by run."""

    sent: Words
    """How many lines were asked of each process, of each feature."""

    got: Words
    """How many lines each process asks for."""

    def __init__(self, peers: Peers) -> None:
        self.peers = peers

    def send_rows(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Send rows to those who have asked for them; returns those that were asked for here, in the order of the ids.

        `rows` holds (ids, dim) of each feature, those for the first process first.
        """
        what = f"the vectors of {self.what}"
        if len(rows) == 1:  # the usual case, of which all runs lie as they have to
            ((_, block),) = self._exchanged([([0], rows[0])], self.got, self.sent, what)
            return [selected(block, inverse(self.places, np.arange(len(self.places))))]
        blocks = []
        for features in alike(rows):
            block = rows[features[0]]
            if len(features) > 1:  # they lie by feature, and are sent by process
                own = self.got[:, features].T
                block = selected(torch.cat([rows[k] for k in features]), ranges(starts_of(own).T, own.T))
            blocks.append((features, block))
        found: dict[int, Tensor] = {}
        starts = starts_of(self.sent)
        for features, block in self._exchanged(blocks, self.got, self.sent, what):
            begins = starts_of(self.sent[:, features])
            for i, k in enumerate(features):
                places, lines = (ranges(first, self.sent[:, k]) for first in (starts[:, k], begins[:, i]))
                found[k] = selected(block, inverse(self.places[places], lines))
        return [found[k] for k in range(len(rows))]

    def send_gradients(self, gradients: Sequence[Tensor], *, of_bags: bool = False) -> list[Tensor]:
        """Send gradients to where the rows are; returns those of the rows here, those of the first process first.

        `gradients` holds (ids, dim) of each feature, in the order of the ids; or (bags, dim) of pooled ids.
        """
        places, sent, got = self._of_bags() if of_bags else (self.places, self.sent, self.got)
        what = f"the gradients of {self.what}"
        if len(gradients) == 1:
            ((_, block),) = self._exchanged([([0], selected(gradients[0], places))], sent, got, what)
            return [block]
        blocks = []
        for features in alike(gradients):
            firsts = starts_of(np.array([len(gradients[k]) for k in features]))
            lines = places[ranges(starts_of(sent)[:, features], sent[:, features])]
            lines += np.repeat(np.tile(firsts, len(sent)), sent[:, features].reshape(-1))
            blocks.append((features, selected(torch.cat([gradients[k] for k in features]), lines)))
        found: dict[int, Tensor] = {}
        for features, block in self._exchanged(blocks, sent, got, what):
            starts = starts_of(got[:, features])
            for i, k in enumerate(features):
                found[k] = block if len(features) == 1 else selected(block, ranges(starts[:, i], got[:, k]))
        return [found[k] for k in range(len(gradients))]

    def _of_bags(self) -> tuple[Words, Words, Words]:
        raise NotImplementedError

    def _exchanged(self, blocks: Sequence[Block], sent: Words, got: Words, what: str) -> list[Block]:
        """Send the lines of some features of one dimension each, those for the first process first, and receive such."""
        if len(blocks) == 1:
            ((features, block),) = blocks
            dim = block.size(1)
            counts = [[dim * sum(line) for line in lines.tolist()] for lines in (got, sent)]
            out = block.new_empty(sum(counts[0]))
            self.peers.exchange(out, block.reshape(-1), (counts[0], counts[1]), what)
            return [(features, out.view(-1, dim))]
        dims = [block.size(1) for _, block in blocks]
        to, of = (
            np.stack([lines[:, features].sum(1) * dim for (features, _), dim in zip(blocks, dims, strict=True)], 1).tolist()
            for lines in (sent, got)
        )
        of_block = zip(blocks, zip(*to, strict=True), strict=True)
        pieces = [block.reshape(-1).split_with_sizes(sizes) for (_, block), sizes in of_block]
        flat = torch.cat([piece for of_rank in zip(*pieces, strict=True) for piece in of_rank])
        received = flat.new_empty(sum(map(sum, of)))
        self.peers.exchange(received, flat, (list(map(sum, of)), list(map(sum, to))), what)
        parts = received.split_with_sizes([size for of_rank in of for size in of_rank])
        joint = [torch.cat(parts[i :: len(dims)]).view(-1, dim) for i, dim in enumerate(dims)]
        return [(features, block) for (features, _), block in zip(blocks, joint, strict=True)]


Block = tuple[list[int], Tensor]
"""Some features, and their lines, run by run."""


def alike(tensors: Sequence[Tensor]) -> list[list[int]]:
    """The features whose lines have the same length, for each length."""
    found: dict[int, list[int]] = {}
    for k, tensor in enumerate(tensors):
        found.setdefault(tensor.size(1), []).append(k)
    return list(found.values())


def inverse(places: Words, lines: Words) -> Words:
    """Which line is for each place, of as many."""
    found = np.empty_like(places)
    found[places] = lines
    return found


def selected(lines: Tensor, places: Words) -> Tensor:
    """The lines at these places."""
    return lines.index_select(0, torch.from_numpy(places).to(lines.device))


class Spread(Protocol):
    """A layer whose rows are spread."""

    @property
    def shard(self) -> Shard:
        """Which of them are here."""


class Router:
    """What sends the lookups of some features, always the same ones. All processes look them up together."""

    def __init__(self, peers: Peers, layers: Sequence[Spread], names: Sequence[str], *, pooled: bool = False) -> None:
        """`layers` has that of each feature."""
        self.peers, self.layers, self.names, self.pooled = peers, list(layers), list(names), pooled
        self.words = 3 if pooled else 1
        """The numbers of an id: its row, and where they are pooled its bag and its factor."""
        self.mail = Mail(peers, ERROR + (2 if pooled else 1) * len(self.names))

    @property
    def layouts(self) -> list[Layout]:
        """Where the rows of each feature are, now."""
        return [layer.shard.layout for layer in self.layers]

    def start(self, asked: Sequence[Asked], bad: BadId | None = None, failed: bool = False) -> Route:
        """Begin to send ids. In place of them, one may say that an id is out of range, or that there is another error."""
        return Route(self, asked, bad, failed)


class Route(Lines):
    """One lookup of the features of a router."""

    def __init__(self, router: Router, asked: Sequence[Asked], bad: BadId | None, failed: bool) -> None:
        super().__init__(router.peers)
        self.router, self.bad, self.failed = router, bad, failed
        self.what = ", ".join(map(repr, router.names))
        size, features = self.peers.size, len(router.names)
        self.device = asked[0].ids.device
        placed = [layout.split(feature.ids.cpu().numpy()) for layout, feature in zip(router.layouts, asked, strict=True)]
        keys = joined([shards * features + k for k, (shards, _) in enumerate(placed)]) if features > 1 else placed[0][0]
        order = in_order(keys, size * features)
        self.sent = np.bincount(keys, minlength=size * features).reshape(size, features)
        self.places = order
        if features > 1:
            firsts = starts_of(np.array([len(feature.ids) for feature in asked]))
            self.places = order - np.repeat(np.tile(firsts, size), self.sent.reshape(-1))
        records = joined([local for _, local in placed])[order]
        self.gradients_sent: Words = self.sent
        """How many lines of gradients go to each process: one for each id, or for each bag."""
        if router.pooled:
            records = self._with_bags(records, asked, keys, order)
        error = (FINE, 0, 0) if bad is None else (OUT_OF_RANGE, bad.feature, bad.id)
        headers = np.empty((size, ERROR + (2 if router.pooled else 1) * features), np.int64)
        headers[:, :ERROR] = (OTHER, 0, 0) if failed else error
        headers[:, ERROR : ERROR + features] = self.sent
        if router.pooled:
            headers[:, ERROR + features :] = self.gradients_sent
        ends = np.cumsum(self.sent.sum(1) * router.words)
        words = np.split(records.reshape(-1), ends[:-1])
        self._letters = router.mail.send(headers, words, self.device, f"the ids of {self.what}")

    def _with_bags(self, records: Words, asked: Sequence[Asked], keys: Words, order: Words) -> Words:
        """The records with the place of each id's bag among those that its process is told of, and its factor."""
        bags = joined([feature.bags.cpu().numpy() for feature in asked if feature.bags is not None])[order]
        factors = np.concatenate([factors_of(feature) for feature in asked])[order]
        keys = keys[order]
        begins = np.ones(len(bags), np.bool_)
        begins[1:] = (bags[1:] != bags[:-1]) | (keys[1:] != keys[:-1])
        which = np.cumsum(begins) - 1
        told = np.bincount(keys[begins], minlength=self.sent.size)
        self.gradients_sent = told.reshape(self.sent.shape)
        self.bags_told = bags[begins]
        """The bags whose gradients are sent, run by run."""
        return np.stack([records, which - starts_of(told)[keys], factors.view(np.int64)], 1)

    def _of_bags(self) -> tuple[Words, Words, Words]:
        return self.bags_told, self.gradients_sent, self.gradients_got

    def finish(self) -> None:
        """Wait for the ids that the other processes ask for.

        Raises: IndexError if an id of any process is out of range; PeerError if another process has an error of its own.
        """
        router, features = self.router, len(self.router.names)
        headers, words = self._letters.received()
        self._require_fine(headers)
        self.got = headers[:, ERROR : ERROR + features]
        self.gradients_got = headers[:, ERROR + features :] if router.pooled else self.got
        """How many lines of gradients come from each process."""
        records = joined(words).reshape(-1, router.words)
        by_feature = [records]
        if features > 1:
            starts = starts_of(self.got)
            by_feature = [records[ranges(starts[:, k], self.got[:, k])] for k in range(features)]
        self.asked = [self._as_asked(k, part) for k, part in enumerate(by_feature)]
        """The ids whose rows are here, by the shard's own numbers; those of the first process first."""
        del self._letters

    def finish_failed(self) -> None:
        """Wait for the others, who wait for the ids of this process, which has an error of its own to raise."""
        try:
            self.finish()
        except (IndexError, PeerError):
            return

    def _as_asked(self, feature: int, records: Words) -> Asked:
        if not self.router.pooled:
            return Asked(torch.from_numpy(records[:, 0]).to(self.device))
        first = np.repeat(starts_of(self.gradients_got[:, feature]), self.got[:, feature])
        found = records[:, 0].copy(), records[:, 1] + first, records[:, 2].copy().view(np.float64)
        return Asked(*(torch.from_numpy(part).to(self.device) for part in found))

    def _require_fine(self, headers: Words) -> None:
        """Raise the error of the first process that has one."""
        if not headers[:, 0].any():
            return
        names, own = self.router.names, self.peers.rank
        errors = headers[:, :ERROR].tolist()
        for rank, (code, feature, number) in enumerate(errors):
            if code == OUT_OF_RANGE:
                mine = self.bad is not None and rank == own
                place = [self.bad.place] if self.bad is not None and mine else None
                where = "" if mine else f" It is one of process {rank}; this is process {own}."
                rows = self.router.layouts[feature].rows
                raise no_row(number, place, rows, f"Use a larger table.{where}", whose=names[feature])
        for rank, (code, *_) in enumerate(errors):
            if code == OTHER and not self.failed:
                raise PeerError(
                    f"process {rank} has an error in its lookup of {self.what}, so nothing was looked up. See what it says."
                )


def in_order(keys: Words, count: int) -> Words:
    """The places of keys below `count` in the order of the keys, and where these are the same, in their own."""
    by_digits = count <= 1 << 16  # which takes linear time
    return np.argsort(keys.astype(np.uint16) if by_digits else keys, kind="stable")


def joined(parts: Sequence[Words]) -> Words:
    """The parts one after the other."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def factors_of(feature: Asked) -> npt.NDArray[np.float64]:
    """The factor of each id."""
    if feature.factors is None:
        return np.ones(len(feature.ids))
    factors: npt.NDArray[np.float64] = feature.factors.cpu().numpy()
    return factors


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
