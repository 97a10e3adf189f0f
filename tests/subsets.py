"""Few of many sets that cover what all of them do: what selection.py chooses cases by."""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Sequence
from typing import Any


def covering(sets: Sequence[set[Any]]) -> set[int]:
    """The numbers of some of the sets that have all that is in any, chosen greedily: next comes the one that adds most.

    They are the same in every process.  Among sets that add as much a checksum decides, so that no value is favoured.
    """
    covered: set[Any] = set()
    queue = [(-len(new), zlib.crc32(str(i).encode()), i) for i, new in enumerate(sets)]
    heapq.heapify(queue)
    chosen = set()
    while queue:
        promised, tie, i = heapq.heappop(queue)
        added = len(sets[i] - covered)
        if added and added == -promised:
            chosen.add(i)
            covered |= sets[i]
        elif added:  # others were chosen since it was queued
            heapq.heappush(queue, (-added, tie, i))
    return chosen
