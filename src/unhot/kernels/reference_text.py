"""Lines of keys and numbers, as word2vec, GloVe and TensorBoard write them, read in Python: the specification of the native."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE | re.ASCII)
"""What is read as a number: what `float` takes, but no spaces, underscores and digits of other scripts."""


def parse_lines(
    text: Array, separator: int, keyless: bool, spaced: bool, numbers: Array, keys: Array, odd: Array, /
) -> tuple[int, int, int, bool]:
    """Read whole lines of a key, unless `keyless`, and as many numbers as `numbers` has columns.

    Separators stand between the fields, and perhaps at the end of a line. With `spaced`, a key may contain some: the numbers
    are the last fields. A number becomes what `float` makes of it, rounded once more to the dtype of `numbers`.

    Args:
        text: uint8, of which only what ends with a newline is read.
        separator: a character's code.
        keyless, spaced: see above.
        numbers: (rows, dim), the room for them.
        keys: (rows, 2), int64, for where each key begins and ends.
        odd: (n, 4), int64, with n >= dim: for row, column, begin and end of numbers that are left to the caller, to be read by
            `number`; they may be none. Here there are never any but such that are none.

    Returns: the rows read; the characters of their lines; the odd numbers; whether the line that follows does not have the
        fields that it should.
    """
    rows = consumed = odds = 0
    mark, dim = bytes([separator]), numbers.shape[1]
    plain = b"0123456789+-.eE" + mark
    for line in text.tobytes().split(b"\n")[:-1]:
        if rows == len(numbers) or odds + dim > len(odd):
            break
        content = line.removesuffix(b"\r").rstrip(mark)
        fields = content.split(mark) if keyless else content.rsplit(mark, dim)
        key = b"" if keyless else fields.pop(0)
        if len(fields) != dim or (not spaced and mark in key):
            return rows, consumed, odds, True
        end = consumed + len(key)
        keys[rows] = consumed, end
        start = consumed if keyless else end + 1
        if not content[start - consumed :].translate(None, plain):  # so `float` takes nothing that is no number here
            with suppress(ValueError):
                numbers[rows] = list(map(float, fields))
                fields = []
        for column, field in enumerate(fields):
            if NUMBER.fullmatch(field):
                numbers[rows, column] = float(field)
            else:
                odd[odds] = rows, column, start, start + len(field)
                odds += 1
            start += len(field) + 1
        rows += 1
        consumed += len(line) + 1
    return rows, consumed, odds, False


def number(field: bytes) -> float | None:
    """The number that a field holds, or None."""
    return float(field) if NUMBER.fullmatch(field) else None
