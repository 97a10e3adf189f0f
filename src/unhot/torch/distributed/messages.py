"""Messages of unequal lengths between all processes, in one collective operation.

All messages have room for the same number of words, and begin with a header, which says how many there are. If a process has
more for another one, a second operation brings the rest, and messages are larger from then on: how many words the longest had
is in all headers, so that all processes have the same room.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from unhot.torch.distributed.peers import Peers

FEWEST, FEWER = 16, 16
"""Words that a message has room for in any case; exchanges of few words after which messages become smaller."""

LENGTHS = 2
"""The numbers with which each header begins: how many words follow, and how many those of the longest message are."""


class Mail:
    """What sends messages with headers of the same length, one exchange after the other."""

    def __init__(self, peers: Peers, header: int) -> None:
        self.peers, self.header = peers, LENGTHS + header
        self.room = FEWEST
        """How many words a message has room for."""
        self._most_of_few, self._few = 0, 0

    def send(self, headers: Tensor, words: Tensor, counts: Sequence[int], what: str) -> Letters:
        """Begin to send headers, (processes, header), and words, so many to each process, one process after the other."""
        return Letters(self, headers, words, counts, what)

    def learn(self, most: int) -> None:
        """Have room for as many words as the longest message had, or for fewer if the last ones were short."""
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


class Letters:
    """The messages of one exchange."""

    def __init__(self, mail: Mail, headers: Tensor, words: Tensor, counts: Sequence[int], what: str) -> None:
        self.mail, self.what, self.room = mail, what, mail.room
        self._words, self._counts = words, counts
        self._starts = [0, *accumulate(counts)]
        most, room, head = max(counts), self.room, mail.header
        message = words.new_zeros((mail.peers.size, head + room))
        lengths = torch.tensor([[count, most] for count in counts])
        message[:, :head] = torch.cat([lengths.to(words.device), headers], 1)
        for k, (start, count) in enumerate(zip(self._starts, counts, strict=False)):
            part = words[start : start + min(count, room)]
            message[k, head : head + len(part)] = part
        self._got = torch.empty_like(message)
        self._exchange = mail.peers.begin(self._got.view(-1), message.view(-1), None, what)

    def received(self) -> tuple[list[list[int]], list[Tensor]]:
        """The header and the words of each process.

        Raises: PeerError if one of them does not come.
        """
        self._exchange.wait()
        mail, room, head = self.mail, self.room, self.mail.header
        headers: list[list[int]] = self._got[:, :head].tolist()
        pieces = [self._got[k, head : head + min(line[0], room)] for k, line in enumerate(headers)]
        most = max(line[1] for line in headers)
        if most > room:
            rest = self._rest([max(line[0] - room, 0) for line in headers], room)
            pieces = [torch.cat(both) for both in zip(pieces, rest, strict=True)]
        mail.learn(most)
        return [line[LENGTHS:] for line in headers], pieces

    def _rest(self, missing: list[int], room: int) -> Sequence[Tensor]:
        """The words that had no room in the messages."""
        ends = zip(self._starts, self._counts, self._starts[1:], strict=False)
        parts = [self._words[start + min(count, room) : stop] for start, count, stop in ends]
        sent = torch.cat(parts)
        out = sent.new_empty(sum(missing))
        self.mail.peers.exchange(out, sent, (missing, [len(part) for part in parts]), f"the rest of {self.what}")
        rest: Sequence[Tensor] = out.split_with_sizes(missing)
        return rest
