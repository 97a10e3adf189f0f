"""Reads columns of Arrow, and through Arrow those of pandas and Polars. Nothing is imported before it is needed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unhot import extras
from unhot.keys.column import FLOATS, Column, Keys
from unhot.keys.packing import KINDS, Mask, Packed, marked, of_integers, typed

if TYPE_CHECKING:
    import pyarrow as pa

PART = "unhot.Vocabulary, to read columns of Arrow, pandas or Polars,"
STREAMS = ("__arrow_c_stream__", "__arrow_c_array__", "__arrow_array__")
"""By one of these, whatever is a column of Arrow, or can become one, gives it."""

TEXTS, BYTES = ("string", "large_string", "string_view"), ("binary", "large_binary", "binary_view")
"""The names of types: older versions of pyarrow have no functions that tell the last ones."""

OF_OBJECTS = ("Int128", "UInt128", "Object")
"""Types of Polars that Arrow does not have: their values are read one by one."""


def of_foreign(values: Any, name: str) -> Column | list[Any] | None:
    """A column of pandas, Polars, Arrow or another library, or a list of its values; None for what is not one."""
    narwhals = sys.modules.get("narwhals")
    if narwhals is not None and isinstance(values, (narwhals.Series, narwhals.DataFrame)):
        values = narwhals.to_native(values)
    top = type(values).__module__.partition(".")[0]
    if top != "pyarrow" and not any(hasattr(values, way) for way in STREAMS):
        return None
    try:
        import narwhals as nw
        import pyarrow as pa
    except ModuleNotFoundError as error:
        if hasattr(values, "__array__"):
            return None  # NumPy can read it, too
        raise extras.missing(PART, "tables", error) from error
    if isinstance(values, (pa.Table, pa.RecordBatch)) or getattr(values, "columns", None) is not None:
        columns = ", ".join(map(str, getattr(values, "column_names", values.columns)))
        raise TypeError(f"`{name}` is a table of columns: {columns}. Give one of them.")
    series = nw.from_native(values, series_only=True, pass_through=True)
    if isinstance(series, nw.Series) and str(series.dtype) in OF_OBJECTS:
        return series.to_list()
    try:
        if isinstance(values, pa.Scalar):
            return of_arrow(pa.array([values.as_py()], values.type), (), name)
        if hasattr(values, "__arrow_array__") or hasattr(values, "__arrow_c_array__"):
            array = pa.array(values)
        elif isinstance(values, (pa.Array, pa.ChunkedArray)):
            array = values
        else:
            array = series.to_arrow() if isinstance(series, nw.Series) else pa.chunked_array(values)
        return of_arrow(array, (len(array),), name)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        kind = getattr(values, "dtype", getattr(values, "type", "an unknown type"))
        raise TypeError(
            f"`{name}` is a column of {kind} (a {type(values).__name__}), which Arrow cannot read: {str(error)[:200]}. Cast it"
            " to strings, bytes or integers of 64 bits, or give a list of its values."
        ) from error


def of_arrow(data: pa.ChunkedArray | pa.Array, shape: tuple[int, ...], name: str) -> Column:
    """A column of Arrow; that of a dictionary is read by its dictionary."""
    import pyarrow as pa

    array = _plain(_whole(data))
    if pa.types.is_dictionary(array.type):
        return _of_dictionary(array, shape, name)
    return Column(Keys(_packed(array, name)), shape)


def _plain(array: pa.Array) -> pa.Array:
    """The array without types around its own, run ends and views; it may be a dictionary's."""
    import pyarrow as pa

    while True:
        if isinstance(array, pa.ExtensionArray) and not pa.types.is_integer(array.type.storage_type):
            array = array.storage  # but integers that stand for something else: pandas' periods, bool8
        elif str(array.type) in (TEXTS[-1], BYTES[-1]):
            array = array.cast(pa.large_string() if str(array.type) == TEXTS[-1] else pa.large_binary())
        elif pa.types.is_run_end_encoded(array.type):
            places = np.arange(array.offset, array.offset + len(array))
            # `compute.run_end_decode` takes no dictionaries and no extensions.
            array = _plain(array.values).take(pa.array(np.searchsorted(of_fixed(array.run_ends), places, side="right")))
        else:
            return array


def _whole(data: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The chunks as one array."""
    import pyarrow as pa

    if isinstance(data, pa.Array):
        return data
    if data.num_chunks == 1:
        return data.chunk(0)
    kind = data.type
    if pa.types.is_dictionary(kind):
        data = data.unify_dictionaries()
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):  # whose offsets could not hold those of all chunks
        data = data.cast(pa.large_string() if pa.types.is_string(kind) else pa.large_binary())
    return pa.concat_arrays(data.chunks) if data.num_chunks else pa.array([], kind)


def _of_dictionary(array: pa.DictionaryArray, shape: tuple[int, ...], name: str) -> Column:
    """The entries that are used, each of which is looked up once; they come in the order of their first use."""
    entries = len(array.dictionary)
    indices = of_fixed(array.indices).astype(np.int64)
    missing = _missing(array.indices)
    if missing is not None:
        indices[missing] = entries
    count = len(indices)
    first = np.full(entries + 1, count)
    first[indices[::-1]] = np.arange(count)[::-1]  # the last written of several stays
    used = np.flatnonzero(first < count)
    used = used[np.argsort(first[used], kind="stable")]
    place = np.empty(entries + 1, np.int64)
    place[used] = np.arange(len(used))
    packed = _packed(_values_of(array), name)
    keys = Keys(packed if missing is None else _with_missing(packed))
    return Column(keys.take(used), shape, place[indices], first[used])


def _values_of(array: pa.DictionaryArray) -> pa.Array:
    """The dictionary; its entries are plain, even where they come from another one."""
    import pyarrow as pa

    values = _plain(array.dictionary)
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _with_missing(packed: Packed) -> Packed:
    """The entries of a dictionary, and after them a missing one."""
    count = packed.length
    large = None if packed.large is None else np.append(packed.large, False)
    missing = np.append(np.zeros(count, np.bool_) if packed.missing is None else packed.missing, True)
    if packed.offsets is None:
        return Packed(packed.kind, np.append(packed.data, np.int64(0)), None, large, missing)
    return Packed(packed.kind, packed.data, np.append(packed.offsets, packed.offsets[-1]), large, missing)


def _packed(array: pa.Array, name: str) -> Packed:
    """A plain array of Arrow, without a copy where its layout is ours."""
    import pyarrow as pa

    types, kind = pa.types, array.type
    missing = _missing(array)
    if types.is_null(kind) or (types.is_floating(kind) and array.null_count == len(array)):
        return Packed(0, np.empty(0, np.uint8), np.zeros(len(array) + 1, np.int64), None, missing)
    if types.is_integer(kind):
        return of_integers(of_fixed(array), missing)
    if str(kind) in TEXTS:
        number = KINDS.index("str")
    elif str(kind) in BYTES or types.is_fixed_size_binary(kind):
        number = KINDS.index("bytes")
    else:
        remedy = FLOATS if types.is_floating(kind) else "Cast it to strings, say."
        raise TypeError(f"`{name}` must be a column of strings, bytes or integers. Received: a column of {kind}. {remedy}")
    if not len(array):
        return Packed(0, np.empty(0, np.uint8), np.zeros(1, np.int64))
    if types.is_fixed_size_binary(kind):
        array = array.cast(pa.binary())
    width = np.int32 if types.is_string(array.type) or types.is_binary(array.type) else np.int64
    _, offsets, data = array.buffers()
    starts = (
        np.zeros(1, width) if offsets is None else np.frombuffer(offsets, width)[array.offset : array.offset + len(array) + 1]
    )
    return typed(Packed(number, np.frombuffer(data or b"", np.uint8), starts, None, missing))


def of_fixed(array: pa.Array) -> npt.NDArray[Any]:
    """The values of an array of integers, whatever stands where one is missing. (pyarrow's own `to_numpy` imports pandas.)"""
    data = array.buffers()[1]
    width = np.dtype(str(array.type))
    return np.frombuffer(data or b"", width)[array.offset : array.offset + len(array)]


def _missing(array: pa.Array) -> Mask | None:
    """Which values are null."""
    validity = array.buffers()[0]
    if not array.null_count:
        return None
    if validity is None:  # an array of the type null
        return np.ones(len(array), np.bool_)
    bits = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")[array.offset : array.offset + len(array)]
    return marked(bits == 0)
