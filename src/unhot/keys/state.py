"""A vocabulary's state as a flat dict of NumPy arrays, and back. Numbers and strings are arrays as in a table's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from unhot.keys import active
from unhot.keys.column import Keys
from unhot.keys.maps import MOST_ROWS, Export, KeyMap, RefusedError
from unhot.keys.packing import KINDS, Packed, marked
from unhot.keys.policies import Policies
from unhot.state import decoded, encoded

FORMAT = 1


def export_state(keys: KeyMap, policies: Policies) -> dict[str, npt.NDArray[Any]]:
    """Copies of all that the map holds, and the policies."""
    packed, free = keys.export()
    missing = -1 if packed.missing is None else int(np.flatnonzero(packed.missing)[0])
    plain = {"format": FORMAT, "kind": KINDS[packed.kind] or "", **policies._asdict(), "missing_key": missing}
    state = {name: encoded(value) for name, value in plain.items()} | {"keys": packed.data, "free": free}
    if packed.offsets is not None:
        state["offsets"] = packed.offsets
    if packed.large is not None:
        state["large"] = packed.large
    return state


def import_state(state: Mapping[str, Any]) -> tuple[KeyMap, Policies]:
    """The map and the policies that a state describes; ValueError for one that `export_state` cannot have made."""
    if _plain(state, "format") != FORMAT:
        raise ValueError(f"the state has format {_plain(state, 'format')!r}; this version of unhot reads format {FORMAT}.")
    try:
        policies = Policies.checked(*(_plain(state, name) for name in Policies._fields))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the state has policies that are none: {error}") from error
    packed = _keys(state)
    count = packed.length
    place = _plain(state, "missing_key")
    if not isinstance(place, int) or not -1 <= place < count:
        raise ValueError(f"the state's 'missing_key' must be the place of a key in [0, {count}), or -1. Received: {place!r}.")
    if place >= 0:
        packed = packed._replace(missing=marked(np.arange(count) == place))
    free = _array(state, "free", np.int64)
    total = count + len(free)
    if total + policies.first > MOST_ROWS or (
        len(free) and (free[0] < 0 or free[-1] >= total or (free[1:] <= free[:-1]).any())
    ):
        raise ValueError(f"the state's 'free' must rise within [0, {total}), the numbers of all its keys and free rows.")
    keys: KeyMap = active.KeyMap()
    try:
        keys.load(Export(packed, free))
    except RefusedError as refused:
        raise ValueError(_refusal(refused, packed)) from refused
    return keys, policies


def _refusal(refused: RefusedError, packed: Packed) -> str:
    """Why a key of a state cannot be in a map."""
    if refused.why == "known":
        return f"the state holds the key {Keys(packed)[refused.place]!r} at place {refused.place} a second time."
    if refused.why == "text":
        return f"the state's key at place {refused.place} is a str that is no UTF-8."
    return f"the state's key at place {refused.place} is longer than a key can be."


def _keys(state: Mapping[str, Any]) -> Packed:
    kind = _plain(state, "kind")
    if kind not in ("", "int", "str", "bytes"):
        raise ValueError(f"the state's 'kind' must be 'int', 'str', 'bytes' or ''. Received: {kind!r}.")
    number = KINDS.index(kind or None)
    if kind == "int":
        data = _array(state, "keys", np.int64)
        if "large" not in state:
            return Packed(number, data)
        large = _array(state, "large", np.bool_)
        if len(large) != len(data) or (data[large] >= 0).any():
            raise ValueError(
                "the state's 'large' must mark keys of 2**63 or more, whose 'keys' are negative, by one boolean each."
            )
        return Packed(number, data, None, marked(large))
    data, offsets = _array(state, "keys", np.uint8), _array(state, "offsets", np.int64)
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(data) or (offsets[1:] < offsets[:-1]).any():
        raise ValueError(f"the state's 'offsets' must rise from 0 to {len(data)}, the number of bytes in its 'keys'.")
    if not kind and (len(data) or len(offsets) > 2):
        raise ValueError("the state has keys, but its 'kind' is ''.")
    return Packed(number, data, offsets)


def _take(state: Mapping[str, Any], name: str) -> Any:
    try:
        return state[name]
    except KeyError:
        raise ValueError(f"the state has no {name!r}; it was not made by a vocabulary's `state_dict`.") from None


def _plain(state: Mapping[str, Any], name: str) -> Any:
    """A Python number or string, whichever way it is held."""
    _take(state, name)
    return decoded(state, name)


def _array(state: Mapping[str, Any], name: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    array = np.asarray(_take(state, name))
    if array.ndim != 1 or array.dtype != np.dtype(dtype):
        raise ValueError(
            f"the state's {name!r} must have one dimension and dtype {np.dtype(dtype)}. Received: shape {array.shape}, dtype"
            f" {array.dtype}."
        )
    return np.array(array, order="C")  # a copy, which nobody else can change
