"""Messages of unequal lengths between all processes, in one collective operation.

All messages have room for the same number of words, and begin with a header, which says how many there are. If a process has
more for another one, a second operation brings the rest, and messages are larger from then on: how many words the longest had
is in all headers, so that all processes have the same room.

Messages are put together and taken apart in host memory, where their counts are needed anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from unhot.torch.distributed.peers import Peers

Words = npt.NDArray[np.int64]

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

    def send(self, headers: Words, words: Sequence[Words], device: torch.device, what: str) -> Letters:
        """Begin to send a header, (processes, header), and words to each process.

        They are sent from the device where the rows are, which the group takes in any case.
        """
        return Letters(self, headers, words, device, what)

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

    def __init__(self, mail: Mail, headers: Words, words: Sequence[Words], device: torch.device, what: str) -> None:
        self.mail, self.what, self.room, self.device = mail, what, mail.room, device
        self._words, counts = words, list(map(len, words))
        head = mail.header
        message = np.zeros((mail.peers.size, head + self.room), np.int64)
        message[:, 0], message[:, 1], message[:, LENGTHS:head] = counts, max(counts), headers
        for line, own in zip(message, words, strict=True):
            line[head : head + len(own)] = own[: self.room]
        sent = torch.from_numpy(message).to(device)
        self._got = torch.empty_like(sent)
        self._exchange = mail.peers.begin(self._got.view(-1), sent.view(-1), None, what)

    def received(self) -> tuple[Words, list[Words]]:
        """The header of each process, and its words.

        Raises: PeerError if one of them does not come.
        """
        self._exchange.wait()
        head = self.mail.header
        got: Words = self._got.cpu().numpy()
        counts, most = got[:, 0], int(got[:, 1].max())
        words = [line[head : head + count] for line, count in zip(got, counts.tolist(), strict=True)]
        if most > self.room:
            words = [np.concatenate(parts) for parts in zip(words, self._rests(counts), strict=True)]
        self.mail.learn(most)
        return got[:, LENGTHS:head], words

    def _rests(self, counts: Words) -> list[Words]:
        """The words of each process that had no room in its message."""
        rests = [own[self.room :] for own in self._words]
        missing = np.maximum(counts - self.room, 0)
        sent = torch.from_numpy(np.concatenate(rests)).to(self.device)
        out = sent.new_empty(int(missing.sum()))
        self.mail.peers.exchange(out, sent, (missing.tolist(), list(map(len, rests))), f"the rest of {self.what}")
        return np.split(out.cpu().numpy(), np.cumsum(missing)[:-1])


def starts_of(counts: Words) -> Words:
    """Where each of some runs begins, which follow each other; in the shape of their lengths, read line by line."""
    starts: Words = (np.cumsum(counts) - counts.reshape(-1)).reshape(counts.shape)
    return starts


def ranges(starts: Words, counts: Words) -> Words:
    """The numbers of runs that begin at `starts`, so many of each, one run after the other."""
    starts, counts = starts.reshape(-1), counts.reshape(-1)
    found: Words = np.repeat(starts - starts_of(counts), counts)
    found += np.arange(len(found))
    return found
