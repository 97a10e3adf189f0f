"""What a vocabulary says of keys that it cannot take: where they are, what they are, and what to do."""

from __future__ import annotations

import numpy as np

from unhot.keys.column import Column
from unhot.keys.maps import LONGEST, MOST_ROWS, KeyMap, RefusedError
from unhot.keys.policies import Policies
from unhot.keys.reading import shown


def unknown(column: Column, place: int) -> KeyError:
    """For an unknown key, by unknown="raise"."""
    return KeyError(
        f"the key {shown(column.keys[place])}{column.where(place)} is unknown. Use `extend` to add keys, or make the"
        " vocabulary with unknown='grow', 'hash' or a reserved row, such as unknown=0."
    )


def not_there(column: Column, place: int) -> KeyError:
    """For an unknown key that is to be removed."""
    return KeyError(f"the key {shown(column.keys[place])}{column.where(place)} is unknown, so it cannot be removed.")


def missing(column: Column, name: str) -> ValueError:
    """For the first missing value, by missing="raise"."""
    mask = column.keys.missing
    where = "" if mask is None else column.where(int(np.flatnonzero(mask)[0]))
    return ValueError(
        f"`{name}` has a missing value{where}. Leave missing values out, or make the vocabulary with missing='key' or with a"
        " reserved row, such as missing=0."
    )


def other_kind(keys: KeyMap, column: Column, name: str) -> TypeError:
    """For keys of another kind than the vocabulary's."""
    mask = column.keys.missing
    place = 0 if mask is None else int(np.flatnonzero(~mask)[0])
    return TypeError(
        f"the vocabulary's keys are {keys.kind}, and `{name}` must be so, too. Received: {shown(column.keys[place])} of type"
        f" {column.keys.kind}{column.where(place)}."
    )


def filled() -> RuntimeError:
    """For `fit` of a vocabulary that has keys."""
    return RuntimeError(
        "the vocabulary has keys already, whose rows `fit` would change: use `extend`, or make a new vocabulary."
    )


def refused(why: RefusedError, keys: KeyMap, column: Column, name: str) -> Exception:
    """For what a map refuses."""
    if why.why == "filled":
        return filled()
    if why.why == "kind":
        return other_kind(keys, column, name)
    where = column.where(why.place)
    if why.why == "text":
        return ValueError(f"`{name}` holds a string{where} that is no UTF-8.")
    if why.why == "long":
        return ValueError(f"`{name}` holds a key{where} of more than {LONGEST:,} bytes. Use a hash of it as the key, say.")
    key = shown(column.keys[why.place])
    if why.why == "known":
        return ValueError(f"`{name}` holds the key {key}{where} a second time. `extend` takes keys that are repeated.")
    return ValueError(f"`{name}` has the new key {key}{where}, for which there is no row: {MOST_ROWS:,} are the most.")


def without_key(keys: KeyMap, policies: Policies, row: int, where: str) -> IndexError:
    """For a row that has no key."""
    if 0 <= row < policies.reserved:
        why = "it is a reserved row"
    elif policies.reserved <= row < policies.first:
        why = "it is a bucket of unknown keys"
    elif policies.first <= row < policies.first + keys.rows:
        why = "its key was removed"
    else:
        why = f"there are {policies.first + keys.rows} rows, from 0 on"
    return IndexError(f"row {row}{where} has no key: {why}. Give a `default` for such rows.")
