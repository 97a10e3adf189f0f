"""Messages of unequal lengths between all processes, in one collective operation.

All messages have room for the same number of words, and begin with a header, which says how many there are. If a process has
more for another one, a second operation brings the rest, and messages are larger from then on: how many words the longest had
is in all headers, so that all processes have the same room.

Messages are put together and taken apart in host memory, where their counts are needed anyway.
"""

from __future__ import annotations

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

    def send(self, headers: Words, words: Words, counts: Words, device: torch.device, what: str) -> Letters:
        """Begin to send headers, (processes, header), and words, so many to each process, one process after the other.

        They are sent from the device where the rows are, which the group takes in any case.
        """
        return Letters(self, headers, words, counts, device, what)

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

    def __init__(self, mail: Mail, headers: Words, words: Words, counts: Words, device: torch.device, what: str) -> None:
        self.mail, self.what, self.room, self.device = mail, what, mail.room, device
        self._words, self._counts = words, counts
        most, head = int(counts.max()), mail.header
        message = np.zeros((mail.peers.size, head + self.room), np.int64)
        message[:, 0], message[:, 1], message[:, LENGTHS:head] = counts, most, headers
        fitting = np.minimum(counts, self.room)
        first = words if most <= self.room else words[ranges(starts_of(counts), fitting)]
        message[:, head:][within(fitting, self.room)] = first
        sent = torch.from_numpy(message).to(device)
        self._got = torch.empty_like(sent)
        self._exchange = mail.peers.begin(self._got.view(-1), sent.view(-1), None, what)

    def received(self) -> tuple[Words, Words, Words]:
        """The header of each process, the words of all, one process after the other, and how many each has sent.

        Raises: PeerError if one of them does not come.
        """
        self._exchange.wait()
        mail, room, head = self.mail, self.room, self.mail.header
        got: Words = self._got.cpu().numpy()
        counts, most = got[:, 0], int(got[:, 1].max())
        fitting = np.minimum(counts, room)
        words = got[:, head:][within(fitting, room)]
        if most > room:
            words = self._with_rest(words, fitting, counts - fitting)
        mail.learn(most)
        return got[:, LENGTHS:head].copy(), words, counts.copy()

    def _with_rest(self, first: Words, fitting: Words, missing: Words) -> Words:
        """The words that had room in the messages, and those that had none, in their order."""
        more = np.maximum(self._counts - self.room, 0)
        rest = torch.from_numpy(self._words[ranges(starts_of(self._counts) + self.room, more)]).to(self.device)
        out = rest.new_empty(int(missing.sum()))
        self.mail.peers.exchange(out, rest, (missing.tolist(), more.tolist()), f"the rest of {self.what}")
        counts = fitting + missing
        starts = starts_of(counts)
        whole = np.empty(int(counts.sum()), np.int64)
        whole[ranges(starts, fitting)] = first
        whole[ranges(starts + fitting, missing)] = out.cpu().numpy()
        return whole


def within(counts: Words, room: int) -> npt.NDArray[np.bool_]:
    """Which places of lines with so much room are among the first `counts` of their lines."""
    return np.arange(room) < counts[:, None]


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
