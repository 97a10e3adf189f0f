"""Reads what users pass as keys: NumPy arrays, lists, and columns of pandas, Polars and Arrow."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from unhot.arraylike import SupportsArray
from unhot.keys import arrow
from unhot.keys.column import FLOATS, Column, Keys, position
from unhot.keys.packing import LARGE, Key, Kind, is_text, marked, missing_values, of_integers, pack_quickly

KeysLike: TypeAlias = Key | SupportsArray | Iterable[object] | None
"""Keys: one of them, an array, a list, also of lists, or a column of pandas, Polars or Arrow."""

TEXT = "Keys are str, bytes, or integers of 64 bits."


def read(values: Any, name: str) -> Column:
    """The column of what an argument `name` was given; an error that names the first value that is no key.

    None, NaN, pandas.NA, NaT, nulls of Arrow and masked entries are missing values.
    """
    if isinstance(values, np.ndarray):
        return _of_array(values, name)
    if isinstance(values, Column):
        return values
    if values is None or isinstance(values, (str, bytes, int, float, np.generic)) or _is_missing(values):
        return _of_list([values], (), name)
    if isinstance(values, (list, tuple)):
        return _of_sequence(values, name)
    if isinstance(values, bytearray):
        raise _no_key(values, "", name)
    dtype = getattr(values, "dtype", None)
    ours = isinstance(dtype, np.dtype) or type(dtype).__name__ == "SparseDtype"  # that of pandas, which Arrow has not
    if ours and hasattr(values, "__array__"):  # a Series of pandas on NumPy, an array of JAX
        return _of_array(np.asarray(values), name)
    values = _as_series(values)
    column = arrow.of_foreign(values, name)
    if isinstance(column, list):
        return _of_list(column, (len(column),), name)
    if column is not None:
        return column
    if hasattr(values, "__array__"):
        return _of_array(np.asarray(values), name)
    if isinstance(values, (set, frozenset)):
        raise TypeError(
            f"`{name}` is a {type(values).__name__}, whose order differs from run to run, and so would the rows. Give a list,"
            " such as sorted(...)."
        )
    if isinstance(values, Iterable):
        return _of_sequence(list(values), name)
    raise TypeError(f"`{name}` must be keys, a list, an array or a column of them. Received: {type(values).__name__}. {TEXT}")


def _of_sequence(values: Sequence[Any], name: str) -> Column:
    """A list of keys, or of lists or arrays of equal lengths."""
    if not values or not isinstance(values[0], (list, tuple, np.ndarray)) or getattr(values[0], "shape", None) == ():
        return _of_list(values if isinstance(values, list) else list(values), (len(values),), name)
    try:
        array = np.array([_unmasked(x) for x in values], dtype=object)
    except ValueError:
        array = np.empty(0, object)
    if (not array.size and any(len(x) for x in values)) or array.ndim < 2:
        raise ValueError(f"`{name}` must be one rectangular array; its nested lists have unequal lengths.")
    return _of_list(array.reshape(-1).tolist(), array.shape, name)


def _unmasked(values: Any) -> Any:
    """Objects of an array within a list, None where it is masked, since an array made of it would have no mask."""
    if isinstance(values, np.ndarray) and values.shape:
        made = values.astype(object)
        if not isinstance(made, np.ma.MaskedArray):
            return made
        plain = made.data
        plain[np.ma.getmaskarray(made)] = None
        return plain
    if isinstance(values, (list, tuple)) and values and isinstance(values[0], (list, tuple, np.ndarray)):
        return [_unmasked(x) for x in values]
    return values


def _of_array(array: npt.NDArray[Any], name: str) -> Column:
    mask, plain = None, array
    if type(array) is not np.ndarray:
        if isinstance(array, np.ma.MaskedArray):
            mask, array = marked(np.ma.getmaskarray(array).reshape(-1)), array.data
        plain = np.asarray(array)
    flat, kind = plain.reshape(-1), plain.dtype.kind
    if kind in "iu":
        return Column(Keys(of_integers(flat, mask)), plain.shape)
    if kind == "f" and (np.isnan(flat) if mask is None else mask | np.isnan(flat)).all():
        return Column(Keys(objects=[None] * len(flat)), plain.shape)
    if kind not in "OUST":
        remedy = FLOATS if kind == "f" else TEXT
        raise TypeError(
            f"`{name}` must be str, bytes or integers. Received: dtype {plain.dtype}, shape {plain.shape}. {remedy}"
        )
    if kind == "O" and mask is None:
        packed = pack_quickly(np.ascontiguousarray(flat))
        if packed is not None:
            return Column(Keys(packed), plain.shape)
    values = flat.tolist()
    if mask is not None:
        for place in np.flatnonzero(mask).tolist():
            values[place] = None
    return _of_list(values, plain.shape, name)


def _of_list(values: list[Any], shape: tuple[int, ...], name: str) -> Column:
    packed = pack_quickly(values)
    return Column(of_objects(values, shape, name) if packed is None else Keys(packed), shape)


def of_objects(values: Sequence[Any], shape: tuple[int, ...], name: str) -> Keys:
    """Python's objects as keys; an error names the first that is none, or of another kind than the first key."""
    kind: Kind | None = None
    first, made = 0, list[Key | None]()
    missing = missing_values()
    for place, value in enumerate(values):
        if value is None or any(value is one for one in missing) or _is_nan(value):
            made.append(None)
            continue
        key = _as_key(value)
        if key is None:
            raise _no_key(value, position(place, shape), name)
        own = kind_of(key)
        if kind is None:
            kind, first = own, place
        elif own != kind:
            raise TypeError(
                f"`{name}` must be of one kind. Received: {shown(made[first])} of type {kind}{position(first, shape)},"
                f" and {shown(key)} of type {own}{position(place, shape)}. Make them all str, say: 1 and '1' are different"
                " keys."
            )
        if isinstance(key, int) and not -LARGE <= key < 2 * LARGE:
            raise ValueError(
                f"`{name}` holds the integer {shown(key)}{position(place, shape)}, which 64 bits cannot hold: keys lie"
                " in [-2**63, 2**64). Larger ones can be keys as str."
            )
        if isinstance(key, str) and not is_text(key):
            raise ValueError(
                f"`{name}` holds the string {shown(key)}{position(place, shape)}, which has a surrogate: half of a"
                " character, which UTF-8 cannot hold. Read the text with another encoding or with errors='replace', or make the"
                " keys bytes."
            )
        made.append(key)
    return Keys(objects=made, kind=kind)


def _as_series(values: Any) -> Any:
    """A Series of pandas in the place of an Index or a Categorical, which Arrow reads with what is missing there."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(values, (pandas.Index, pandas.Categorical)) and getattr(values, "nlevels", 1) == 1:
        return pandas.Series(values)
    return values


def _is_missing(value: object) -> bool:
    """Whether this is NA or NaT of pandas."""
    return any(value is one for one in missing_values())


def _is_nan(value: object) -> bool:
    if isinstance(value, (float, np.floating)):
        return bool(value != value)
    return isinstance(value, (np.datetime64, np.timedelta64)) and bool(np.isnat(value))


def _as_key(value: object) -> Key | None:
    """A key as exactly int, str or bytes, whatever its subclass says of itself; None for what is no key."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return bytes(memoryview(value))
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int.__int__(value) if isinstance(value, int) else int(value)
    return None


def kind_of(key: Key) -> Kind:
    """The kind of a key."""
    return "int" if isinstance(key, int) else "str" if isinstance(key, str) else "bytes"


def _no_key(value: object, where: str, name: str) -> TypeError:
    remedy = TEXT
    if isinstance(value, (bool, np.bool_)):
        remedy = "Booleans are no keys: they would be taken for 0 and 1. Make them str or integers."
    elif isinstance(value, (float, np.floating)):
        remedy = FLOATS
    elif isinstance(value, (list, tuple, np.ndarray)):
        remedy = f"{TEXT} Lists within a list must all have the same length; a key of several parts can be joined to one str."
    return TypeError(f"`{name}` holds {shown(value)}{where}, which is no key (its type is {type(value).__name__}). {remedy}")


def shown(value: object) -> str:
    """A value as an error shows it: not all of a long one."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        text = "of very many digits"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text):,} characters)"
