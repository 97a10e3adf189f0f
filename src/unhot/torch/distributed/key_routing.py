"""Keys on their way to the processes that have their rows: by their hashes, as words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from unhot.keys.column import Column, Keys
from unhot.keys.hashing import shards_of
from unhot.keys.packing import KINDS, Packed
from unhot.torch.distributed.messages import Mail, Words
from unhot.torch.distributed.peers import PeerError, Peers
from unhot.torch.distributed.routing import FINE, OTHER, Lines

HEADER = 3
"""The numbers of a header: what it says, the keys' kind, and how many keys follow."""

MISSING, LARGE = 1, 2
"""Marks of a key that is missing, and of an integer of 2**63 and more."""

NOTHING = Packed(0, np.empty(0, np.uint8), np.zeros(1, np.int64))
"""No keys."""


class KeyRouter:
    """What sends the lookups of keys."""

    def __init__(self, peers: Peers) -> None:
        self.peers = peers
        self.mail = Mail(peers, HEADER)

    def start(self, column: Column | None, device: torch.device) -> KeyRoute:
        """Begin to send keys, of which the vectors are on the device; None says that there is an error."""
        return KeyRoute(self, column, device)


class KeyRoute(Lines):
    """One lookup of keys."""

    def __init__(self, router: KeyRouter, column: Column | None, device: torch.device) -> None:
        super().__init__(router.peers)
        self.what = "keys"
        self._failed = column is None
        keys = Keys(NOTHING) if column is None else column.keys
        keys = keys if column is None or column.take is None else keys.take(column.take)
        size = self.peers.size
        owners = shards_of(keys.packed, size)
        order = np.argsort(owners, kind="stable")
        counts = np.bincount(owners, minlength=size)
        self.sent, self.places = counts[:, None], order
        parts = [words_of(keys.take(own).packed) for own in np.split(order, np.cumsum(counts)[:-1])]
        code = OTHER if self._failed else FINE
        headers = np.array([[code, keys.packed.kind, int(count)] for count in counts])
        self._letters = router.mail.send(headers, parts, device, "the keys")

    def finish(self) -> None:
        """Wait for the keys of which the other processes want the vectors.

        Raises: PeerError if another process has an error of its own; TypeError if processes have keys of different kinds.
        """
        lines, pieces = self._letters.received()
        headers = lines.tolist()
        for rank, (code, *_) in enumerate(headers):
            if code == OTHER and not self._failed:
                raise PeerError(
                    f"process {rank} has an error in its lookup of keys, so nothing was looked up. See what it says."
                )
        kinds = {kind: rank for rank, (_, kind, _) in reversed(list(enumerate(headers))) if kind}
        if len(kinds) > 1:
            (one, first), (other, second), *_ = sorted(kinds.items(), key=lambda item: item[1])
            raise TypeError(
                f"keys must be of one kind in all processes. Received: {KINDS[one]} in process {first}, and {KINDS[other]} in"
                f" process {second}."
            )
        self.got = lines[:, 2:]
        kind = max(kinds, default=0)
        self.keys = Keys(
            joined([keys_of(piece, kind, count) for piece, (_, _, count) in zip(pieces, headers, strict=True)], kind)
        )
        """The keys whose rows are here; those of the first process first."""
        del self._letters

    def finish_failed(self) -> None:
        """Wait for the others, who wait for the keys of this process, which has an error of its own to raise."""
        try:
            self.finish()
        except (TypeError, PeerError):
            return


def words_of(packed: Packed) -> Words:
    """Keys as words: the marks of each, then the integers; or the lengths of the texts, and their bytes."""
    marked = MISSING * marks(packed.missing, packed.length) + LARGE * marks(packed.large, packed.length)
    if packed.offsets is None:
        return np.concatenate([marked, packed.data])
    text = np.zeros(-(-len(packed.data) // 8) * 8, np.uint8)
    text[: len(packed.data)] = packed.data
    return np.concatenate([marked, np.diff(packed.offsets).astype(np.int64), text.view(np.int64)])


def keys_of(words: Words, kind: int, count: int) -> Packed:
    """The keys that `words_of` gave, so many."""
    marks, rest = words[:count], words[count:]
    missing, large = (marks & MISSING) != 0, (marks & LARGE) != 0
    if KINDS[kind] == "int" and len(rest) == count:
        return Packed(kind, rest, None, large, missing)
    lengths = rest[:count]
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Packed(kind, np.ascontiguousarray(rest[count:]).view(np.uint8)[: offsets[-1]], offsets, None, missing)


def joined(parts: Sequence[Packed], kind: int) -> Packed:
    """The keys one after the other."""
    missing = np.concatenate([marks(part.missing, part.length) for part in parts])
    if KINDS[kind] == "int":
        data = [np.zeros(part.length, np.int64) if part.offsets is not None else part.data for part in parts]
        large = np.concatenate([marks(part.large, part.length) for part in parts])
        return Packed(kind, np.concatenate(data), None, large if large.any() else None, missing if missing.any() else None)
    lengths = np.concatenate([np.diff(part.offsets) for part in parts if part.offsets is not None])
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Packed(kind, np.concatenate([part.data for part in parts]), offsets, None, missing if missing.any() else None)


def marks(mask: npt.NDArray[np.bool_] | None, count: int) -> npt.NDArray[np.bool_]:
    """A mask that is there."""
    return np.zeros(count, np.bool_) if mask is None else mask
